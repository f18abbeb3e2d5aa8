"""Scoring pictures without labels: maps and scores, handed on batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import lightning as L
from torch import Tensor

from asgml.feedback.data.dataset import SurfaceDataset
from asgml.feedback.restore import Restored
from asgml.feedback.train.data import evaluation_loader
from asgml.feedback.train.evaluated import Batch, EvaluatedModule
from suite.shell import inference_trainer

Take = Callable[[Sequence[int], Tensor, Tensor], None]  # numbers of pictures, maps (B, loops, S, S), scores (B, loops)


class Scorer(L.LightningModule):
    """Hands the scores of every batch to a function.

    Args:
        module: finished weights.
        take: the function; what it gets is on the CPU.
    """

    def __init__(self, module: EvaluatedModule, take: Take):
        super().__init__()
        self.module, self.take = module, take

    def setup(self, stage: str) -> None:
        self.module.bring_clip()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        # not `predict_step`: Lightning's predict loop builds batch samplers anew
        maps, pictures = self.module.scored(batch)
        self.take(batch["index"].tolist(), maps.float().cpu(), pictures.float().cpu())


def score(run: Restored, surfaces: SurfaceDataset, take: Take) -> None:
    """Score all pictures, on the device and in the precision of the run's configuration.

    Args:
        run: the run, whose prompts are of the classes of `surfaces`.
        surfaces: the pictures.
        take: what is called with the scores of every batch, in the order of the pictures.
    """
    loader = evaluation_loader(surfaces, int(run.cfg.loader.eval_batch_size), int(run.cfg.seed))
    inference_trainer(run.cfg).test(Scorer(run.module, take), dataloaders=loader, verbose=False)
