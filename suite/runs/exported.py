"""What leaves a run as a folder: a manifest with the SHA-256 of every file beside it, whole or not there at all."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from callbacks.errors import UserError, quoted
from callbacks.files.folders import make_folder
from callbacks.files.sealed import read_json
from suite.runs import record
from suite.runs.fingerprint import digest_of
from suite.runs.ledger import write_json

MANIFEST, WEIGHTS = "export.json", "weights.safetensors"


def require_new(folder: Path) -> None:
    """Refuse a folder that is not empty, or a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            str(folder), "something in it", "a new or an empty folder", f"give -o {shlex.quote(f'{folder}-2')}"
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Let the block write into a new or an empty folder; after an error nothing of it is left.

    Raises:
        UserError: a folder that is not empty, cannot be made or takes no files.
    """
    require_new(folder)
    existed = folder.is_dir()
    make_folder(folder, f"-o {folder}", "give -o the path of a folder that can be made")
    try:
        yield
    except BaseException:
        for path in folder.iterdir() if existed else ():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def write_manifest(folder: Path, form: str, version: int, content: Mapping[str, Any]) -> None:
    """Write the manifest of the files in a folder.

    Args:
        folder: the folder.
        form: what such a folder holds: `asgml network`.
        version: that of its layout.
        content: what else the manifest says.
    """
    told = {
        "format": form,
        "version": version,
        **content,
        "files": {p.name: digest_of(p) for p in sorted(folder.iterdir()) if p.name != MANIFEST},
        "versions": record.versions(),
        **record.commit(),
    }
    write_json(folder / MANIFEST, told)


def read_manifest(folder: Path, form: str, version: int, remedy: str, checked: bool = True) -> dict[str, Any]:
    """Read the manifest of a folder, and verify every byte of the files that it lists.

    Args:
        folder: the folder.
        form: what it has to hold.
        version: the version of its layout that is understood.
        remedy: what to do about any other, for the error.
        checked: whether an export is refused whose parity has not been found, because writing it was interrupted.

    Raises:
        UserError: no export, a damaged or unfinished one, or one of another form or version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(str(path), "no such file", "the folder of an exported network", remedy)
    manifest = read_json(path, "the manifest of an export as it was written", remedy)
    if manifest.get("format") != form or manifest.get("version") != version:
        found = f"{manifest.get('format')}, version {manifest.get('version')}"
        raise UserError(str(path), found, f"{form}, version {version}", remedy)
    if checked and manifest.get("parity") is None:
        found = "no parity: its writing was interrupted before the network was compared with the run's"
        raise UserError(str(path), found, "a finished export", f"rm -r {quoted(folder)}, then {remedy}")
    for name, told in manifest["files"].items():
        place = folder / name
        if not place.is_file():
            raise UserError(str(place), "no such file", f"the file that {MANIFEST} lists", remedy)
        if (digest := digest_of(place)) != told:
            found = f"SHA-256 {digest[:16]}…: it is damaged, or of another export"
            raise UserError(str(place), found, f"{told[:16]}…, as {MANIFEST} says", remedy)
    return manifest


def is_export(place: Path) -> bool:
    """Tell whether a folder is an export, whole or damaged."""
    return (place / MANIFEST).exists() or (place / WEIGHTS).exists()


def refuse_difference(path: Path, largest: float, allowed: float, remedy: str) -> None:
    """Refuse a form whose predictions differ from the run's by more than is allowed; NaN is more."""
    if not largest <= allowed:
        found = f"predictions that differ from the run's by {largest:.3g}: nothing was kept"
        raise UserError(str(path), found, f"a difference of at most {allowed:g}", remedy)
