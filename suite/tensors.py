"""Tensors that are kept (a teacher's answers, a learned rival, an exported network): sealed safetensors files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from callbacks.errors import UserError
from callbacks.files.atomic import write_bytes
from callbacks.files.sealed import KEY

BLANK = "0" * 64  # what stands for the seal while the file is hashed
LENGTH = 8  # bytes: the length of the header, which comes first in a safetensors file


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write tensors in one piece, with the SHA-256 of the whole file among its metadata.

    Args:
        path: the file.
        tensors: the tensors, by name.
        about: further metadata.
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    blank = save(plain, metadata={**(about or {}), KEY: BLANK})
    digest = hashlib.sha256(blank).hexdigest()
    write_bytes(path, blank.replace(_entry(BLANK), _entry(digest), 1))


def read_tensors(path: Path, expected: str, remedy: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read what `write_tensors` has written: the tensors, and the metadata without the seal.

    Args:
        path: the file.
        expected: what it should be, for the error.
        remedy: what to do about damage, for the error.

    Raises:
        UserError: a file that is damaged, foreign or not sealed.
    """
    data = path.read_bytes()
    about = _metadata(data)
    if about is None or KEY not in about:
        raise UserError(str(path), f"{len(data)} bytes without a SHA-256: damaged or foreign", expected, remedy)
    told = about.pop(KEY)
    found = hashlib.sha256(data.replace(_entry(told), _entry(BLANK), 1)).hexdigest()
    if found != told:
        raise UserError(str(path), f"damaged: SHA-256 {found[:12]}…, sealed as {told[:12]}…", expected, remedy)
    try:
        return load(data), about
    except SafetensorError as error:
        raise UserError(str(path), str(error).splitlines()[0], expected, remedy) from error


def _entry(digest: str) -> bytes:
    return f'"{KEY}":"{digest}"'.encode()


def _metadata(data: bytes) -> dict[str, str] | None:
    """Return the metadata of a safetensors file as plain strings; None where it has none."""
    size = int.from_bytes(data[:LENGTH], "little")
    try:
        about = json.loads(data[LENGTH : LENGTH + size])["__metadata__"]
        return {str(key): str(value) for key, value in about.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
