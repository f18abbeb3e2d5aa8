"""What a command has left, as digests by name: results, tables, weights, files; without what is measured or dated."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# of result.json: times, places and memory of the attempt that ended it, and digests of files with times in them
MEASURED = frozenset(
    "seconds peak_memory_mb peak_cuda_mb started finished resumed versions device commit dirty sha256 written".split()
)
# of history.csv: what is measured of a step
TIMED = ("time/", "memory/")
DATED = re.compile(rb"written \d{4}-\d\d-\d\d \d\d:\d\d UTC")  # in a report
TABLES = ("timeline.csv", "events.csv")


def of_runs(folder: Path) -> Mapping[str, str]:
    """Return the digests of all runs below a folder: result, history, events, predictions and weights of each."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("result.json")):
        run = path.parent
        if ".old-" in run.name:  # an attempt that was put aside
            continue
        name = f"{run.parent.name}/{run.name}"
        result = _settled(json.loads(path.read_bytes()))
        found[f"{name} result"] = digest(json.dumps(result, sort_keys=True).encode())
        for table in TABLES:
            if (run / table).is_file():
                found[f"{name} {table}"] = digest((run / table).read_bytes())
        if (run / "history.csv").is_file():
            found[f"{name} history"] = digest(json.dumps(_history(run / "history.csv")).encode())
        for archive in sorted(run.glob("predictions*.npz")):
            found[f"{name} {archive.name}"] = _arrays(archive)
        for weights in ("last.ckpt", "best.ckpt"):
            if (run / "checkpoints" / weights).is_file():
                found[f"{name} {weights}"] = _weights(run / "checkpoints" / weights)
    return found


def of_files(*patterns: str) -> Callable[[Path], Mapping[str, str]]:
    """Return what gives the digests of all files of a folder that match patterns, as `Path.glob` takes them.

    Names that begin with a dot are left out, which hold the times of files, and so are dates.
    """

    def left(folder: Path) -> Mapping[str, str]:
        paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
        shown = [path for path in paths if not path.name.startswith(".")]
        return {str(path.relative_to(folder)): digest(DATED.sub(b"", path.read_bytes())) for path in shown}

    return left


def digest(content: bytes) -> str:
    """Return the first digits of a SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def _settled(value: Any) -> Any:
    """Return a result without what is measured: times end in `_ms`."""
    if isinstance(value, dict):
        return {k: _settled(v) for k, v in value.items() if k not in MEASURED and not k.endswith("_ms")}
    return value


def _history(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.reader(file) if not any(cell.startswith(TIMED) for cell in row)]


def _arrays(path: Path) -> str:
    import numpy as np

    content = io.BytesIO()
    with np.load(path, allow_pickle=False) as archive:
        for name in sorted(archive.files):
            content.write(f"{name} {archive[name].dtype} {archive[name].shape}".encode() + archive[name].tobytes())
    return digest(content.getvalue())


def _weights(path: Path) -> str:
    import torch

    from callbacks.run.stored import read_checkpoint

    content = hashlib.sha256()
    for name, value in sorted(read_checkpoint(path)["state_dict"].items()):
        content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:16]
