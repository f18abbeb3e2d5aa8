"""What a step says to the host: losses, terms and observed metrics, added up over the parts of a batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from latentwire.objectives.base import Objective, ObjectiveOutput
from latentwire.train.curriculum_stage import LOSS, OBSERVE, TERM
from latentwire.train.parts import Weights

CODEC = "codec"


class Tally:
    """Makes the terms of the loss, and keeps their values under the names that `CurriculumStage` reads.

    Ranks average what it holds, so every name is there from the start: a rank can lack rows of a kind.

    Args:
        models: names of the language models.
        active: the objectives that weigh something, by name.
        weights: weights by objective.
        device: device of the wire.
    """

    def __init__(
        self, models: list[str], active: Mapping[str, Objective], weights: Mapping[str, float], device: torch.device
    ):
        self.models, self.active, self.weights, self.device = models, active, weights, device
        names = [f"{LOSS}{key}" for key in active] + [f"{TERM}{key}" for key in active]
        names += [f"{OBSERVE}{metric}" for o in active.values() for metric in o.observes]
        if len(models) > 1:
            names += [f"{LOSS}{key}/{model}" for key in active for model in models]
        self.reads = {name: torch.zeros((), device=device) for name in names}
        self.terms: dict[str, Tensor] = {}  # those of the last part, with their graphs

    def take(
        self, found: Mapping[str, Mapping[str, ObjectiveOutput]], share: Weights, sizes: Mapping[tuple[str, str], int]
    ) -> list[Tensor]:
        """Add what objectives say of some models' rows; return the terms of the loss.

        Args:
            found: outputs by model and objective.
            share: what a part weighs in the whole.
            sizes: what the means of this part are taken over, see `parts.sizes`.
        """
        terms = []
        portion = len(found) / len(self.models)  # the loss of an objective is a mean over models
        for key in {k: None for outputs in found.values() for k in outputs}:
            each = {name: outputs[key] for name, outputs in found.items() if key in outputs}
            over = self.active[key].mean_over
            parts = {name: share.of(over, name, sizes) for name in each}
            losses = torch.stack([parts[name] * o.loss.float().to(self.device) for name, o in each.items()])
            loss = losses.sum() / len(found) * portion
            terms.append(self.weights[key] * loss)
            self.terms[key] = terms[-1]
            self._add(f"{LOSS}{key}", loss)
            self._add(f"{TERM}{key}", terms[-1])
            for metric in dict.fromkeys(m for o in each.values() for m in o.observed):
                over = self.active[key].observed_over.get(metric, self.active[key].mean_over)
                values = [
                    share.of(over, n, sizes) * o.observed[metric].float().to(self.device) for n, o in each.items()
                ]
                self._add(f"{OBSERVE}{metric}", torch.stack(values).sum() / len(found) * portion)
            if len(self.models) > 1:
                for name, value in zip(each, losses.unbind(), strict=True):
                    self._add(f"{LOSS}{key}/{name}", value)
        return terms

    def codec(self, loss: Tensor) -> Tensor:
        """Add the codec's own loss, and return it."""
        for name in (LOSS, TERM):
            self.reads[f"{name}{CODEC}"] = loss.detach()
        self.terms[CODEC] = loss
        return loss

    def _add(self, name: str, value: Tensor) -> None:
        value = value.detach()
        self.reads[name] = self.reads[name] + value if name in self.reads else value
