"""What a run has recorded so far: three append-only CSV files that survive interruption.

One writer per run directory. Every record is one line, so that a line torn by a crash can be recognised and dropped.
Writers and readers take names, columns and actions from here.
"""

from __future__ import annotations

import csv
import io
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

from callbacks.files.atomic import write_text


@dataclass(frozen=True)
class RunFile:
    """One of a run's CSV files.

    Attributes:
        name: the file's name in the run directory.
        columns: the type of each column, in the order of the columns.
        key: the columns that identify a record; where a resumed run wrote a record again, the last one counts.
    """

    name: str
    columns: Mapping[str, type]
    key: tuple[str, ...]

    @property
    def header(self) -> str:
        return ",".join(self.columns) + "\n"


HISTORY = RunFile("history.csv", {"step": int, "epoch": int, "name": str, "value": float}, ("step", "name"))
EVENTS = RunFile(
    "events.csv", {"step": int, "epoch": int, "kind": str, "detail": str}, ("step", "epoch", "kind", "detail")
)
TIMELINE = RunFile(
    "timeline.csv", {"step": int, "modality": str, "action": str, "age": int, "scale": float}, ("step", "modality")
)
FILES = {file.name: file for file in (HISTORY, EVENTS, TIMELINE)}


class Action(NamedTuple):
    """What a modality's parameters did at a step.

    Attributes:
        meaning: the action in the words of a legend.
        moves: whether the parameters took an update.
        counter: the counter of committed steps that the action is booked under; empty for one that is not committed.
    """

    meaning: str
    moves: bool
    counter: str


ACTIONS = {
    "update": Action("update", True, "updates"),
    "soft": Action("scaled-down update", True, "soft"),
    "fusion": Action("update from the fusion path only", True, "fusion"),
    "accumulate": Action("holds still, accumulates", False, "held"),
    "hold": Action("holds still", False, "held"),
    "veto": Action("vetoed by the gate", False, ""),
    "missing": Action("modality missing", False, "missing"),
}
COUNTERS = tuple(dict.fromkeys(action.counter for action in ACTIONS.values() if action.counter))


