"""What was trained of a feedback system as a folder that needs no run: written, checked, read back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from asgml.feedback.build import build_finished
from asgml.feedback.finished import EXPORT_AGAIN, FORMAT, VERSION, asked
from asgml.feedback.restore import Restored, other_clip, placed
from callbacks.files.atomic import write_bytes
from callbacks.files.sealed import sealed_text
from suite.config.trusted import refuse_foreign, targets
from suite.runs.exported import MANIFEST, WEIGHTS, new_folder, read_manifest, refuse_difference, write_manifest
from suite.runs.provenance import CONFIG
from suite.tensors import read_tensors, write_tensors

ROOMS = ("feedback.model",)  # of asgml: what a CLIP may be built by


def export(run: Restored, folder: Path) -> float:
    """Write what was trained, read it back, and return the largest difference of its scores from the run's.

    Args:
        run: the run, as `asgml.feedback.restore.restore` returned it.
        folder: the folder, which may not exist yet, or is empty.

    Raises:
        UserError: a folder that is not empty, or a system that comes back as another.
    """
    with new_folder(folder):
        write_tensors(folder / WEIGHTS, run.module.state_dict())
        write_bytes(folder / CONFIG, sealed_text(OmegaConf.to_yaml(run.cfg, resolve=True)))
        _write_manifest(run, folder, None)
        packages = {target.partition(".")[0] for target in targets(_built(run.cfg))}  # their code has run already
        found = difference(run, load(folder, trusted=packages, checked=False))
        remedy = "score with the run itself: python -m asgml.feedback.predict RUN"
        refuse_difference(folder / WEIGHTS, found, 0.0, remedy)
    _write_manifest(run, folder, found)
    return found


def load(
    folder: Path,
    clip: str | None = None,
    trusted: Collection[str] = (),
    cfg: DictConfig | None = None,
    checked: bool = True,
) -> Restored:
    """Load an export; every byte of its files is verified.

    Args:
        folder: what `export` has written.
        clip: where the CLIP lies that it fits, in place of `clip.source`.
        trusted: packages besides this suite's whose code its configuration may name for the CLIP.
        cfg: its configuration where words have changed it, as `score.*`; None reads it.
        checked: whether an export is refused whose parity has not been found, because writing it was interrupted.

    Raises:
        UserError: no export, a damaged or unfinished one, one of another version, code that is not trusted, or another
            CLIP.
    """
    manifest = read_manifest(folder, FORMAT, VERSION, EXPORT_AGAIN, checked)
    cfg = placed(asked(folder, (), "", ()) if cfg is None else cfg, clip)
    refuse_foreign(_built(cfg), folder / CONFIG, "asgml", ROOMS, trusted)
    weights, _ = read_tensors(folder / WEIGHTS, "the weights of an export", EXPORT_AGAIN)
    module = build_finished(cfg, list(manifest["classes"]))
    module.model.clip.require(manifest["clip"], str(folder / MANIFEST), other_clip(cfg))
    module.load_state_dict(weights)
    return Restored(folder, cfg, manifest, module.eval(), manifest["checkpoint"])


def difference(run: Restored, other: Restored) -> float:
    """Return the largest difference of two systems' scores of drawn pictures, of every loop, pixels and pictures.

    Args:
        run: one.
        other: the other, of the same classes and size.
    """
    size = int(run.cfg.size)
    generator = torch.Generator().manual_seed(0)
    numbers = torch.arange(min(2, len(run.classes)))
    drawn = {"image": torch.randn(len(numbers), 3, size, size, generator=generator), "class": numbers}
    wanted, found = _scores(run, drawn), _scores(other, drawn)
    return max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True))


def _scores(run: Restored, drawn: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    module = run.module.cpu()
    module.bring_clip()
    dtype = next(module.parameters()).dtype
    with torch.no_grad():
        return module.scored({**drawn, "image": drawn["image"].to(dtype)})


def _built(cfg: DictConfig) -> dict[str, Any]:
    """Return the part of a configuration that names code which is run to score pictures."""
    return {"clip": OmegaConf.to_container(cfg.clip, resolve=True)}


def _write_manifest(run: Restored, folder: Path, parity: float | None) -> None:
    content = {
        "hash": run.result.get("hash"),
        "checkpoint": run.which,
        "classes": run.classes,
        "clip": run.module.fingerprint,
        "parity": parity,
    }
    write_manifest(folder, FORMAT, VERSION, content)
