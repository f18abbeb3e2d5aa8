"""TensorBoard by configuration: one folder of event files in the run's directory."""

from __future__ import annotations

import importlib.util

from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.errors import UserError

PACKAGES = ("tensorboard", "tensorboardX")  # either writes event files for Lightning


def tensorboard_logger(run_dir: str) -> TensorBoardLogger:
    """Return a Lightning TensorBoard logger that writes to `<run_dir>/tensorboard`.

    The step of a row is the one that the caller gives, the number of committed optimiser steps in `StepPipeline`.

    Example::

        logger:
          tensorboard: {_target_: callbacks.tensorboard_logger, run_dir: runs/x/0a1b2c3d4e5f}

    Limits: TensorBoard is an extra. A run that was killed and goes on from a checkpoint logs the steps since that
    checkpoint once more, with the same values.

    Args:
        run_dir: the run's directory.

    Raises:
        UserError: neither `tensorboard` nor `tensorboardX` is installed.
    """
    refuse_absent_tensorboard()
    return TensorBoardLogger(save_dir=run_dir, name="", version="tensorboard", default_hp_metric=False)


def refuse_absent_tensorboard() -> None:
    """Raise a UserError where nothing is installed that writes TensorBoard's event files."""
    if not any(importlib.util.find_spec(name) for name in PACKAGES):
        raise UserError(
            "logger=tensorboard",
            "TensorBoard is not installed",
            "the package tensorboard, which the extra `tracking` brings",
            'pip install "tensorboard>=2.18,<3", or leave tensorboard out of logger=[…]',
        )
