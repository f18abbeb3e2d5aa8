"""W&B by configuration: online when logged in, offline otherwise, one W&B run per run directory."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Literal

import lightning as L
from lightning.pytorch.loggers import WandbLogger

Mode = Literal["auto", "online", "offline", "disabled"]


def logged_in() -> bool:
    """Return whether there is a W&B key in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return path.exists() and netrc.netrc(str(path)).authenticators("api.wandb.ai") is not None


def finish(trainer: L.Trainer, exit_code: int) -> None:
    """End the W&B runs of a trainer with an exit code, so that the next run of a sweep starts its own."""
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
    """Return a Lightning W&B logger whose identity is the run's.

    `reinit="create_new"` keeps the runs of a sweep in one process apart; the id makes a resumed run continue its W&B
    run.

    Example::

        logger:
          wandb: {_target_: callbacks.wandb_logger, project: asgml, run_dir: runs/x/0a1b2c3d4e5f, run_id: 0a1b2c3d4e5f}

    Limits: `auto` only looks for a key (WANDB_API_KEY, ~/.netrc); offline runs are uploaded later with `wandb sync`.

    Args:
        run_dir: the folder in which `wandb/` is written.
        run_id: the W&B id of the run.
        project: the W&B project.
        entity: the W&B user or team; null is the default of the account.
        group: the W&B group; null puts the run into none.
        name: the name that W&B shows; null lets W&B make one up.
        mode: whether to upload: `online`, `offline`, `disabled`, or `auto`, which is online when logged in.
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
