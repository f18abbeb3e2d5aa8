"""What monitors leave beside `history.csv`: one JSON file for each validation that was recorded, in `inside/`.

A file is named after its step and written in one move. So a resumed run, which repeats a validation that was
interrupted, writes the same files as an uninterrupted one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from callbacks.errors import UserError, quoted

FOLDER = "inside"
LATENTS, ANSWERS = "latents", "answers"  # kinds of records
Record = dict[str, Any]


def write(run_dir: Path, kind: str, step: int, epoch: int, found: Record) -> None:
    """Write what a validation showed, after `step` committed steps in `epoch` (from 0)."""
    path = _path(run_dir, kind, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps({"step": step, "epoch": epoch, **found}, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)


def read(run_dir: Path, kind: str) -> list[Record]:
    """Return all records of a kind, ascending in step; none where there are none.

    Raises:
        UserError: a file that holds no such record.
    """
    found = []
    for path in sorted((run_dir / FOLDER).glob(f"{kind}-*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise UserError(str(path), str(error), "one JSON object", f"rm {quoted(path)}") from error
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise UserError(str(path), type(record).__name__, "one JSON object with its step", f"rm {quoted(path)}")
        found.append(record)
    return found


def forget(run_dir: Path, kind: str, after: int) -> None:
    """Remove the records of steps behind `after`: a run that starts there makes them anew."""
    for path in (run_dir / FOLDER).glob(f"{kind}-*.json"):
        number = path.stem.removeprefix(f"{kind}-")
        if number.isdigit() and int(number) > after:
            path.unlink()


def _path(run_dir: Path, kind: str, step: int) -> Path:
    return run_dir / FOLDER / f"{kind}-{step:08d}.json"
