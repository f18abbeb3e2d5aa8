"""Distillation of states: what a model has made of the text by the time that it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Layers, Positive
from latentwire.objectives.base import ANSWER_TOKENS, Objective, ObjectiveOutput, ReaderShape, Seen
from latentwire.train.curriculum import Schedule


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Return |found - wanted|^2 / |wanted|^2 of every row of two (N, d), (N,) float32; 1 where found is 0."""
    found, wanted = found.float(), wanted.float()
    return (found - wanted).pow(2).sum(-1) / wanted.pow(2).sum(-1).clamp(min=1e-12)


class StateKD(Objective):
    """Distils hidden states: those of the model on latents become those that it has on the text, where answers begin.

        loss = sum_l w_l e_l / sum_l w_l,   e_l = mean over answers and their tokens of |h_l - t_l|^2 / |t_l|^2

    h_l, t_l: state l of the reader on latents and of the same model on the text, adapters off and without gradient, at
    the columns where the tokens of an answer are predicted: what stands there as text is the same. Each error is over
    the teacher's own size, so that a layer with a large stream does not drown the others, as patient distillation
    normalises each state (Sun et al., EMNLP 2019, arXiv 1908.09355, Eq. 7); magnitudes are held as well here, as they
    carry meaning. Early layers take the text in and later ones speak: by default the first half of those that latents
    reach is compared.

    Memory: of the teacher L N d_hidden numbers in the model's dtype are kept, for L states at N tokens of answers; a
    reader's own are those that its backward pass needs in any case, copied at N places. On three states of an 8B model
    in bfloat16 64 tokens take 1.5 MiB. The text is read once a step (beside `answer_kd` in the same pass, unless that
    has a cache); states are never kept from step to step.

    Limits: where latents are keys and values of every layer, those of layers behind the last state are not reached, so
    that a stage has another objective beside it. With `loader.scheduled_sampling` the reader has tokens of its own
    before it where the teacher has the gold ones. States that are like the text's are no skill: report F1 beside
    `state_cosine`.

    Args:
        weight: its weight over time.
        layers: numbers of the states, the n-th being what layer n makes; the last is normalised. None: the first half.
        layer_weights: w, one for each of `layers`, in its order; None: all alike.

    Raises:
        UserError: a state that a reader does not have or that its latents do not change, one that is named twice, or
            weights that are not one for each.
    """

    observes = ("state_cosine",)
    observed_over = {"state_cosine": ANSWER_TOKENS}

    def __init__(
        self,
        weight: Schedule,
        layers: Annotated[list[Layers], NOT_EMPTY] | None = None,
        layer_weights: Annotated[list[Positive], NOT_EMPTY] | None = None,
    ):
        super().__init__(weight)
        if layer_weights is not None and (layers is None or len(layers) != len(layer_weights)):
            raise UserError(
                "objectives.state_kd.layer_weights",
                f"{len(layer_weights)} for {'the default' if layers is None else len(layers)} layers",
                "one for each of objectives.state_kd.layers",
                "set objectives.state_kd.layer_weights=null, or objectives.state_kd.layers as well",
            )
        self.layers, self.layer_weights = layers, layer_weights

    def prepare(self, readers: Mapping[str, ReaderShape], d_z: int) -> None:
        self.compares = {name: self._chosen(name, shape) for name, shape in readers.items()}
        if any(max(self.compares[name]) < shape.last_state for name, shape in readers.items()):
            self.partly = frozenset({"injector"})  # what later layers read

    def _chosen(self, name: str, shape: ReaderShape) -> list[int]:
        first, last = shape.first_state, shape.layers
        if self.layers is None:
            return list(range(first, max(first, last // 2) + 1))
        if len(set(self.layers)) < len(self.layers) or not all(first <= n <= last for n in self.layers):
            raise UserError(
                "objectives.state_kd.layers",
                str(list(self.layers)),
                f"different numbers from {first} to {last}, the states of {name} that latents change",
                "set objectives.state_kd.layers=null objectives.state_kd.layer_weights=null",
            )
        return list(self.layers)

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        rows, chosen = seen.rows["answer"], self.compares[model]
        if any(n not in rows.states or n not in seen.taught for n in chosen):
            raise RuntimeError("distillation of states that were not kept")
        weights = self.layer_weights or [1.0] * len(chosen)
        losses, cosines = [], []
        for number, weight in zip(chosen, weights, strict=True):
            h, t = rows.states[number], seen.taught[number].detach()
            losses.append(weight / sum(weights) * rows.per_answer(relative_error(h, t)).mean())
            with torch.no_grad():
                cosines.append(F.cosine_similarity(h.float(), t.float(), dim=-1).mean())
        return ObjectiveOutput(torch.stack(losses).sum(), {"state_cosine": torch.stack(cosines).mean()})
