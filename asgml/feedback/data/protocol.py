"""Who is trained on and who is tested: zero-shot over classes, and few shots of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asgml.data.counter_rng import splitmix64, word
from asgml.feedback.data.sample import Sample, SurfaceSplit
from callbacks.errors import UserError
from callbacks.ranges import Count, OpenShare, Seed


def zero_shot(
    samples: Sequence[Sample],
    test_classes: Sequence[str],
    train_classes: Sequence[str] | None = None,
    train_split: SurfaceSplit = "test",
) -> tuple[list[Sample], list[Sample]]:
    """Return samples to train on and to test on, of different classes: nothing of a tested class was seen in training.

    It is the protocol of AnomalyCLIP and AA-CLIP within one data set; over two data sets the lists of one are trained
    on and those of the other are tested. Trained on is the labelled part of a data set, which in the published layouts
    is `test`, because `train` has no defects.

    Args:
        samples: all samples.
        test_classes: the classes to test; their `test` part is.
        train_classes: the classes to train on; all others by default.
        train_split: the part of the training classes that is trained on.

    Raises:
        UserError: a class in both lists or not there, nothing left to train on, or a tested class with defects only or
            without any.
    """
    names = list(dict.fromkeys(s.class_name for s in samples))
    chosen = [n for n in names if n not in test_classes] if train_classes is None else list(train_classes)
    for key, classes in (("data.test_classes", test_classes), ("data.train_classes", chosen)):
        _require_classes(key, classes, names, "null, which tests other pictures of the classes trained on")
    both = [n for n in chosen if n in test_classes]
    if both:
        remedy = f"leave {both[0]} out of one of the lists"
        raise UserError("data.train_classes", f"{both[0]}, which is tested", "classes that are not tested", remedy)
    train = [s for s in samples if s.class_name in chosen and s.split == train_split]
    test = [s for s in samples if s.class_name in test_classes and s.split == "test"]
    if not train or not test:
        found = "nothing to train on" if not train else "nothing to test"
        expected = f"classes to train on and others to test, of {', '.join(names)}"
        raise UserError("data.test_classes", found, expected, f"set data.test_classes=[{names[0]}]")
    for name in test_classes:
        kinds = {s.anomalous for s in test if s.class_name == name}
        if kinds != {True, False}:
            found = "only defects" if kinds == {True} else "no defect" if kinds else "no picture"
            expected = "normal and anomalous pictures in test: every metric needs both"
            raise UserError(f"class {name}", found, expected, f"leave {name} out of data.test_classes")
    return train, test


def labelled(samples: Sequence[Sample], test_classes: Sequence[str] | None = None) -> tuple[list[Sample], list[str]]:
    """Return the labelled part of a data set, which in the published layouts is `test`, and what is to know about it.

    Args:
        samples: all samples.
        test_classes: the classes to take; None is all.

    Raises:
        UserError: a class that is not there, or nothing in `test`.
    """
    names = list(dict.fromkeys(s.class_name for s in samples))
    if test_classes is not None:
        _require_classes("data.test_classes", test_classes, names, "null, which takes all")
    kept = names if test_classes is None else [n for n in names if n in test_classes]
    found = [s for s in samples if s.class_name in kept and s.split == "test"]
    if not found:
        raise UserError("data", f"no picture of {', '.join(kept)} in test", "at least one", "choose other classes")
    left = len(names) - len(kept)
    return found, [f"data.test_classes leaves out {left} of {len(names)} classes"] if left else []


def _require_classes(key: str, classes: Sequence[str], names: Sequence[str], otherwise: str) -> None:
    """Refuse classes that the data do not have; `otherwise` is what the key may be set to where none is there."""
    absent = [n for n in classes if n not in names]
    if absent:
        there = [n for n in classes if n in names]
        kept = f"[{','.join(there)}]" if there else otherwise
        raise UserError(key, ", ".join(absent), f"classes of the data: {', '.join(names)}", f"set {key}={kept}")


def few_shot(samples: Sequence[Sample], shots: Count, seed: Seed = 0) -> list[Sample]:
    """Return at most `shots` normal and `shots` anomalous samples of each class, in the order of the list.

    Which ones is decided by a hash of seed and file name, so that more shots contain the fewer, and other samples
    change nothing.

    Args:
        samples: the samples to choose from.
        shots: the number of samples of each class and label.
        seed: the seed of the choice.

    Raises:
        UserError: less than one shot.
    """
    if shots < 1:
        raise UserError("shots", str(shots), "1 or more, or null for all", "write shots: 32")
    groups: dict[tuple[str, bool], list[int]] = {}
    for i, s in enumerate(samples):
        groups.setdefault((s.class_name, s.anomalous), []).append(i)
    kept: set[int] = set()
    for members in groups.values():
        kept.update(_shuffled(samples, members, seed)[:shots])
    return [s for i, s in enumerate(samples) if i in kept]


def divide(samples: Sequence[Sample], share: OpenShare, seed: Seed = 0) -> tuple[list[Sample], list[Sample]]:
    """Return the samples without a share of them, and that share, each in the order of the list.

    Every class and kind of defect gives its share, rounded, and at least one sample where it has two. Which ones is
    decided as in `few_shot`.

    Args:
        samples: the samples to divide.
        share: the share that is taken out, above 0 and below 1.
        seed: the seed of the choice.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for i, s in enumerate(samples):
        groups.setdefault((s.class_name, s.defect), []).append(i)
    out: set[int] = set()
    for members in groups.values():
        count = min(max(1, round(share * len(members))), len(members) - 1)
        out.update(_shuffled(samples, members, seed)[:count])
    kept, taken = ([s for i, s in enumerate(samples) if (i in out) is wanted] for wanted in (False, True))
    return kept, taken


def _shuffled(samples: Sequence[Sample], members: Sequence[int], seed: int) -> list[int]:
    """Return members of the list in an order that depends on the seed and on each one's file name alone."""
    names = [f"{samples[i].class_name}/{samples[i].defect}/{samples[i].image.name}" for i in members]
    keys = np.array([int(splitmix64(splitmix64(word(seed)) ^ word(name))[0]) for name in names], dtype=np.uint64)
    return [members[j] for j in np.argsort(keys, kind="stable")]
