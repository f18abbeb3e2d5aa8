"""One run: from a composed tree to its directory, `result.json` and ledger row, whatever happens in between."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from callbacks.errors import RunEnded, UserError, quoted
from callbacks.files.atomic import write_bytes
from callbacks.files.sealed import sealed_text
from callbacks.run.inputs import differing, refuse_other_inputs
from suite.launchers.devices import rank
from suite.runs import record
from suite.runs.exhausted import raise_open_files
from suite.runs.fingerprint import remembered
from suite.runs.identity import fingerprints, meaningful, run_dir, runs_root
from suite.runs.inputs import all_files, given_files
from suite.runs.ledger import FILE_NAME, Ledger, jsonable, write_json
from suite.runs.lock import Held, held
from suite.runs.outcome import Outcome
from suite.runs.provenance import (
    CONFIG,
    RESULT,
    code_remark,
    inputs_read,
    on_other_data,
    provenance,
    read_result,
    remarks,
)
from suite.runs.stopping import sigterm_exits
from suite.runs.written import WRITTEN, written

CHECKPOINTS = "checkpoints"  # the folder of a run's checkpoints, named in `callbacks.run.stored`


@dataclass(frozen=True)
class Run:
    """What the launcher tells the task.

    Attributes:
        dir: the run directory, which exists.
        hash: the run's identity.
        name: the name of the experiment.
        seed: the run's seed; everything is seeded already.
        resume_from: the checkpoint to continue from, None for a fresh start.
        is_main: whether this is rank 0; the child ranks of a distributed run write no result.
        earlier: the files of earlier runs that it stands on, by the key that names them.
        overrides: what the command line says of it; of a sweep, what its jobs do not share.
    """

    dir: Path
    hash: str
    name: str
    seed: int
    resume_from: Path | None
    is_main: bool
    earlier: Mapping[str, Path] = field(default_factory=dict)
    overrides: Sequence[str] = ()


Earlier = Callable[[DictConfig], Mapping[str, Path]]
Task = Callable[[DictConfig, Run], dict[str, Any]]
Again = Callable[[DictConfig, Run, dict[str, Any]], dict[str, Any] | None]


def is_main_process() -> bool:
    """Return whether this is rank 0. Lightning starts the other ranks as copies of the command with LOCAL_RANK set."""
    return rank() == 0


def ledger_of(cfg: DictConfig) -> Ledger:
    """Return the ledger of a tree, `<paths.runs>/ledger.jsonl`."""
    return Ledger(runs_root(cfg) / FILE_NAME)


def execute(
    cfg: DictConfig,
    program: str,
    task: Task,
    earlier: Earlier | None = None,
    tell: Callable[[str], None] = print,
    again: Again | None = None,
    overrides: Sequence[str] = (),
) -> Outcome:
    """Run one job to its end without raising: failures, SIGTERM and Ctrl-C become the `Outcome`.

    In a child rank of a distributed run nothing is locked or written, and exceptions pass through.

    Args:
        cfg: its tree.
        program: the name of the program.
        task: the function that does one run.
        earlier: the function from a tree to the files of earlier runs that it names, by key.
        tell: where to say, in one line each, what becomes of earlier attempts.
        again: the function that asks a finished run what a tree wants to know of it (`identity.AFTERWARDS`); it gets
            the tree, the run and its result, and returns the run's new result, None where that says it already.
        overrides: as for `Run`.
    """
    folder = run_dir(cfg)
    run_hash = folder.name
    stands_on = {} if earlier is None else dict(earlier(cfg))
    if not is_main_process():
        if cfg.resume != "never" and read_result(folder).get("status") == "finished":
            return Outcome(run_hash, folder, "skipped")  # as rank 0 decides
        seed_everything(int(cfg.seed))
        resume = None if cfg.resume == "never" else _newest(cfg, folder)[0]
        task(cfg, Run(folder, run_hash, str(cfg.name), int(cfg.seed), resume, is_main=False, earlier=stands_on))
        return Outcome(run_hash, folder, "finished")
    try:
        with held(folder):
            before = {} if cfg.resume == "never" else read_result(folder)
            made_of = provenance(cfg)
            remembered(runs_root(cfg)).save()
            other_data = False
            if before.get("status") == "finished":
                now = fingerprints(cfg, all_files(cfg, stands_on))
                changed = differing(before.get("inputs"), now)
                if not changed:
                    _note(cfg, folder, before)
                    if not (folder / CONFIG).is_file():  # removed because it was damaged
                        write_config(cfg, folder)
                    said = remarks(before, now, made_of["code"])
                    if again is None:
                        return Outcome(run_hash, folder, "skipped", before, remarks=said)
                    run = Run(folder, run_hash, str(cfg.name), int(cfg.seed), None, True, stands_on, tuple(overrides))
                    return _once_more(cfg, again, run, before, said)
                if cfg.resume == "must":
                    refuse_other_inputs(before["inputs"], now, f"resume=must {folder}")
                tell(f"finished before on other data, kept aside; runs anew: {'; '.join(changed)}")
                other_data = True
            resume, about = _make_room(cfg, folder, other_data)
            for remark in about:
                tell(remark)
            if resume is not None:
                for remark in code_remark(before, made_of["code"]):
                    tell(f"continues from {CHECKPOINTS}/{resume.name}; {remark}")
            elif not before and cfg.resume == "auto" and (other := on_other_data(cfg, folder, made_of["inputs"])):
                tell(f"a new run: {other[0].name} has the same configuration and other data ({other[1]})")
            run = Run(folder, run_hash, str(cfg.name), int(cfg.seed), resume, True, stands_on, tuple(overrides))
            return _attempt(cfg, program, task, run, made_of)
    except Held as error:
        return Outcome(run_hash, folder, "held", {}, str(error), user_error=True, remarks=[error.found])
    except UserError as error:  # before the job began: no row, the last attempt's stays the newest
        return Outcome(run_hash, folder, "failed", {}, str(error), user_error=True)


def _attempt(cfg: DictConfig, program: str, task: Task, run: Run, made_of: dict[str, Any]) -> Outcome:
    row: dict[str, Any] = {
        "program": program,
        "experiment": run.name,
        "hash": run.hash,
        "seed": run.seed,
        "status": "running",
        **dict.fromkeys(("val", "test", "val_best", "test_best", "counters")),
        "seconds": None,
        "peak_memory_mb": None,
        "peak_cuda_mb": None,
        "device": None,
        "versions": record.versions(),
        **record.commit(),
        **made_of,
        "started": record.now(),
        "finished": None,
        "resumed": run.resume_from is not None,
        "error": None,
        "error_type": None,
    }
    run.dir.mkdir(parents=True, exist_ok=True)
    write_config(cfg, run.dir)
    write_json(run.dir / RESULT, {**row, "pid": os.getpid(), "host": socket.gethostname()})
    raise_open_files()
    memory, start = record.PeakMemory(), time.perf_counter()
    outcome = Outcome(run.hash, run.dir, "finished")
    trace: str | None = None
    try:
        with sigterm_exits():
            seed_everything(run.seed)
            result = task(cfg, run)
            row.update(_checked(result, row))
            row["inputs"] = inputs_read(cfg, run.earlier, made_of["inputs"])
            row[WRITTEN] = written(run.dir)
    except BaseException as error:  # noqa: BLE001 (the row is written whatever ended the job)
        trace = traceback.format_exc()
        outcome.ended_by(error)
        row["error"], row["error_type"] = outcome.error, type(error).__name__
        if isinstance(error, RunEnded):
            row.update(_checked(error.result, row))
    row["status"] = outcome.status
    row["seconds"] = round(time.perf_counter() - start, 3)
    row["peak_memory_mb"] = round(memory.host_mb(), 1)
    cuda = memory.cuda_mb()
    row["peak_cuda_mb"] = None if cuda is None else round(cuda, 1)
    row["device"] = record.device()
    row["finished"] = record.now()
    outcome.result = row
    remembered(runs_root(cfg)).save()
    write_json(run.dir / RESULT, row)
    _append(cfg, run.dir, row, trace)
    if trace and outcome.status == "failed" and not outcome.user_error:
        print(trace, file=sys.stderr)
    return outcome


def _once_more(cfg: DictConfig, again: Again, run: Run, before: dict[str, Any], said: list[str]) -> Outcome:
    """Ask a finished run; whatever goes wrong, its result stays what it was."""
    outcome = Outcome(run.hash, run.dir, "skipped", before, remarks=said)
    try:
        with sigterm_exits():
            seed_everything(run.seed)
            found = again(cfg, run, before)
    except BaseException as error:  # noqa: BLE001 (other jobs of a sweep go on)
        outcome.ended_by(error)
        if outcome.status == "failed" and not outcome.user_error:
            traceback.print_exc()
        return outcome
    if found is not None:
        outcome.status, outcome.result = "evaluated", jsonable(found)
        write_config(cfg, run.dir)
        write_json(run.dir / RESULT, found)
        _append(cfg, run.dir, outcome.result, None)
    return outcome


def write_config(cfg: DictConfig, folder: Path) -> None:
    """Write the configuration that a run's result was made with. Raises UserError where a folder has its name."""
    if (folder / CONFIG).is_dir():
        remedy = f"rm -r {quoted(folder / CONFIG)}, then give the run's command again: it is written anew"
        raise UserError(str(folder / CONFIG), "a folder", "the configuration of a run", remedy)
    write_bytes(folder / CONFIG, sealed_text(OmegaConf.to_yaml(cfg, resolve=True)))


