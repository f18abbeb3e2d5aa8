"""SurfaceData: the loaders of a run, whose batches have another size in each stage."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import Dataset

from asgml.feedback.data.dataset import SurfaceDataset
from asgml.feedback.data.sources import Splits, counts
from asgml.feedback.train.stages import Plan
from suite.loader import EpochBatches, ResumableLoader

Batch = dict[str, Tensor]
SPLITS = ("train", "val", "test")


class Stacked(Dataset[Batch]):
    """Returns finished batches of a `SurfaceDataset`: the same pictures in every epoch."""

    def __init__(self, surfaces: SurfaceDataset):
        self.surfaces = surfaces

    def __len__(self) -> int:
        return len(self.surfaces)

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        rows = [self.surfaces[index] for index, _ in items]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def evaluation_loader(surfaces: SurfaceDataset, batch_size: int, seed: int) -> ResumableLoader:
    """Return the loader of pictures that are scored in one process, all of them in their order."""
    batches = EpochBatches(len(surfaces), batch_size, seed, train=False)
    return ResumableLoader(Stacked(surfaces), batches, pin_memory=torch.cuda.is_available())


class SurfaceData(lightning.LightningDataModule):
    """Holds the loaders; that of training is the stage's, which the trainer asks for anew in every epoch.

    Args:
        splits: the samples.
        size: the side that pictures are stretched to.
        plan: which epoch belongs to which stage.
        eval_batch_size: the number of pictures in a batch of validation and test.
        workers: the number of loader processes per rank.
        seed: the seed of the order.
    """

    def __init__(self, splits: Splits, size: int, plan: Plan, eval_batch_size: int, workers: int, seed: int):
        super().__init__()
        self.splits, self.plan, self.eval_batch_size, self.workers, self.seed = (
            splits,
            plan,
            eval_batch_size,
            workers,
            seed,
        )
        self.classes = splits.classes
        self.surfaces = {name: SurfaceDataset(getattr(splits, name), size, self.classes) for name in SPLITS}
        self._training: dict[str, ResumableLoader] = {}

    def train_dataloader(self) -> ResumableLoader:
        """Return the loader of the stage that the present epoch belongs to, always the same object."""
        stage = self.plan.stage(0 if self.trainer is None else self.trainer.current_epoch)
        if stage.name not in self._training:
            self._training[stage.name] = self._loader("train", stage.batch_size)
        return self._training[stage.name]

    def val_dataloader(self) -> ResumableLoader:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> ResumableLoader:
        return self._loader("test", self.eval_batch_size)

    def _loader(self, split: str, batch_size: int) -> ResumableLoader:
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        data = Stacked(self.surfaces[split])
        batches = EpochBatches(len(data), batch_size, self.seed, split == "train", rank, world)
        workers = self.workers if split == "train" else 0
        return ResumableLoader(data, batches, workers, pin_memory=torch.cuda.is_available())

    def summary(self) -> dict[str, Any]:
        """Return the number of pictures, normal and damaged, by split and class."""
        return {split: counts(self.surfaces[split].samples) for split in SPLITS}
