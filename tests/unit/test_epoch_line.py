"""One line per epoch: what it says, and that it stays where there is no terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from asgml_runs import config, fit, rows, write_features
from foreign_toys import Foreign, foreign_batches
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only
from toys import ADAMW, quiet_trainer
from toys import fit as fit_any
from toys import loader as load

from callbacks.run.epoch_line import EpochLine, clock
from callbacks.run.progress import StepProgress
from callbacks.stages.gate import StepGate
from callbacks.step.pipeline import StepPipeline


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("epoch ")]


class Losses(L.Callback):
    """Poisons two batches, and keeps the loss of every committed step by epoch."""

    def __init__(self) -> None:
        self.seen: dict[int, list[float]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) in ((0, 4), (0, 7)):
            batch["x"]["visual"][:1] = float("nan")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        ctx = pl_module._pipeline.ctx
        if ctx.veto is None:
            self.seen.setdefault(trainer.current_epoch, []).append(ctx.metrics["train/loss"])


def test_a_line_has_means_over_real_steps_this_epochs_validation_rates_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["method=asgml_frequency", "asgml.masking=hard", "+group_lr.audio=0.1", "trainer.check_val_every_n_epoch=2"]
    more += ["+callbacks.gate.bad_loss=skip"]
    cfg = config(write_features(tmp_path / "data.npz"), tmp_path, *more)
    losses = Losses()
    fit(cfg, [losses])
    first, second = lines(capsys.readouterr().out)
    held = [sum(r[1:3] == ["audio", "hold"] for r in rows(cfg, "timeline.csv"))]
    mean = {e: sum(v) / len(v) for e, v in losses.seen.items()}
    assert first.startswith(f"epoch 1/2  train/loss {mean[0]:.4g}  ")
    assert "lr audio 0.1, visual 0.05, fusion 0.05" in first
    assert "skipped 2" in first
    assert re.search(r"ETA \d+:\d\d$", first)
    assert "val/" not in first
    val = {r[2]: float(r[3]) for r in rows(cfg, "history.csv") if r[2].startswith("val/accuracy")}
    shown = " ".join(f"{k.rpartition('/')[2]} {v:.3f}" for k, v in val.items() if k != "val/accuracy")
    assert second.startswith(f"epoch 2/2  train/loss {mean[1]:.4g}  val/accuracy {val['val/accuracy']:.3f} {shown}  ")
    assert "skipped" not in second
    assert "ETA" not in second
    counts = [int(n) for line in (first, second) for n in re.findall(r"held audio (\d+)/", line)]
    assert [sum(counts)] == held
    assert "held audio 4/8" in first


def test_the_rates_are_those_that_the_last_step_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SWA's own rate holds from step 12 on: once a step is taken, the schedule has set its own for the next."""
    swa = ["averaging=swa", "callbacks.averaging.start=12", "callbacks.averaging.swa_lr=0.003"]
    fit(config(write_features(tmp_path / "data.npz"), tmp_path, "method=joint", *swa))
    first, second = lines(capsys.readouterr().out)
    assert "  lr 0.05" in first
    assert "  lr 0.003" in second


def test_delayed_steps_are_told_from_held_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(config(write_features(tmp_path / "data.npz"), tmp_path, "method=asgml_staleness", "trainer.max_epochs=1"))
    assert "held audio 2/10  delayed audio 8/10" in lines(capsys.readouterr().out)[0]


def test_only_the_first_rank_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    fit_any(Foreign(automatic=False), foreign_batches(2), [StepPipeline([StepGate()], announce=False), EpochLine()])
    assert lines(capsys.readouterr().out) == []


class Logged(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss


def test_without_a_pipeline_it_shows_what_was_logged_last(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = quiet_trainer([EpochLine()], epochs=3, max_steps=4)
    trainer.fit(Logged(automatic=True, optimizer=ADAMW), load(foreign_batches(2)))
    found = lines(capsys.readouterr().out)
    assert [line.split("  ")[0] for line in found] == ["epoch 1/2", "epoch 2/2"]
    assert f"train/loss {float(trainer.callback_metrics['train/loss']):.4g}" in found[-1]


def test_time_left() -> None:
    assert [clock(s) for s in (0.4, 111, 3599.7, 7400)] == ["0:00", "1:51", "1:00:00", "2:03:20"]


def test_a_line_goes_through_lightnings_other_bar(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        callbacks=[TQDMProgressBar(), EpochLine()],
    )  # fmt: skip
    trainer.fit(Logged(automatic=True, optimizer=ADAMW), load(foreign_batches(2)))
    assert [line.split("  ")[0] for line in lines(capsys.readouterr().out)] == ["epoch 1/2", "epoch 2/2"]


def test_seconds_of_an_epoch_that_is_resumed_midway_begin_at_the_restart(capsys: pytest.CaptureFixture[str]) -> None:
    trainer, line = quiet_trainer([], epochs=2), EpochLine()
    trainer.fit_loop.max_batches = 4
    line.on_train_start(trainer, L.LightningModule())  # Lightning does not start such an epoch a second time
    line.on_train_epoch_end(trainer, L.LightningModule())
    (told,) = lines(capsys.readouterr().out)
    assert "  0.0 s" in told


@pytest.mark.parametrize(("limits", "ends"), [({"max_epochs": 12}, "/12"), ({"max_epochs": -1}, "")])
def test_the_bar_counts_epochs_as_the_line_does(limits: dict[str, int], ends: str) -> None:
    bar = StepProgress()
    trainer = L.Trainer(**limits, logger=False, enable_checkpointing=False, callbacks=[bar], accelerator="cpu")
    bar.setup(trainer, L.LightningModule(), "fit")
    assert bar._get_train_description(0).split() == ["Epoch", f"1{ends}"]
    assert bar._get_train_description(11).split() == ["Epoch", f"12{ends}"]
