"""MLA against a slow transcription (Zhang et al., CVPR 2024)."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from methods_toys import Seen, entropy, mean, observe, softmax
from toys import SGD, ToyEncoder, train

from asgml.methods.mla import MLA, entropy_weights
from callbacks.errors import UserError


def transcription(steps: list[Seen], alpha: float) -> list[list[list[float]]]:
    """The head's applied gradient (C, d) of every step: turn by turn, dW = mean (p - onehot) f^T, projected."""
    width = len(next(iter(steps[0].features.values()))[0])
    p = [[float(i == j) for j in range(width)] for i in range(width)]
    last: list[float] | None = None
    out = []
    for seen in steps:
        total = [[0.0] * width for _ in seen.bias]
        for m, f in seen.features.items():
            rows = seen.rows[m]
            if not rows:
                continue
            g = [[0.0] * width for _ in seen.bias]
            for i in rows:
                for c, q in enumerate(softmax(seen.unimodal[m][i])):
                    for j in range(width):
                        g[c][j] += (q - (seen.y[i] == c)) * f[i][j] / len(rows)
            if last is not None:
                used = [sum(p[i][j] * last[j] for j in range(width)) for i in range(width)]
                scale = alpha + sum(a * b for a, b in zip(last, used, strict=True))
                p = [[p[i][j] - used[i] * used[j] / scale for j in range(width)] for i in range(width)]
            for c, row in enumerate(g):
                for j in range(width):
                    total[c][j] += sum(row[i] * p[i][j] for i in range(width))
            last = [mean([f[i][j] for i in rows]) for j in range(width)]
        out.append(total)
    return out


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_heads_gradient_is_the_transcribed_one_over_two_epochs(modalities):
    run, capture = observe({"mla": MLA(alpha=0.2)}, modalities, steps=4, epochs=2, optimizer=SGD)
    name = "net.heads.audio.weight"
    assert torch.equal(run.final[name], run.final["net.heads.visual.weight"])
    for t, expected in enumerate(transcription(capture.seen, 0.2)):
        before = run.trace.start if t == 0 else run.trace.states[t - 1]
        moved = (before[name] - run.trace.states[t][name]) / 0.05
        torch.testing.assert_close(moved, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_encoders_learn_from_their_own_loss_and_the_fusion_stays():
    run, capture = observe({"mla": MLA()}, 2, steps=1, optimizer=SGD)
    assert all(g is None for g in capture.gradients[0]["fusion"][:2])  # the fusion's own two tensors
    assert all(torch.equal(run.trace.start[k], run.final[k]) for k in run.final if k.startswith("net.fusion"))
    assert all(g is not None for m in ("audio", "visual") for g in capture.gradients[0][m])


def test_the_prediction_trusts_the_surer_modality():
    rows = {"audio": [[3.0, 0.1, -1.0], [0.2, 0.1, 0.0]], "visual": [[0.5, 0.4, 0.3], [-2.0, 4.0, 1.0]]}
    step: Any = SimpleNamespace(y=torch.zeros(2), present={"audio": None, "visual": torch.tensor([True, False])})
    p = {m: torch.softmax(torch.tensor(z, dtype=torch.float64), 1) for m, z in rows.items()}
    found = entropy_weights(step, p)
    e = {m: entropy(softmax(z[0])) for m, z in rows.items()}
    raw = {m: math.exp(max(e.values()) - v) for m, v in e.items()}
    for m, v in raw.items():
        assert float(found[m][0, 0]) == pytest.approx(v / sum(raw.values()), rel=1e-6)
    assert float(found["audio"][0, 0]) > 0.6
    assert [float(found[m][1, 0]) for m in rows] == pytest.approx([1.0, 0.0])


def test_features_of_two_widths_are_refused():
    class Wide(ToyEncoder):
        made = 0

        def __init__(self, shape):
            Wide.made += 1
            super().__init__(shape, out_dim=3 + Wide.made)

    with pytest.raises(UserError, match="one width"):
        train(methods={"mla": MLA()}, encoder=Wide)