class ActionCounts:
    """Counts what each modality did in committed steps, by the counters of `ACTIONS`.

    Args:
        names: the modalities or parameter groups.

    Attributes:
        counts: per counter, the number of steps of each name. `updates` are full ones (with a fresh gradient or a
            delayed one), `soft` and `fusion` partial ones, `held` steps without any, `missing` steps without a gradient
            to apply; together they are all committed steps.
    """

    def __init__(self, names: Iterable[str]):
        names = list(names)
        self.counts = {counter: dict.fromkeys(names, 0) for counter in COUNTERS}

    def book(self, name: str, action: str) -> None:
        """Count a committed step in which `name` did `action`."""
        self.counts[ACTIONS[action].counter][name] += 1

    def table(self) -> dict[str, dict[str, int]]:
        """Return a copy of all counters and of `applied`, the steps in which a name moved in whatever way."""
        moving = {action.counter for action in ACTIONS.values() if action.moves}
        names = self.counts[COUNTERS[0]]
        applied = {name: sum(self.counts[counter][name] for counter in moving) for name in names}
        return {"applied": applied, **self.state()}

    def state(self) -> dict[str, dict[str, int]]:
        """Return a copy of the counters."""
        return {counter: dict(counts) for counter, counts in self.counts.items()}

    def load_state(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Restore what `state` returned."""
        self.counts = {counter: dict(state[counter]) for counter in COUNTERS}


BUFFERED_ROWS = 1000
BUFFERED_SECONDS = 5.0


class History:
    """Write a run's three tables, buffered and append-only.

    Values are written with `repr`, so that reading them back gives the same float. Rows reach the file after 1000 rows
    or 5 s, with `flush`, and with `close`. Opening repairs the torn last line of a run that was killed.

    To resume, call either `load_state_dict` with the state saved in the checkpoint (exact), or `truncate(step)`. A run
    that starts anew in a used directory calls `truncate(-1)`.

    Args:
        run_dir: the run's directory; created when missing.
    """

    def __init__(self, run_dir: str | Path):
        self.run_dir = Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, list[str]] = {name: [] for name in FILES}
        self._files: dict[str, TextIO] = {}
        self._flushed = time.monotonic()
        for name in FILES:
            _repair(self.run_dir / name)

    def scalar(self, step: int, epoch: int, name: str, value: float) -> None:
        """Record one value of one metric at one step."""
        self._append(HISTORY, (step, epoch, name, repr(float(value))))

    def event(self, step: int, epoch: int, kind: str, detail: str) -> None:
        """Record what happened once: a skipped step with its reason, a decision, a warning."""
        self._append(EVENTS, (step, epoch, kind, detail))

    def timeline(self, step: int, modality: str, action: str, age: int, scale: float) -> None:
        """Record what a modality applied at a step.

        Args:
            step: the number of committed optimiser steps.
            modality: the modality's name.
            action: one of ACTIONS.
            age: the steps since the applied gradient was computed; 0 fresh, -1 nothing applied.
            scale: the factor on what was applied.
        """
        self._append(TIMELINE, (step, modality, action, age, repr(float(scale))))

    def flush(self) -> None:
        """Bring everything recorded so far into the files."""
        for name, rows in self._rows.items():
            if rows:
                file = self._open(name)
                file.write("".join(rows))
                file.flush()
                rows.clear()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush, and release the files; a later row opens them again."""
        self.flush()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def truncate(self, step: int) -> None:
        """Drop all rows with a step greater than `step`, atomically per file; -1 drops all rows."""
        self.close()
        for name, file in FILES.items():
            path = self.run_dir / name
            if not path.exists():
                continue
            with path.open(encoding="utf-8", newline="") as old:
                next(old, None)
                kept = [line for line in old if int(line.split(",", 1)[0]) <= step]
            write_text(path, file.header + "".join(kept))

    def state_dict(self) -> dict[str, int]:
        """Bring all rows to the disk and return the length of each table in bytes."""
        self.flush()
        for file in self._files.values():
            os.fsync(file.fileno())
        paths = {name: self.run_dir / name for name in FILES}
        return {name: path.stat().st_size if path.exists() else 0 for name, path in paths.items()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Cut each table back to what it held when the state was taken.

        Warns when a table is shorter than that: the rows between are lost (for example when a checkpoint is continued
        in another directory), the run itself is not affected.
        """
        self.close()
        for name, size in state.items():
            path = self.run_dir / name
            held = path.stat().st_size if path.exists() else 0
            if held < size:
                warnings.warn(
                    f"{path} holds {held} of the {size} bytes that the checkpoint was taken with; its earlier rows"
                    " are incomplete from here on",
                    stacklevel=2,
                )
            if held > size:
                os.truncate(path, size)
            _repair(path)

    def _append(self, table: RunFile, fields: tuple[int | str, ...]) -> None:
        rows = self._rows[table.name]
        rows.append(_line(fields))
        if len(rows) >= BUFFERED_ROWS or time.monotonic() - self._flushed > BUFFERED_SECONDS:
            self.flush()

    def _open(self, name: str) -> TextIO:
        if name not in self._files:
            path = self.run_dir / name
            fresh = not path.exists() or path.stat().st_size == 0
            file = path.open("a", encoding="utf-8", newline="")
            if fresh:
                file.write(FILES[name].header)
            self._files[name] = file
        return self._files[name]


def _line(fields: tuple[int | str, ...]) -> str:
    """Return a record as one line of CSV; a writer is built for the few that need quotes or have control characters."""
    plain = ",".join(map(str, fields))
    if plain.isprintable() and '"' not in plain and plain.count(",") == len(fields) - 1:
        return plain + "\n"
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        [" ".join(f.split()) if isinstance(f, str) and not f.isprintable() else f for f in fields]
    )
    return line.getvalue()


def _repair(path: Path) -> None:
    """Cut off a last line without its end."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        tail = b""
        while end > 0 and b"\n" not in tail:
            start = max(0, end - 4096)
            file.seek(start)
            tail = file.read(end - start)
            end = start + tail.rfind(b"\n") + 1 if b"\n" in tail else start
        if end < size:
            file.truncate(end)
