"""MIMO against a slow transcription (Fernando et al., 2025)."""

from __future__ import annotations

import math

import pytest
from methods_toys import Seen, cross_entropy, flat, mean, observe
from toys import SGD

from asgml.methods.joint import Joint
from asgml.methods.mimo import MIMO
from asgml.methods.uniform import Uniform


def losses(seen: Seen) -> dict[str, float]:
    here = [m for m in seen.rows if seen.rows[m]]
    return {m: mean([cross_entropy(seen.unimodal[m][i], seen.y[i]) for i in seen.rows[m]]) for m in here}


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("mu", [0.05, 2.0])
def test_the_term_is_the_transcribed_one(modalities, mu):
    def more(module):
        return {k: v.item() for k, v in module.methods["mimo"].loss(module.step).items()}

    _, capture = observe({"mimo": MIMO(lam=1.5, mu=mu)}, modalities, steps=4, more=more, optimizer=SGD)
    for seen in capture.seen:
        smooth = mu * math.log(sum(math.exp(v / mu) for v in losses(seen).values()))
        assert seen.more == {"worst": pytest.approx(1.5 * smooth, rel=1e-6)}


def test_the_encoders_gradient_is_weighted_by_the_softmax_of_the_losses():
    options = {"modalities": 3, "steps": 1, "optimizer": SGD}
    _, capture = observe({"mimo": MIMO(lam=1.5, mu=0.2)}, **options)
    _, joint = observe({"joint": Joint()}, **options)
    _, uniform = observe({"uniform": Uniform()}, **options)
    found = losses(capture.seen[0])
    e = {m: math.exp(v / 0.2) for m, v in found.items()}
    for m in found:
        w = 1.5 * e[m] / sum(e.values())
        fused, both = flat(joint.gradients[0][m]), flat(uniform.gradients[0][m])
        expected = [f + w * (b - f) for f, b in zip(fused, both, strict=True)]
        assert flat(capture.gradients[0][m]) == pytest.approx(expected, rel=1e-6, abs=1e-12)
