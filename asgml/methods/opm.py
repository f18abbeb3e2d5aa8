"""OPM: on-the-fly prediction modulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from asgml.methods.base import Method, Step
from asgml.methods.shared.confidence import confidence
from asgml.methods.shared.draws import generator
from asgml.methods.shared.presence import has
from callbacks.ranges import NonNegative, Probability, Steps


@dataclass
class OPM(Method):
    """OPM (Wei et al., "On-the-fly Modulation for Balanced Multimodal Learning", TPAMI 2024).

    p_m = mean of softmax(z_m)[y] over the batch, z_m the slice of the fused logits; rho_m = mean over the others of
    p_m / p_k (one ratio for two modalities). In a step, with probability `p_exe`, the feature of modality m is dropped
    from the fusion's input, sample by sample, with probability

        q_m = min(q_base * (1 + lam * tanh(rho_m - 1)), 1)   where rho_m > 1, else 0

    and what is left of all features is divided by 1 - theta, theta = sum_m d_m q_m / sum_m d_m with the widths d_m.

    More than two modalities: the mean ratio; the weakest one is never dropped. A sample that would be left with nothing
    keeps what it has (public code leaves such samples out; with two complete modalities there are none). Missing rows
    do not count in p_m. The unimodal heads read the whole feature.

    Attributes:
        q_base: base of the drop probability.
        lam: strength of its growth with the discrepancy.
        p_exe: probability that a step drops at all.
        begins: first epoch in which features are dropped.
    """

    min_modalities: ClassVar[int] = 2
    q_base: Probability = 0.5
    lam: NonNegative = 0.5
    p_exe: Probability = 0.7
    begins: Steps = 6

    def setup(self) -> None:
        for key in ("q_base", "p_exe"):
            self.require(key, 0 <= getattr(self, key) <= 1, "in [0, 1]")
        self.require("lam", self.lam >= 0, "0 or more")

    def probabilities(self, step: Step) -> Tensor:
        """Return q_m, (M,), in the order of `step.modalities`; no gradient."""
        with torch.no_grad():
            scores, there = [], []
            for m in step.modalities:
                right = confidence(step.slices(m).detach(), step.y)
                scores.append(step.mean(right, m))
                there.append(step.mean(torch.ones_like(right), m) > 0)  # has anybody in the batch m?
            p, here = torch.stack(scores), torch.stack(there)
            others = here[:, None] & here[None] & ~torch.eye(len(p), dtype=torch.bool, device=p.device)
            ratios = torch.where(others, p[:, None] / p[None].clamp(min=1e-12), 0.0)
            rho = ratios.sum(1) / others.sum(1).clamp(min=1)
            q = (self.q_base * (1 + self.lam * torch.tanh(rho - 1))).clamp(max=1)
            return torch.where(rho > 1, q, 0.0)

    def on_features(self, step: Step, features: dict[str, Tensor]) -> dict[str, Tensor]:
        if not step.training or step.epoch < self.begins:
            return features
        names = step.modalities
        q = self.probabilities(step)
        for m, value in zip(names, q.unbind(), strict=True):
            step.reads[f"opm/q/{m}"] = value
        device = q.device
        execute = torch.rand((), generator=generator(device, self._seed, "opm", step.t), device=device) < self.p_exe
        q = torch.where(execute, q, 0.0)
        widths = [features[m].shape[1] for m in names]
        theta = torch.stack([v * (d / sum(widths)) for v, d in zip(q.unbind(), widths, strict=True)]).sum()
        rows = generator(device, self._seed, "opm/rows", step.t, step.rank)
        draw = torch.rand(len(step.y), len(names), generator=rows, device=device, dtype=q.dtype)
        present = torch.stack([has(step, m) for m in names], 1)
        kept = present & (draw >= q)
        kept = torch.where(kept.any(1, keepdim=True), kept, present)
        out = dict(features)
        for i, m in enumerate(names):
            out[m] = features[m] * (kept[:, i : i + 1] / (1 - theta)).to(features[m].dtype)
        return out
