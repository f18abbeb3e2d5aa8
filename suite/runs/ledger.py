"""The ledger: one sealed JSON line per run, appended and never rewritten. The newest row of a hash counts."""

from __future__ import annotations

import fcntl
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from callbacks.errors import UserError, quoted
from callbacks.files import sealed
from callbacks.files.atomic import write_text

if TYPE_CHECKING:
    import pandas

FILE_NAME = "ledger.jsonl"


class Ledger:
    """Holds rows of results in one `.jsonl` file that many processes may append to at once.

    Args:
        path: the file, which is created with the first row.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row: a single write of a whole line, under a lock, on disk when this returns.

        Raises:
            TypeError: a value that JSON cannot hold, naming its key.
        """
        line = json.dumps(sealed.sealed_json(jsonable(row)), allow_nan=False, ensure_ascii=False).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released by close
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # a crash tore the last line: keep it apart from this one
            if file.write(line) != len(line):
                raise OSError(f"{self.path}: the row was cut off while writing (disk full?)")
            os.fsync(file.fileno())

    def rows(self) -> list[dict[str, Any]]:
        """Return all intact rows, oldest first. A torn or changed line is reported by a warning and left out.

        A finished run whose row is left out gets another one when its command is given again.
        """
        if not self.path.exists():
            return []
        rows = []
        for number, line in enumerate(self.path.read_bytes().split(b"\n"), 1):
            if not line.strip():
                continue
            where = f"{self.path}, line {number}"
            try:
                rows.append(sealed.parse_json(line, where, "a row", f"sed -i {number}d {quoted(self.path)}"))
            except UserError as error:
                warnings.warn(f"{where}: no row ({error.found}), left out; remedy: {error.remedy}", stacklevel=2)
        return rows

    def latest(self) -> dict[str, dict[str, Any]]:
        """Return the newest row of each hash, in the order in which the hashes first appeared."""
        newest: dict[str, dict[str, Any]] = {}
        for row in self.rows():
            newest[str(row.get("hash"))] = row
        return newest

    def finished(self, run_hash: str) -> bool:
        """Return whether the newest row of this hash says `finished`."""
        row = self.latest().get(run_hash)
        return row is not None and row.get("status") == "finished"

    def table(self) -> pandas.DataFrame:
        """Return one line per run, nested keys flattened with dots: `config.asgml.tau`."""
        import pandas

        return pandas.json_normalize([_numbers(row) for row in self.latest().values()], sep=".")


def jsonable(value: Any, key: str = "") -> Any:
    """Return plain JSON values: nan becomes null, ±inf "Infinity" and "-Infinity", arrays lists, paths strings.

    Args:
        value: the value to convert.
        key: its place, for errors.

    Raises:
        TypeError: anything else, naming its key.
    """
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(k): jsonable(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v, f"{key}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalar or array, torch tensor
        return jsonable(value.tolist(), key)
    kind = type(value).__name__
    raise TypeError(f"{key or 'value'}: {kind} has no place in JSON; give a number, string, list or dict")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, sealed and in one piece; `callbacks.files.sealed.read_json` reads it."""
    body = sealed.sealed_json(jsonable(value))
    write_text(path, json.dumps(body, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, str) and value in ("Infinity", "-Infinity"):
        return math.inf if value == "Infinity" else -math.inf
    return value
