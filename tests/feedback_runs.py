"""Small runs of the real feedback program, composed, built and fitted in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from omegaconf import DictConfig

from asgml.feedback.build import Parts, build
from asgml.feedback.run import PROGRAM
from suite.config.compose import Composer
from suite.config.instantiate import build_node
from suite.runs.identity import run_dir
from suite.runs.job import Run, seed_everything
from suite.runs.launch import launch

_COMPOSER = Composer("asgml.feedback")


def overrides(place: Path, runs: Path) -> list[str]:
    """Return the command line of a run of 2 + 2 epochs: 4 steps of stage `text`, 6 of stage `image`."""
    return [
        "experiment=surfaces",
        f"paths.runs={runs}",
        f"paths.data={place}",
        "data.classes=[wood,weave,tiles]",
        "data.test_classes=[tiles]",
        "data.good=3",
        "data.per_defect=2",
        "size=16",
        "clip.image_size=16",
        "clip.image_dim=16",
        "clip.text_dim=16",
        "clip.blocks=2",
        "clip.heads=2",
        "heads=2",
        "loops=2",
        "stages.text.epochs=2",
        "stages.text.batch_size=4",
        "stages.text.surgery=2",
        "stages.image.epochs=2",
        "stages.image.batch_size=3",
        "stages.image.halve_at=[2]",
        "trainer.enable_progress_bar=false",
        "trainer.log_every_n_steps=1",
        "callbacks.progress=null",
        "callbacks.share.every=3",
    ]


def render(place: Path) -> None:
    """Write the surfaces of `config` before several processes ask for them."""
    build_node(config(place, place).data).splits(0)


def config(place: Path, runs: Path, *more: str) -> DictConfig:
    """Compose `overrides` and more of them."""
    return _COMPOSER.compose([*overrides(place, runs), *more])


def prepare(cfg: DictConfig, callbacks: Sequence[L.Callback] = ()) -> Parts:
    """Build the seeded parts of a run in its own directory; `callbacks` come after the run's own."""
    seed_everything(int(cfg.seed))
    folder = run_dir(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    parts = build(cfg, Run(folder, folder.name, str(cfg.name), int(cfg.seed), None, True))
    parts.trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    return parts


def fit(cfg: DictConfig, callbacks: Sequence[L.Callback] = (), resume: bool = False) -> Parts:
    """Do a run from its beginning, or continue it from its `last.ckpt`."""
    parts = prepare(cfg, callbacks)
    checkpoint = str(run_dir(cfg) / "checkpoints" / "last.ckpt") if resume else None
    parts.trainer.fit(parts.module, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
    return parts


def command(*line: str) -> None:
    """Type a command line of the program."""
    launch(PROGRAM.name, PROGRAM.task, PROGRAM.dead, schema=PROGRAM.schema, earlier=PROGRAM.earlier,
           judge=PROGRAM.judge, argv=line)  # fmt: skip


def finish(place: Path) -> Path:
    """Do the run of `overrides` by its command, with data and runs below a folder, and return its directory."""
    command(*overrides(place / "data", place / "runs"))
    return next((place / "runs" / "surfaces").glob("*/result.json")).parent


def weights(parts: Parts) -> dict[str, torch.Tensor]:
    """Return a copy of the module's parameters and buffers."""
    return {k: v.detach().clone() for k, v in parts.module.state_dict().items()}


def compose(*words: str) -> DictConfig:
    """Compose any command line of the program."""
    return _COMPOSER.compose(list(words))
