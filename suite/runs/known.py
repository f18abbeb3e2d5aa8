"""Finished runs as their commands remember them: the same command again is answered without a class of any part.

Which run a command means takes the signatures of all its parts, and with them torch. What it was found to mean is
therefore kept beside the runs, together with a digest of everything that this depended on: the composed tree and what
was typed, the source files, the files that the run reads and the folders that they lie in, the run's own folder. Where
any of it differs, or cannot be told, the whole way is gone again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError, quoted
from callbacks.files.sealed import read_json
from suite.runs.fingerprint import TICK_NS
from suite.runs.identity import fingerprints, runs_root
from suite.runs.inputs import all_files, files_behind, source_files
from suite.runs.job import Outcome, ledger_of
from suite.runs.ledger import write_json
from suite.runs.planned import Job
from suite.runs.provenance import RESULT, provenance, read_result, remarks

FOLDER = ".known"
PACKAGES = ("callbacks", "suite")  # beside that of the program


def remember(program: str, job: Job, outcome: Outcome, earlier: Mapping[str, Path]) -> None:
    """Keep what a command of one job was found to mean, if its run is finished.

    Args:
        program: the program.
        job: the job.
        outcome: how it ended.
        earlier: the files of earlier runs that it stands on.
    """
    if outcome.result.get("status") != "finished" or job.cfg.resume == "never":
        return
    files = all_files(job.cfg, earlier)
    data = sorted({str(p) for content in files.values() for p in ([content] if isinstance(content, Path) else content)})
    behind = map(str, files_behind(job.cfg))
    watched = sorted({*data, *(str(Path(p).parent) for p in data), *behind, *source_files(job.cfg)})
    if _fresh(watched):
        return
    said = outcome.remarks
    if outcome.status == "finished":
        said = remarks(outcome.result, fingerprints(job.cfg, files), provenance(job.cfg)["code"])
    place = _place(program, job.cfg, job.overrides)
    place.parent.mkdir(exist_ok=True)
    kept = {"hash": job.hash, "dir": job.dir, "idle": job.idle, "remarks": said, "watched": watched}
    write_json(place, {**kept, "digest": _digest(program, job.cfg, job.dir, watched)})


def recall(program: str, cfg: DictConfig, overrides: Sequence[str]) -> tuple[Outcome, str] | None:
    """Return the outcome of a command whose run is known to be finished, and what to say of keys that act on nothing.

    Args:
        program: the program.
        cfg: the composed tree.
        overrides: what the user typed.
    """
    place = _place(program, cfg, overrides)
    if cfg.resume == "never" or not place.is_file() or not ledger_of(cfg).path.is_file():
        return None
    try:
        kept = read_json(place, "what a finished command left", f"rm {quoted(place)}")
    except UserError:  # damaged: the whole way is gone again, and it is written anew
        return None
    folder = Path(kept["dir"])
    if kept["digest"] != _digest(program, cfg, folder, kept["watched"]) or not ledger_of(cfg).finished(kept["hash"]):
        return None
    return Outcome(kept["hash"], folder, "skipped", read_result(folder), remarks=kept["remarks"]), kept["idle"]


def _place(program: str, cfg: DictConfig, overrides: Sequence[str]) -> Path:
    trees = [OmegaConf.to_yaml(cfg), OmegaConf.to_yaml(cfg, resolve=True)]
    asked = json.dumps([program, sys.prefix, os.getcwd(), sorted(overrides), *trees])
    return runs_root(cfg) / FOLDER / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.json"


def _digest(program: str, cfg: DictConfig, folder: Path, watched: Sequence[str]) -> str:
    """Return what changes with anything that the meaning of a command depends on beside its tree."""
    result = folder / RESULT
    lines = [hashlib.sha256(result.read_bytes()).hexdigest() if result.is_file() else "no result"]
    lines += _marks(p for p in sorted(folder.rglob("*")) if p.is_file() and p != result)
    lines += _marks(map(Path, watched))
    lines += _marks(_named(OmegaConf.to_container(cfg, resolve=True), runs_root(cfg)))
    for package in (*PACKAGES, program.partition(".")[0]):
        root = Path(__file__).resolve().parents[2] / package
        lines += _marks(sorted(root.rglob("*.py")))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _named(value: Any, runs: Path) -> list[Path]:
    """Return the places that a tree names, the folder of the runs left out: it changes with every run."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return [place for one in inside for place in _named(one, runs)]
    if not isinstance(value, str) or not value or len(value) > 1000:
        return []
    place = Path(value).expanduser().absolute()
    return [] if place == runs or place == Path.cwd() or not place.exists() else [place]


def _marks(paths: Iterable[Path]) -> list[str]:
    found = []
    for path in paths:
        if path.exists():
            s = path.stat()
            found.append(f"{path} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}")
        else:
            found.append(f"{path} is not there")
    return found


def _fresh(paths: Iterable[str]) -> bool:
    """Return whether one of these was written so shortly ago that it may change again within the same tick."""
    stats = [Path(p).stat() for p in paths if Path(p).exists()]
    return any(max(s.st_mtime_ns, s.st_ctime_ns) > time.time_ns() - TICK_NS for s in stats)
