"""Run directories and the ledger as data: what is on disk, nothing derived.

A run that is still being written is read as far as it goes (a last line without its newline is left out).
Anything else that does not parse is a `UserError` that names the file and the line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from callbacks.errors import UserError
from suite.runs.ledger import FILE_NAME, Ledger

STATUSES = ("finished", "failed", "stopped", "running")
HISTORY = {"step": int, "epoch": int, "name": str, "value": float}
TIMELINE = {"step": int, "modality": str, "action": str, "age": int, "scale": float}
EVENTS = {"step": int, "epoch": int, "kind": str, "detail": str}
ACTIONS = ("update", "soft", "fusion", "accumulate", "hold", "veto", "missing")
VAL, TEST = 1, 2  # values of `split` in predictions.npz


@dataclass(frozen=True)
class Series:
    """One logged quantity of one run, ascending in step; each array is (n,)."""

    step: np.ndarray
    epoch: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Predictions:
    """Test predictions of one run in the order of `index`: labels, right or not, optional cluster of each
    sample."""

    index: np.ndarray
    y: np.ndarray
    correct: np.ndarray
    group: np.ndarray | None


@dataclass
class Run:
    """One run. `path` is its directory (it may be gone, then only the ledger row is left); tables are read when
    asked for."""

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
        """The label that the user gave to this configuration, if any."""
        given = self.result.get("label") or self.config.get("label")
        return None if given is None else str(given)

    def metric(self, split: str, name: str) -> float | None:
        """A number of `result.json` (`split`: val, test, val_best, test_best), None where absent; NaN stays
        NaN."""
        return _number((self.result.get(split) or {}).get(name))

    def number(self, name: str) -> float | None:
        """A top-level number of `result.json` such as `seconds` or `peak_memory_mb`."""
        return _number(self.result.get(name))

    def counter(self, name: str) -> dict[str, float]:
        """A counter as {modality: count}; a counter that is one number comes back as {"": count}.

        `result.json` may hold `{"held": {"audio": 3}}`, `{"held/audio": 3}` or `{"skipped": 1}`.
        """
        counters = self.result.get("counters") or {}
        found = {k.partition("/")[2]: v for k, v in counters.items() if k.startswith(name + "/")}
        own = counters.get(name)
        found |= own if isinstance(own, dict) else {} if own is None else {"": own}
        return {str(k): float(v) for k, v in found.items() if _number(v) is not None}

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """history.csv; after a resume the last row of a (step, name) counts."""
        frame = self._table("history.csv", HISTORY)
        return None if frame is None else frame.drop_duplicates(["step", "name"], keep="last")

    @cached_property
    def timeline(self) -> pd.DataFrame | None:
        """timeline.csv; one row per step and modality."""
        frame = self._table("timeline.csv", TIMELINE)
        if frame is None:
            return None
        unknown = sorted(set(frame["action"]) - set(ACTIONS))
        if unknown:
            raise UserError(
                str(self.path / "timeline.csv"),
                f"action {unknown[0]!r}",
                " | ".join(ACTIONS),
                "write one of these",
            )
        return frame.drop_duplicates(["step", "modality"], keep="last").sort_values("step", kind="stable")

    @cached_property
    def events(self) -> pd.DataFrame | None:
        """events.csv; repeated rows (a resume) count once."""
        frame = self._table("events.csv", EVENTS)
        return None if frame is None else frame.drop_duplicates().sort_values("step", kind="stable")

    @cached_property
    def series(self) -> dict[str, Series]:
        """History by name."""
        if self.history is None:
            return {}
        ordered = self.history.sort_values("step", kind="stable")
        return {
            str(name): Series(part["step"].to_numpy(), part["epoch"].to_numpy(), part["value"].to_numpy())
            for name, part in ordered.groupby("name", sort=False)
        }

    def not_finite(self) -> list[tuple[str, int]]:
        """(name, first step) of every logged series that holds NaN or infinity."""
        bad = [(name, s.step[~np.isfinite(s.value)]) for name, s in self.series.items()]
        return [(name, int(steps[0])) for name, steps in bad if steps.size]

    def predictions(self, best: bool = True) -> Predictions | None:
        """Test predictions at the best-validation epoch (or the last); None where the file is absent."""
        path = self.path / ("predictions_best.npz" if best else "predictions.npz")
        if not path.is_file():
            return None
        remedy = "delete the file, or the run directory and run it again"
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {k: stored[k] for k in stored.files}
        except (ValueError, OSError, EOFError) as error:
            raise UserError(str(path), str(error), "an .npz without pickled arrays", remedy) from error
        missing = {"index", "y", "split", "prob"} - set(arrays)
        if missing:
            raise UserError(str(path), f"no array {sorted(missing)[0]!r}", "index, y, split, prob", remedy)
        rows = np.flatnonzero(arrays["split"] == TEST)
        if rows.size == 0:
            return None
        rows = rows[np.argsort(arrays["index"][rows], kind="stable")]
        y = arrays["y"][rows]
        group = arrays["group"][rows] if "group" in arrays else None
        return Predictions(arrays["index"][rows], y, arrays["prob"][rows].argmax(1) == y, group)

    def _table(self, name: str, columns: dict[str, type]) -> pd.DataFrame | None:
        frame, note = read_table(self.path / name, columns)
        if note:
            self.notes.append(note)
        return frame


def read_table(path: Path, columns: dict[str, type]) -> tuple[pd.DataFrame | None, str]:
    """One append-only CSV, and a note where its last line is still being written; (None, "") where it is absent
    or empty.

    Raises UserError with the line number for a wrong header, a missing field or a value of the wrong type.
    """
    if not path.is_file():
        return None, ""
    text, note = path.read_text(encoding="utf-8"), ""
    if text and not text.endswith("\n"):
        text, note = text[: text.rfind("\n") + 1], f"{path.name}: the last line is incomplete and left out"
    header, _, body = text.partition("\n")
    if not header:
        return None, note
    if header.strip().split(",") != list(columns):
        raise UserError(f"{path}:1", header.strip()[:100], ",".join(columns), "the file is not of this suite")
    if not body:
        return None, note
    try:
        frame = pd.read_csv(
            StringIO(text),
            dtype={k: {int: "int64", float: "float64", str: "str"}[v] for k, v in columns.items()},
            keep_default_na=False,
            na_values={k: ["nan", "NaN", "-nan"] for k, v in columns.items() if v is float},
        )
    except (ValueError, pd.errors.ParserError) as error:
        line, found = _first_bad_line(path, text, columns)
        raise UserError(
            f"{path}:{line}",
            found,
            ",".join(f"{k} ({v.__name__})" for k, v in columns.items()),
            "delete that line, or the run directory and run it again",
        ) from error
    return frame, note


def _first_bad_line(path: Path, text: str, columns: dict[str, type]) -> tuple[int, str]:
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


def read_run(path: Path, ledger_row: dict[str, Any] | None = None) -> Run:
    """The run in directory `path`. Without `result.json` the ledger row speaks, and without that the run is
    running."""
    config = _yaml(path / "config.yaml")
    row = dict(ledger_row or {})
    stored = path / "result.json"
    result = _json(stored.read_text(encoding="utf-8"), str(stored)) if stored.is_file() else None
    if result is None:
        result = {k: v for k, v in row.items() if k not in ("config", "run_dir", "traceback")}
        result.setdefault("status", "running")
    run = Run(path, result, config or row.get("config") or {}, str(row.get("traceback") or ""))
    _check(run, str(stored))
    return run


def _check(run: Run, where: str) -> None:
    remedy = "delete the run directory and run it again"
    if run.result.get("status") not in STATUSES:
        raise UserError(where, f"status {run.result.get('status')!r}", " | ".join(STATUSES), remedy)
    seed = run.result.get("seed", run.config.get("seed", 0))
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(where, f"seed {seed!r}", "an integer", remedy)
    for split in ("val", "test", "val_best", "test_best", "counters"):
        part = run.result.get(split)
        if part is not None and not isinstance(part, dict):
            raise UserError(where, f"{split}: {part!r}"[:100], "a mapping of names to numbers, or null", remedy)


def _json(text: str, where: str) -> dict[str, Any]:
    remedy = "delete that line or file; the run can be repeated"
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(where, f"{error}", "one JSON object", remedy) from error
    if not isinstance(value, dict):
        raise UserError(where, f"{type(value).__name__}", "one JSON object", remedy)
    return value


def _yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(
            str(path), str(error)[:200], "the resolved config as YAML", "delete the run directory"
        ) from error
    if not isinstance(value, dict):
        raise UserError(str(path), type(value).__name__, "a mapping", "delete the run directory")
    return value


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """Newest row per hash of the ledger in `folder`, in order of first appearance; none without a ledger."""
    return list(Ledger(folder / FILE_NAME).latest().values())


def read_runs(roots: Sequence[Path], name: str | None = None) -> list[Run]:
    """Every run below `roots`, optionally only of experiment `name`.

    A root is a run directory (holds `config.yaml` or `result.json`), an experiment's folder, or a `paths.runs`
    folder with its ledger. Ledger rows whose directory is gone count too. Raises UserError where nothing is found.
    """
    runs: dict[str, Run] = {}
    ledgers: dict[Path, list[dict[str, Any]]] = {}

    def ledger(folder: Path) -> list[dict[str, Any]]:
        if folder not in ledgers:
            ledgers[folder] = read_ledger(folder)
        return ledgers[folder]

    for root in roots:
        if not root.is_dir():
            raise UserError(str(root), "no such directory", "a folder of runs", "give the folder that paths.runs names")
        if _is_run(root):
            rows = ledger(root.parent.parent)
            runs[str(root.resolve())] = read_run(root, _row_of(rows, root))
            continue
        rows = ledger(root) or ledger(root.parent)
        folders = sorted(p for pattern in ("*", "*/*") for p in root.glob(pattern) if p.is_dir() and _is_run(p))
        for folder in folders:
            runs[str(folder.resolve())] = read_run(folder, _row_of(rows, folder))
        if (root / FILE_NAME).is_file():
            present = {run.hash for run in runs.values()}
            for row in rows:
                if str(row.get("hash")) not in present:
                    runs[f"ledger:{row.get('hash')}"] = _from_ledger(row, root)
    found = [run for run in runs.values() if name is None or run.experiment == name]
    if not found:
        known = sorted({run.experiment for run in runs.values()})
        where = ", ".join(map(str, roots))
        if name is not None and known:
            raise UserError("--name", name, " | ".join(known), "name one of these experiments")
        raise UserError(where, "no run", "folders <experiment>/<hash>/ with config.yaml", "run an experiment first")
    return found


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() or (path / "result.json").is_file()


def _row_of(rows: Iterable[dict[str, Any]], path: Path) -> dict[str, Any] | None:
    return next((row for row in rows if str(row.get("hash")) == path.name), None)


def _from_ledger(row: dict[str, Any], root: Path) -> Run:
    path = root / str(row.get("experiment", "")) / str(row.get("hash", ""))
    result = {k: v for k, v in row.items() if k not in ("config", "run_dir", "traceback")}
    run = Run(path, result, row.get("config") or {}, str(row.get("traceback") or ""), ["only its ledger row is left"])
    _check(run, str(root / FILE_NAME))
    return run


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that exist and are finite."""
    return [v for v in values if v is not None and math.isfinite(v)]
