"""ARL against a slow transcription (Wei et al., ICCV 2025)."""

from __future__ import annotations

import math

import pytest
from methods_toys import Seen, cross_entropy, entropy, flat, mean, observe, softmax
from toys import SGD, differences

from asgml.methods.arl import ARL
from asgml.methods.base import Method
from asgml.methods.shared import losses


class Alone(Method):
    """L_fusion + gamma * sum_m CE(fusion of m alone): ARL without weights."""

    gamma = 1.0

    def loss(self, step):
        return {m: self.gamma * losses.cross_entropy(step, step.fuse({m: step.features[m]}), m) for m in step.here}


def alone(seen: Seen, m: str, i: int) -> list[float]:
    """W [0, …, f_m, …, 0] + b: what the shared fusion layer makes of m alone."""
    start = 0
    for k, f in seen.features.items():
        if k == m:
            break
        start += len(f[0])
    return [
        b + sum(row[start + j] * v for j, v in enumerate(seen.features[m][i]))
        for row, b in zip(seen.weight, seen.bias, strict=True)
    ]


def weights(seen: Seen, temperature: float, floor: float) -> dict[str, float]:
    here = [m for m in seen.features if seen.rows[m]]
    z = {m: [alone(seen, m, i) for i in seen.rows[m]] for m in here}
    h = {m: mean([entropy(softmax(v)) for v in z[m]]) for m in here}
    d = {m: mean([sum(map(abs, v)) for v in z[m]]) for m in here}
    h = {m: max(h[m] / sum(h.values()), floor) for m in here}
    v = {m: (1 / h[m]) / sum(1 / x for x in h.values()) for m in here}
    total = sum(d.values())
    others = {m: mean([d[k] / total for k in here if k != m]) for m in here}
    e = {m: math.exp(temperature * v[m] * others[m]) for m in here}
    return {m: e[m] / sum(e.values()) for m in here}


@pytest.mark.parametrize("modalities", [2, 3])
def test_gradients_are_those_of_the_plain_losses_times_one_plus_w(modalities):
    """At the first step; the weights at every step. The fusion learns from all losses, unscaled."""

    def more(module):
        return {m: float(module.step.reads[f"arl/weight/{m}"]) for m in module.step.here}

    _, capture = observe(
        {"arl": ARL(temperature=6.0, gamma=3.0, begins=0)}, modalities, steps=5, more=more, optimizer=SGD
    )
    for seen in capture.seen:
        assert seen.more == pytest.approx(weights(seen, 6.0, 0.3), rel=1e-6)
    reference = Alone()
    reference.gamma = 3.0
    _, plain = observe({"alone": reference}, modalities, steps=5, optimizer=SGD)
    for m, w in capture.seen[0].more.items():
        expected = [(1 + w) * g for g in flat(plain.gradients[0][m])]
        assert flat(capture.gradients[0][m]) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert not differences(plain.gradients[0]["fusion"], capture.gradients[0]["fusion"])


@pytest.mark.parametrize("modalities", [2, 3])
def test_before_its_start_nothing_is_scaled_and_gamma_is_one(modalities):
    """Before, the gradients of two encoders were 1.5 times these, those of three 1.33 times."""
    _, capture = observe({"arl": ARL(gamma=5.0, begins=1)}, modalities, steps=1, optimizer=SGD)
    _, plain = observe({"alone": Alone()}, modalities, steps=1, optimizer=SGD)
    for m in capture.seen[0].features:
        assert flat(capture.gradients[0][m]) == pytest.approx(flat(plain.gradients[0][m]), rel=1e-9, abs=1e-14)


def test_the_unimodal_losses_are_those_of_the_fusion_and_not_of_heads():
    """By name, against the slow transcription: 1.245 and 1.187 in the first step.

    Before, they were those of separate heads: 1.175 and 1.162.
    """

    def more(module):
        own = {m: v.item() for m, v in module.methods["arl"].loss(module.step).items()}
        return own, {m: v.item() for m, v in module.step.losses.items()}

    _, capture = observe({"arl": ARL()}, 2, steps=4, more=more, optimizer=SGD)
    for seen in capture.seen:
        own, _ = seen.more
        expected = {
            m: mean([cross_entropy(alone(seen, m, i), seen.y[i]) for i in r]) for m, r in seen.rows.items() if r
        }
        assert own == pytest.approx(expected, rel=1e-6)
    own, heads = capture.seen[0].more
    assert own == pytest.approx({"audio": 1.245, "visual": 1.187}, abs=1e-3)
    assert {m: heads[m] for m in own} == pytest.approx({"audio": 1.175, "visual": 1.162}, abs=1e-3)
