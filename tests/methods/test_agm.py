"""AGM against a slow transcription (Li et al., ICCV 2023): Shapley values over all orders of the modalities."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
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
    """Of the last step; the running mean of every modality over the steps that had it."""
    now = history[-1]
    usual = {m: mean([s[m] for s in history if m in s]) for m in now}

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
    assert found[0] == 1.0
    assert max(found) > 1.01
    assert min(found) < 0.99


def test_the_encoders_gradient_is_scaled_and_nothing_else():
    """At the first step the factor is 1; after it joint training is at the same weights."""
    _, joint = observe({"joint": Joint()}, steps=2, optimizer=SGD)
    run, capture = observe({"agm": AGM(alpha=2.0)}, steps=2, optimizer=SGD)
    assert not differences(joint.gradients[0], capture.gradients[0])
    k = factors([scores(s) for s in capture.seen], 2.0)
    for m in run.module.modalities:
        assert flat(capture.gradients[1][m]) == pytest.approx([k[m] * v for v in flat(joint.gradients[1][m])], rel=1e-6)
    assert not differences(joint.gradients[1]["fusion"], capture.gradients[1]["fusion"])


def test_it_acts_in_its_epochs_only():
    plain, run = (observe({"x": x}, steps=2, epochs=3)[0] for x in (Joint(), AGM(2.0, begins=1)))
    assert not differences(plain.trace.states[:2], run.trace.states[:2])
    assert differences(plain.trace.states[3], run.trace.states[3])
    ended = observe({"x": AGM(2.0, ends=0)}, steps=2, epochs=3)[0]
    assert not differences(plain.trace.states, ended.trace.states)
