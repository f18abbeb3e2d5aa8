"""ARL against a slow transcription (Wei et al., ICCV 2025)."""

from __future__ import annotations

import math

import pytest
from methods_toys import Seen, entropy, flat, mean, observe, softmax
from toys import SGD, differences

from asgml.methods.arl import ARL
from asgml.methods.uniform import Uniform


def weights(seen: Seen, temperature: float, floor: float) -> dict[str, float]:
    here = [m for m in seen.features if seen.rows[m]]
    h = {m: mean([entropy(softmax(seen.unimodal[m][i])) for i in seen.rows[m]]) for m in here}
    d = {m: mean([sum(abs(v) for v in seen.unimodal[m][i]) for i in seen.rows[m]]) for m in here}
    h = {m: max(h[m] / sum(h.values()), floor) for m in here}
    v = {m: (1 / h[m]) / sum(1 / x for x in h.values()) for m in here}
    total = sum(d.values())
    others = {m: mean([d[k] / total for k in here if k != m]) for m in here}
    e = {m: math.exp(temperature * v[m] * others[m]) for m in here}
    return {m: e[m] / sum(e.values()) for m in here}


@pytest.mark.parametrize("modalities", [2, 3])
def test_gradients_are_those_of_the_uniform_loss_times_one_plus_w(modalities):
    """At the first step; the weights at every step."""

    def more(module):
        return {m: float(module.step.reads[f"arl/weight/{m}"]) for m in module.step.here}

    _, capture = observe(
        {"arl": ARL(temperature=6.0, gamma=3.0, begins=0)}, modalities, steps=5, more=more, optimizer=SGD
    )
    for seen in capture.seen:
        assert seen.more == pytest.approx(weights(seen, 6.0, 0.3), rel=1e-6)
    _, plain = observe({"uniform": Uniform(gamma=3.0)}, modalities, steps=5, optimizer=SGD)
    for m, w in capture.seen[0].more.items():
        expected = [(1 + w) * g for g in flat(plain.gradients[0][m])]
        assert flat(capture.gradients[0][m]) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert not differences(plain.gradients[0]["fusion"], capture.gradients[0]["fusion"])


def test_before_its_start_weights_are_equal_and_gamma_is_one():
    _, capture = observe({"arl": ARL(gamma=5.0, begins=1)}, 3, steps=1, optimizer=SGD)
    _, plain = observe({"uniform": Uniform(gamma=1.0)}, 3, steps=1, optimizer=SGD)
    for m in ("audio", "visual", "text"):
        expected = [(1 + 1 / 3) * g for g in flat(plain.gradients[0][m])]
        assert flat(capture.gradients[0][m]) == pytest.approx(expected, rel=1e-9, abs=1e-14)
