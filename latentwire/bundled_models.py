"""The frozen models that a bundle needs: found on this machine, where their files may lie elsewhere, and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from callbacks.errors import UserError
from latentwire.lm.frozen import FrozenLM
from suite.config.check import check
from suite.config.instantiate import build_node
from suite.config.signature import locate, parameters


def language_model(settings: Mapping[str, Any], changes: Mapping[str, Any] | None, path: Path) -> FrozenLM:
    """Load the language model that a bundle needs. Raises UserError where it is not there, or another one."""
    node = {**settings["node"], **(changes or {})}
    known = parameters(locate(settings["node"]["_target_"])).names
    for key in changes or {}:
        if key not in known:
            raise UserError(f"--lm {key}", "no such setting", " | ".join(known), f"add --lm {known[0]}=…")
    place = next((key for key in ("source", "root") if key in known), known[0])
    remedy = f"add --lm {place}=FOLDER, where that model lies on this machine"
    try:
        check(OmegaConf.create({"model": node}))
        lm: FrozenLM = build_node(OmegaConf.create(node))
    except UserError as error:
        key = error.where.rpartition(".")[2]
        if key in (changes or {}) and key != place:  # not where the files are, but what was asked for
            remedy = f"leave out --lm {key}={node[key]}"
        elif key == "device":
            remedy = "add --lm device=cpu"
        raise UserError(f"model of {path}: {error.where}", error.found, error.expected, remedy) from error
    for what, now in (("weights", lm.fingerprint()), ("tokenizer", lm.style.fingerprint())):
        if now != settings[what]:
            expected = f"{settings[what][:16]}…, the {what} that {path} was made with"
            if "dtype" in (changes or {}):
                remedy = "leave out --lm dtype=…: these are fingerprints of the weights as they were in training"
            raise UserError(f"{what} of {lm.name}", f"fingerprint {now[:16]}…", expected, remedy)
    return lm


def parted(node: Mapping[str, Any], changes: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return an encoder's node with the changes that are about its own files, and the others: of its language model."""
    places = getattr(locate(node["_target_"]), "places", ())
    own = {key: value for key, value in (changes or {}).items() if key in places}
    left = {key: value for key, value in (changes or {}).items() if key not in places}
    return {**node, **own}, left or None


def refuse_changes(node: Mapping[str, Any], changes: Mapping[str, Any] | None) -> None:
    """Refuse changes of a language model to an encoder that stands on none. Raises UserError."""
    places = getattr(locate(node["_target_"]), "places", ())
    for key in changes or {}:
        needed = f"{' | '.join(places) or 'none'}: the encoder of this bundle stands on no language model"
        remedy = f"add --lm {places[0]}=FOLDER" if places else "leave out --lm"
        raise UserError(f"--lm {key}", "a setting of a language model", needed, remedy)


@contextmanager
def placed(node: Mapping[str, Any], path: Path) -> Iterator[None]:
    """Tell the remedy of a bundle where the files of an encoder are not there, or those of another one."""
    places = getattr(locate(node["_target_"]), "places", ())
    try:
        yield
    except UserError as error:
        key = next((k for k in places if error.where.split()[0] == f"encoder.{k}"), None)
        if key is None:
            raise
        remedy = f"add --lm {key}=FOLDER, where that model lies on this machine"
        raise UserError(f"encoder of {path}: {error.where}", error.found, error.expected, remedy) from error
