"""InfoReg against a slow transcription (Huang et al., CVPR 2025)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from methods_toys import Seen, flat, mean, observe, softmax
from toys import SGD, differences

from asgml.methods.base import Epoch
from asgml.methods.inforeg import InfoReg
from asgml.methods.uniform import Uniform

LR = 0.05


def strengths(seen: Seen, beta: dict[str, float], windows: dict[str, bool]) -> dict[str, float]:
    here = [m for m in seen.features if seen.rows[m]]
    s = {m: len(seen.y) * mean([softmax(seen.unimodal[m][i])[seen.y[i]] for i in seen.rows[m]]) for m in here}
    out = {}
    for m in here:
        ahead = s[m] - mean([s[k] for k in here if k != m])
        out[m] = beta.get(m, 0.0) * math.exp(math.tanh(ahead)) if ahead > 0 and windows[m] else 0.0
    return out


def window(traces: list[float], span: int, threshold: float) -> bool:
    """Before an epoch, from the traces of all epochs so far; those before the beginning are 0."""
    if not traces:
        return True
    padded = [0.0] * (span + 1) + traces
    now, before = sum(padded[-span:]), sum(padded[-span - 1 : -1])
    return (now - before) / now > threshold


EACH = {"audio": 0.9, "visual": 0.3}


@pytest.mark.parametrize(
    ("modalities", "threshold", "span", "beta"),
    [(2, 0.04, 10, 0.9), (3, 0.04, 10, 0.9), (2, 0.55, 2, 0.9), (2, 0.04, 10, EACH), (3, 0.04, 10, EACH)],
)
def test_the_encoders_are_pulled_to_where_the_epoch_began(modalities, threshold, span, beta):
    """Everything that the run did, from its gradients and weights: traces, windows, strengths and pulls."""
    method, steps, epochs = InfoReg(beta=beta, threshold=threshold, span=span), 4, 3
    run, capture = observe({"inforeg": method}, modalities, steps=steps, epochs=epochs, optimizer=SGD)
    traces: dict[str, list[float]] = {m: [] for m in run.module.modalities}
    each = beta if isinstance(beta, dict) else dict.fromkeys(run.module.modalities, beta)
    pulled, closed = 0, 0
    for e in range(epochs):
        open_ = {m: window(traces[m], span, threshold) for m in traces}
        closed += sum(not o for o in open_.values())
        squares: dict[str, list[float]] = {m: [] for m in traces}
        states = [run.trace.start, *run.trace.states]
        for i in range(steps):
            t = e * steps + i
            alpha = strengths(capture.seen[t], each, open_)
            for m, a in alpha.items():
                fresh = capture.gradients[t][m]
                squares[m].append(sum(v * v for v in flat(fresh)))
                keys = [k for k, _ in run.module.named_parameters() if k.startswith(f"net.encoders.{m}.")]
                for k, g in zip(keys, fresh, strict=True):
                    expected = g + a * (states[t][k] - states[e * steps][k])
                    moved = (states[t][k] - states[t + 1][k]) / LR
                    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-9)
                pulled += a > 0 and i > 0
        for m, values in squares.items():
            traces[m].append(mean(values))
    assert pulled > 2
    assert (closed > 0) == (threshold > 0.5)


def test_the_loss_is_the_uniform_one():
    _, plain = observe({"uniform": Uniform()}, 2, steps=1, optimizer=SGD)
    _, capture = observe({"inforeg": InfoReg()}, 2, steps=1, optimizer=SGD)
    assert not differences(plain.gradients[0], capture.gradients[0])


def test_the_window_closes_when_traces_stop_growing():
    method = InfoReg(threshold=0.04, span=3)
    method.prepare("inforeg", ["audio", "visual"], 3, 0)
    traces: list[float] = []
    found = []
    for e, value in enumerate([1.0, 4.0, 6.0, 6.0, 5.0, 4.0, 9.0]):
        assert method.open("audio") == window(traces, 3, 0.04), e
        found.append(method.open("audio"))
        method._squares = {"audio": [2 * value, 2.0]}
        method.on_epoch(Epoch(e + 1, 9, {}, None, None))  # type: ignore[arg-type]
        traces.append(value)
    assert found == [True, True, True, True, True, True, False]


def test_state_is_complete():
    run, _ = observe({"inforeg": InfoReg()}, 2, steps=3, epochs=2, optimizer=SGD)
    method: Any = run.module.methods["inforeg"]
    again = InfoReg()
    again.load_state(method.state())
    assert not differences(again.state(), method.state())
    assert again.state()["anchors"]["audio"]
