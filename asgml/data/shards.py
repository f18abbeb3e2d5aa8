"""Memory-mapped shards: one array per modality, decoded once, written so that a kill loses one chunk at most.

A shard is a folder `<name>-<fingerprint>` with

    data.npy      (n, …), one row per sample, zeros where the sample's file is unusable
    index.json    ids, dtype, shape, preparation parameters, unusable rows and blank ones, size, time and digest of
                  every source file, SHA-256 of every chunk of rows; sealed
    corrupt.csv   path, reason: the unusable files

While it is written the folder is called `….partial` and holds `journal.jsonl`, one line per finished chunk; a line is
added only after the chunk's bytes have reached the disk, and holds their SHA-256. A restart continues after the last
whole line; at the end the folder is renamed. The fingerprint is a hash of everything that determines the content, so
different profiles never mix. `asgml.data.shard_rows` reads what is finished.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from asgml.data.media import MediaError
from asgml.data.shard_rows import CHUNK, INDEX, Bad, Shard, Signature, digest
from callbacks.errors import UserError, quoted
from callbacks.files.atomic import write_text
from callbacks.files.folders import make_folder
from callbacks.files.sealed import parse_json, sealed_json

try:
    import fcntl
except ImportError:  # not a POSIX system: preparation still works, but not from two processes at once
    fcntl = None  # type: ignore[assignment]

FORMAT = 2
_SPARE = 1 << 20  # bytes for the index and the list of corrupt files
_FULL = (errno.ENOSPC, errno.EDQUOT)


def fingerprint(content: object) -> str:
    """Return 12 hex digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def bar(title: str) -> Progress:
    """Return a progress bar on stderr with one task, whose total is not yet known."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True, force_jupyter=False))
    progress.add_task(title, total=None)
    return progress


@dataclass(frozen=True)
class ShardJob:
    """What to write as one shard.

    Attributes:
        folder: the folder of the finished shard; its name ends in the fingerprint.
        ids: the samples' names, one per row.
        shape: the shape of one row.
        dtype: the NumPy name of the rows' type.
        decode: the function from a row's number to its array of `shape`; called from threads, raises `MediaError`.
        signature: the function from a row's number to size and time of its source, None where that is absent.
        params: what the rows are made with, for the reader of the index.
        content: the function from a row's number to the digest of what its source holds, called after `decode` (see
            `asgml.data.decoded.content_of`). None leaves the rows without: no other is ever told to be the same.
    """

    folder: Path
    ids: Sequence[str]
    shape: tuple[int, ...]
    dtype: str
    decode: Callable[[int], np.ndarray]
    signature: Callable[[int], Signature]
    params: dict[str, Any]
    content: Callable[[int], str] | None = None

    @property
    def row_bytes(self) -> int:
        """The size of one row."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def write_shard(job: ShardJob, workers: int = 1, title: str = "") -> Path:
    """Write the shard, continue an interrupted one, or bring a finished one up to date, and return its folder.

    In a finished shard the rows whose source file has changed or appeared since are decoded again.

    Args:
        job: what to write.
        workers: the number of decoding threads.
        title: the title of the progress bar; the folder's name if empty.

    Raises:
        UserError: the folder cannot be written, or the disk is full; what was written stays valid, and the next call
            continues there.
    """
    title = title or job.folder.name
    place = job.folder.parent
    make_folder(place, f"data.prepared={place}", "set data.prepared=FOLDER, or null for the one beside the data")
    try:
        with _locked(job.folder.parent):
            if job.folder.exists():
                _refresh(job, workers, title)
            else:
                _write(job, workers, title)
    except OSError as error:
        if error.errno not in (*_FULL, errno.EACCES, errno.EROFS):
            raise
        raise _disk_error([job], error) from error
    return job.folder


