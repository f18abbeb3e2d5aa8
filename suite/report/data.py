"""Run directories and the ledger as data: what is on disk, nothing derived.

A run that is still being written is read as far as it goes (a last line without its newline is left out). Anything else
that does not parse is a `UserError` that names the file and the line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from callbacks.errors import UserError, quoted
from callbacks.run.history import ACTIONS, EVENTS, HISTORY, TIMELINE, RunFile
from suite.runs.ledger import FILE_NAME, Ledger
from suite.runs.provenance import CONFIG, RESULT, read_config_text, read_result
from suite.runs.written import refuse_other_file

STATUSES = ("finished", "failed", "stopped", "running")


@dataclass(frozen=True)
class Series:
    """One logged quantity of one run, ascending in step; each array is (n,)."""

    step: np.ndarray
    epoch: np.ndarray
    value: np.ndarray


@dataclass
class RunRecord:
    """One run as it lies on disk; its tables are read when asked for.

    Attributes:
        path: the run's directory; it may be gone, then only the ledger row is left.
        result: the content of `result.json`, or of the ledger row.
        config: the resolved configuration.
        traceback: the traceback of a run that failed.
        notes: what a reader must know about the files.
    """

    path: Path
    result: dict[str, Any]
    config: dict[str, Any]
    traceback: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def program(self) -> str:
        return str(self.result.get("program") or self.config.get("program") or "unknown")

    @property
    def experiment(self) -> str:
        return str(self.result.get("experiment") or self.config.get("name") or self.path.parent.name)

    @property
    def seed(self) -> int:
        return int(self.result.get("seed", self.config.get("seed", 0)))

    @property
    def hash(self) -> str:
        return str(self.result.get("hash") or self.path.name)

    @property
    def status(self) -> str:
        return str(self.result["status"])

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def label(self) -> str | None:
        """The label that the user gave to this configuration, None without one."""
        given = self.result.get("label") or self.config.get("label")
        return None if given is None else str(given)

    def metric(self, split: str, name: str) -> float | None:
        """Return a number of a split (val, test, val_best, test_best), None where it is absent; NaN stays NaN."""
        return _number((self.result.get(split) or {}).get(name))

    def number(self, name: str) -> float | None:
        """Return a top-level number of the result such as `seconds` or `peak_memory_mb`, None where it is absent."""
        return _number(self.result.get(name))

    def counter(self, name: str) -> dict[str, float]:
        """Return a counter as {part: count}; a counter that is one number comes back as {"": count}.

        `result.json` may hold `{"held": {"part": 3}}`, `{"held/part": 3}` or `{"skipped": 1}`.
        """
        counters = self.result.get("counters") or {}
        found = {k.partition("/")[2]: v for k, v in counters.items() if k.startswith(name + "/")}
        own = counters.get(name)
        found |= own if isinstance(own, dict) else {} if own is None else {"": own}
        return {str(k): float(v) for k, v in found.items() if _number(v) is not None}

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """Every logged value, ascending in step."""
        return self._table(HISTORY)

    @cached_property
    def events(self) -> pd.DataFrame | None:
        """What happened once, ascending in step."""
        return self._table(EVENTS)

    @cached_property
    def timeline(self) -> pd.DataFrame | None:
        """What was done at every step, ascending in step."""
        frame = self._table(TIMELINE)
        if frame is not None and (unknown := sorted(set(frame["action"]) - set(ACTIONS))):
            path = self.path / TIMELINE.name
            raise UserError(str(path), f"action {unknown[0]!r}", " | ".join(ACTIONS), f"rm {quoted(path)}")
        return frame

    @cached_property
    def series(self) -> dict[str, Series]:
        """The history by name."""
        if self.history is None:
            return {}
        return {
            str(name): Series(part["step"].to_numpy(), part["epoch"].to_numpy(), part["value"].to_numpy())
            for name, part in self.history.groupby("name", sort=False)
        }

    def not_finite(self) -> list[tuple[str, int]]:
        """Return (name, first step) of every logged series that holds NaN or infinity."""
        bad = [(name, s.step[~np.isfinite(s.value)]) for name, s in self.series.items()]
        return [(name, int(steps[0])) for name, steps in bad if steps.size]

    def _table(self, file: RunFile) -> pd.DataFrame | None:
        """Read a file; of records with the same key the last one counts."""
        refuse_other_file(self.path / file.name, self.result)
        frame, note = read_table(self.path / file.name, file)
        self.notes += [note] if note else []
        if frame is None:
            return None
        return frame.drop_duplicates(list(file.key), keep="last").sort_values("step", kind="stable")


def read_table(path: Path, file: RunFile) -> tuple[pd.DataFrame | None, str]:
    """Read one append-only CSV, with a note where its last line is still being written; (None, "") where it is absent.

    Raises:
        UserError: a wrong header, or a line with a missing field or a value of the wrong type, by its number.
    """
    if path.is_dir():
        raise UserError(str(path), "a folder", f"the table {file.header.strip()}", f"rm -r {quoted(path)}")
    if not path.is_file():
        return None, ""
    try:
        text, note = path.read_text(encoding="utf-8"), ""
    except UnicodeDecodeError as error:
        raise UserError(str(path), f"damaged: {error.reason}", "UTF-8 text", f"rm {quoted(path)}") from error
    if text and not text.endswith("\n"):
        text, note = text[: text.rfind("\n") + 1], f"{path.name}: the last line is incomplete and left out"
    header, _, body = text.partition("\n")
    if not header:
        return None, note
    if header.strip().split(",") != list(file.columns):
        raise UserError(f"{path}:1", header.strip()[:100], file.header.strip(), f"rm {quoted(path)}")
    if not body:
        return None, note
    try:
        frame = pd.read_csv(
            StringIO(text),
            dtype={k: {int: "int64", float: "float64", str: "str"}[v] for k, v in file.columns.items()},
            keep_default_na=False,
            na_values={k: ["nan", "NaN", "-nan"] for k, v in file.columns.items() if v is float},
        )
    except (ValueError, pd.errors.ParserError) as error:
        line, found = _first_bad_line(text, file.columns)
        expected = ",".join(f"{k} ({v.__name__})" for k, v in file.columns.items())
        raise UserError(f"{path}:{line}", found, expected, f"sed -i {line}d {quoted(path)}") from error
    return frame, note


def _first_bad_line(text: str, columns: Mapping[str, type]) -> tuple[int, str]:
    for number, line in enumerate(text.splitlines()[1:], start=2):
        cells = line.split(",", len(columns) - 1)
        try:
            for cell, kind in zip(cells, columns.values(), strict=True):
                kind(cell)
        except ValueError:
            return number, line[:100]
    return 1, "a table that does not parse"


def _number(value: Any) -> float | None:
    if value in ("Infinity", "-Infinity"):  # how the ledger writes what JSON cannot hold
        return math.inf if value == "Infinity" else -math.inf
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)


def read_run(path: Path, ledger_row: dict[str, Any] | None = None) -> RunRecord:
    """Read the run in directory `path`; without `result.json` its ledger row speaks, and without that it is running."""
    row = dict(ledger_row or {})
    result = read_result(path) or {"status": "running", **_without_tree(row)}
    run = RunRecord(path, result, _config(path) or row.get("config") or {}, str(row.get("traceback") or ""))
    _check(run, str(path / RESULT))
    return run


def _without_tree(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in ("config", "run_dir", "traceback")}


def _check(run: RunRecord, where: str) -> None:
    in_ledger = where.endswith(FILE_NAME)
    again = f"rm -r {quoted(run.path)}, then start the run again"
    remedy = f"sed -i /{run.hash}/d {quoted(where)}" if in_ledger else again
    if run.result.get("status") not in STATUSES:
        raise UserError(where, f"status {run.result.get('status')!r}", " | ".join(STATUSES), remedy)
    seed = run.result.get("seed", run.config.get("seed", 0))
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(where, f"seed {seed!r}", "an integer", remedy)
    for split in ("val", "test", "val_best", "test_best", "counters"):
        part = run.result.get(split)
        if part is not None and not isinstance(part, dict):
            raise UserError(where, f"{split}: {part!r}"[:100], "a mapping of names to numbers, or null", remedy)


def _config(folder: Path) -> dict[str, Any]:
    """Return the resolved configuration of a run; {} where there is none."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    expected = "a YAML mapping: the resolved configuration"
    remedy = f"rm {quoted(path)}, then give the run's command again: it is written anew"
    try:
        value = yaml.safe_load(read_config_text(folder, expected, remedy)) or {}
    except yaml.YAMLError as error:
        raise UserError(str(path), str(error)[:200], expected, remedy) from error
    if not isinstance(value, dict):
        raise UserError(str(path), type(value).__name__, expected, remedy)
    return value


