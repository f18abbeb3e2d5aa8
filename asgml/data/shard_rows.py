"""A finished shard as batches read it: its index, its rows unread, and the proof that they are what was written."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asgml.data.npz import DAMAGED
from callbacks.errors import UserError, quoted
from callbacks.files.atomic import write_text
from callbacks.files.sealed import read_json, sealed_json

log = logging.getLogger(__name__)

CHUNK = 64  # rows that are written, hashed and checked together
DATA, INDEX, STAMP = "data.npy", "index.json", ".verified.json"
# A file that was written this shortly before may change again within the same tick of the clock of its file system.
TICK_NS = 100_000_000

Bad = tuple[int, str, str]  # row, path, reason
Signature = list[int] | None  # what tells that a source file has changed; None: it is not there


class Shard:
    """A finished shard, its rows unread.

    `verify` hashes `data.npy` once and leaves a stamp, `.verified.json`: size and times of the file. While these stay
    what they are, it is not hashed again.

    Limits: what changes on the disk without the file system's knowledge is not found after the first verification, nor
    what changes while a run reads.

    Attributes:
        folder: the shard's folder.
        ids: the n samples' names.
        dtype: the NumPy name of the rows' type.
        bad: (row, path, reason) of the unusable rows, in order.
        sources: size and time of each row's source when it was decoded.
        rows: the number of the row by sample name.
        chunks: the SHA-256 of every `CHUNK` rows; None for rows whose renewal was interrupted. Empty in a shard of an
            earlier release, which is read unchecked.
        blank: the rows that are silence or a picture of one colour, in order.
        contents: the digest of each row's source as 16 hex digits; None where it has none.

    Raises:
        UserError: files that are absent, changed, or do not belong together.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            index = read_json(folder / INDEX, "the index as it was written", self.remedy)
            data = np.load(folder / DATA, mmap_mode="r", allow_pickle=False)
            expected, dtype = (len(index["ids"]), *index["shape"]), np.dtype(index["dtype"])
            if data.shape != expected or data.dtype != dtype or not data.flags.c_contiguous:
                raise ValueError(f"{DATA} has {data.dtype} {data.shape}, {INDEX} says {dtype} {expected}")
            size = (folder / DATA).stat().st_size
            if size != data.offset + data.nbytes:  # the hashes, counted from the end, would be of other rows
                raise ValueError(f"{DATA} has {size} bytes, its header says {data.offset + data.nbytes}")
            self.ids: list[str] = index["ids"]
            self.dtype = str(dtype)
            self.bad: list[Bad] = [(row, path, reason) for row, path, reason in index["bad"]]
            self.sources: list[Signature] = index["sources"]
            self.chunks: list[str | None] = index.get("chunks", [])
            self.blank: list[int] = index.get("blank", [])
            self.contents: list[str | None] = index.get("contents", [None] * len(self.ids))
        except UserError as error:
            raise self._damaged(f"{INDEX}: {error.found}") from error
        except DAMAGED as error:
            raise self._damaged(str(error)) from error
        self.rows = {i: row for row, i in enumerate(self.ids)}
        self._verified = False

    @property
    def remedy(self) -> str:
        """What to type about damage."""
        return f"rm -r {quoted(self.folder)}, then start the same command again: it is decoded anew"

    @property
    def row_bytes(self) -> int:
        """The size of one row."""
        data = np.load(self.folder / DATA, mmap_mode="r", allow_pickle=False)
        return int(np.prod(data.shape[1:])) * data.dtype.itemsize

    def select(self, ids: Sequence[str]) -> tuple[ShardRows, np.ndarray]:
        """Return the rows (n, …) of these ids, unread, and whether each is usable, (n,) bool; verified before.

        Raises:
            UserError: rows that are not what was written.
        """
        self.verify()
        rows = np.array([self.rows[i] for i in ids], dtype=np.int64)
        usable = np.ones(len(self.ids), dtype=bool)
        usable[[row for row, _, _ in self.bad]] = False
        return ShardRows(self.folder / DATA, rows, [self.contents[row] for row in rows]), usable[rows]

    def blank_among(self, ids: Iterable[str]) -> list[str]:
        """Return those of these samples' names whose rows are silence or a picture of one colour, each once."""
        blank = {self.ids[row] for row in self.blank}
        return [name for name in dict.fromkeys(ids) if name in blank]

    def verify(self) -> None:
        """Prove that the rows are what was written, unless that is known of this very file.

        Raises:
            UserError: rows that are not what was written, or whose renewal was interrupted.
        """
        if self._verified:
            return
        if not self.chunks and self.ids:
            log.warning("%s has no SHA-256 (of an earlier release): read unchecked", self.folder)
        elif self._stamp() != self._known():
            self.check(range(len(self.chunks)))
            self._leave_stamp()
        self._verified = True

    def check(self, chunks: Iterable[int]) -> None:
        """Hash chunks of rows; raise UserError where one is not what was written."""
        size, n = self.row_bytes, len(self.ids)
        with (self.folder / DATA).open("rb") as file:
            offset = (self.folder / DATA).stat().st_size - n * size
            for number in chunks:
                first, last = number * CHUNK, min((number + 1) * CHUNK, n)
                file.seek(offset + first * size)
                if (found := digest(file.read((last - first) * size))) != self.chunks[number]:
                    what = "the renewal of rows" if self.chunks[number] is None else "damage in rows"
                    rows = f"{first} to {last - 1} ({self.ids[first]} … {self.ids[last - 1]})"
                    raise self._damaged(f"{what} {rows}: SHA-256 {found[:12]}…, not {str(self.chunks[number])[:12]}…")

    def _stamp(self) -> dict[str, Any]:
        stat = (self.folder / DATA).stat()
        return {"size": stat.st_size, "times": [stat.st_mtime_ns, stat.st_ctime_ns], "chunks": self.chunks}

    def _known(self) -> dict[str, Any]:
        path = self.folder / STAMP
        try:
            return read_json(path, "a stamp", f"rm {quoted(path)}") if path.is_file() else {}
        except UserError:  # damaged: it is hashed again
            return {}

    def _leave_stamp(self) -> None:
        stamp = self._stamp()
        if max(stamp["times"]) > time.time_ns() - TICK_NS:
            return
        try:
            write_text(self.folder / STAMP, _line(sealed_json(stamp)))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("%s cannot be written: %s is hashed at every start", self.folder / STAMP, DATA)

    def _damaged(self, what: str) -> UserError:
        return UserError(str(self.folder), f"a damaged shard: {what}", f"{DATA} and {INDEX} as written", self.remedy)


