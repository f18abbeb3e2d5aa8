"""Two ranks: a signal to any of them stops both, and the resumed run ends with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from resume_toy import Data, Module, assert_same, build, result

from suite.loader import EpochBatches, ResumableLoader

ROOT = Path(__file__).parents[2]


class Ranked(Module):
    """Logs an epoch mean over the ranks, each of which has its own part of it under way."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        self.log("train/input", batch[0].mean(), on_step=False, on_epoch=True, sync_dist=True)


class Loaders(L.LightningDataModule):
    def _loader(self, n: int, size: int, train: bool) -> ResumableLoader:
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return ResumableLoader(Data(train), EpochBatches(n, size, 5, train, rank, world))

    def train_dataloader(self) -> ResumableLoader:
        return self._loader(22, 4, True)

    def val_dataloader(self) -> ResumableLoader:
        return self._loader(7, 3, False)


class SignalOnRank(L.Callback):
    def __init__(self, rank: int, step: int):
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def main(folder: Path, rank: int, step: int) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    settings: dict[str, Any] = {"devices": 2, "strategy": "ddp", "val_check_interval": 2}
    extra = (SignalOnRank(rank, step),) if step else ()
    trainer, *_ = build(folder, extra=extra, checkpoint={"every_n_steps": None}, **settings)
    L.seed_everything(3, verbose=False)
    module = Ranked()
    L.seed_everything(int(os.environ.get("LOCAL_RANK", "0")), verbose=False)  # ranks draw different numbers
    trainer.fit(module, datamodule=Loaders(), ckpt_path=str(last) if last.exists() else None)
    if trainer.global_rank == 0:
        torch.save(result(trainer, module, folder), folder / "final.pt")


def run(folder: Path, rank: int = 0, step: int = 0) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, __file__, str(folder), str(rank), str(step)]
    quiet = subprocess.DEVNULL
    return subprocess.run(program, env=environment, timeout=120, stdout=quiet, stderr=quiet).returncode


@pytest.mark.slow
def test_signal_to_any_rank_stops_all_and_the_run_resumes(tmp_path: Path) -> None:
    assert run(tmp_path / "whole") == 0
    whole = torch.load(tmp_path / "whole" / "final.pt")
    for rank, step in ((0, 8), (1, 4)):
        folder = tmp_path / f"rank-{rank}"
        assert run(folder, rank, step) == 143
        assert not (folder / "final.pt").exists()
        assert run(folder) == 0
        assert_same(whole, torch.load(folder / "final.pt"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
