"""A small run with all that is hard to resume: dropout, BatchNorm, momentum, augmentation, state in hooks.

Run as a program, it trains in the given directory and continues from `last.ckpt` when there is one.
"""

from __future__ import annotations

import random
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from callbacks.run.checkpoint import StepCheckpoint
from callbacks.run.history_logger import HistoryLogger
from callbacks.run.rng import RNGState
from callbacks.run.signals import GracefulStop
from suite.loader import EpochBatches, ResumableLoader

STEPS_PER_EPOCH, EPOCHS = 5, 3


class Data(torch.utils.data.Dataset):
    """22 training samples (5 batches of 4, 2 dropped) or 7 validation samples (3 batches of 3, 3, 1)."""

    def __init__(self, train: bool):
        self.n = 22 if train else 7
        self.train = train
        self.x = torch.randn(self.n, 4, generator=torch.Generator().manual_seed(self.n))
        self.y = (self.x[:, 0] > 0).long() + (self.x[:, 1] > 0).long()

    def __len__(self) -> int:
        return self.n

    def __getitems__(self, items: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        x = torch.stack([self.x[index] for index, _ in items])
        if self.train:
            noise = [torch.Generator().manual_seed(1000 * epoch + index) for index, epoch in items]
            x = x + torch.stack([torch.randn(4, generator=g) for g in noise])
        return x, self.y[[index for index, _ in items]]


class Module(L.LightningModule):
    """Manual optimisation. Draws from all global generators, in validation too; its hooks change its state."""

    def __init__(self, sleep: float = 0.0, counts_steps: bool = False):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        self.register_buffer("t", torch.zeros((), dtype=torch.int64))
        self.register_buffer(
            "hooks", torch.zeros(4, dtype=torch.int64)
        )  # epoch ends, validations, their batches, epochs
        self.register_buffer("weight", torch.ones(()))
        self.sleep, self.counts_steps = sleep, counts_steps

    def on_train_epoch_start(self) -> None:
        self.hooks[3] += 1

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        x = x + 0.1 * random.gauss(0, 1) + 0.1 * np.random.normal()
        loss = self.weight * nn.functional.cross_entropy(self.net(x), y)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.t += 1
        self.log("t", self.t.float())
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log("train/largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        if self.sleep:
            time.sleep(self.sleep)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        out = self.net(x + 0.1 * torch.randn_like(x))
        self.hooks[2] += not self.trainer.sanity_checking
        self.log("val/loss", nn.functional.cross_entropy(out, y))
        self.log("val/accuracy", (out.argmax(1) == y).float().mean())

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log("t", self.t.float())
            self.hooks[1] += 1
            self.weight *= 0.9

    def on_train_epoch_end(self) -> None:
        self.hooks[0] += 1
        for group in self.optimizers().param_groups:
            group["lr"] *= 0.8

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.counts_steps:  # makes Lightning set up the loaders before it restores their state
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def build(
    folder: Path,
    *,
    workers: int = 0,
    extra: tuple[L.Callback, ...] = (),
    sleep: float = 0.0,
    counts_steps: bool = False,
    checkpoint: dict[str, Any] | None = None,
    **trainer: Any,
) -> tuple[L.Trainer, Module, tuple[ResumableLoader, ResumableLoader]]:
    """A trainer, a module and its loaders. Both are seeded, so that nothing depends on what ran before."""
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    torch.set_num_threads(1)
    L.seed_everything(3, verbose=False)
    module = Module(sleep, counts_steps)
    saving = StepCheckpoint(str(folder / "checkpoints"), **{"every_n_steps": 1, **(checkpoint or {})})
    settings = {"devices": 1, "max_epochs": EPOCHS, "log_every_n_steps": 1, **trainer}
    run = L.Trainer(
        accelerator="cpu",
        logger=[HistoryLogger(str(folder))],
        callbacks=[RNGState(), saving, GracefulStop(), *extra],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder),
        **settings,
    )
    loaders = (
        ResumableLoader(Data(True), EpochBatches(22, 4, seed=5, train=True), workers),
        ResumableLoader(Data(False), EpochBatches(7, 3, seed=5, train=False), workers),
    )
    return run, module, loaders


def result(trainer: L.Trainer, module: Module, folder: Path) -> dict[str, Any]:
    """Everything that must be identical: weights and buffers, optimiser, random states, history."""
    optimizer = trainer.optimizers[0].state_dict()
    return {
        "weights": {key: value.clone() for key, value in module.state_dict().items()},
        "momentum": [state["momentum_buffer"].clone() for state in optimizer["state"].values()],
        "lr": [group["lr"] for group in optimizer["param_groups"]],
        "random": [torch.rand(3).tolist(), random.random(), np.random.rand()],
        "steps": (trainer.global_step, trainer.current_epoch, trainer.fit_loop.epoch_loop._batches_that_stepped),
        "history": (folder / "history.csv").read_text().splitlines(),
    }


def fit(folder: Path, ckpt: Path | None = None, **settings: Any) -> dict[str, Any]:
    """Trains to the end, from a checkpoint if given."""
    trainer, module, (train, val) = build(folder, **settings)
    trainer.fit(module, train, val, ckpt_path=None if ckpt is None else str(ckpt))
    return result(trainer, module, folder)


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left["history"] == right["history"]
    assert left["steps"] == right["steps"]
    assert left["lr"] == right["lr"]
    for key, value in left["weights"].items():
        assert torch.equal(value, right["weights"][key]), key
    assert all(torch.equal(a, b) for a, b in zip(left["momentum"], right["momentum"], strict=True))
    assert left["random"] == right["random"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    last = target / "checkpoints" / "last.ckpt"
    final = fit(target, last if last.exists() else None, workers=int(sys.argv[2]), sleep=float(sys.argv[3]))
    torch.save(final, target / "final.pt")
