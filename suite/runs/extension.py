"""Training a finished run on: a new run, whose identity says which one it extends, that begins where that one ended.

The tree of such a run has the identity of the extended run under `extend`, which counts, and under `paths.extend` where
that run lies, which does not. When it begins, it takes over checkpoints and tables as if it had been interrupted at
their end; from there it is resumed as any run is, and what holds for a resumed run holds for it: where nothing depends
on the length of training, it is bit by bit the run of that length.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from callbacks.errors import UserError
from suite.runs.identity import meaningful
from suite.runs.job import CHECKPOINTS, Run

KEY = "extend"
LAST = "last.ckpt"  # as in `callbacks.run.stored`, which takes torch


def extended_checkpoint(cfg: DictConfig) -> dict[str, Path]:
    """Return the checkpoint that a run goes on from, under the key that names it; {} for a run that extends none."""
    return {} if cfg.get(KEY) is None else {KEY: extended_run(cfg) / CHECKPOINTS / LAST}


def extended_run(cfg: DictConfig) -> Path:
    """Return the directory of the run that another one extends."""
    return Path(str(cfg.paths[KEY]))


def begun(cfg: DictConfig, run: Run) -> Run:
    """Return a run that goes on from the end of the one that it extends; any other run, and a resumed one, as it is.

    Args:
        cfg: its tree.
        run: the run, whose directory exists.

    Raises:
        UserError: checkpoints that are absent or damaged, or those of another run than the tree says.
    """
    from callbacks.run.history import FILES
    from callbacks.run.other_run import plain
    from callbacks.run.stored import BEST, STATE_KEY, read_checkpoint, write_checkpoint

    if cfg.get(KEY) is None or run.resume_from is not None or not run.is_main:
        return run
    source = extended_run(cfg)
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, run.dir / name)
    for name in (BEST, LAST):  # the last one last: with it the directory is one to resume
        path = source / CHECKPOINTS / name
        if name == BEST and not path.is_file():
            continue
        content = read_checkpoint(path, f"repeat the command of {source} with resume=never", str(cfg[KEY]))
        state = content["callbacks"].get(STATE_KEY)
        if state is None:
            expected = "one written by callbacks.StepCheckpoint"
            raise UserError(
                str(path), "a checkpoint that does not say of which run", expected, f"give another run than {source}"
            )
        state["config_hash"], state["config"] = run.hash, plain(meaningful(cfg))
        write_checkpoint(content, run.dir / CHECKPOINTS / name)
    return replace(run, resume_from=run.dir / CHECKPOINTS / LAST)
