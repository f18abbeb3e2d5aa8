"""What a run of latentwire has left: its configuration and its checkpoints, and how a module takes its part of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from callbacks.errors import UserError
from callbacks.run import stored
from callbacks.run.manifest import KEY, entry_of, trainable, verify
from suite.runs import finished
from suite.runs.finished import PLACE
from suite.runs.provenance import CONFIG, read_result


def read_config(run_dir: Path) -> DictConfig:
    """Read the configuration that a run was made with. Raises UserError where there is none of latentwire."""
    return finished.read_config(run_dir, "latentwire", "wire")


def checkpoint_path(run_dir: Path, which: str = "best") -> Path:
    """Return the path of a run's checkpoint, `best` or `last`. Raises UserError where there is none."""
    path = run_dir / "checkpoints" / f"{which}.ckpt"
    if not path.is_file():
        status = read_result(run_dir).get("status", "no result.json") if run_dir.is_dir() else "no such folder"
        remedy = f"give {PLACE} of a run that has validated once (the ladder climbs without one up to ladder.last=4)"
        raise UserError(str(path), f"not there (run: {status})", "a checkpoint of a finished run", remedy)
    return path


def read_checkpoint(run_dir: Path, which: str = "best") -> dict[str, Any]:
    """Read a run's checkpoint, `best` or `last`. Raises UserError where there is none of latentwire."""
    path = checkpoint_path(run_dir, which)
    found = stored.read_checkpoint(path, "repeat the run's command with resume=never")
    if "latentwire" not in found:
        raise UserError(str(path), "a checkpoint of another program", "one of latentwire", f"give {PLACE} of a wire")
    return found


def read_inputs(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the fingerprints of the files that a checkpoint was made with; None where it does not say."""
    return stored.state_of(checkpoint).get("inputs")


def part_of(checkpoint: Mapping[str, Any], prefix: str, without: str = "") -> dict[str, Any]:
    """Return state and manifest of the submodule whose names begin with `prefix`, by its own names.

    Args:
        checkpoint: as `read_checkpoint` returned it.
        prefix: the beginning of the submodule's names.
        without: the beginning of names that are left out; "": none.
    """

    def cut(mapping: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {k: v for k, v in mapping.items() if k.startswith(prefix)}
        return {k.removeprefix(prefix): v for k, v in chosen.items() if not (without and k.startswith(without))}

    found: dict[str, Any] = {"state_dict": cut(checkpoint["state_dict"])}
    if KEY in checkpoint:
        manifest = checkpoint[KEY]
        found[KEY] = {**manifest, **{k: cut(manifest[k]) for k in ("tensors", "others") if k in manifest}}
    return found


def load_part(module: torch.nn.Module, own: Mapping[str, Any], where: str, without: str = "") -> None:
    """Load a part of a checkpoint into a module and prove that it has arrived, whoever trained which of its tensors.

    A tensor that was frozen there and is trained here, or the reverse, is verified all the same.

    Args:
        module: the module.
        own: state and manifest, as `part_of` returned them.
        where: what names the checkpoint in errors.
        without: the beginning of the module's names that are no part of it and stay; "": none.

    Raises:
        RuntimeError: tensors of other names or shapes.
        UserError: a checkpoint that does not hold all that was trained.
    """
    stay = {k: v for k, v in module.state_dict().items() if without and k.startswith(without)}
    module.load_state_dict({**stay, **own["state_dict"]})
    if KEY not in own:
        verify(own, module, where)  # says that there is none
    listed = {**own[KEY].get("others", {}), **own[KEY]["tensors"]}
    listed |= {name: entry_of(value) for name, value in stay.items()}
    here = trainable(module)
    told = {**own[KEY], "tensors": {k: v for k, v in listed.items() if k in here}}
    told["others"] = {k: v for k, v in listed.items() if k not in here}
    verify({"state_dict": {**stay, **own["state_dict"]}, KEY: told}, module, where)


def take_over(module: torch.nn.Module, checkpoint: Mapping[str, Any], prefix: str, where: str) -> None:
    """Load a submodule's part of a checkpoint, every trained tensor verified.

    Args:
        module: the submodule.
        checkpoint: as `read_checkpoint` returned it.
        prefix: the beginning of the submodule's names in it, e.g. `wire.encoder.`.
        where: what names the checkpoint in errors: its file, or the key that asks for it.

    Raises:
        UserError: a part of another kind or size, or a checkpoint that does not hold all that was trained.
    """
    own = part_of(checkpoint, prefix)
    try:
        load_part(module, own, where)
    except RuntimeError as error:
        name = prefix.removeprefix("wire.").rstrip(".") or "wire"
        raise UserError(
            where,
            f"another {name}: {str(error).splitlines()[-1].strip()}",
            f"the {name} of that run",
            f"set {name}, wire.d_z and encoder_lm as in that run's {CONFIG}",
        ) from error
