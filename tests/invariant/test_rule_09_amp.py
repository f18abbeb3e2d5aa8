"""Specification A2.9: under fp16, gradients are captured, changed, measured and stored after unscaling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from asgml_runs import config, prepare, rows, weights, write_features
from lightning.pytorch.plugins import MixedPrecision
from poison import PoisonGradients

from asgml.build import Parts
from callbacks.errors import UserError
from callbacks.stages.gate import TooManySkips

POISONED = ((0, 4), (1, 2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("amp") / "data.npz")


class Watch(L.Callback):
    """Injects a non-finite value into chosen batches; records the step's host values, the dtype and the scale."""

    def __init__(self, value: float = torch.inf, where: tuple[tuple[int, int], ...] = POISONED):
        self.value, self.where = value, where
        self.host: list[dict[str, float]] = []
        self.dtypes: set[torch.dtype] = set()
        self.scales: list[float] = []
        self.left: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) in self.where:
            batch["x"]["visual"][:1] = self.value

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.host.append(dict(pl_module._context.host))
        self.dtypes.add(pl_module.step.features["audio"].dtype)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            self.scales.append(scaler.get_scale())
        if pl_module._context.veto is not None:
            self.left.append(sum(p.grad is not None for p in pl_module.parameters()))


def run(data: Path, runs: Path, *more: str, scale: float | None = None, watch: L.Callback | None = None) -> Parts:
    """Do a run, under fp16 where `scale` gives the scaler's initial scale."""
    cfg = config(data, runs, *more, *(["trainer.precision=16-mixed"] if scale else []))
    parts = prepare(cfg, [watch] if watch else [])
    if scale:
        plugin = parts.trainer.precision_plugin
        assert isinstance(plugin, MixedPrecision)
        assert isinstance(plugin.scaler, torch.amp.GradScaler)
        plugin.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    parts.trainer.fit(parts.module, datamodule=parts.data)
    return parts


def test_fp16_on_the_cpu_is_fp16_with_a_scaler_and_not_silently_bf16(data: Path, tmp_path: Path) -> None:
    watch = Watch(where=())
    run(data, tmp_path, "trainer.max_epochs=1", scale=1024.0, watch=watch)
    assert watch.dtypes == {torch.float16}
    assert set(watch.scales) == {1024.0}


@pytest.mark.parametrize("compensation", ["inverse", "delay_compensated"])
def test_buffers_hold_unscaled_gradients(data: Path, tmp_path: Path, compensation: str) -> None:
    """At fixed weights (lr 0) the buffers of fp16 and fp32 hold the same gradients, not 1024 times larger ones."""
    same = ["optimizer.lr=0.0", "optimizer.weight_decay=0.0", "asgml.tau=3", f"asgml.compensation={compensation}"]
    flats = []
    for name, scale in (("32", None), ("16", 1024.0)):
        parts = run(data, tmp_path / name, *same, "trainer.max_epochs=1", scale=scale)
        stage: Any = parts.pipeline.stage("staleness")
        flats.append(stage.state()["gradients"]["audio"]["flat"])
    assert flats[0].abs().max() > 1e-3
    torch.testing.assert_close(flats[1], flats[0], rtol=0.02, atol=2e-3)


def test_sums_of_accumulate_are_unscaled(data: Path, tmp_path: Path) -> None:
    same = ["method=asgml_frequency", "asgml.masking=accumulate", "asgml.k=4", "optimizer.lr=0.0"]
    sums = []
    for name, scale in (("32", None), ("16", 1024.0)):
        parts = run(data, tmp_path / name, *same, "trainer.max_epochs=1", scale=scale)
        stage: Any = parts.pipeline.stage("frequency")
        sums.append(torch.cat([s.flatten() for s in stage.state()["sums"]["audio"]]))
    assert sums[0].abs().max() > 1e-3
    torch.testing.assert_close(sums[1], sums[0], rtol=0.02, atol=4e-3)


@pytest.mark.parametrize("bound", [20.0, 0.05])
def test_clipping_and_diagnostics_see_unscaled_gradients(data: Path, tmp_path: Path, bound: float) -> None:
    """Norms of about 1: a bound of 20 clips nothing although the scaled norms are above 1000; 0.05 clips to 0.05."""
    watch = Watch(where=())
    clip = [f"callbacks.clip.max_norm={bound}", "method=uniform", "trainer.max_epochs=1"]
    run(data, tmp_path, *clip, scale=4096.0, watch=watch)
    for host in watch.host:
        for g in ("audio", "visual", "fusion"):
            assert 0.05 < host[f"fresh/{g}"] < 20
            assert host[f"applied/{g}"] == pytest.approx(min(bound, host[f"fresh/{g}"]), rel=1e-5)


MODES = {
    "sync": ["method=uniform"],
    "staleness": ["asgml.tau=2"],
    "accumulate": ["method=asgml_frequency", "asgml.k=3", "asgml.masking=accumulate"],
    "hard": ["method=asgml_frequency", "asgml.k=2", "asgml.masking=hard"],
}


