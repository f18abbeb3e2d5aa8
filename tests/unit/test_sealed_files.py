"""Sealed files: no changed bit passes, readers of others read them, and a file without a seal is no damage."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from damage import DAMAGE, Damage
from safetensors.torch import load_file

from callbacks.errors import UserError
from callbacks.files import sealed
from callbacks.files.atomic import in_one_piece, write_bytes
from callbacks.run.stored import read_saved, write_checkpoint
from suite.report.data import read_run
from suite.runs.finished import read_config
from suite.runs.ledger import write_json
from suite.tensors import read_tensors, write_tensors


def checkpoint(path: Path) -> None:
    write_checkpoint({"state_dict": {"w": torch.arange(6.0)}, "n": [1, None]}, path)


def npz(path: Path) -> None:
    content = io.BytesIO()
    np.savez(content, y=np.arange(5))
    write_bytes(path, sealed.sealed_archive(content))


def json_object(path: Path) -> None:
    write_bytes(path, json.dumps(sealed.sealed_json({"a": 1.5, "b": {"ü": [1, None]}}), ensure_ascii=False).encode())


def text(path: Path) -> None:
    write_bytes(path, sealed.sealed_text("seed: 0\npaths:\n  runs: a\n"))


def tensors(path: Path) -> None:
    write_tensors(path, {"w": torch.arange(6.0), "n": torch.tensor([1])}, {"key": "abc"})


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "checkpoint": (checkpoint, read_saved),
    "tensors": (tensors, lambda path: read_tensors(path, "x", "y")),
    "npz": (npz, lambda path: sealed.check_archive(path, "x", "y")),
    "json": (json_object, lambda path: sealed.read_json(path, "x", "y")),
    "text": (text, lambda path: sealed.read_text(path, "x", "y")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_bit_counts(kind: str, tmp_path: Path) -> None:
    write, read = KINDS[kind]
    path = tmp_path / "file"
    write(path)
    whole = path.read_bytes()
    read(path)
    for place in {*range(0, len(whole), 1 + len(whole) // 100), *range(max(0, len(whole) - 120), len(whole))}:
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        with pytest.raises(UserError, match=str(path)):
            read(path)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_one_screen(kind: str, damage: Damage, tmp_path: Path) -> None:
    write, read = KINDS[kind]
    path = tmp_path / "file"
    write(path)
    damage(path)
    with pytest.raises(UserError, match=str(path)) as told:
        read(path)
    assert len(str(told.value).splitlines()) == 4


def test_others_read_sealed_files(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]["w"], torch.arange(6.0))
    assert zipfile.ZipFile(tmp_path / "a.ckpt").testzip() is None
    npz(tmp_path / "a.npz")
    assert np.load(tmp_path / "a.npz")["y"].tolist() == [0, 1, 2, 3, 4]
    tensors(tmp_path / "a.safetensors")
    assert load_file(tmp_path / "a.safetensors")["w"].tolist() == list(range(6))
    assert read_tensors(tmp_path / "a.safetensors", "x", "y")[1] == {"key": "abc"}
    text(tmp_path / "a.yaml")
    assert yaml.safe_load((tmp_path / "a.yaml").read_text()) == {"seed": 0, "paths": {"runs": "a"}}


def test_a_file_without_a_seal_is_read_and_told_apart(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "a.ckpt")
    assert not sealed.check_archive(tmp_path / "a.ckpt", "x", "y")
    assert read_saved(tmp_path / "a.ckpt") == {"a": 1}
    write_bytes(tmp_path / "a.json", b'{"a": 1}')
    assert sealed.read_json(tmp_path / "a.json", "x", "y") == {"a": 1}
    write_bytes(tmp_path / "a.yaml", b"a: 1\n")
    assert sealed.read_text(tmp_path / "a.yaml", "x", "y") == "a: 1\n"


def test_results_and_configurations_of_runs_need_their_seals(tmp_path: Path) -> None:
    """Rewritten by another program a file has no seal, and what it says may be anything."""
    config, result = tmp_path / "config.yaml", tmp_path / "result.json"
    write_bytes(config, b"program: asgml\n")
    write_bytes(result, b'{"status": "finished"}')  # of an early release, which had no seals
    assert read_run(tmp_path).config == {"program": "asgml"}
    body = {"status": "finished", "val_best": {"accuracy": 0.9}, "written": {}}
    write_json(result, body)
    with pytest.raises(UserError, match=r"config\.yaml[^$]*rewritten"):
        read_run(tmp_path)
    with pytest.raises(UserError, match=r"config\.yaml[^$]*rewritten"):
        read_config(tmp_path, "asgml", "model")
    write_bytes(config, sealed.sealed_text("program: asgml\n"))
    assert read_run(tmp_path).config == {"program": "asgml"}
    write_bytes(result, json.dumps(body).encode())
    with pytest.raises(UserError, match=r"result\.json[^$]*rewritten"):
        read_run(tmp_path)


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a", b"old")

    def fail() -> None:
        with in_one_piece(path) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
