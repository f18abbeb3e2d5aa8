"""Balanced multimodal learning by conditional learning speeds (MMTM)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from asgml.methods.base import Method, Step
from asgml.methods.cml import has
from asgml.model.modality_dict import ModalityDict
from callbacks.errors import UserError


class MMTM(nn.Module):
    """Multimodal transfer module on feature vectors: gates (B, d_m) from all features together.

    `gate_m = sigmoid(E_m relu(S [f_1, …, f_N]))`, S of width 2 * sum(d_m) / ratio.
    """

    def __init__(self, dims: dict[str, int], ratio: int):
        super().__init__()
        total = sum(dims.values())
        width = max(1, 2 * total // ratio)
        self.squeeze = nn.Linear(total, width)
        self.excite = ModalityDict({m: nn.Linear(width, d) for m, d in dims.items()})
        self.names = list(dims)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        weight = self.squeeze.weight.dtype
        z = torch.relu(self.squeeze(torch.cat([features[m].to(weight) for m in self.names], 1)))
        return {m: torch.sigmoid(self.excite[m](z)) for m in self.names}


def squared(tensors: list[Tensor]) -> Tensor:
    """Sum of the squares of all entries, 0-d."""
    return torch.stack(torch._foreach_norm(tensors)).square().sum()


@dataclass
class Greedy(Method):
    """Balanced multimodal learning (Wu et al., "Characterizing and Overcoming the Greedy Nature of Learning in
    Multi-modal Deep Neural Networks", ICML 2022).

    Before the fusion, a multimodal transfer module gates every feature by what all features say, `f_m * gate_m`. The
    conditional learning speed of modality m, given the others, compares how fast the path across modalities (theta'_m:
    the module's shared layer and m's own) and the encoder (theta_m) move:

        mu(theta; t) = |grad_t theta|^2 / |theta_t|^2,    s_m = log10(sum_t mu(theta'_m; t) / sum_t mu(theta_m; t))

    over the regular steps so far. From epoch `starts` on, where max_m s_m - min_m s_m > tolerance, the next `window`
    steps are re-balancing steps: the gate of the fastest modality m is replaced by its mean over all steps and samples
    so far, without gradient, so that m learns from itself alone. Then regular steps go on.

    More than two modalities: the fastest against the slowest. Encoders of any kind: the module stands once, behind the
    encoders, where the paper has one after each of three convolution stages. Gates and speeds are of the samples and
    modalities that are there. Public code feeds the second modality's mean gate from the first one's gates.

    Attributes:
        ratio: how much narrower the module's shared layer is than twice the features.
        tolerance: of the difference in speed.
        window: re-balancing steps in a row.
        starts: first epoch with re-balancing.
    """

    ratio: int = 4
    tolerance: float = 0.01
    window: int = 5
    starts: int = 2
    _mmtm: MMTM | None = field(default=None, repr=False)
    _paths: dict[str, float] = field(default_factory=dict, repr=False)  # sums of mu(theta'_m)
    _encoders: dict[str, float] = field(default_factory=dict, repr=False)  # sums of mu(theta_m)
    _gates: dict[str, Tensor] = field(default_factory=dict, repr=False)  # sums over samples, (d_m,)
    _rows: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _left: int = field(default=0, repr=False)  # re-balancing steps to go
    _held: str = field(default="", repr=False)  # the modality with the mean gate

    def setup(self, modalities: list[str], classes: int, seed: int) -> None:
        if len(modalities) < 2:
            raise UserError("method=greedy", f"modalities {modalities}", "two or more", "use method=joint")
        if self.ratio < 1 or self.window < 1:
            raise UserError("methods.greedy", f"ratio {self.ratio}, window {self.window}", "both >= 1", "4 and 5")

    def acts_from(self) -> tuple[str, int]:
        return "starts", self.starts

    def modules(self, dims: dict[str, int], classes: int) -> dict[str, nn.Module]:
        self._mmtm = MMTM(dims, self.ratio)
        return {"mmtm": self._mmtm}

    def on_features(self, step: Step, features: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self._mmtm is not None
        gates = self._mmtm(features)
        if step.training:
            sums = {m: self._seen(step, m, gates[m]) for m in step.modalities}
            step.extras["greedy"] = sums
            if self._left:
                total, rows = sums[self._held]
                mean = (total / rows.clamp(min=1)).to(gates[self._held].dtype)
                gates[self._held] = mean.expand_as(gates[self._held])
        return {m: f * gates[m].to(f.dtype) if m in gates else f for m, f in features.items()}

    def _seen(self, step: Step, m: str, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of m's gates (d_m,) and rows (0-d), of all steps, this one included."""
        there = has(step, m)
        packed = torch.cat([torch.where(there[:, None], gate.detach(), 0.0).sum(0), there.sum()[None].to(gate.dtype)])
        total = step.total(packed)
        if m in self._gates:
            total = total + torch.cat([self._gates[m], self._rows[m][None]]).to(total)
        return total[:-1], total[-1]

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        if self._left or self._mmtm is None:
            return set()
        shared = list(self._mmtm.squeeze.parameters())
        for m in step.here:
            paths = [*shared, *self._mmtm.excite[m].parameters()]
            for what, params in (("path", paths), ("encoder", groups.get(m, []))):
                gradients = [p.grad for p in params if p.grad is not None]
                if gradients:
                    weights = squared([p.detach() for p in params])
                    tiny = torch.finfo(weights.dtype).tiny
                    step.reads[f"greedy/{what}/{m}"] = squared(gradients) / weights.clamp(min=tiny)
        return set()

    def on_commit(self, step: Step) -> None:
        for m, (total, rows) in step.extras["greedy"].items():
            self._gates[m], self._rows[m] = total, rows
        if self._left:
            self._left -= 1
            return
        for what, sums in (("path", self._paths), ("encoder", self._encoders)):
            for m in step.here:
                sums[m] = sums.get(m, 0.0) + step.host.get(f"greedy/{what}/{m}", 0.0)
        speeds = self.speeds()
        if step.epoch >= self.starts and len(speeds) > 1:
            fastest = max(speeds, key=speeds.__getitem__)
            if speeds[fastest] - min(speeds.values()) > self.tolerance:
                self._left, self._held = self.window, fastest

    def speeds(self) -> dict[str, float]:
        """s_m, of the modalities that have moved."""
        return {
            m: math.log10(path / self._encoders[m])
            for m, path in self._paths.items()
            if path > 0 and self._encoders.get(m, 0.0) > 0
        }

    def state(self) -> dict[str, Any]:
        return {
            "paths": dict(self._paths),
            "encoders": dict(self._encoders),
            "gates": {m: t.cpu().clone() for m, t in self._gates.items()},
            "rows": {m: t.cpu().clone() for m, t in self._rows.items()},
            "left": self._left,
            "held": self._held,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._paths, self._encoders = dict(state["paths"]), dict(state["encoders"])
        self._gates, self._rows = dict(state["gates"]), dict(state["rows"])
        self._left, self._held = state["left"], state["held"]
