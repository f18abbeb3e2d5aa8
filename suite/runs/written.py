"""The tables and arrays of a finished run: their SHA-256 stands in its result, and is checked where they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callbacks.errors import UserError, quoted
from suite.runs.fingerprint import digest_of

WRITTEN = "written"  # in a result: digest by file name
KINDS = (".csv", ".npz", ".safetensors")


def written(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the tables and arrays that stand directly in a run's directory, by file name."""
    return {p.name: digest_of(p) for p in sorted(folder.iterdir()) if p.suffix in KINDS and p.is_file()}


def refuse_other_file(path: Path, result: Mapping[str, Any], remedy: str = "") -> None:
    """Refuse a file of a finished run that is not the one that the run wrote.

    A run that is not finished, or that recorded no such file, has nothing to compare with.

    Args:
        path: the file, in the run's directory.
        result: the content of the run's `result.json`.
        remedy: what to do; by default the file is removed, and left out.

    Raises:
        UserError: another SHA-256: the file of another run, edited or damaged.
    """
    recorded = result.get(WRITTEN)
    told = recorded.get(path.name) if isinstance(recorded, dict) and result.get("status") == "finished" else None
    if told is not None and path.is_file() and (found := digest_of(path)) != told:
        raise UserError(
            str(path),
            f"not what the run wrote: SHA-256 {found[:12]}…",
            f"SHA-256 {told[:12]}…, as result.json beside it says",
            remedy or f"rm {quoted(path)}, and what it holds is left out",
        )
