"""Balanced multimodal learning by conditional learning speeds (MMTM)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from asgml.methods.base import SAVED, Method, Step
from asgml.methods.shared.presence import has, zeroed
from asgml.model.modality_dict import ModalityDict
from callbacks.ranges import Count, Finite, Steps


class MMTM(nn.Module):
    """Makes gates (B, d_m) from all feature vectors together: a multimodal transfer module.

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
    """Add up the squares of all entries, 0-d."""
    return torch.stack(torch._foreach_norm(tensors)).square().sum()


@dataclass
class Greedy(Method):
    """Balanced multimodal learning (Wu et al., "Characterizing and Overcoming the Greedy Nature of Learning in
    Multi-modal Deep Neural Networks", ICML 2022).

    Before the fusion, a multimodal transfer module gates every feature by what all features say, `f_m * gate_m`. The
    conditional learning speed of modality m, given the others, compares how fast the path across modalities (theta'_m:
    the module's shared layer and m's own) and the encoder (theta_m) move:

        mu(theta; t) = |grad_t theta|^2 / |theta_t|^2,    s_m = log10(sum_t mu(theta'_m; t) / sum_t mu(theta_m; t))

    over the regular steps so far. From epoch `begins` on, where max_m s_m - min_m s_m > tolerance, the next `window`
    steps are re-balancing steps: the gate of the fastest modality m is replaced by its mean over all steps and samples
    so far, without gradient, so that m learns from itself alone. Then regular steps go on.

    More than two modalities: the fastest against the slowest. Encoders of any kind: the module stands once, behind the
    encoders, where the paper has one after each of three convolution stages. Gates and speeds are of the samples and
    modalities that are there. Public code feeds the second modality's mean gate from the first one's gates.

    Attributes:
        ratio: factor by which the module's shared layer is narrower than twice the features.
        tolerance: difference in speed from which steps are re-balanced.
        window: number of re-balancing steps in a row.
        begins: first epoch with re-balancing, the second one: the published 2 counts epochs from 1.
    """

    for_regression: ClassVar[bool] = True
    min_modalities: ClassVar[int] = 2
    ratio: Count = 4
    tolerance: Finite = 0.01
    window: Count = 5
    begins: Steps = 1
    _mmtm: MMTM | None = field(default=None, init=False, repr=False)
    # sums over steps of mu(theta'_m) and mu(theta_m), sums over samples of the gates (d_m,), and their number
    _paths: dict[str, float] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _encoders: dict[str, float] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _gates: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _rows: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    # re-balancing steps to go, and the modality with the mean gate
    _left: int = field(default=0, init=False, repr=False, metadata=SAVED)
    _held: str = field(default="", init=False, repr=False, metadata=SAVED)

    def setup(self) -> None:
        for key in ("ratio", "window"):
            self.require(key, getattr(self, key) >= 1, "1 or more")

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
        """Add up m's gates (d_m,) and rows (0-d), of all steps, this one included."""
        rows = has(step, m).sum()[None].to(gate.dtype)
        total = step.total(torch.cat([zeroed(step, gate.detach(), m).sum(0), rows]))
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
        if step.epoch >= self.begins and len(speeds) > 1:
            fastest = max(speeds, key=speeds.__getitem__)
            if speeds[fastest] - min(speeds.values()) > self.tolerance:
                self._left, self._held = self.window, fastest

    def speeds(self) -> dict[str, float]:
        """Return s_m of the modalities that have moved."""
        return {
            m: math.log10(path / self._encoders[m])
            for m, path in self._paths.items()
            if path > 0 and self._encoders.get(m, 0.0) > 0
        }
