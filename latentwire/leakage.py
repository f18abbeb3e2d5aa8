"""What a reader gets out of private slots that are another reader's.

Nobody reads the private slots of another (`LatentLayout.read`). The test asks whether it could. Of a reader A and an
owner B, A is given

    whole                  what it reads: the shared slots and its own
    shared alone           of its own slots only their mean over texts: what they bring is the difference to `whole`
    slots of B             of the shared slots their mean, and B's in place of its own, as they are
    slots of B, translated the same through the affine map from B's slots to A's own of least squares (with a ridge),
                           fitted on training texts: an adversary who has both readers' messages
    slots of B, trained    the same as they are, read by an adapter and an injector that are trained on answers to read
                           them (`latentwire.adversary`); `leak` is the swap gap beyond its null's, with an interval
    slots of B, null       that null: trained on slots of other passages

and answers the questions. Every row has its control of messages of other passages: what is legible of B's slots is the
swap gap, NLL(another passage) − NLL(this one). `explained` is the share of the variance of A's own slots that the map
explains on the evaluated texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latentwire import adversary
from latentwire.adapters.ridge import Ridge
from latentwire.data.base import Passage
from latentwire.encoders.slots import SHARED, LatentLayout
from latentwire.injectors.base import Injector
from latentwire.lm.layout import Prefix
from latentwire.restore import Loaded
from latentwire.scoring.evaluator import Evaluator
from latentwire.scoring.metrics import Row
from latentwire.wire import LatentWire

Show = Callable[[Tensor], Tensor]  # values (B, slots, d_z) to latents (B, M, d_z) that a reader is given
WHOLE, ALONE, TRANSLATED = "whole", "shared alone", ", translated"
TRAINED, NULL = ", trained", ", null"
LEARNED_FROM = 2048  # training texts of the map


class Shown:
    """Sends what a wire sends, and gives a reader other latents of it; for the evaluator.

    Args:
        wire: the wire.
        show: what the reader is given of values.
        injector: what it reads that with; None: the wire's own for the reader.
    """

    def __init__(self, wire: LatentWire, show: Show, injector: Injector | None = None):
        self.wire, self.show, self.injector = wire, show, injector

    @property
    def slots(self) -> int:
        """The number of latents of a message."""
        return self.wire.slots

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return the values that the receiver of texts decodes, (B, slots, d_z)."""
        return self.wire.encode(texts)

    def prefix(self, values: Tensor, model: str) -> Prefix:
        """Return what `model` reads of what it is given."""
        found: Prefix = (self.injector or self.wire.injectors[model])(self.show(values))
        return found

    def message_bytes(self) -> int:
        """Return the bytes of a message; of the longest where they differ."""
        return self.wire.message_bytes()


def slots_of(layout: LatentLayout, name: str) -> slice:
    """Return the places of a slice (`shared`, or a model with private slots) in a message; empty for one without."""
    start = 0
    for part, count in layout.parts:
        if part == name:
            return slice(start, start + count)
        start += count
    return slice(0, 0)


def explained(wanted: Tensor, found: Tensor) -> float:
    """Return 1 − Σ (wanted − found)² / Σ (wanted − mean)², arguments (N, k): the share of variance explained."""
    return float(1 - (wanted - found).pow(2).sum() / (wanted - wanted.mean(0)).pow(2).sum())


def translator(theirs: Tensor, own: Tensor) -> Callable[[Tensor], Tensor]:
    """Fit the affine map of least squares (`Ridge`) from slots (N, m, d) to slots (N, n, d), and return it."""
    least = Ridge()
    least.add(theirs.flatten(1), own.flatten(1))
    weight, bias = least.solve()
    return lambda z: (z.flatten(1) @ weight.T.to(z) + bias.to(z)).unflatten(1, own.shape[1:])


def shows(layout: LatentLayout, reader: str, seen: Tensor) -> dict[str, Show]:
    """Return by name what a reader can be given of values (B, slots, d_z).

    Args:
        layout: the layout of the messages.
        reader: the reader.
        seen: values (N, slots, d_z) of training texts, which means and maps are taken from.
    """
    shared, own = slots_of(layout, SHARED), slots_of(layout, reader)
    blank, mean = seen[:, shared].mean(0), seen[:, own].mean(0)

    def alone(values: Tensor) -> Tensor:
        return torch.cat([values[:, shared], mean.to(values).expand(len(values), -1, -1)], 1)

    def instead(values: Tensor, at: slice, turned: Show | None = None) -> Tensor:
        slots = values[:, at] if turned is None else turned(values[:, at])
        return torch.cat([blank.to(values).expand(len(values), -1, -1), slots], 1)

    found: dict[str, Show] = {WHOLE: partial(layout.read, model=reader)}
    if layout.private.get(reader):
        found[ALONE] = alone
    for owner, count in layout.private.items():
        if owner != reader and count:
            at = slots_of(layout, owner)
            found[f"slots of {owner}"] = partial(instead, at=at)
            if layout.private.get(reader):
                turned = translator(seen[:, at], seen[:, own])
                found[f"slots of {owner}{TRANSLATED}"] = partial(instead, at=at, turned=turned)
    return found