@pytest.mark.parametrize(("mode", "value"), zip(MODES, [torch.inf, torch.nan] * 2, strict=True))
def test_fp16_and_fp32_skip_the_same_steps_and_agree(data: Path, tmp_path: Path, mode: str, value: float) -> None:
    """With the same injected overflow: same vetoes, same t, same timeline, weights within fp16 tolerance."""
    seen, parts, tables = [], [], []
    same = [*MODES[mode], "optimizer.lr=0.01", "+callbacks.gate.bad_loss=skip"]
    for name, scale in (("32", None), ("16", 1024.0)):
        seen.append(Watch(value))
        parts.append(run(data, tmp_path / name, *same, scale=scale, watch=seen[-1]))
        more = ["trainer.precision=16-mixed"] if scale else []
        tables.append(rows(config(data, tmp_path / name, *same, *more), "timeline.csv"))
    full, half = parts
    assert full.pipeline.t == half.pipeline.t == 18
    assert full.pipeline.vetoed == half.pipeline.vetoed == len(POISONED)
    assert [row[:4] for row in tables[0]] == [row[:4] for row in tables[1]]
    assert seen[0].left == seen[1].left == [0, 0]
    assert seen[1].scales[3:5] == [1024.0, 512.0]  # an overflow halves the scale
    a, b = weights(full), weights(half)
    assert all(torch.isfinite(b[k]).all() for k in b)
    for k in a:
        torch.testing.assert_close(b[k], a[k], rtol=0.01, atol=1e-3, msg=lambda m, k=k: f"{k}: {m}")


class Hooked(Watch):
    """Injects an overflow into the audio encoder's gradient alone: forward pass and other groups are finite."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        weight = next(pl_module.net.encoders["audio"].parameters())
        weight.register_hook(lambda g: g * torch.inf if self.now else g)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.now = (trainer.current_epoch, batch_idx) in self.where


@pytest.mark.parametrize("mode", ["staleness", "accumulate"])
def test_an_overflow_in_a_held_back_encoder_skips_the_step_too(data: Path, tmp_path: Path, mode: str) -> None:
    """What fp16's scaler refuses, fp32 refuses: the check is on fresh gradients, not on the old ones applied."""
    found = []
    for name, scale in (("32", None), ("16", 1024.0)):
        parts = run(data, tmp_path / name, *MODES[mode], "optimizer.lr=0.01", scale=scale, watch=Hooked())
        found.append((parts.pipeline.t, parts.pipeline.vetoed, parts.pipeline.counters()["skip_reasons"]))
    assert found[0] == found[1] == (18, 2, {"fresh gradient not finite": 2})


def test_the_search_for_the_first_scale_is_no_failure(data: Path, tmp_path: Path) -> None:
    """Far more overflows in a row than `max_consecutive_skips`, each of which halves the scale; then it trains."""
    watch = Watch(where=())
    parts = run(data, tmp_path, "callbacks.gate.max_consecutive_skips=3", scale=2.0**26, watch=watch)
    assert watch.scales[:5] == [2.0 ** (25 - i) for i in range(5)]
    assert len(watch.left) == parts.pipeline.vetoed == 20 - parts.pipeline.t
    assert parts.pipeline.t > 5
    assert all(n == 0 for n in watch.left)


def test_overflow_without_end_is_a_failure(data: Path, tmp_path: Path) -> None:
    watch = Watch(where=tuple((0, i) for i in range(3, 10)))
    more = ["callbacks.gate.max_consecutive_skips=3", "+callbacks.gate.bad_loss=skip"]
    with pytest.raises(TooManySkips, match="3 optimiser steps in a row"):
        run(data, tmp_path, *more, scale=1024.0, watch=watch)
    assert watch.scales[:5] == [1024.0, 1024.0, 1024.0, 512.0, 256.0]


def test_nan_in_gradients_is_no_search_for_a_scale(data: Path, tmp_path: Path) -> None:
    """No scale makes a number of it: the search ends at 1, and the run with the first bad step."""
    with pytest.raises(TooManySkips, match=r"step 0, batch 1 of epoch 0\n.*visual \(nan\).*3 optimiser steps in a row"):
        run(
            data,
            tmp_path,
            "callbacks.gate.max_consecutive_skips=3",
            scale=2.0,
            watch=PoisonGradients("net.encoders.visual"),
        )


def test_a_fused_optimiser_with_fp16_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fused"):
        run(data, tmp_path, "+optimizer.fused=true", scale=1024.0)
    assert run(data, tmp_path, "+optimizer.fused=true", "trainer.max_epochs=1").pipeline.t == 10


def test_bf16_mixed_trains_without_a_scaler(data: Path, tmp_path: Path) -> None:
    watch = Watch(where=())
    full = run(data, tmp_path)
    half = run(data, tmp_path, "trainer.precision=bf16-mixed", watch=watch)
    assert watch.dtypes == {torch.bfloat16}
    assert not watch.scales
    assert half.pipeline.t == full.pipeline.t == 20
    a, b = weights(full), weights(half)
    distance = max(float((a[k] - b[k]).abs().max()) for k in a)
    assert 0 < distance < 0.05
