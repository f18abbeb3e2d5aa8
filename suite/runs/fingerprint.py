"""What files hold, as size and SHA-256; hashed once, and again only when size or times have changed."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.errors import UserError, quoted
from callbacks.files.sealed import read_json
from suite.runs.ledger import write_json
from suite.runs.reads import Files

FILE_NAME = ".fingerprints.json"
# A file that was written this shortly before it was hashed may change again within the same tick of the clock of its
# file system: its hash is not kept.
TICK_NS = 100_000_000

Fingerprint = dict[str, Any]  # path, size, sha256, and the number of files where they are several


class Fingerprints:
    """Remembers the hashes of files in one JSON file, by path, size, and times of modification and change.

    Args:
        path: the file; it is written by `save` only.
    """

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[str, list[str]] = self._read()
        self._new: dict[str, list[str]] = {}

    def of(self, files: Files) -> dict[str, Fingerprint]:
        """Return the fingerprint of every role whose files are there."""
        found = {role: self._one(content) for role, content in files.items()}
        return {role: entry for role, entry in found.items() if entry is not None}

    def save(self) -> None:
        """Write what was hashed since the last call, beside what other processes have written."""
        if self._new and self.path.parent.is_dir():
            self._known = {**self._read(), **self._known}
            write_json(self.path, self._known)
            self._new = {}

    def _read(self) -> dict[str, list[str]]:
        if not self.path.is_file():
            return {}
        try:
            return read_json(self.path, "remembered hashes", f"rm {quoted(self.path)}")
        except UserError:  # damaged or foreign: all is hashed again, and it is written anew
            return {}

    def _one(self, content: Path | Sequence[Path]) -> Fingerprint | None:
        several = not isinstance(content, Path)
        files = [p.absolute() for p in (sorted(content) if not isinstance(content, Path) else [content])]
        files = [p for p in files if p.is_file()]
        if not files:
            return None
        stats = [p.stat() for p in files]
        place = f"{files[0].parent}/" if several else str(files[0])
        size = sum(s.st_size for s in stats)
        marks = [f"{p.name} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}" for p, s in zip(files, stats)]
        mark = hashlib.sha256("\n".join(marks).encode()).hexdigest() if several else marks[0]
        entry = {"path": place, "size": size, **({"files": len(files)} if several else {})}
        known = self._known.get(place)
        if known is not None and known[0] == mark:
            return {**entry, "sha256": known[1]}
        before = time.time_ns()
        digests = [digest_of(p) for p in files]
        lines = "".join(f"{p.name} {digest}\n" for p, digest in zip(files, digests))
        digest = hashlib.sha256(lines.encode()).hexdigest() if several else digests[0]
        if max(max(s.st_mtime_ns, s.st_ctime_ns) for s in stats) < before - TICK_NS:
            self._known[place] = self._new[place] = [mark, digest]
        return {**entry, "sha256": digest}


@functools.cache
def remembered(root: Path) -> Fingerprints:
    """Return the hashes that belong to a folder of runs, the same object for the whole process."""
    return Fingerprints(root / FILE_NAME)


def digests(fingerprints: Mapping[str, Fingerprint]) -> dict[str, str]:
    """Return the SHA-256 by role: content alone, wherever the files lie."""
    return {role: entry["sha256"] for role, entry in fingerprints.items()}


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
