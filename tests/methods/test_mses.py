"""MSES against a slow transcription (Fujimori et al., ACPR 2019)."""

from __future__ import annotations

import pytest
from methods_toys import observe
from toys import MOMENTUM, differences, same

from asgml.methods.base import Epoch
from asgml.methods.mses import MSES
from asgml.methods.uniform import Uniform

LOSSES = {
    "audio": [1.0, 0.8, 0.82, 0.79, 0.85, 0.84, 0.83, 0.5, 0.4],  # stopped before the last falls
    "visual": [2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2],
    "text": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
}


def transcription(losses: list[float], patience: int, min_delta: float) -> int | None:
    """After how many validations encoder m stops: the first with no new lowest loss among the last `patience`."""
    for n in range(1, len(losses) + 1):
        waited, lowest = 0, float("inf")
        for value in losses[:n]:
            waited = 0 if value < lowest - min_delta else waited + 1
            lowest = value if waited == 0 else lowest
        if waited >= patience:
            return n
    return None


@pytest.mark.parametrize(("patience", "min_delta"), [(3, 0.0), (1, 0.0), (2, 0.15), (20, 0.0)])
def test_encoders_stop_when_their_own_loss_has_not_fallen(patience, min_delta):
    method = MSES(patience, min_delta)
    method.prepare("mses", list(LOSSES), 3, 0)
    for n in range(len(LOSSES["audio"]) + 1):
        metrics = {f"val/loss/{m}": v[n - 1] for m, v in LOSSES.items()} if n else {}
        method.on_epoch(Epoch(n, 10, metrics, None, None))  # type: ignore[arg-type]
        expected = {m for m, v in LOSSES.items() if transcription(v[:n], patience, min_delta) is not None}
        assert method.idle(0, n) == expected, n
        again = MSES(patience, min_delta)
        again.prepare("mses", list(LOSSES), 3, 0)
        again.load_state(method.state())
        assert again.state() == method.state()
        method = again


def test_a_modality_without_validation_rows_never_stops():
    method = MSES(patience=1)
    method.prepare("mses", ["audio", "visual"], 3, 0)
    for n in range(4):
        method.on_epoch(Epoch(n, 4, {"val/loss/audio": 1.0}, None, None))  # type: ignore[arg-type]
    assert method.idle(0, 0) == {"audio"}


def test_a_stopped_encoder_stands_still_and_the_rest_goes_on():
    method = MSES()
    method.prepare("mses", ["audio", "visual"], 3, 0)
    method._stopped = ["audio"]
    run, capture = observe({"mses": method}, 2, steps=3, optimizer=MOMENTUM)
    assert same(run.trace.start, run.final, "net.encoders.audio")
    for part in ("net.encoders.visual", "net.fusion", "net.heads.audio", "net.heads.visual"):
        assert not same(run.trace.start, run.final, part)
    _, plain = observe({"uniform": Uniform()}, 2, steps=1, optimizer=MOMENTUM)
    for m in ("visual", "fusion"):
        assert not differences(plain.gradients[0][m], capture.gradients[0][m])
