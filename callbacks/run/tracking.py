"""W&B by configuration: online when logged in, offline otherwise, one W&B run per run directory."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from callbacks.errors import UserError, quoted
from callbacks.run.stored import BEST, LAST

Mode = Literal["auto", "online", "offline", "disabled"]
MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")  # of WANDB_MODE
Checkpoints = Literal["none", "best", "last", "both"]

STEP = "trainer/global_step"  # the step axis, by the name that Lightning's users know
SUMMARISED = ("val/", "test/")  # of metrics below these, W&B shows last, min and max beside a run
STATISTICS = "min,max,last"
MARK = "*.step"  # in `<run_dir>/wandb`: the last step that the W&B run of this name was told
_KEPT = {"none": (), "best": (BEST,), "last": (LAST,), "both": (BEST, LAST)}


def logged_in() -> bool:
    """Return whether there is a W&B key in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return path.exists() and netrc.netrc(str(path)).authenticators("api.wandb.ai") is not None


def mode_of(mode: Mode) -> str:
    """Return the mode that W&B gets: of `auto`, what WANDB_MODE says, else online when logged in, else offline.

    Raises:
        UserError: a WANDB_MODE that W&B does not have.
    """
    if mode != "auto":
        return mode
    told = os.environ.get("WANDB_MODE", "")
    if told and told not in MODES:
        remedy = "export WANDB_MODE=offline, or unset WANDB_MODE"
        raise UserError("WANDB_MODE in the environment", repr(told), f"one of {', '.join(MODES)}", remedy)
    return told or ("online" if logged_in() else "offline")


def finish(trainer: L.Trainer, exit_code: int) -> None:
    """End the W&B runs of a trainer with an exit code, so that the next run of a sweep starts its own."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.finish(exit_code=exit_code)


class RunLogger(WandbLogger):
    """Logs one run to W&B, in as many attempts as the run takes.

    The step axis is the step that the caller gives, the number of committed optimiser steps in `StepPipeline`: W&B's
    own `Step` and `trainer/global_step` are both that number, so that what belongs to one step is one row. An attempt
    that goes on from a checkpoint repeats no row that an earlier one has logged: the last step is kept in
    `<run_dir>/wandb/<id>.step`.

    Args:
        run_dir: the run's directory.
        checkpoints: the checkpoints that are uploaded when the run ends.
        options: what `wandb.init` gets.
    """

    def __init__(self, run_dir: str, checkpoints: Checkpoints, options: Mapping[str, Any]):
        super().__init__(save_dir=run_dir, **options)
        self._wandb_init.pop("anonymous")  # Lightning passes it on; W&B warns that it does nothing
        self._folder, self._checkpoints = Path(run_dir), checkpoints
        self._mark = self._folder / "wandb" / MARK.replace("*", str(options["id"]))
        self._before = self._read_mark()
        self._defined: set[str] = set()
        self._told = self._at = self._before  # the last step, and W&B's own, which never goes back

    @property
    def experiment(self) -> Any:
        """The W&B run; opened at the first use."""
        fresh = self._experiment is None
        run = super().experiment
        if fresh:
            self._at = max(self._at, int(run.starting_step))
        return run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row at a step; one at a step before the last of an earlier attempt is there already."""
        if step is None:
            self.experiment.log(dict(metrics))
            return
        if step < self._before:
            return
        run = self.experiment
        self._define(metrics)
        self._at = max(self._at, step)
        run.log({**metrics, STEP: step}, step=self._at)
        self._told = max(self._told, step)
        if not run.disabled:
            self._write_mark()

    def publish(
        self,
        metrics: Mapping[str, float],
        summary: Mapping[str, Any],
        tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]],
        files: Mapping[str, Sequence[Path]],
    ) -> None:
        """Log what a finished run has found.

        Args:
            metrics: what is logged as the last row, beside the tables.
            summary: what is written into the run's summary, by key.
            tables: columns and rows of each W&B table, by name; they appear as `tables/<name>`.
            files: the files and folders of each artefact, by its type; what is not there is left out, and so is an
                artefact of nothing. The artefact is called `<type>-<id>`.
        """
        from wandb import Table

        run = self.experiment
        self._define(metrics)
        shown = {
            f"tables/{name}": Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
            for name, (columns, rows) in tables.items()
        }
        run.log({**metrics, **shown, STEP: self._told}, step=self._at)
        run.summary.update(dict(summary))
        for kind, paths in files.items():
            self._upload(kind, paths)
        names = _KEPT[self._checkpoints]
        self._upload("model", [self._folder / "checkpoints" / name for name in names], copies=False)

    def _define(self, metrics: Iterable[str]) -> None:
        """Define the summary of new metrics, each by its name: of several patterns that fit, W&B takes any."""
        for name in metrics:
            if name.startswith(SUMMARISED) and name not in self._defined:
                self._defined.add(name)
                self.experiment.define_metric(name, step_metric=STEP, step_sync=True, summary=STATISTICS)

    def _upload(self, kind: str, paths: Sequence[Path], copies: bool = True) -> None:
        from wandb import Artifact

        there = [path for path in paths if path.exists()]
        if not there:
            return
        artefact = Artifact(f"{kind}-{self.version}", type=kind)
        policy = "mutable" if copies else "immutable"  # a checkpoint is large, and stays as it is
        for path in there:
            if path.is_dir():
                artefact.add_dir(str(path), name=path.name, policy=policy)
            else:
                artefact.add_file(str(path), policy=policy)
        self.experiment.log_artifact(artefact)

    def _read_mark(self) -> int:
        if not self._mark.is_file():
            return 0
        text = self._mark.read_text(encoding="ascii", errors="replace").strip()
        if not text.isdecimal():
            remedy = f"rm {quoted(self._mark)}: steps since the last checkpoint are then logged twice"
            raise UserError(str(self._mark), repr(text[:20]), "the last step that W&B was told", remedy)
        return int(text)

    def _write_mark(self) -> None:
        self._mark.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._mark, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(file, b"%012d\n" % self._told, 0)  # one write of one width: never torn
        finally:
            os.close(file)


