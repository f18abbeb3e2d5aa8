"""GradNorm: loss weights that equalise the tasks' gradient norms by their training rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from asgml.methods.base import SAVED, Step
from asgml.methods.shared.losses import FUSED
from asgml.methods.shared.tasks import Tasks, task_gradients
from callbacks.ranges import NonNegative, Rate

SMALLEST = 1e-3  # of a weight: below 0 a task would be unlearned


@dataclass
class GradNorm(Tasks):
    """GradNorm (Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask
    Networks", ICML 2018).

    Tasks t: the fused loss and every unimodal loss, T in all, `L = sum_t w_t L_t`. W are the weights of all encoders,
    G_t = |grad_W w_t L_t|, Lhat_t = L_t / L_t(first step), r_t = Lhat_t / mean Lhat:

        L_grad = sum_t |G_t - mean(G) r_t^alpha|,    the mean and r held constant
        w_t <- w_t - lr * dL_grad/dw_t,    then rescaled to sum_t w_t = T

    dG_t/dw_t = G_t / w_t. Weights start at 1 and are at least 0.001 before the rescaling; the update is plain gradient
    descent. The published W is the last shared layer, to save a second pass, which is needed here for any W. A
    modality that nobody in the batch has keeps its weight but for the rescaling. Any number of modalities.

    Attributes:
        alpha: strength of the pull towards equal training rates; 1.5 on NYUv2, 0.12 where tasks are alike.
        lr: learning rate of the loss weights.
    """

    replaces_fusion_loss: ClassVar[bool] = True
    alpha: NonNegative = 1.5
    lr: Rate = 0.025
    _weights: dict[str, float] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)
    _first: dict[str, float] = field(default_factory=dict, init=False, repr=False, metadata=SAVED)

    def setup(self) -> None:
        self.require("lr", self.lr >= 0, "0 or more")
        self._weights = dict.fromkeys([FUSED, *self._modalities], 1.0)

    def loss(self, step: Step) -> dict[str, Tensor]:
        return {task: self._weights[task] * step.losses[task] for task in (FUSED, *step.here)}

    def on_gradients(self, step: Step, groups: dict[str, list[nn.Parameter]]) -> set[str]:
        found = task_gradients(step, groups)
        if found is not None:
            for task, squared in zip(found.tasks, found.gram.diagonal().unbind(), strict=True):
                step.reads[f"gradnorm/norm/{task}"] = squared.sqrt()
        return set()

    def on_commit(self, step: Step) -> None:
        norms = {t: step.host[f"gradnorm/norm/{t}"] for t in self._weights if f"gradnorm/norm/{t}" in step.host}
        losses = {t: step.host[f"loss/{t}"] for t in norms}
        first = {**losses, **self._first}
        rates = {t: loss / first[t] if first[t] > 0 else 1.0 for t, loss in losses.items()}
        if not norms or sum(rates.values()) == 0:
            return
        self._first = first
        usual, rate = sum(norms.values()) / len(norms), sum(rates.values()) / len(rates)
        weights = dict(self._weights)
        for t, norm in norms.items():
            over = norm - usual * (rates[t] / rate) ** self.alpha
            slope = norm / weights[t] * ((over > 0) - (over < 0))
            weights[t] = max(weights[t] - self.lr * slope, SMALLEST)
        scale = len(weights) / sum(weights.values())
        self._weights = {t: w * scale for t, w in weights.items()}
