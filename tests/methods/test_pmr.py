"""PMR against a slow transcription (Fan et al., CVPR 2023)."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from methods_toys import Seen, cross_entropy, entropy, mean, observe, softmax
from toys import SGD, differences

from asgml.methods.joint import Joint
from asgml.methods.pmr import PMR, class_sums

STEPS = 4
Prototypes = dict[str, list[list[float]]]


def class_means(steps: list[Seen], m: str, classes: int, old: list[list[float]] | None, momentum: float):
    out = []
    for c in range(classes):
        rows = [s.features[m][i] for s in steps for i in s.rows[m] if s.y[i] == c]
        width = len(steps[0].features[m][0])
        if not rows:
            out.append(old[c] if old else [0.0] * width)
            continue
        new = [mean([r[j] for r in rows]) for j in range(width)]
        out.append(
            new if old is None else [momentum * o + (1 - momentum) * n for o, n in zip(old[c], new, strict=True)]
        )
    return out


def terms(seen: Seen, prototypes: Prototypes, alpha: float, mu: float) -> tuple[float, float]:
    here = [m for m in seen.features if seen.rows[m]]
    sim = {m: {i: [-math.dist(seen.features[m][i], c) for c in prototypes[m]] for i in seen.rows[m]} for m in here}
    p = {m: mean([softmax(z)[seen.y[i]] for i, z in sim[m].items()]) for m in here}
    pull = push = 0.0
    for m in here:
        weak = min(max(mean([p[k] / p[m] for k in here if k != m]) - 1, 0), 1)
        strong = min(max(mean([p[m] / p[k] for k in here if k != m]) - 1, 0), 1)
        pull += weak * mean([cross_entropy(z, seen.y[i]) for i, z in sim[m].items()])
        push += strong * mean([entropy(softmax(z)) for z in sim[m].values()])
    return alpha * pull, -mu * push


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_terms_are_the_transcribed_ones_over_three_epochs(modalities):
    def more(module):
        return {k: float(v) for k, v in module.methods["pmr"].loss(module.step).items()}

    method = PMR(alpha=1.5, momentum=0.3, mu=0.2, entropy_epochs=1)
    _, capture = observe({"pmr": method}, modalities, STEPS, 3, more, optimizer=SGD)
    prototypes: Prototypes = {}
    some = 0
    for epoch in range(3):
        steps = capture.seen[epoch * STEPS : (epoch + 1) * STEPS]
        for seen in steps:
            if epoch == 0:
                assert seen.more == {}
                continue
            pull, push = terms(seen, prototypes, 1.5, 0.2)
            expected = {"prototypes": pull} | ({"entropy": push} if epoch == 1 else {})
            assert seen.more == pytest.approx(expected, rel=1e-6, abs=1e-12)
            some += pull > 0
        for m in steps[0].features:
            prototypes[m] = class_means(steps, m, 3, prototypes.get(m), 0.3)
    assert some > STEPS


def test_the_first_epoch_is_joint_training():
    plain, run = (observe({"x": x}, steps=2, epochs=2)[0] for x in (Joint(), PMR()))
    assert not differences(plain.trace.states[:2], run.trace.states[:2])
    assert differences(plain.trace.states[2], run.trace.states[2])


def test_the_last_epochs_are_joint_training():
    """From `ends` on there is no term; before, the prototypes pulled to the last of 130 epochs (published: to 70)."""

    def more(module):
        return set(module.methods["pmr"].loss(module.step))

    _, capture = observe({"pmr": PMR(ends=2)}, 2, 2, 4, more, optimizer=SGD)
    assert [bool(seen.more) for seen in capture.seen] == [False, False, True, True, False, False, False, False]
    assert (PMR().ends, PMR().mu) == (70, 0.01)


def test_classes_are_summed_over_present_rows():
    values = torch.arange(12.0).view(6, 2)
    mask = torch.tensor([True, True, False, True, False, True])
    y = torch.tensor([0, 1, 1, 0, 2, 1])
    step: Any = SimpleNamespace(y=y, present={"a": mask}, features={"a": values}, logits=values, total=lambda v: v)
    total, count = class_sums(step, "a", 4)
    assert total.tolist() == [[6.0, 8.0], [12.0, 14.0], [0.0, 0.0], [0.0, 0.0]]
    assert count.tolist() == [2, 2, 0, 0]