def wandb_id(run_dir: Path) -> str:
    """Return the W&B id of a run directory: its name, which is the run's hash.

    An attempt that begins anew beside one that was put aside (`<name>.old-1`) is another W&B run, `<name>-1`: the steps
    of the first are not to be continued. Once it has logged a step, it keeps its id.
    """
    known = next((run_dir / "wandb").glob(MARK), None)
    if known is not None:
        return known.stem
    aside = sum(1 for _ in run_dir.parent.glob(f"{run_dir.name}.old-*"))
    return f"{run_dir.name}-{aside}" if aside else run_dir.name


def wandb_logger(
    run_dir: str,
    run_id: str,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    name: str | None = None,
    mode: Mode = "auto",
    job_type: str = "train",
    tags: list[str] | None = None,
    checkpoints: Checkpoints = "none",
    run_name: str | None = None,
    run_tags: list[str] | None = None,
    config: dict[str, Any] | None = None,
) -> RunLogger:
    """Return a Lightning W&B logger whose identity is the run's.

    `reinit="create_new"` keeps the runs of a sweep in one process apart; the id makes a resumed run continue its W&B
    run.

    Example::

        logger:
          wandb: {_target_: callbacks.wandb_logger, project: asgml, run_dir: runs/x/0a1b2c3d4e5f, run_id: 0a1b2c3d4e5f}

    Limits: `auto` looks for WANDB_MODE and for a key (WANDB_API_KEY, ~/.netrc). Every attempt at an offline run is a
    folder of its own under `<run_dir>/wandb`; `wandb sync <run_dir>/wandb/offline-run-*` uploads them into one W&B run,
    in order. W&B keeps copies of an offline run's artefacts in its own data folder (WANDB_DATA_DIR), checkpoints
    excepted.

    Args:
        run_dir: the folder in which `wandb/` is written.
        run_id: the W&B id of the run.
        project: the W&B project.
        entity: the W&B user or team; null is the default of the account.
        group: the W&B group; null puts the run into none.
        name: the name that W&B shows; null takes what tells the run from others.
        mode: whether to upload: `online`, `offline`, `disabled`, or `auto`, which is what the environment
            says in WANDB_MODE, else online when logged in.
        job_type: what kind of job W&B files the run under: `train`; the programs set `evaluate` and `tune` themselves.
        tags: further tags of the run.
        checkpoints: the checkpoints that are uploaded at the end: `none`, `best`, `last` or `both`.
        run_name: the name where `name` is null; null lets W&B make one up.
        run_tags: the tags that the run has of itself.
        config: the configuration that W&B shows, in nested plain containers.
    """
    from wandb import Settings

    options = {
        "project": project,
        "entity": entity,
        "group": group,
        "name": name or run_name,
        "id": run_id,
        "mode": mode_of(mode),
        "job_type": job_type,
        "tags": list(dict.fromkeys(_tag(t) for t in (*(run_tags or ()), *(tags or ())) if t)),
        "config": config,
        "resume": "allow",
        "reinit": "create_new",
        "settings": Settings(silent=True),
    }
    return RunLogger(run_dir, checkpoints, options)


def _tag(text: str) -> str:
    """Return a tag as W&B takes it: 1 to 64 characters, none of them a comma or a line's end."""
    return re.sub(r"[,\s]+", " ", text).strip()[:64]
