"""Messages, bundles, checkpoints and whatever else is sealed: no damaged one is ever read as if it were whole."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import any_json, damaged, fuzz
from hypothesis import strategies as st
from lw_parts import latents, make_codec

from asgml.data.preprocessing import Preprocessing
from asgml.data.shard_rows import Shard
from asgml.data.shards import ShardJob, write_shard
from asgml.data.spec import DataSpec, ModalitySpec
from callbacks.files import sealed
from callbacks.run.stored import read_checkpoint, read_saved, write_checkpoint
from latentwire import bundle
from latentwire.codec import message as wire

CONFIG = {"encoder": {"name": "byte"}}
SLOTS = st.integers(0, 2**16 - 1) | st.integers(0, 9)
CRAFTED = st.tuples(st.sampled_from([0, 1, 2, 3]), SLOTS, st.binary(max_size=80))


@pytest.mark.parametrize("name", ["fp16", "int4", "fsq", "rvq"])
def test_messages(name: str) -> None:
    codec = make_codec(name)
    identity = wire.fingerprint(CONFIG, codec)
    message = wire.pack(latents(4), codec, identity)

    def crafted(part: tuple[int, int, bytes]) -> bytes:
        """A message of nonsense whose checksum is right."""
        body = wire.HEADER.pack(wire.MAGIC, part[0], identity[:4], part[1]) + part[2]
        return body + wire.CHECKSUM.pack(zlib.crc32(identity + body))

    def act(given: tuple[bool, bytes]) -> None:
        whole, data = given
        z = wire.unpack(data, codec, identity)
        assert z.isfinite().all() or whole
        assert whole or data == message, "a damaged message was read"

    bare = st.tuples(st.just(False), damaged(message) | st.binary(max_size=60))
    fuzz("messages", 40, bare | st.tuples(st.just(True), CRAFTED.map(crafted)), act)


def test_bundles(tmp_path: Path) -> None:
    bundle.write(tmp_path, "reader", {"slots": 3, "parts": ["a", "b"]}, {"w": torch.arange(6.0)})
    files = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def act(given: tuple[str, bytes]) -> None:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        (tmp_path / given[0]).write_bytes(given[1])
        bundle.read(tmp_path, "reader")
        assert given[1] == files[given[0]], "a damaged bundle was read"

    kinds = [st.tuples(st.just(name), damaged(data)) for name, data in files.items()]
    nonsense = st.one_of(any_json().map(json.dumps), st.integers(1, 10**5).map(lambda n: "[" * n))
    foreign = st.tuples(st.just("reader.json"), nonsense.map(str.encode))
    fuzz("bundles", 60, st.one_of(*kinds, foreign), act)


def checkpoint() -> dict[str, Any]:
    return {"state_dict": {"w": torch.arange(40.0)}, "callbacks": {"StepCheckpoint": {"hash": "x"}}, "epoch": 3}


def test_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(checkpoint(), path)
    whole = path.read_bytes()
    bare = io.BytesIO()
    torch.save(checkpoint(), bare)  # as an earlier release has written it: there is no seal to be broken

    def act(given: tuple[bool, bytes]) -> None:
        path.write_bytes(given[1])
        (read_saved if given[0] else read_checkpoint)(path)
        assert not given[0] or given[1] == whole, "a damaged checkpoint was read"

    kinds = st.tuples(st.just(True), damaged(whole)) | st.tuples(st.just(False), damaged(bare.getvalue()))
    fuzz("checkpoints", 80, kinds, act)


def preprocessing(path: Path) -> Callable[[], object]:
    spec = DataSpec({"a": ModalitySpec("a", "vector", (2,))}, ["x", "y"])
    seen = {"train": np.arange(5), "val": np.arange(2)}
    Preprocessing(spec, {"a": {"mean": np.zeros(2)}}, seen).write(path)
    return lambda: Preprocessing.read(path, "")


def text(path: Path) -> Callable[[], object]:
    path.write_bytes(sealed.sealed_text("seed: 1\nname: x\n"))
    return lambda: sealed.read_text(path, "", "")


def result(path: Path) -> Callable[[], object]:
    path.write_text(json.dumps(sealed.sealed_json({"test": {"accuracy": 0.5}, "hash": "abc"})))
    return lambda: sealed.read_json(path, "", "")


@pytest.mark.parametrize("write", [preprocessing, text, result])
def test_sealed_files(write: Callable[[Path], Callable[[], object]], tmp_path: Path) -> None:
    path = tmp_path / "file"
    read = write(path)
    whole, expected = path.read_bytes(), read()

    def act(data: bytes) -> None:
        path.write_bytes(data)
        found = read()
        assert str(found) == str(expected) or not _has_seal(data), "a damaged file was read"

    fuzz("sealed files", 50, damaged(whole), act)


def _has_seal(data: bytes) -> bool:
    """Files without any seal, as earlier releases wrote them, are read; a seal that is cut off whole leaves one."""
    return b"sha256" in data


def test_shards(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (70, 2, 3, 1)).astype(np.uint8)
    ids = [f"c{i}" for i in range(70)]
    job = ShardJob(tmp_path / "s-1", ids, (2, 3, 1), "uint8", lambda i: rows[i], lambda i: [1, i], {})
    folder = write_shard(job)
    files = {name: (folder / name).read_bytes() for name in ("data.npy", "index.json")}

    def act(given: tuple[str, bytes]) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        (folder / given[0]).write_bytes(given[1])
        (folder / ".verified.json").unlink(missing_ok=True)
        found = Shard(folder).select(ids)[0]
        np.testing.assert_array_equal(found[:], rows)

    fuzz("shards", 50, st.one_of(*(st.tuples(st.just(n), damaged(d)) for n, d in files.items())), act)
