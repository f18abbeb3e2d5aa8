"""Reads the `.wandb` files that W&B leaves offline: a LevelDB log of protobuf records behind a header of 7 bytes."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
LARGEST = 64 * 2**20  # bytes; no run of a test writes as much


class Torn(Exception):
    """Says that a file ends within a record."""


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a file, each with its checksum checked."""
    assert path.stat().st_size < LARGEST
    data = path.read_bytes()
    if len(data) < 7:
        raise Torn(path)
    assert data[:4] == b":W&B", path
    assert struct.unpack("<HB", data[4:7]) == (0xBEE1, 0), "another version of the format"
    at, parts = 7, b""
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left >= 7 and len(data) - at < 7:
            raise Torn(path)
        if left < 7:  # padding
            at += left
            continue
        crc, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part = data[at + 7 : at + 7 + length]
        if len(part) < length:
            raise Torn(path)
        assert zlib.crc32(part, zlib.crc32(bytes([kind]))) == crc, "a record is damaged"
        at += 7 + length
        parts = part if kind in (FULL, FIRST) else parts + part
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record


@dataclass
class OfflineRun:
    """What one attempt at a run has written.

    Attributes:
        id, name, group, job_type, project, tags: of the run.
        config: its configuration.
        metrics: by name or pattern, the statistics that its summary takes and its step axis.
        rows: the rows of its history, each with `_step`.
        summary: the last value of each summary key.
        artefacts: by name, its type and the paths in it.
        exit_code: how it ended.
    """

    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, tuple[set[str], str]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artefacts: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    exit_code: int = -1


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Read all offline runs below a folder, in the order of their start, each of which has been ended.

    W&B's own process writes the files, the end of a run a moment after `finish` has returned.
    """
    return [_read(_whole(path)) for path in sorted(folder.rglob("offline-run-*/*.wandb"))]


def _whole(path: Path, patience: float = 20.0) -> list[Record]:
    until = time.monotonic() + patience
    while True:
        try:
            found = list(records(path))
        except Torn:
            found = []
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < until, f"{path} has no end"
        time.sleep(0.02)


def _read(whole: list[Record]) -> OfflineRun:
    found = OfflineRun()
    for record in whole:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            r = record.run
            found.id, found.name, found.group, found.job_type = r.run_id, r.display_name, r.run_group, r.job_type
            found.project, found.tags = r.project, list(r.tags)
            found.config |= {u.key: json.loads(u.value_json) for u in r.config.update if u.key}
        elif kind == "config":
            found.config |= {u.key: json.loads(u.value_json) for u in record.config.update if u.key}
        elif kind == "metric":
            m = record.metric
            statistics = {d.name for d, on in m.summary.ListFields() if on}
            found.metrics[m.name or m.glob_name] = (statistics, m.step_metric)
        elif kind == "history":
            row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            found.rows.append({**row, "_step": record.history.step.num})
        elif kind == "summary":
            for item in record.summary.update:
                found.summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        elif kind == "artifact":
            a = record.artifact
            found.artefacts[a.name] = (a.type, [c.path for c in a.manifest.contents])
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found