def _append(cfg: DictConfig, folder: Path, row: dict[str, Any], trace: str | None) -> None:
    config = OmegaConf.to_container(cfg, resolve=True)
    ledger_of(cfg).append({**row, "config": config, "run_dir": str(folder), "traceback": trace})


def _checked(result: Any, row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(result, dict):
        raise TypeError(f"the task returned {type(result).__name__}; it returns a dict of results")
    taken = [k for k in result if k in row and row[k] is not None]
    if taken:
        raise ValueError(f"the task's result may not set {', '.join(taken)}: the launcher does")
    return jsonable(result)


def _note(cfg: DictConfig, folder: Path, result: dict[str, Any]) -> None:
    """Give a finished run its row, unless it has one: a crash fell between the two writes, or the ledger was lost."""
    if not ledger_of(cfg).finished(folder.name):
        _append(cfg, folder, result, None)


def _newest(cfg: DictConfig, folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """Return the newest intact checkpoint of a run, and what to say about it; None without any."""
    if not (folder / CHECKPOINTS).is_dir():  # without reading torch
        return None, ()
    from callbacks.run.stored import resume_point

    found = resume_point(folder / CHECKPOINTS, folder.name, meaningful(cfg))
    return found.path, found.remarks


def _make_room(cfg: DictConfig, folder: Path, other_data: bool = False) -> tuple[Path | None, tuple[str, ...]]:
    """Apply `resume`: return the checkpoint to continue from, or None with no earlier attempt left in the way.

    Args:
        cfg: its tree.
        folder: the run directory.
        other_data: whether the attempt that lies there is one on other data.

    Returns:
        The checkpoint, and what to say about it in lines.

    Raises:
        UserError: checkpoints of which none is intact, or none at all with `resume=must`.
    """
    anew = other_data or cfg.resume == "never"
    if not anew:
        checkpoint, said = _newest(cfg, folder)
        if checkpoint is not None:
            return checkpoint, said
    if cfg.resume == "must":
        found = f"no {CHECKPOINTS}/last.ckpt in {folder}"
        expected = "a checkpoint of exactly this configuration and data"
        if other := on_other_data(cfg, folder, fingerprints(cfg, given_files(cfg))):
            found += f"; {other[0].name} has this configuration and other data ({other[1]})"
        raise UserError("resume=must", found, expected, "set resume=auto")
    own = {RESULT, CONFIG}
    if folder.exists() and (anew or any(p.name not in own for p in folder.iterdir())):
        number = 1
        while (old := folder.with_name(f"{folder.name}.old-{number}")).exists():
            number += 1
        shutil.move(folder, old)
    return None, ()


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy, torch and, through Lightning, data-loader workers."""
    from lightning import seed_everything as seed_all

    seed_all(seed, workers=True, verbose=False)
