"""The best moment is chosen on the whole validation, smoothed (specification B2.8).

The peak was chosen on one noisy batch, 25 % of 36 examples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lw_runs import config, fit
from torch.utils.data import DataLoader

from callbacks.run.checkpoint import StepCheckpoint
from callbacks.run.peak import PeakCheckpoint
from suite.config.compose import compose
from suite.runs.identity import run_dir

LUCKY = [0.05, 0.10, 0.25, 0.11, 0.14, 0.17, 0.19, 0.22, 0.22, 0.21]  # nine of 36 in the third validation


class Curve(L.LightningModule):
    """Its weight is the number of epochs trained; its validation metric follows a given curve."""

    def __init__(self, curve: list[float]):
        super().__init__()
        self.curve, self.epochs = curve, torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return -self.epochs

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/f1", torch.tensor(self.curve[self.current_epoch]), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def trained(folder: Path, curve: list[float], checkpoint: StepCheckpoint, resume: bool = False) -> int:
    """Epochs that the weights in `best.ckpt` have been trained for."""
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        max_epochs=len(curve), callbacks=[checkpoint], accelerator="cpu", num_sanity_val_steps=0, **quiet
    )
    data: Any = DataLoader([0])  # type: ignore[arg-type]
    path = str(folder / "last.ckpt") if resume else None
    trainer.fit(Curve(curve), data, data, ckpt_path=path, weights_only=True)
    return round(float(torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]["epochs"]))


def test_one_lucky_validation_is_not_the_peak(tmp_path: Path) -> None:
    assert trained(tmp_path, LUCKY, StepCheckpoint(str(tmp_path), monitor="val/f1")) == 3, "or this shows nothing"
    peak = PeakCheckpoint(str(tmp_path), monitor="val/f1", smoothing=0.7)
    assert trained(tmp_path, LUCKY, peak) == 10
    assert peak.best_value == pytest.approx(LUCKY[9]), "a reload must reproduce what was measured"


def test_the_average_goes_on_where_it_was_after_a_restart(tmp_path: Path) -> None:
    whole = trained(tmp_path / "a", LUCKY, PeakCheckpoint(str(tmp_path / "a"), smoothing=0.7))
    trained(tmp_path / "b", LUCKY[:4], PeakCheckpoint(str(tmp_path / "b"), smoothing=0.7))
    peak = PeakCheckpoint(str(tmp_path / "b"), smoothing=0.7)
    assert trained(tmp_path / "b", LUCKY, peak, resume=True) == whole
    weights = 0.7 ** np.arange(whole - 1, -1, -1)
    assert peak.best_score == pytest.approx(float(weights @ LUCKY[:whole] / weights.sum()))


def test_a_smoothed_peak_promises_less_than_luck_does() -> None:
    """A model that stays at 0.15, measured 40 times on 36 examples: how much too high the best score is."""
    measured = np.random.default_rng(0).binomial(36, 0.15, (200, 40)) / 36
    excess = {}
    for smoothing in (0.0, 0.7):
        peaks = [PeakCheckpoint("unused", smoothing=smoothing) for _ in measured]
        best = [max(p.score(Reading(x)) for x in run) for p, run in zip(peaks, measured, strict=True)]  # type: ignore[arg-type]
        excess[smoothing] = float(np.mean(best)) - 0.15
    assert excess[0.0] > 0.1
    assert excess[0.7] < 0.5 * excess[0.0]


class Reading:
    """As much of a trainer as `score` asks for."""

    def __init__(self, value: float):
        self.callback_metrics, self.strategy = {"val/f1": torch.tensor(value)}, self

    def broadcast(self, value: float) -> float:
        return value


def test_the_program_chooses_by_all_validation_questions_smoothed(tmp_path: Path) -> None:
    configured = compose("latentwire", []).callbacks.checkpoint
    assert configured._target_ == "callbacks.PeakCheckpoint"
    assert configured.monitor.startswith("val/")
    assert 0 < configured.smoothing < 1
    cfg = config(tmp_path)
    parts = fit(cfg)
    (peak,) = (c for c in parts.trainer.checkpoint_callbacks if isinstance(c, PeakCheckpoint))
    best = torch.load(run_dir(cfg) / "checkpoints" / "best.ckpt", weights_only=True)
    assert peak.best_value == pytest.approx(best["latentwire"]["val"]["f1"])
    assert parts.module.sample is not None
    assert len(parts.module.sample.outputs) == cfg.loader.eval_passages * cfg.loader.eval_questions
