"""What a run has fixed of its data: modalities, classes, and the numbers that transforms took from the training split.

A run writes it beside its checkpoints, so that new samples are treated as the run's own were: without the training
data, and with nothing measured on the new ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from asgml.data.seen import LEARNED, Seen
from asgml.data.spec import DataSpec, ModalitySpec, Table, Transform
from callbacks.errors import UserError
from suite.tensors import read_tensors, write_tensors

FILE = "preprocessing.safetensors"  # of a run and of an export
VERSION = "1"


@runtime_checkable
class Fitted(Protocol):
    """A transform whose numbers come from the training split; one that is not has none, or takes them from YAML."""

    def __call__(self, raw: np.ndarray, keys: np.ndarray, train: bool) -> torch.Tensor: ...

    def fitted(self) -> dict[str, np.ndarray]:
        """Return these numbers by name."""
        ...

    def refitted(self, numbers: Mapping[str, np.ndarray], where: str) -> Transform:
        """Return this transform with the numbers of another one.

        Args:
            numbers: as the other one's `fitted` returned them.
            where: what names the samples in errors.

        Raises:
            UserError: samples that the numbers do not fit.
        """
        ...


@dataclass(frozen=True)
class Preprocessing:
    """Holds what a run has fixed of its data.

    Attributes:
        spec: modalities, classes and task.
        numbers: of every modality whose transform is `Fitted`, its numbers by name.
        seen: digests of the samples of training and validation (see `asgml.data.seen`): whoever has a sample can find
            out whether it was among them, and nothing else. None in runs of an earlier release.
    """

    spec: DataSpec
    numbers: dict[str, dict[str, np.ndarray]]
    seen: Seen | None = None

    @classmethod
    def of(cls, spec: DataSpec, transforms: Mapping[str, Transform], seen: Seen | None = None) -> Preprocessing:
        """Return what these transforms of a training split hold, with what the run has seen."""
        return cls(spec, {m: t.fitted() for m, t in transforms.items() if isinstance(t, Fitted)}, seen)

    def write(self, path: Path) -> None:
        """Write it to one sealed safetensors file, in one piece."""
        tensors = {
            f"{m}/{name}": torch.from_numpy(np.array(value))
            for m, numbers in self.numbers.items()
            for name, value in numbers.items()
        }
        tensors |= {split: torch.from_numpy(digests) for split, digests in (self.seen or {}).items()}
        write_tensors(path, tensors, {"version": VERSION, "spec": json.dumps(_as_json(self.spec))})

    @classmethod
    def read(cls, path: Path, remedy: str) -> Preprocessing:
        """Read what `write` has written.

        Args:
            path: the file.
            remedy: what to do about damage, for the error.

        Raises:
            UserError: no such file, a damaged one, or one of another version.
        """
        expected = "the preprocessing of a run"
        if not path.is_file():
            raise UserError(str(path), "no such file", expected, remedy)
        tensors, about = read_tensors(path, expected, remedy)
        if about.get("version") != VERSION:
            raise UserError(str(path), f"version {about.get('version')}", f"version {VERSION}", remedy)
        numbers: dict[str, dict[str, np.ndarray]] = {}
        seen = {str(split): tensors.pop(split).numpy() for split in LEARNED if split in tensors}
        for key, tensor in tensors.items():
            modality, _, name = key.rpartition("/")
            numbers.setdefault(modality, {})[name] = tensor.numpy()
        return cls(_of_json(json.loads(about["spec"])), numbers, seen or None)

    def applied(self, table: Table) -> Table:
        """Return a table of new samples whose transforms have the run's numbers in place of their own.

        Raises:
            UserError: samples that these numbers do not fit.
        """
        transforms = dict(table.transforms)
        for m, numbers in self.numbers.items():
            transform = transforms[m]
            if not isinstance(transform, Fitted):
                raise UserError(
                    f"data, modality {m}",
                    f"{type(transform).__name__}, which takes no numbers of another split",
                    "the transform of the run, with the numbers of its training split",
                    "set data to the source of the run",
                )
            transforms[m] = transform.refitted(numbers, f"data, modality {m}")
        return replace(table, transforms=transforms)


def _as_json(spec: DataSpec) -> dict[str, Any]:
    modalities = [asdict(m) for m in spec.modalities.values()]
    return {**asdict(replace(spec, modalities={}, notes={})), "modalities": modalities, "notes": spec.notes}


def _of_json(told: Mapping[str, Any]) -> DataSpec:
    modalities = {
        m["name"]: ModalitySpec(**{**m, "shape": tuple(m["shape"]), "columns": tuple(m.get("columns", ()))})
        for m in told["modalities"]
    }
    span = told["target_range"]
    return DataSpec(**{**told, "modalities": modalities, "target_range": None if span is None else tuple(span)})