def digest(content: bytes) -> str:
    """Return the SHA-256 of the bytes of a chunk."""
    return hashlib.sha256(content).hexdigest()


def _line(value: Any) -> str:
    return json.dumps(value) + "\n"


class ShardRows:
    """Some rows of a memory-mapped array, in any order, read only when indexed: `rows[[3, 1]]` is (2, …) in RAM.

    It has the part of ndarray's interface that batches need, and pickles as path and row numbers, so that loader
    processes open the file instead of receiving its content.

    Attributes:
        path: the file of the array.
        contents: the digest of each row's source; None where it has none.
    """

    def __init__(self, path: Path, rows: np.ndarray, contents: Sequence[str | None] | None = None):
        self.path, self._rows = path, rows
        self.contents: Sequence[str | None] = [None] * len(rows) if contents is None else contents
        self._data = np.load(path, mmap_mode="r", allow_pickle=False)
        self.shape: tuple[int, ...] = (len(rows), *self._data.shape[1:])
        self.dtype, self.ndim = self._data.dtype, self._data.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple):  # an element: row, then the place inside it
            return self[index[0]][index[1:]]
        rows = self._rows[index]
        if np.ndim(rows) == 0:
            return np.array(self._data[rows])
        order = np.argsort(rows, kind="stable")  # file order: one pass over the disk
        out = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        out[order] = self._data[rows[order]]
        return out

    def taken(self, rows: np.ndarray) -> ShardRows:
        """Return some of these rows, unread."""
        return ShardRows(self.path, self._rows[rows], [self.contents[row] for row in rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def __reduce__(self):
        return ShardRows, (self.path, self._rows)
