"""What a run of latentwire has left: its configuration and its checkpoints, and how a module takes its part of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from callbacks.errors import UserError
from callbacks.run import stored
from callbacks.run.manifest import KEY, verify
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


def part_of(checkpoint: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return state and manifest of the submodule whose names begin with `prefix`, by its own names."""

    def cut(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in mapping.items() if k.startswith(prefix)}

    found: dict[str, Any] = {"state_dict": cut(checkpoint["state_dict"])}
    if KEY in checkpoint:
        manifest = checkpoint[KEY]
        found[KEY] = {**manifest, **{k: cut(manifest[k]) for k in ("tensors", "others") if k in manifest}}
    return found


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
        module.load_state_dict(own["state_dict"])
    except RuntimeError as error:
        name = prefix.removeprefix("wire.").rstrip(".") or "wire"
        raise UserError(
            where,
            f"another {name}: {str(error).splitlines()[-1].strip()}",
            f"the {name} of that run",
            f"set {name}, wire.d_z and encoder_lm as in that run's {CONFIG}",
        ) from error
    verify(own, module, where)