def read_runs(roots: Sequence[Path], name: str | None = None) -> list[RunRecord]:
    """Read every run below `roots`, optionally only those of experiment `name`.

    A root is a run directory (holds `config.yaml` or `result.json`), an experiment's folder, or a `paths.runs` folder
    with its ledger. Ledger rows whose directory is gone count too.

    Raises:
        UserError: no such folder, or no run in it.
    """
    runs: dict[str, RunRecord] = {}
    ledger = cache(lambda folder: Ledger(folder / FILE_NAME).latest())
    for root in roots:
        if not root.is_dir():
            remedy = "give runs, or the folder that the runs had as paths.runs"
            raise UserError(str(root), "no such directory", "a folder of runs", remedy)
        if _is_run(root):
            runs[str(root.resolve())] = read_run(root, ledger(root.parent.parent).get(root.name))
            continue
        rows = ledger(root) or ledger(root.parent)
        for folder in sorted(p for pattern in ("*", "*/*") for p in root.glob(pattern) if p.is_dir() and _is_run(p)):
            runs[str(folder.resolve())] = read_run(folder, rows.get(folder.name))
        if (root / FILE_NAME).is_file():
            present = {run.hash for run in runs.values()}
            runs |= {f"ledger:{key}": _from_ledger(row, root) for key, row in rows.items() if key not in present}
    found = [run for run in runs.values() if name is None or run.experiment == name]
    if not found:
        known = sorted({run.experiment for run in runs.values()})
        if name is not None and known:
            raise UserError("--name", name, " | ".join(known), f"--name {known[0]}")
        where = ", ".join(map(str, roots))
        remedy = f"start a run with paths.runs={roots[0]}"
        raise UserError(where, "no run", "folders <experiment>/<hash>/ with config.yaml", remedy)
    return found


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file() or (path / RESULT).is_file()


def _from_ledger(row: dict[str, Any], root: Path) -> RunRecord:
    path = root / str(row.get("experiment", "")) / str(row.get("hash", ""))
    config, error = row.get("config") or {}, str(row.get("traceback") or "")
    run = RunRecord(path, _without_tree(row), config, error, ["only its ledger row is left"])
    _check(run, str(root / FILE_NAME))
    return run
