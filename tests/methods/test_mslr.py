"""MSLR against a slow transcription (Yao and Mihalcea, Findings of ACL 2022)."""

from __future__ import annotations

import pytest
import torch
from methods_toys import mean, observe
from toys import SGD, differences

from asgml.methods.base import Epoch
from asgml.methods.joint import Joint
from asgml.methods.mslr import MSLR

ACCURACY = {"audio": [0.3, 0.5, 0.6, 0.6, 0.7, 0.7, 0.65], "visual": [0.2, 0.2, 0.25, 0.2, 0.3, 0.35, 0.5]}


def transcription(values: list[float], history: int, start: float) -> float:
    """The factor after all these epochs."""
    factor = start
    for end in range(history, len(values) + 1, history):
        factor *= values[end - 1] / mean(values[end - history : end])
    return factor


@pytest.mark.parametrize("history", [2, 3])
def test_the_factors_are_the_transcribed_ones(history):
    start = {"visual": 4.0}
    method = MSLR("dynamic", history, start)
    method.prepare("mslr", ["audio", "visual", "text"], 3, 0)

    class Moment:
        modalities = ("audio", "visual", "text")

    for n in range(8):
        metrics = {f"val/accuracy/{m}": v[n - 1] for m, v in ACCURACY.items()} if n else {}
        method.on_epoch(Epoch(n, 8, metrics, None, None))  # type: ignore[arg-type]
        expected = {m: transcription(v[:n], history, start.get(m, 1.0)) for m, v in ACCURACY.items()}
        found = method.group_lr(Moment())  # type: ignore[arg-type]
        assert found == pytest.approx({**expected, "text": 1.0}, rel=1e-6)
        again = MSLR("dynamic", history, start)
        again.load_state(method.state())
        assert again.state() == method.state()
        method = again
    assert found["visual"] != pytest.approx(4.0, abs=0.1)


def test_keep_keeps_and_an_accuracy_of_zero_changes_nothing():
    for method in (MSLR("keep", 2, {"audio": 0.5}), MSLR("dynamic", 2, {"audio": 0.5})):
        method.prepare("mslr", ["audio"], 3, 0)
        values = [0.1, 0.9] if method.strategy == "keep" else [0.0, 0.0]
        for n, v in enumerate(values, 1):
            method.on_epoch(Epoch(n, 8, {"val/accuracy/audio": v}, None, None))  # type: ignore[arg-type]
        assert method._rates == {"audio": 0.5}


def test_the_factor_acts_on_the_encoders_learning_rate_and_nothing_else():
    runs = [observe({"x": x}, 2, steps=1, optimizer=SGD)[0] for x in (Joint(), MSLR("keep", 5, {"audio": 0.25}))]
    joint, slow = runs
    for k, start in joint.trace.start.items():
        factor = 0.25 if k.startswith("net.encoders.audio.") and start.is_floating_point() else 1.0
        if "running" in k or "batches" in k:
            continue
        torch.testing.assert_close(slow.final[k] - start, factor * (joint.final[k] - start), rtol=1e-6, atol=1e-12)
    assert differences(joint.final, slow.final)
