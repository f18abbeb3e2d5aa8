"""GradNorm against a slow transcription (Chen et al., ICML 2018)."""

from __future__ import annotations

import math
from typing import Any

import pytest
from methods_toys import Seen, cross_entropy, flat, mean, observe
from toys import SGD

from asgml.methods.gradnorm import GradNorm


def watch(module: Any) -> Any:
    """The loss weights before the step, and each task's gradient on the encoders."""
    step = module.step
    own = {m: flat([g for g in step.gradients["unimodal"][m] if g is not None]) for m in step.here}
    fused = [v for m in step.here for v in flat([g for g in step.gradients["fused"][m] if g is not None])]
    return dict(module.methods["gradnorm"]._weights), {"fusion": fused, **own}


def losses(seen: Seen) -> dict[str, float]:
    out = {"fusion": mean([cross_entropy(z, y) for z, y in zip(seen.logits, seen.y, strict=True)])}
    for m, z in seen.unimodal.items():
        if seen.rows[m]:
            out[m] = mean([cross_entropy(z[i], seen.y[i]) for i in seen.rows[m]])
    return out


def transcription(seen: list[Seen], alpha: float, lr: float) -> list[dict[str, float]]:
    """w_t after every step, from what `watch` saw (whose gradients are those of the weighted losses)."""
    w = dict.fromkeys(["fusion", *seen[0].features], 1.0)
    first: dict[str, float] = {}
    out = []
    for s in seen:
        now, vectors = losses(s), s.more[1]
        for t in now:
            first.setdefault(t, now[t])
        norm = {t: math.sqrt(sum(v * v for v in vectors[t])) for t in now}
        training = {t: now[t] / first[t] for t in now}
        target = {t: mean(list(norm.values())) * (training[t] / mean(list(training.values()))) ** alpha for t in now}
        for t in now:
            unweighted = norm[t] / w[t]
            slope = unweighted if norm[t] > target[t] else -unweighted
            w[t] = max(w[t] - lr * slope, 1e-3)
        total = sum(w.values())
        w = {t: v * len(w) / total for t, v in w.items()}
        out.append(dict(w))
    return out


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_weights_are_the_transcribed_ones_over_two_epochs(modalities):
    method = GradNorm(alpha=1.5, lr=0.1)
    _, capture = observe({"gradnorm": method}, modalities, steps=4, epochs=2, more=watch, optimizer=SGD)
    expected = transcription(capture.seen, 1.5, 0.1)
    for t in range(1, len(capture.seen)):
        assert capture.seen[t].more[0] == pytest.approx(expected[t - 1], rel=1e-6)
    assert method._weights == pytest.approx(expected[-1], rel=1e-6)
    assert max(abs(v - 1) for v in expected[-1].values()) > 0.05


def test_the_weights_weigh_the_losses():
    """The gradients at a step are those of the plain losses at the same weights, times w."""
    _, plain = observe({"gradnorm": GradNorm(lr=0.0)}, steps=1, more=watch, optimizer=SGD)
    method = GradNorm(lr=0.0)
    weights = {"fusion": 0.5, "audio": 1.5, "visual": 2.0}
    method.setup = lambda: setattr(method, "_weights", weights)  # type: ignore[method-assign]
    _, capture = observe({"gradnorm": method}, steps=1, more=watch, optimizer=SGD)
    for task, w in weights.items():
        expected = [w * v for v in plain.seen[0].more[1][task]]
        assert capture.seen[0].more[1][task] == pytest.approx(expected, rel=1e-6)


def test_state_is_complete():
    method = GradNorm()
    method.prepare("gradnorm", ["audio", "visual"], 3, 0)
    method._weights["audio"], method._first["audio"] = 0.3, 2.0
    again = GradNorm()
    again.prepare("gradnorm", ["audio", "visual"], 3, 0)
    again.load_state(method.state())
    assert (again._weights, again._first) == (method._weights, method._first)
