"""An exported network, loaded: predictions from arrays, and the check that it predicts what the run does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from asgml.data.preprocessing import Preprocessing
from asgml.data.standardize import Standardize
from asgml.restore import Restored, build_finished
from asgml.train.inference import predictions_of
from asgml.train.network import Inputs, Network, batch_of, drawn_inputs
from callbacks.errors import UserError, quoted

Answers = Callable[[Inputs], dict[str, Tensor]]  # one form of a network
ROWS = (7, 1)  # of the drawn inputs that two forms are compared on
STANDARDIZED = {"unit", "mean", "std"}  # the numbers of `Standardize`


@dataclass
class Exported(Restored):
    """Holds an exported network, ready to predict; `dir` is its folder.

    Attributes:
        manifest: what its folder says of it.
    """

    manifest: dict[str, Any]

    @classmethod
    def of(
        cls, folder: Path, manifest: Mapping[str, Any], data: Preprocessing, weights: Mapping[str, Tensor]
    ) -> Exported:
        """Build the network of a verified folder.

        Args:
            folder: the folder.
            manifest: what it says of it.
            data: its preprocessing.
            weights: its weights and buffers.
        """
        s = manifest["settings"]
        cfg = OmegaConf.create(
            {
                "program": "asgml",
                "seed": s["seed"],
                "loss": s["loss"],
                "paths": {"runs": str(folder)},
                "model": s["model"],
                "methods": s["methods"],
                "data": s["data"],
                "loader": {"eval_batch_size": s["eval_batch_size"]},
                "trainer": {"precision": s["precision"], "accelerator": "auto", "max_epochs": s["max_epochs"]},
            }
        )
        module = build_finished(cfg, data.spec)
        module.load_state_dict(weights)
        return cls(folder, cfg, {"hash": manifest["run"]}, data, module.eval(), manifest["checkpoint"], dict(manifest))

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the probabilities; none in a regression."""
        return self.data.spec.classes

    def network(self) -> Network:
        """Return the network as a module of tensors that are prepared already."""
        return Network(self.module)

    def predict(
        self, x: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the predictions of raw samples: `prob` (n, C) and `prob_<m>` (n, C), in a regression `value`.

        Args:
            x: by modality the samples (n, …) as a feature file holds them; the run's statistics are applied here. A
                modality that is left out is absent from all of them.
            lengths: of padded modalities, the numbers of valid steps (n,); None stands for all steps.

        Raises:
            UserError: a modality that the network does not have, samples of another shape, or data that are prepared
                from files (`python -m asgml.predict DIR --data …`).
        """
        known = self.data.spec.modalities
        foreign = [m for m in x if m not in known]
        if foreign or not x:
            found = f"modality {foreign[0]!r}" if foreign else "no modality"
            raise UserError("predict(x)", found, f"some of {', '.join(known)}", f"give x[{next(iter(known))!r}]")
        n = len(next(iter(x.values())))
        ready = {m: self._prepared(m, np.asarray(x[m]), n) for m in x}
        ready |= {m: torch.zeros(n, *s.shape) for m, s in known.items() if m not in x}
        present = {m: torch.full((n,), m in x) for m in known}
        steps = {m: np.full(n, s.shape[0]) for m, s in known.items() if s.padded} | dict(lengths or {})
        wide = next(self.module.parameters()).dtype
        cast = {m: v.to(wide) if v.is_floating_point() else v for m, v in ready.items()}
        with torch.no_grad():
            out = self.network()(cast, present, {m: torch.as_tensor(s).long() for m, s in steps.items()})
        return {name: value.numpy() for name, value in out.items()}

    def _prepared(self, modality: str, x: np.ndarray, n: int) -> Tensor:
        spec, numbers = self.data.spec.modalities[modality], self.data.numbers.get(modality)
        if len(x) != n or x[:1].size != np.prod(spec.shape):
            shape = " x ".join(map(str, (n, *spec.shape)))
            raise UserError(f"predict(x), x[{modality!r}]", f"shape {x.shape}", shape, "give one row per sample")
        if spec.kind == "tokens":
            return torch.from_numpy(x.astype(np.int64))
        if numbers is None or set(numbers) != STANDARDIZED:
            found = "prepared from files by its data class"
            remedy = f"python -m asgml.predict {quoted(self.dir)} --data FILE -o predictions.csv"
            raise UserError(f"predict(x), x[{modality!r}]", found, "a modality of a feature file", remedy)
        return Standardize.of(spec.shape, numbers)(x, np.zeros(n, np.uint64), False)


def difference(run: Restored, other: Answers) -> float:
    """Return the largest difference of predictions from a run's; infinity where names, shapes or absences differ.

    Args:
        run: the run.
        other: another form of its network.
    """
    own, largest = as_evaluated(run), 0.0
    for seed, rows in enumerate(ROWS):
        inputs = drawn_inputs(run.data.spec, rows, seed, next(run.module.parameters()).dtype)
        wanted, found = own(inputs), other(inputs)
        if wanted.keys() != found.keys():
            return float("inf")
        for name, x in wanted.items():
            y = found[name].to(x.dtype)
            if x.shape != y.shape or not torch.equal(x.isnan(), y.isnan()):
                return float("inf")
            largest = max(largest, float((x - y).nan_to_num().abs().max()))
    return largest


def as_evaluated(run: Restored) -> Answers:
    """Return a run's network by the very path of an evaluation, in the precision of its weights."""
    module = run.module.cpu().eval()
    regression = module.task.name == "regression"
    what = "value" if regression else "prob"

    def answers(inputs: Inputs) -> dict[str, Tensor]:
        batch = batch_of(inputs, regression)
        with torch.no_grad():
            p = predictions_of(module.step_of(batch), batch["index"], module.fusing, module.task)
        arrays = {what: p.prob, **{f"{what}_{m}": single for m, single in p.unimodal.items()}}
        return {name: torch.from_numpy(value) for name, value in arrays.items()}

    return answers