def _write(job: ShardJob, workers: int, title: str) -> None:
    partial = _partial(job)
    partial.mkdir(exist_ok=True)
    n, journal = len(job.ids), partial / "journal.jsonl"
    header = {"format": FORMAT, "rows": n, "chunk": CHUNK, "ids": fingerprint(list(job.ids))}
    done = _read_journal(journal, header)
    chunks = range(len(done), -(-n // CHUNK))
    check_space([job])
    with _open_data(partial / "data.npy", job) as data, journal.open("a") as log, bar(title) as progress:
        if not done:
            _append(log, header)
        offset = data.tell()
        progress.update(progress.task_ids[0], total=n, completed=len(done) * CHUNK)
        with ThreadPoolExecutor(workers) as pool:  # threads: decoders release the interpreter lock
            for chunk in chunks:
                rows = range(chunk * CHUNK, min((chunk + 1) * CHUNK, n))
                found = _decode(job, rows, pool)
                data.seek(offset + chunk * CHUNK * job.row_bytes)
                _write_bytes(data, found.block)
                _sync(data)
                entry = {
                    "chunk": chunk,
                    "bad": found.bad,
                    "blank": found.blank,
                    "contents": found.contents,
                    "sources": [job.signature(row) for row in rows],
                    "data": digest(found.block.tobytes()),
                }
                _append(log, entry)
                done.append(entry)
                progress.advance(progress.task_ids[0], len(rows))
    keys = ("bad", "blank", "contents", "sources")
    rows_of: dict[str, list[Any]] = {key: [value for entry in done for value in entry[key]] for key in keys}
    _write_index(partial, job, {**rows_of, "chunks": [entry["data"] for entry in done]})
    journal.unlink()
    partial.rename(job.folder)


def _refresh(job: ShardJob, workers: int, title: str) -> None:
    """Decode stale rows again; until that is done the index has no hash of their chunks."""
    shard = Shard(job.folder)
    unusable = {row: (path, reason) for row, path, reason in shard.bad}
    blank, contents = set(shard.blank), list(shard.contents)
    sources, chunks = list(shard.sources), list(shard.chunks)
    stale = stale_rows(job, shard)
    if not stale:
        return
    touched = sorted({row // CHUNK for row in stale}) if chunks else []
    shard.check(number for number in touched if chunks[number] is not None)  # damage is not to be hashed as content
    for number in touched:
        chunks[number] = None

    def write_index() -> None:
        bad = [(row, *unusable[row]) for row in sorted(unusable)]
        found: dict[str, Sequence[Any]] = {"bad": bad, "blank": sorted(blank), "contents": contents}
        _write_index(job.folder, job, {**found, "sources": sources, "chunks": chunks})

    write_index()
    offset = job.folder.joinpath("data.npy").stat().st_size - len(job.ids) * job.row_bytes
    with (
        (job.folder / "data.npy").open("r+b") as data,
        bar(f"{title}, {len(stale)} changed files") as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        progress.update(progress.task_ids[0], total=len(stale))
        for start in range(0, len(stale), CHUNK):
            rows = list(stale)[start : start + CHUNK]
            found = _decode(job, rows, pool)
            for row, pixels, content in zip(rows, found.block, found.contents):
                data.seek(offset + row * job.row_bytes)
                _write_bytes(data, pixels)
                unusable.pop(row, None)
                sources[row], contents[row] = stale[row], content
            unusable |= {row: (path, reason) for row, path, reason in found.bad}
            blank = blank - set(rows) | set(found.blank)
            progress.advance(progress.task_ids[0], len(rows))
        _sync(data)
        for number in touched:
            data.seek(offset + number * CHUNK * job.row_bytes)
            chunks[number] = digest(data.read(min(CHUNK, len(job.ids) - number * CHUNK) * job.row_bytes))
    write_index()


def all_there(jobs: Iterable[ShardJob]) -> bool:
    """Return whether the shards of all jobs are finished."""
    return all(job.folder.exists() for job in jobs)


def renews(shard: Shard) -> bool:
    """Return whether a shard has unusable files, which may have been replaced, or rows half renewed."""
    return bool(shard.bad) or None in shard.chunks


def stamp_of(path: Path) -> Signature:
    """Return [size, time in ns] of a file, [total size, latest time] of a folder's files, None if it is not there."""
    try:
        files = list(path.iterdir()) if path.is_dir() else [path]
        stats = [file.stat() for file in files]
    except FileNotFoundError:
        return None
    return [sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]


def stale_rows(job: ShardJob, shard: Shard | None = None) -> dict[int, Signature]:
    """Return the rows of a finished shard that are to be decoded again, each with size and time of its source.

    These are the rows whose source file has changed or appeared since, and those of chunks whose renewal was
    interrupted.
    """
    shard = shard or Shard(job.folder)
    now = {row: job.signature(row) for row in range(len(job.ids))}
    unfinished = {number for number, known in enumerate(shard.chunks) if known is None}
    return {
        row: signature
        for row, signature in now.items()
        if signature is not None and (signature != shard.sources[row] or row // CHUNK in unfinished)
    }


def _partial(job: ShardJob) -> Path:
    return job.folder.with_name(job.folder.name + ".partial")


class _Decoded(NamedTuple):
    block: np.ndarray  # (rows, *shape)
    bad: list[Bad]
    blank: list[int]
    contents: list[str | None]


def _decode(job: ShardJob, rows: Sequence[int], pool: ThreadPoolExecutor) -> _Decoded:
    block = np.zeros((len(rows), *job.shape), dtype=job.dtype)

    def one(i: int) -> Bad | str | None:
        try:
            block[i] = job.decode(rows[i])
            return None if job.content is None else job.content(rows[i])
        except MediaError as error:
            block[i] = 0
            return rows[i], error.path, error.reason

    found = list(pool.map(one, range(len(rows))))
    bad = [f for f in found if isinstance(f, tuple)]
    unusable = {row for row, _, _ in bad}
    blank = [row for row, empty in zip(rows, _blank(block)) if empty and row not in unusable]
    return _Decoded(block, bad, blank, [f if isinstance(f, str) else None for f in found])


def _blank(block: np.ndarray) -> np.ndarray:
    """Return which rows are silence or a picture of one colour, (n,) bool.

    In these every frame of a spectrogram is the same at all frequencies, and every channel at all places. Vectors and
    sequences are never called so.
    """
    if block.ndim < 4:
        return np.zeros(len(block), dtype=bool)
    flat = block.reshape(len(block), -1, block.shape[-1])
    return (flat == flat[:, :1]).all(axis=(1, 2))


def _read_journal(path: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of whole, consecutive lines and cut the file after them; [] if it is another job's."""
    if not path.exists():
        return []
    entries: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is a torn line
    kept = 0
    for i, line in enumerate(lines):
        try:
            entry = parse_json(line, str(path), "an entry", f"rm {quoted(path)}")
        except UserError:
            break  # torn by a power failure, or damaged: this chunk is decoded again
        if entry != header if i == 0 else entry.get("chunk") != i - 1:
            break
        entries.append(entry)
        kept += len(line) + 1
    os.truncate(path, kept)
    return entries[1:]


def _open_data(path: Path, job: ShardJob) -> IO[bytes]:
    """Open the data file behind its header, for ordinary writes: a full disk under a memory map ends the process."""
    file = path.open("r+b" if path.exists() else "w+b")
    shape = (len(job.ids), *job.shape)
    descr = np.lib.format.dtype_to_descr(np.dtype(job.dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file


def _write_bytes(file: IO[bytes], block: np.ndarray) -> None:
    file.write(block.tobytes())


def _append(file: IO[str], entry: dict[str, Any]) -> None:
    file.write(json.dumps(sealed_json(entry)) + "\n")
    _sync(file)


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write_index(folder: Path, job: ShardJob, rows_of: Mapping[str, Sequence[Any]]) -> None:
    listing = io.StringIO(newline="")
    csv.writer(listing).writerows([("path", "reason"), *((path, reason) for _, path, reason in rows_of["bad"])])
    index = {
        "format": FORMAT,
        "shape": list(job.shape),
        "dtype": job.dtype,
        "params": job.params,
        "ids": list(job.ids),
        **rows_of,
    }
    write_text(folder / "corrupt.csv", listing.getvalue())
    write_text(folder / INDEX, json.dumps(sealed_json(index)))


def bytes_left(job: ShardJob) -> int:
    """Return the bytes of disk space that writing or finishing this shard still takes."""
    if job.folder.exists():
        return 0
    written = _partial(job) / "data.npy"
    return max(0, len(job.ids) * job.row_bytes - (written.stat().st_size if written.exists() else 0)) + _SPARE


def check_space(jobs: Sequence[ShardJob]) -> None:
    """Refuse shards, all in one folder, that will not fit on its disk."""
    if jobs and _free(jobs[0]) < sum(bytes_left(job) for job in jobs):
        raise _disk_error(jobs, OSError(errno.ENOSPC, "too little space for what is still to be written"))


def _free(job: ShardJob) -> int:
    existing = next(p for p in job.folder.absolute().parents if p.exists())
    return shutil.disk_usage(existing).free


def _disk_error(jobs: Sequence[ShardJob], error: OSError) -> UserError:
    parent = str(jobs[0].folder.parent)
    if error.errno not in _FULL:
        return UserError(parent, str(error), "a folder that can be written", "set data.prepared=FOLDER to such a one")
    sizes = ", ".join(f"{job.folder.name} of {len(job.ids)} rows" for job in jobs)
    return UserError(
        parent,
        f"disk full: {error.strerror}; {_free(jobs[0])} bytes are free",
        f"{sum(bytes_left(job) for job in jobs)} bytes for {sizes}",
        "free some space, or set data.prepared=FOLDER to one on another disk; what is written stays valid, and the same"
        " command continues there",
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one writer while others wait. The system releases the lock when a process dies."""
    if fcntl is None:
        yield
        return
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
