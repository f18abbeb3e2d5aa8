"""W&B by configuration: online when logged in, offline otherwise, one W&B run per run directory."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Literal

import lightning as L
from lightning.pytorch.loggers import WandbLogger

Mode = Literal["auto", "online", "offline", "disabled"]


def logged_in(host: str = "api.wandb.ai") -> bool:
    """Is there a W&B key in the environment or in ~/.netrc?"""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return path.exists() and netrc.netrc(str(path)).authenticators(host) is not None


def finish(trainer: L.Trainer, exit_code: int) -> None:
    """Ends the W&B runs of a trainer with an exit code, so that the next run of a sweep starts its own."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.finish(exit_code=exit_code)


def wandb_logger(
    run_dir: str,
    run_id: str,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    name: str | None = None,
    mode: Mode = "auto",
) -> WandbLogger:
    """A Lightning W&B logger whose identity is the run's.

    `reinit="create_new"` keeps the runs of a sweep in one process apart; the id makes a resumed run continue its
    W&B run.

    Example::

        logger:
          wandb: {_target_: callbacks.wandb_logger, project: asgml, mode: auto, run_dir: …, run_id:
              0a1b2c3d4e5f}

    Limits: `auto` only looks for a key (WANDB_API_KEY, ~/.netrc); offline runs are uploaded later with `wandb
        sync`.

    Args:
        run_dir: where `wandb/` is written.
        run_id: W&B id.
        mode: `auto`, `online`, `offline` or `disabled`.
    """
    chosen = mode if mode != "auto" else "online" if logged_in() else "offline"
    from wandb import Settings

    return WandbLogger(
        project=project,
        entity=entity,
        group=group,
        name=name,
        id=run_id,
        save_dir=run_dir,
        mode=chosen,
        resume="allow",
        reinit="create_new",
        settings=Settings(silent=True),
    )
