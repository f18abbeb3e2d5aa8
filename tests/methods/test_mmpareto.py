"""MMPareto against a slow transcription (Wei and Hu, ICML 2024)."""

from __future__ import annotations

import math

import pytest
import torch
from asgml_runs import config, fit, weights
from methods_toys import flat, observe
from toys import SGD, differences, same

from asgml.methods.joint import Joint
from asgml.methods.mmpareto import MMPareto
from asgml.methods.uniform import Uniform


def transcription(fused: list[float], unimodal: list[float], rescale: float) -> tuple[list[float], bool]:
    """The applied gradient of one encoder, and whether the two conflict; the minimiser by bisection."""

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    def mix(w):
        return [w * f + (1 - w) * u for f, u in zip(fused, unimodal, strict=True)]

    w, conflict = 0.5, dot(fused, unimodal) < 0
    if conflict:
        low, high, slope = 0.0, 1.0, [f - u for f, u in zip(fused, unimodal, strict=True)]
        for _ in range(100):
            w = (low + high) / 2
            low, high = (low, w) if dot(mix(w), slope) > 0 else (w, high)
    h = mix(w)
    plain = [f + u for f, u in zip(fused, unimodal, strict=True)]
    factor = rescale * math.sqrt(dot(plain, plain) / dot(h, h))
    return [factor * v for v in h], conflict


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_applied_gradient_is_the_transcribed_one(modalities):
    """At the first step of several runs, where the fused gradient is that of joint training, and both cases occur."""
    conflicts = []
    for seed in range(6):
        options = {"modalities": modalities, "steps": 1, "optimizer": SGD, "seed": seed, "data_seed": seed}
        _, joint = observe({"joint": Joint()}, **options)
        _, both = observe({"uniform": Uniform()}, **options)
        run, _ = observe({"mmpareto": MMPareto(rescale=1.5)}, **options)
        for m in run.module.modalities:
            fused, total = (flat(c.gradients[0][m]) for c in (joint, both))
            expected, conflict = transcription(fused, [t - f for t, f in zip(total, fused, strict=True)], 1.5)
            conflicts.append(conflict)
            names = [k for k, _ in run.module.named_parameters() if k.startswith(f"net.encoders.{m}.")]
            moved = [v for k in names for v in (run.trace.start[k] - run.final[k]).flatten().tolist()]
            assert [v / 0.05 for v in moved] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert 0 < sum(conflicts) < len(conflicts)


def test_fusion_and_heads_move_as_without_it():
    runs = [observe({"x": x}, steps=1, optimizer=SGD)[0] for x in (Uniform(), MMPareto())]
    for name in ("net.fusion", "net.heads"):
        assert not differences(*({k: v for k, v in r.final.items() if k.startswith(name)} for r in runs))


def test_a_modality_that_nobody_has_does_not_move():
    run, capture = observe({"mmpareto": MMPareto()}, modalities=3, steps=4, optimizer=SGD)
    before, after = run.trace.states[2], run.trace.states[3]
    assert same(before, after, "net.encoders.visual")
    assert not same(before, after, "net.encoders.text")
    assert all(p is not None for p in capture.gradients[3]["text"])


def test_an_amp_scaler_changes_nothing(features, tmp_path):
    """The parts are unscaled like `p.grad`; with the scaler's factor of 65536 left in, the weights would explode."""
    precisions = ("32-true", "16-mixed")
    small = ["method=mmpareto", "optimizer.lr=0.01", "trainer.max_epochs=1", "callbacks.probe=null"]
    ends = [weights(fit(config(features[2], tmp_path / p, *small, f"trainer.precision={p}"))) for p in precisions]
    for k in ends[0]:
        torch.testing.assert_close(ends[0][k], ends[1][k], rtol=2e-2, atol=2e-3)
