"""A bundle: one end of a wire as a folder of two files, `<kind>.json` and `<kind>.safetensors`.

The tensors are the state of every part, buffers included. The JSON file has the format's version, the settings that the
parts are built from, SHA-256 of the tensor file, and SHA-256 of itself; it is accepted only as `write` renders it, byte
for byte. So damage to either file, or files of two bundles in one folder, are found before anything is built. This is
no signature: whoever rewrites both files can make another valid bundle.

Reading one runs no code but this suite's: a `_target_` in the settings has to be a public name of the parts that a wire
is made of, or to lie in a package that the user trusts by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load, save
from torch import Tensor

from callbacks.errors import UserError
from callbacks.files.atomic import write_bytes
from suite.config.trusted import refuse_foreign

Kind = Literal["writer", "reader"]
VERSION = 1
ROOMS = ("adapters", "codec", "encoders", "injectors", "lm", "pocket")  # of latentwire: what a wire is made of
LOADERS = ("latentwire.lm.FrozenLM.load",)  # public, one level deeper
AGAIN = "write it again with python -m latentwire.export RUN -o DIR"


@dataclass(frozen=True)
class Bundle:
    """Holds what a bundle says.

    Attributes:
        path: the JSON file, for errors.
        settings: plain values that the parts are built from.
        tensors: their state, by name.
    """

    path: Path
    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def write(folder: Path, kind: Kind, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a bundle; the JSON file comes last, so that an interrupted one is none.

    Args:
        folder: the folder, which is made.
        kind: `writer` or `reader`.
        settings: plain JSON values.
        tensors: the state of all parts, by name.
    """
    weights = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    write_bytes(folder / f"{kind}.safetensors", weights)
    manifest = {
        "format": f"latentwire {kind}",
        "version": VERSION,
        "files": {f"{kind}.safetensors": _sha256(weights)},
        "settings": dict(settings),
    }
    write_bytes(folder / f"{kind}.json", _rendered(manifest))


def read(folder: Path, kind: Kind, trusted: Collection[str] = ()) -> Bundle:
    """Read a bundle, every byte of it verified.

    Args:
        folder: the folder.
        kind: `writer` or `reader`.
        trusted: packages besides this suite's whose code the settings may name.

    Raises:
        UserError: no such bundle, another version, damage, or settings that name code which is not trusted.
    """
    path = folder / f"{kind}.json"
    data = _bytes(path, f"the folder of a {kind} bundle", "make one: python -m latentwire.export RUN -o DIR")
    try:
        manifest = json.loads(data)
        intact = isinstance(manifest, dict) and manifest.get("format") == f"latentwire {kind}"
    except (ValueError, RecursionError):  # neither UTF-8 nor JSON, or nested beyond any use
        manifest, intact = {}, False
    if intact and manifest.get("version") != VERSION and _intact(manifest):
        found = f"format version {manifest.get('version')}"
        raise UserError(str(path), found, f"version {VERSION}", "check out the release that wrote it")
    if not intact or _rendered(manifest) != data:
        raise UserError(str(path), "a checksum that does not match: the file is damaged", "an intact file", AGAIN)
    place = folder / f"{kind}.safetensors"
    weights = _bytes(place, f"the tensors that {path.name} was written with", AGAIN)
    told = manifest["files"][place.name]
    if (digest := _sha256(weights)) != told:
        found = f"SHA-256 {digest[:16]}…: it is damaged, or of another bundle"
        raise UserError(str(place), found, f"{told[:16]}…, as {path.name} says", AGAIN)
    refuse_foreign(manifest["settings"], path, "latentwire", ROOMS, trusted, LOADERS)
    return Bundle(path, manifest["settings"], load(weights))


def is_bundle(place: Path) -> bool:
    """Tell whether a folder is a bundle, whole or damaged, or the folder that `latentwire.export` made."""
    files = [f"{kind}{suffix}" for kind in ("writer", "reader") for suffix in (".json", ".safetensors")]
    return any((place / name).exists() for name in (*files, "writer", "readers"))


def writer_in(place: Path) -> Path:
    """Return the folder of the writer bundle: the one given, or the one within what `latentwire.export` made."""
    return place / "writer" if (place / "writer").is_dir() else place


def reader_in(place: Path, model: str | None) -> Path:
    """Return the folder of a reader bundle: the one given, or a model's within what `latentwire.export` made.

    Raises:
        UserError: none for this model, or several and no model named.
    """
    if not (place / "readers").is_dir():
        return place
    names = sorted(p.name for p in (place / "readers").iterdir() if p.is_dir())
    if model is None and len(names) == 1:
        return place / "readers" / names[0]
    if model not in names:
        found = "none" if model is None else f"no reader in {place}"
        remedy = f"add --model {names[0]}" if names else "export one: python -m latentwire.export RUN -o DIR"
        raise UserError(f"--model {model or ''}".strip(), found, " | ".join(names) or "a reader bundle", remedy)
    return place / "readers" / str(model)


def _rendered(manifest: Mapping[str, Any]) -> bytes:
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    return (json.dumps({**body, "sha256": _checksum(body)}, indent=2, sort_keys=True) + "\n").encode()


def _checksum(body: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


def _intact(manifest: Mapping[str, Any]) -> bool:
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    return manifest.get("sha256") == _checksum(body)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _bytes(path: Path, expected: str, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(str(path), error.strerror or str(error), expected, remedy) from error
