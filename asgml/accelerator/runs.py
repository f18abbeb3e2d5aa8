"""Runs on random data that lie on the device, configured and built as `asgml.run` does it."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from asgml.build import Parts, build
from asgml.data.datamodule import MultimodalData
from asgml.data.dataset import Batch
from asgml.data.media_transforms import SpectrogramTransform
from asgml.data.spec import DataSpec, Kind, ModalitySpec, Split, Table
from suite.accelerator.section import Place
from suite.config.compose import Composer
from suite.runs.identity import config_hash
from suite.runs.job import Run, seed_everything
from suite.runs.record import release_memory

CLASSES = 6
Overrides = Mapping[str, Any]

#: What differs between the modes: the method, and nodes below `asgml`.
MODES: dict[str, tuple[str, Overrides]] = {
    "joint": ("joint", {}),
    "uniform": ("uniform", {}),
    **{
        f"frequency {masking}, k = 2": (
            "uniform",
            {"asgml.mode": "frequency", "asgml.k": 2, "asgml.masking": masking},
        )
        for masking in ("soft", "hard", "fusion_preserving", "accumulate")
    },
    "staleness, tau = 2": ("uniform", {"asgml.mode": "staleness", "asgml.tau": 2}),
    "adaptive": ("uniform", {"asgml.mode": "adaptive"}),
    "boost": ("uniform", {"asgml.boost.enabled": True}),
}


@dataclass(frozen=True)
class Clips:
    """Says what a run reads and how it encodes it.

    Attributes:
        audio: the shape of an audio sample.
        visual: the shape of a visual sample.
        model: the config group's choice, `small` or `resnet18`.
        batch: the number of samples in a batch.
        batches: the number of different training batches; a longer run sees them again.
        held_out: the number of validation samples.
        options: overrides of the model.
    """

    audio: tuple[int, ...]
    visual: tuple[int, ...]
    model: str = "small"
    batch: int = 16
    batches: int = 4
    held_out: int = 32
    options: tuple[tuple[str, Any], ...] = ()

    def tiny(self) -> Clips:
        """Return the same on a scale for a rehearsal on the CPU."""
        narrow = (("model.encoder.width", 4),) if self.model == "resnet18" else (("model.encoder.dim", 8),)
        audio, visual = ((s[0], 33, 32) if len(s) == 3 else s for s in (self.audio, self.visual))
        return replace(self, audio=audio, visual=visual, batch=4, batches=2, held_out=8, options=narrow)


#: CREMA-D as prepared for training: a log spectrogram and one frame, two ResNet18, batches of 64.
CREMAD = Clips((1, 257, 188), (3, 224, 224), "resnet18", batch=64, batches=2, held_out=256)
VECTORS = Clips((512,), (512,))
PICTURES = Clips((1, 32, 32), (3, 32, 32))


@functools.cache
def _values(shape: tuple[int, ...], n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, *shape), np.float32)


class RandomClips:
    """Holds random samples whose classes differ in their means, as a data source.

    Args:
        audio: the shape of an audio sample.
        visual: the shape of a visual sample.
        train: the number of training samples.
        held_out: the number of validation samples.
    """

    def __init__(self, audio: tuple[int, ...], visual: tuple[int, ...], train: int, held_out: int):
        self.shapes = {"audio": tuple(audio), "visual": tuple(visual)}
        self.sizes: dict[Split, int] = {"train": train, "val": held_out, "test": CLASSES}

    def spec(self) -> DataSpec:
        kinds: dict[int, Kind] = {1: "vector", 3: "image"}
        made = {m: ModalitySpec(m, kinds[len(shape)], shape) for m, shape in self.shapes.items()}
        return DataSpec(made, [f"class {i}" for i in range(CLASSES)], "audio")

    def tables(self) -> dict[Split, Table]:
        out: dict[Split, Table] = {}
        for number, (split, n) in enumerate(self.sizes.items()):
            y = np.arange(n) % CLASSES
            x = {m: _values(shape, n, 2 * number + i) for i, (m, shape) in enumerate(self.shapes.items())}
            x = {m: v + (y / CLASSES - 0.5).astype(np.float32).reshape(-1, *[1] * (v.ndim - 1)) for m, v in x.items()}
            present = {m: np.ones(n, bool) for m in x}
            out[split] = Table(
                x, present, y, [f"{split}{i}" for i in range(n)], dict.fromkeys(x, SpectrogramTransform())
            )
        return out

    def prepare(self, workers: int = 1) -> None:
        """Do nothing."""


class Resident(L.LightningDataModule):
    """Hands out batches that lie on the device, in turns; no transfer is in a step.

    Args:
        data: the data module that the batches come from.
        device: the device.
        steps: the number of batches in the epoch.
    """

    def __init__(self, data: MultimodalData, device: torch.device, steps: int):
        super().__init__()
        self.data = data
        batches = [_moved(batch, device) for batch in data.train_dataloader()]
        self.batches = [batches[i % len(batches)] for i in range(steps)]

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    def probe_batch(self, n: int) -> Batch:
        """Return held-out samples for the probes (see `MultimodalData`)."""
        return self.data.probe_batch(n)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {k: _moved(v, device) for k, v in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


@functools.cache
def _composed(model: str, method: str) -> DictConfig:
    return Composer("asgml").compose(["experiment=features", f"model={model}", f"method={method}", "data.path=none"])


def configured(place: Place, clips: Clips, mode: str, more: Overrides) -> DictConfig:
    """Return the configuration of a run: that of its method, with SGD, and without what writes or ends runs."""
    method, own = MODES[mode]
    cfg = copy.deepcopy(_composed(clips.model, method))
    source = {"audio": clips.audio, "visual": clips.visual, "train": clips.batch * clips.batches}
    nodes: dict[str, Any] = {
        "data": {"_target_": f"{__name__}.RandomClips", **source, "held_out": clips.held_out},
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.01},
        "paths.runs": str(place.folder),
        "trainer.accelerator": "gpu" if place.cuda else "cpu",
        "trainer.max_epochs": 1,
        "trainer.enable_progress_bar": False,
        "loader.batch_size": clips.batch,
        "loader.eval_batch_size": clips.batch,
        **{f"callbacks.{name}": None for name in ("checkpoint", "alarm", "stop", "rng", "progress", "epoch_line")},
        **dict(clips.options),
        **own,
        **more,
    }
    for key, value in nodes.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    return cfg


def trained(
    place: Place,
    clips: Clips,
    mode: str,
    steps: int,
    more: Overrides | None = None,
    callbacks: Sequence[L.Callback] = (),
    before: Any = None,
) -> Parts:
    """Do a run of one epoch, and return its parts.

    Args:
        place: where it runs.
        clips: what it reads.
        mode: one of `MODES`.
        steps: the number of batches.
        more: further configuration, by dotted key.
        callbacks: callbacks that come before all others.
        before: called with the parts once they are built.
    """
    if place.cuda:
        release_memory()  # of the run before, whose parts refer to each other
    cfg = configured(place, clips, mode, more or {})
    seed_everything(0)
    folder = place.folder / config_hash(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):  # what a run says at its start
        parts = build(cfg, Run(folder, config_hash(cfg), str(cfg.name), 0, None, True))
        parts.trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]
        if before is not None:
            before(parts)
        parts.trainer.fit(parts.module, datamodule=Resident(parts.data, place.device, steps))
    return parts


def weights(parts: Parts) -> torch.Tensor:
    """Return all weights of a run as one vector on the CPU."""
    return torch.cat([p.detach().float().cpu().flatten() for p in parts.module.parameters()])


def start(parts: Parts) -> torch.Tensor:
    """Return the vector of weights as the run's seed draws them: call it before the fit."""
    return weights(parts)
