"""RandomRuns: runs on random data, built from the configuration as `asgml.run` builds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from asgml.build import Parts, build
from suite.config.compose import Composer
from suite.runs.identity import config_hash
from suite.runs.job import Run, seed_everything

CLASSES = 6
SHAPES: dict[str, tuple[int, ...]] = {"resnet18": (3, 64, 64), "small": (3, 64, 64), "mlp": (128,)}
MODELS = {"resnet18": ["model=resnet18"], "small": [], "mlp": []}


@dataclass
class RandomRuns:
    """Writes random data of two equal modalities, and builds runs on them.

    Args:
        encoder: the kind of encoder, a key of `SHAPES`.
        folder: the folder of the data and of the run directories.
        batch: the number of samples in a batch.
        steps: the number of batches in an epoch.
        held: the number of validation samples, and of test samples.
    """

    encoder: str
    folder: Path
    batch: int
    steps: int
    held: int

    def __post_init__(self) -> None:
        self.composer, self.done = Composer("asgml"), 0
        self.folder.mkdir(parents=True, exist_ok=True)
        rng, n = np.random.default_rng(0), self.batch * self.steps
        total = n + 2 * self.held
        arrays: dict[str, Any] = {
            f"x_{m}": rng.standard_normal((total, *SHAPES[self.encoder]), np.float32) for m in ("audio", "visual")
        }
        split = np.repeat([0, 1, 2], [n, self.held, self.held])
        np.savez(self.folder / "data.npz", y=np.arange(total) % CLASSES, split=split, **arrays)

    def config(self, overrides: Sequence[str], epochs: int = 2) -> DictConfig:
        """Compose a run of so many epochs on the CPU, without display."""
        own = [
            "experiment=features",
            f"data.path={self.folder}/data.npz",
            "data.dominant=audio",
            f"paths.runs={self.folder}/runs",
            f"loader.batch_size={self.batch}",
            "trainer.accelerator=cpu",
            f"trainer.max_epochs={epochs}",
            "trainer.enable_progress_bar=false",
            "callbacks.progress=null",
        ]
        return self.composer.compose([*own, *MODELS[self.encoder], *overrides])

    def parts(self, overrides: Sequence[str], epochs: int = 2) -> Parts:
        """Build a run of so many epochs in a directory of its own."""
        cfg = self.config(overrides, epochs)
        seed_everything(0)
        self.done += 1
        folder = self.folder / "runs" / str(self.done)
        folder.mkdir(parents=True)
        return build(cfg, Run(folder, config_hash(cfg), "bench", 0, None, True))
