"""What a run has recorded so far: three append-only CSV files that survive interruption.

`history.csv` (step, epoch, name, value), `events.csv` (step, epoch, kind, detail) and `timeline.csv` (step,
modality, action, age, scale). One writer per run directory. Every record is one line, so that a line torn by a
crash can be recognised and dropped.
"""

from __future__ import annotations

import csv
import io
import os
import time
import warnings
from pathlib import Path
from typing import TextIO

HEADERS: dict[str, str] = {
    "history.csv": "step,epoch,name,value\n",
    "events.csv": "step,epoch,kind,detail\n",
    "timeline.csv": "step,modality,action,age,scale\n",
}
BUFFERED_ROWS = 1000
BUFFERED_SECONDS = 5.0


class History:
    """Buffered, append-only writers of a run's three tables.

    Values are written with `repr`, so that reading them back gives the same float. Rows reach the file after
    1000 rows or 5 s, with `flush`, and with `close`. Opening repairs the torn last line of a run that was
    killed.

    Resuming: either `load_state_dict` of the state saved with the checkpoint (exact), or `truncate(step)`. A
        run that starts anew in a used directory calls `truncate(-1)`.

    Args:
        run_dir: created when missing.
    """

    def __init__(self, run_dir: str | Path):
        self.run_dir = Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, list[str]] = {name: [] for name in HEADERS}
        self._files: dict[str, TextIO] = {}
        self._flushed = time.monotonic()
        for name in HEADERS:
            _repair(self.run_dir / name)

    def scalar(self, step: int, epoch: int, name: str, value: float) -> None:
        """One value of one metric at one step."""
        self._append("history.csv", (step, epoch, name, repr(float(value))))

    def event(self, step: int, epoch: int, kind: str, detail: str) -> None:
        """Something that happened once: a skipped step with its reason, a decision, a warning."""
        self._append("events.csv", (step, epoch, kind, detail))

    def timeline(self, step: int, modality: str, action: str, age: int, scale: float) -> None:
        """What a modality applied at a step.

        Args:
            step: committed optimiser steps.
            modality: its name.
            action: update, hold, missing, soft, accumulate or veto.
            age: steps since the applied gradient was computed; 0 fresh, -1 nothing applied.
            scale: factor on what was applied.
        """
        self._append("timeline.csv", (step, modality, action, age, repr(float(scale))))

    def flush(self) -> None:
        """Everything appended so far is in the files."""
        for name, rows in self._rows.items():
            if rows:
                file = self._open(name)
                file.write("".join(rows))
                file.flush()
                rows.clear()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes, and releases the files; a later row opens them again."""
        self.flush()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def truncate(self, step: int) -> None:
        """Drops all rows with a step greater than `step`, atomically per file; -1 drops all rows."""
        self.close()
        for name, header in HEADERS.items():
            path = self.run_dir / name
            if not path.exists():
                continue
            with path.open(encoding="utf-8", newline="") as old:
                next(old, None)
                kept = [line for line in old if int(line.split(",", 1)[0]) <= step]
            tmp = path.with_name(f".{name}.tmp")
            with tmp.open("w", encoding="utf-8", newline="") as new:
                new.write(header + "".join(kept))
                new.flush()
                os.fsync(new.fileno())
            tmp.replace(path)

    def state_dict(self) -> dict[str, int]:
        """Length in bytes of each table, after bringing all rows to the disk."""
        self.flush()
        for file in self._files.values():
            os.fsync(file.fileno())
        paths = {name: self.run_dir / name for name in HEADERS}
        return {name: path.stat().st_size if path.exists() else 0 for name, path in paths.items()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Cuts each table back to what it held when the state was taken.

        Warns when a table is shorter than that: the rows between are lost (for example when a checkpoint is
        continued in another directory), the run itself is not affected.
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

    def _append(self, name: str, fields: tuple[int | str, ...]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(
            [" ".join(f.split()) if isinstance(f, str) and not f.isprintable() else f for f in fields]
        )
        self._rows[name].append(line.getvalue())
        if len(self._rows[name]) >= BUFFERED_ROWS or time.monotonic() - self._flushed > BUFFERED_SECONDS:
            self.flush()

    def _open(self, name: str) -> TextIO:
        if name not in self._files:
            path = self.run_dir / name
            fresh = not path.exists() or path.stat().st_size == 0
            file = path.open("a", encoding="utf-8", newline="")
            if fresh:
                file.write(HEADERS[name])
            self._files[name] = file
        return self._files[name]


def _repair(path: Path) -> None:
    """Cuts off a last line without its end."""
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
