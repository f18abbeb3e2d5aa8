"""AGM against a slow transcription (Li et al., ICCV 2023): Shapley values over all orders of the modalities."""

from __future__ import annotations

import math
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from methods_toys import Seen, cross_entropy, flat, mean, observe
from toys import SGD, differences

from asgml.methods.agm import AGM
from asgml.methods.joint import Joint


def fused(seen: Seen, i: int, subset: set[str]) -> list[float]:
    """Logits of sample i from some modalities, the others zero; nothing at all for none."""
    if not subset:
        return [0.0] * len(seen.bias)
    out, start = list(seen.bias), 0
    for m, f in seen.features.items():
        for j, v in enumerate(f[i]):
            if m in subset and i in seen.rows[m]:
                out = [o + w[start + j] * v for o, w in zip(out, seen.weight, strict=True)]
        start += len(f[i])
    return out


def scores(seen: Seen) -> dict[str, float]:
    here = [m for m in seen.features if seen.rows[m]]
    s = {}
    for m in here:
        total = []
        for i in seen.rows[m]:
            phi = [0.0] * len(seen.bias)
            orders = list(permutations(here))
            for order in orders:
                before = set(order[: order.index(m)])
                gain = zip(fused(seen, i, before | {m}), fused(seen, i, before), strict=True)
                phi = [p + (a - b) / len(orders) for p, (a, b) in zip(phi, gain, strict=True)]
            total.append(cross_entropy(phi, seen.y[i]))
        s[m] = mean(total)
    return s


def factors(history: list[dict[str, float]], alpha: float) -> dict[str, float]:
    """Of the last step; the mean of every modality over the steps before that had it, 0 for all until each has one."""
    *past, now = history
    usual = dict.fromkeys(now, 0.0)
    if all(any(m in s for s in past) for m in now):
        usual = {m: mean([s[m] for s in past if m in s]) for m in now}

    def r(s, m):
        return math.exp(mean([s[k] - s[m] for k in s if k != m]))

    return {m: math.exp(alpha * min(r(usual, m) - r(now, m), 10)) for m in now}


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_factor_is_the_transcribed_one(modalities):
    def more(module):
        return {m: float(module.step.reads[f"agm/factor/{m}"]) for m in module.step.here}

    _, capture = observe({"agm": AGM(alpha=2.0)}, modalities, steps=6, more=more, optimizer=SGD)
    history, found = [], []
    for seen in capture.seen:
        history.append(scores(seen))
        assert seen.more == pytest.approx(factors(history, 2.0), rel=1e-6)
        found += seen.more.values()
    assert max(found) > 1.01
    assert min(found) < 0.99


def test_the_encoders_gradient_is_scaled_and_nothing_else():
    """At the first step, where joint training is at the same weights: exp(alpha (1 - r_m)), for there s* is 0.

    The mean that took in the step itself made both factors 1.0 there; they are 1.10 and 0.90.
    """
    _, joint = observe({"joint": Joint()}, steps=1, optimizer=SGD)
    run, capture = observe({"agm": AGM(alpha=2.0)}, steps=1, optimizer=SGD)
    k = factors([scores(s) for s in capture.seen], 2.0)
    assert k == pytest.approx({"audio": 1.1006, "visual": 0.9042}, abs=1e-4)
    for m in run.module.modalities:
        assert flat(capture.gradients[0][m]) == pytest.approx([k[m] * v for v in flat(joint.gradients[0][m])], rel=1e-6)
    assert not differences(joint.gradients[0]["fusion"], capture.gradients[0]["fusion"])


def test_a_modality_that_comes_late_is_not_compared_with_nothing():
    """Its first factor is exp(alpha (1 - r)) as in a first step; with s* = 0 beside another's mean it would be 24."""
    method = AGM(alpha=1.0)
    method._running, method._seen = {"audio": torch.tensor(1.8)}, {"audio": 5}
    y = torch.tensor([0, 1])
    weak, strong = torch.zeros(2, 2), torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    fused = {("audio",): weak, ("visual",): strong, ("audio", "visual"): strong}
    step: Any = SimpleNamespace(
        here=["audio", "visual"], logits=strong, y=y, epoch=0, reads={}, extras={},
        features={m: torch.zeros(2, 2) for m in ("audio", "visual")},
        fuse=lambda some: fused[tuple(sorted(some))], mean=lambda values, m: values.mean(),
    )  # fmt: skip
    method.loss(step)
    s = {m: float(v) for m, v in step.extras["agm"].items()}
    r = math.exp((6 * s["audio"] - 5 * 1.8) - s["visual"])
    assert float(step.reads["agm/factor/visual"]) == pytest.approx(math.exp(1 - r), rel=1e-5)


def test_the_published_end_is_after_epoch_20_counted_from_1():
    """Before, epochs 0 to 49 were modulated."""
    assert (AGM().begins, AGM().ends) == (0, 20)


def test_it_acts_in_its_epochs_only():
    plain, run = (observe({"x": x}, steps=2, epochs=3)[0] for x in (Joint(), AGM(2.0, begins=1)))
    assert not differences(plain.trace.states[:2], run.trace.states[:2])
    assert differences(plain.trace.states[3], run.trace.states[3])
    ended = observe({"x": AGM(2.0, ends=0)}, steps=2, epochs=3)[0]
    assert not differences(plain.trace.states, ended.trace.states)