@torch.no_grad()
def leakage(loaded: Loaded, passages: Sequence[Passage], steps: int = adversary.STEPS) -> list[dict[str, Any]]:
    """Measure every reader on what it is given; [] for a wire without private slots, or one that encodes questions.

    Args:
        loaded: the run.
        passages: the passages that are evaluated.
        steps: number of steps that the adversary is trained for; 0: there is none.
    """
    wire, layout = loaded.wire, loaded.wire.layout
    if not sum(layout.private.values()) or wire.whole_prompt:
        return []
    train = loaded.inputs.corpus.split("train")
    seen = wire.encode([train[i].text for i in range(min(len(train), LEARNED_FROM))])
    test = wire.encode(list(dict.fromkeys(p.text for p in passages)))
    found = []
    for reader in loaded.inputs.lms:
        own, shared = slots_of(layout, reader), slots_of(layout, SHARED)
        for name, show in shows(layout, reader, seen).items():
            numbers, _ = answers(loaded, passages, reader, name, show)
            if name.endswith(TRANSLATED):
                got = show(test)[:, shared.stop - shared.start :]
                numbers["explained"] = explained(test[:, own].flatten(1), got.flatten(1))
            found.append(numbers)
            if steps and name in (f"slots of {owner}" for owner in layout.private):
                counts = [shared.stop - shared.start, show(test[:1]).shape[1] - (shared.stop - shared.start)]
                found += trained(loaded, passages, reader, name, show, counts, steps)
    return found


def trained(
    loaded: Loaded,
    passages: Sequence[Passage],
    reader: str,
    name: str,
    show: Show,
    counts: Sequence[int],
    steps: int,
) -> list[dict[str, Any]]:
    """Return the rows of an adversary who is trained on what a reader is given, and of its null.

    Args:
        loaded: the run.
        passages: the passages that are evaluated.
        reader: the reader.
        name: what tables call what it is given.
        show: what it is given of values.
        counts: number of slots of each slice in it.
        steps: number of steps of each of the two trainings.
    """
    own = adversary.train(loaded, reader, show, counts, steps)
    null = adversary.train(loaded, reader, show, counts, steps, paired=False)
    found, rows = answers(loaded, passages, reader, name + TRAINED, show, own)
    beside, others = answers(loaded, passages, reader, name + NULL, show, null)
    if found["swap_gap"] is not None:
        gap = adversary.leak(rows, others, int(loaded.cfg.evaluation.n_boot), int(loaded.cfg.seed))
        found["leak"] = [gap.estimate, gap.low, gap.high]
    return [found, beside]


def answers(
    loaded: Loaded, passages: Sequence[Passage], reader: str, name: str, show: Show, injector: Injector | None = None
) -> tuple[dict[str, Any], list[Row]]:
    """Return how one reader answers from what it is given, and from that of other passages.

    Args:
        loaded: the run.
        passages: the passages that are evaluated.
        reader: the reader.
        name: what tables call what it is given.
        show: what it is given of values.
        injector: what it reads that with; None: its own.

    Returns:
        The numbers, and the rows of what it is given, one per question.
    """
    e, lm = loaded.cfg.evaluation, loaded.inputs.lms[reader]
    new, seed = int(e.max_new_tokens), int(loaded.cfg.seed)
    evaluator = Evaluator({reader: lm}, passages, {}, new, seed, batch_size=int(e.batch_size), n_boot=int(e.n_boot))
    done = evaluator.run({name: Shown(loaded.wire, show, injector)})
    mine, other = done.methods[name], done.methods.get(f"{name}:shuffled", {})
    kept = {key: mine.get(key) for key in ("em", "f1", "f1_low", "f1_high", "nll", "swap_gap")}
    told = {"reader": reader, "name": name, "latents": mine["M"], "explained": None, "leak": None}
    rows = [row for row in done.rows if row["method"] == name]
    return {**told, **kept, "f1_other": other.get("f1")}, rows
