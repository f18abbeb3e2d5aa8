"""MILES against a slow transcription (Guerra-Manzanares and Shamout, IJCNN 2025)."""

from __future__ import annotations

import torch
from methods_toys import mean, observe
from toys import SGD

from asgml.methods.base import Epoch
from asgml.methods.miles import MILES
from asgml.methods.uniform import Uniform


def slowed(fused: float, a: float, b: float, tau: float) -> set[str]:
    """The paper's cases for two modalities."""
    u_a, u_b = (fused - b) / fused, (fused - a) / fused
    if abs(u_a - u_b) <= tau or (u_a <= 0 and u_b <= 0):
        return set()
    return {"audio"} if u_a > u_b else {"visual"}


def metrics(fused: float, a: float, b: float) -> dict[str, float]:
    return {"val/accuracy": fused, "val/accuracy/audio": a, "val/accuracy/visual": b}


def after(metrics: dict[str, float], modalities: list[str], tau: float = 0.2) -> set[str]:
    method = MILES(threshold=tau, reduction=0.5)
    method.prepare("miles", modalities, 3, 0)
    method.on_epoch(Epoch(1, 3, metrics, None, None))  # type: ignore[arg-type]
    again = MILES(threshold=tau, reduction=0.5)
    again.load_state(method.state())
    found = again.group_lr(None)  # type: ignore[arg-type]
    assert set(found.values()) <= {0.5}
    return set(found)


def test_the_modality_with_the_larger_utilisation_is_slowed():
    outcomes = set()
    for fused in (0.3, 0.5, 0.8):
        for a in (0.1, 0.35, 0.62, 0.75):
            for b in (0.15, 0.4, 0.7):
                found = after(metrics(fused, a, b), ["audio", "visual"])
                assert found == slowed(fused, a, b, 0.2), (fused, a, b)
                outcomes.add(frozenset(found))
    assert outcomes == {frozenset(), frozenset({"audio"}), frozenset({"visual"})}


def test_with_three_modalities_everyone_far_above_the_least_used():
    alone = {"audio": 0.7, "visual": 0.2, "text": 0.6}
    u = {m: (0.8 - mean([v for k, v in alone.items() if k != m])) / 0.8 for m in alone}
    expected = {m for m, v in u.items() if v > 0 and v - min(u.values()) > 0.2}
    values = {"val/accuracy": 0.8, **{f"val/accuracy/{m}": v for m, v in alone.items()}}
    assert after(values, list(alone)) == expected == {"audio", "text"}
    assert after(values, [*alone, "depth"]) == expected  # depth has no validation rows


def test_before_the_first_epoch_and_without_any_right_answer_nobody_is_slowed():
    assert after({}, ["audio", "visual"]) == set()
    assert after(metrics(0.0, 0.0, 0.0), ["audio", "visual"]) == set()


def test_the_reduction_acts_on_the_encoders_learning_rate_and_the_loss_is_the_uniform_one():
    class Decided(MILES):
        def on_epoch(self, epoch):
            self._slowed = ["audio"]

    uniform, run = (observe({"x": x}, 2, steps=1, optimizer=SGD)[0] for x in (Uniform(), Decided(reduction=0.3)))
    for k, start in uniform.trace.start.items():
        if "running" in k or "batches" in k:
            continue
        factor = 0.3 if k.startswith("net.encoders.audio.") else 1.0
        torch.testing.assert_close(run.final[k] - start, factor * (uniform.final[k] - start), rtol=1e-6, atol=1e-12)
