"""G-Blending against a slow transcription (Wang et al., CVPR 2020)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods_toys import cross_entropy, flat, mean, observe
from toys import SGD

from asgml.methods.base import Epoch, Survey
from asgml.methods.gblending import GBlending
from asgml.methods.uniform import Uniform

NAMES = ["audio", "visual", "text"]


def survey(seed: int, sharp: float, modalities: int) -> Survey:
    """Random logits of 20 samples, better with `sharp`; some rows missing."""
    draw = torch.Generator().manual_seed(seed)
    names = NAMES[:modalities]
    y = torch.randint(3, (20,), generator=draw)
    right = torch.zeros(20, 3, dtype=torch.float64).scatter_(1, y[:, None], sharp)
    z = {m: right + torch.randn(20, 3, generator=draw, dtype=torch.float64) for m in names}
    present = {m: torch.rand(20, generator=draw) > 0.2 for m in names}
    fused = right + torch.randn(20, 3, generator=draw, dtype=torch.float64)

    def logits(subset: list[str]) -> torch.Tensor:
        assert subset == names  # the fused prediction is that from all modalities
        return fused

    return Survey(torch.arange(20), y, present, {m: v[:, :2] for m, v in z.items()}, z, logits)


def losses(s: Survey) -> dict[str, float]:
    y = s.y.tolist()
    out = {"fusion": mean([cross_entropy(z, c) for z, c in zip(s.logits(list(s.features)).tolist(), y, strict=True)])}
    for m, z in s.unimodal.items():
        here = [i for i, p in enumerate(s.present[m].tolist()) if p]
        out[m] = mean([cross_entropy(z[i].tolist(), y[i]) for i in here])
    return out


Losses = dict[str, float]


def transcription(before: tuple[Losses, Losses], now: tuple[Losses, Losses]) -> Losses:
    """w_k from (training, validation) losses at both ends of a super-epoch."""
    (t0, v0), (t1, v1) = before, now
    raw = {}
    for k in t0:
        gain = v0[k] - v1[k]
        overfitting = (v1[k] - t1[k]) - (v0[k] - t0[k])
        raw[k] = max(gain, 0.0) / max(abs(overfitting), 1e-3) ** 2
    total = sum(raw.values())
    return {k: v / total if total else 1 / len(raw) for k, v in raw.items()}


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_weights_are_the_transcribed_ones_before_every_super_epoch(modalities):
    method = GBlending(super_epoch=2)
    method.prepare("gblending", NAMES[:modalities], 3, 0)
    equal = dict.fromkeys(["fusion", *NAMES[:modalities]], 1 / (modalities + 1))
    measured: list[Any] = []
    expected = equal
    sharpness = {0: 0.5, 2: 1.5, 4: 1.0, 6: 2.0}
    for number in range(8):
        looked = []
        splits = {}
        if number in sharpness:
            sharp = sharpness[number]
            splits = {"train": survey(number, 2 * sharp, modalities), "val": survey(number + 50, sharp, modalities)}

        def look(split: str, splits: Any = splits, looked: Any = looked) -> Survey:
            looked.append(split)
            return splits[split]

        method.on_epoch(Epoch(number, 8, {}, look, lambda m, a: None))  # type: ignore[arg-type]
        assert sorted(looked) == (["train", "val"] if number in sharpness else [])
        if splits:
            measured.append((losses(splits["train"]), losses(splits["val"])))
            expected = transcription(measured[-2], measured[-1]) if len(measured) > 1 else equal
        assert method._weights == pytest.approx(expected, rel=1e-6)
        assert sum(method._weights.values()) == pytest.approx(1.0)
    assert method._weights != pytest.approx(equal, abs=0.05)


def test_where_nothing_generalises_the_weights_are_equal():
    method = GBlending()
    method.prepare("gblending", ["audio", "visual"], 3, 0)
    method._train, method._val = dict.fromkeys(method._weights, 1.0), dict.fromkeys(method._weights, 1.0)
    assert method.blend(dict.fromkeys(method._weights, 0.5), dict.fromkeys(method._weights, 1.5)) == pytest.approx(
        dict.fromkeys(method._weights, 1 / 3)
    )


def test_the_losses_are_weighted():
    """An encoder's gradient: w_f times the fused loss's plus w_m times its own; a third of the uniform one at first."""

    class Quiet(GBlending):
        def on_epoch(self, epoch: Any) -> None:
            """There is no data module here."""

    _, both = observe({"uniform": Uniform()}, 2, steps=1, optimizer=SGD)
    _, capture = observe({"gblending": Quiet()}, 2, steps=1, optimizer=SGD)
    for m in ("audio", "visual", "fusion"):
        expected = [v / 3 for v in flat(both.gradients[0][m])]
        assert flat(capture.gradients[0][m]) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_state_is_complete():
    method = GBlending()
    method.prepare("gblending", ["audio", "visual"], 3, 0)
    method._weights["audio"], method._train, method._val = 0.7, {"audio": 1.0}, {"audio": 2.0}
    again = GBlending()
    again.load_state(method.state())
    assert again.state() == method.state()
