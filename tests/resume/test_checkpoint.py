"""StepCheckpoint: what is written when, what is refused, and that every kind of checkpoint continues exactly."""

from __future__ import annotations

import math
import resource
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from resume_toy import assert_same, build, fit

from callbacks.errors import UserError
from callbacks.run.checkpoint import StepCheckpoint


class Scores(L.Callback):
    """Stands for a validation metric with known values, and for a loss beside it."""

    def __init__(self, values: list[float], losses: list[float] | None = None):
        self.values, self.losses = values, losses or [0.0] * len(values)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            pl_module.log("score", torch.tensor(self.values[trainer.current_epoch]))
            pl_module.log("tie", torch.tensor(self.losses[trainer.current_epoch]))


class PowerCut(L.Callback):
    """Ends a run in the middle of its second epoch, as a crash would."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 8:
            raise RuntimeError("power cut")


class KeepBest(Checkpoint):
    """A copy of `best.ckpt` each time it has been written."""

    def __init__(self, folder: Path):
        self.folder, self.kept = folder, []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        best = self.folder / "checkpoints" / "best.ckpt"
        if best.exists():
            self.kept.append(self.folder / f"best-{trainer.global_step}.ckpt")
            shutil.copy(best, self.kept[-1])


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([0.2, 0.5, 0.5], "max", 1),
        ([0.2, 0.5, 0.5], "min", 0),
        ([math.nan, 0.1, math.nan], "max", 1),
        ([math.inf, 0.1, 0.2], "max", 0),
        ([math.nan, math.nan, math.nan], "max", None),
    ],
)
def test_best_is_the_earliest_of_the_best_and_never_nan(
    values: list[float], mode: str, best: int | None, tmp_path: Path
) -> None:
    fit(tmp_path, extra=(Scores(values),), checkpoint={"every_n_steps": None, "monitor": "score", "mode": mode})
    path = tmp_path / "checkpoints" / "best.ckpt"
    assert path.exists() == (best is not None)
    if best is not None:
        assert torch.load(path)["global_step"] == 5 * (best + 1)


def test_what_comes_before_the_stage_that_is_selected_from_is_never_best(tmp_path: Path) -> None:
    settings = {"every_n_steps": None, "monitor": "score", "mode": "max", "selects_from": 1}
    fit(tmp_path, extra=(Scores([0.9, 0.1, 0.2]),), checkpoint=settings)
    assert torch.load(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == 15


@pytest.mark.parametrize(
    ("values", "losses", "best"),
    [
        ([0.5, 0.5, 0.5], [0.3, 0.1, 0.2], 1),
        ([0.5, 0.5, 0.5], [0.1, 0.1, 0.1], 0),
        ([0.5, 0.4, 0.5], [0.3, 0.1, math.nan], 0),
        ([0.5, 0.5, 0.5], [math.nan, 0.9, math.nan], 1),
        ([0.5, 0.6, 0.5], [0.1, 0.9, 0.1], 1),
    ],
)
def test_of_equal_scores_the_lower_loss_is_best_also_in_a_resumed_run(
    values: list[float], losses: list[float], best: int, tmp_path: Path
) -> None:
    settings = {"every_n_steps": 3, "monitor": "score", "tie_breaker": "tie"}
    fit(tmp_path, extra=(Scores(values, losses),), checkpoint=settings)
    saved = torch.load(tmp_path / "checkpoints" / "best.ckpt")
    assert saved["global_step"] == 5 * (best + 1)
    state = saved["callbacks"]["StepCheckpoint"]
    assert (state["best_epoch"], state["best_score"]) == (best, pytest.approx(values[best]))
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "resumed", extra=(Scores(values, losses), PowerCut()), checkpoint=settings)
    last = tmp_path / "resumed" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "resumed", last, extra=(Scores(values, losses),), checkpoint=settings)
    again = torch.load(tmp_path / "resumed" / "checkpoints" / "best.ckpt")["callbacks"]["StepCheckpoint"]
    assert again["best_epoch"] == best
    assert again["best_tie"] == pytest.approx(state["best_tie"], nan_ok=True)


def test_a_checkpoint_from_before_there_was_a_tie_breaker_still_loads() -> None:
    known = StepCheckpoint("x", monitor="score").state_dict()
    del known["best_tie"]
    resumed = StepCheckpoint("x", monitor="score", tie_breaker="tie")
    resumed.load_state_dict({**known, "best_score": 0.5, "best_step": 5, "best_epoch": 0})
    assert resumed.best() == {"best_epoch": 0, "best_step": 5, "best_score": {"score": 0.5, "tie": None}}


@pytest.mark.parametrize("key", ["monitor", "tie_breaker"])
def test_monitor_that_is_not_logged_is_named(key: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{key}[\\s\\S]*val/accuracy, val/loss"):
        fit(tmp_path, checkpoint={key: "val/acuracy"})


def test_last_is_written_every_n_steps_and_at_the_ends_of_epochs(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watch(Checkpoint):
        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            path = tmp_path / "checkpoints" / "last.ckpt"
            if path.exists() and torch.load(path)["global_step"] == trainer.global_step:
                seen.append(trainer.global_step)

    fit(tmp_path, extra=(Watch(),), checkpoint={"every_n_steps": 4, "every_n_epochs": 2})
    assert seen == [4, 8, 10, 12, 15]


def test_content_is_plain_and_holds_the_state_of_every_callback(tmp_path: Path) -> None:
    fit(tmp_path, checkpoint={"config_hash": "abc", "config": {"a": {"b": [1, None]}, "path": Path("x")}})
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["callbacks"]["StepCheckpoint"]["config"] == {"a": {"b": [1, None]}, "path": "x"}
    assert set(saved["callbacks"]) == {"StepCheckpoint", "RNGState"}
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]


@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 2}, {"max_steps": 12, "max_epochs": -1}])
def test_resumed_from_best_is_identical(settings: dict[str, Any], tmp_path: Path) -> None:
    keep = KeepBest(tmp_path)
    reference = fit(tmp_path, extra=(keep,), **settings)
    assert keep.kept
    for n, path in enumerate(keep.kept):
        folder = tmp_path / f"from-{n}"
        folder.mkdir()
        shutil.copy(tmp_path / "history.csv", folder)
        assert_same(reference, fit(folder, path, **settings))


@pytest.mark.parametrize("settings", [{}, {"max_steps": 12, "max_epochs": -1}])
def test_lightnings_own_epoch_checkpoints_continue_exactly(settings: dict[str, Any], tmp_path: Path) -> None:
    other = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    reference = fit(tmp_path, extra=(other,), **settings)
    for epoch in range(2):
        folder = tmp_path / f"from-{epoch}"
        folder.mkdir()
        shutil.copy(tmp_path / "history.csv", folder)
        resumed = fit(folder, tmp_path / f"epoch={epoch}.ckpt", **settings)
        # Lightning writes the epoch's training means after the checkpoint of that epoch: they are not in this one
        resumed["history"] = reference["history"]
        assert_same(reference, resumed)


def test_a_finished_run_resumed_stays_as_it_is(tmp_path: Path) -> None:
    reference = fit(tmp_path)
    assert_same(reference, fit(tmp_path, tmp_path / "checkpoints" / "last.ckpt"))


def test_checkpoint_of_another_config_is_refused_before_its_weights_are_loaded(tmp_path: Path) -> None:
    mine = {"config_hash": "aaa", "config": {"optimizer": {"lr": 0.1}, "seed": 0}}
    fit(tmp_path, checkpoint=mine)
    last = tmp_path / "checkpoints" / "last.ckpt"
    other = {"config_hash": "bbb", "config": {"optimizer": {"lr": 0.2}, "seed": 0, "extra": 1}}
    trainer, module, (train, val) = build(tmp_path / "other", checkpoint=other)
    module.net[0] = torch.nn.Linear(5, 8)
    with pytest.raises(UserError) as refused:
        trainer.fit(module, train, val, ckpt_path=str(last))
    message = str(refused.value)
    for part in ("aaa", "bbb", "optimizer.lr: 0.1 there, 0.2 here", "extra: absent there, 1 here", "resume=never"):
        assert part in message
    assert "seed" not in message
    fit(tmp_path / "same", last, checkpoint=mine)


def test_full_disk_is_told_and_the_previous_checkpoint_stays_valid(tmp_path: Path) -> None:
    class Fill(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(UserError, match=r"last.ckpt[\s\S]*cannot be written.*previous one is still valid"):
            fit(tmp_path, extra=(Fill(),))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last)["global_step"] == 3
    assert sorted(p.name for p in last.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert_same(fit(tmp_path / "whole"), fit(tmp_path, last))


def test_usable_with_automatic_optimisation_and_plain_loaders(tmp_path: Path) -> None:
    class Plain(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer_ = torch.nn.Linear(2, 1)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return (self.layer_(batch) ** 2).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.1)

    def run(ckpt: Path | None, epochs: int) -> torch.Tensor:
        torch.manual_seed(0)
        module = Plain()
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[StepCheckpoint(str(tmp_path), monitor=None)],
        )
        loader = torch.utils.data.DataLoader(torch.arange(12.0).reshape(6, 2), batch_size=2)
        trainer.fit(module, loader, ckpt_path=None if ckpt is None else str(ckpt))
        assert trainer.global_step == 3 * epochs
        return module.layer_.weight.detach().clone()

    whole = run(None, 2)
    run(None, 1)
    assert torch.equal(run(tmp_path / "last.ckpt", 2), whole)


def test_arguments_out_of_range() -> None:
    with pytest.raises(UserError, match="every_n_steps"):
        StepCheckpoint("x", every_n_steps=0)
