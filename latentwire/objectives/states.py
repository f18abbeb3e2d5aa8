"""Regression of the states that the language model itself makes of the text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from callbacks.errors import UserError
from latentwire.objectives.base import Needs, Objective, ObjectiveOutput, ReaderShape, Seen


def explained(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the share of variance that is explained, 1 - |y - x|^2 / |y - mean y|^2, mean over layers; () float32.

    Args:
        predicted: (layers, N, d) x.
        target: (layers, N, d) y.
    """
    left = (target - predicted).pow(2).sum((1, 2))
    there = (target - target.mean(1, keepdim=True)).pow(2).sum((1, 2))
    return (1 - left / there.clamp(min=1e-12)).mean().float()


class StateRegression(Objective):
    """Brings the keys and values made of a slot to those that the model makes of the slot's part of the text.

        loss = mean over layers, slots and channels of (x - y)^2

    x, y: keys before RoPE and values, standardised by channel as measured on text (`Injector.states`); y is the mean
    over the tokens of the slot's chunk (`pooling.chunk_borders`). The model reads the text once per step, without
    gradient; no question is asked. It is the dense signal with which a model that comes later learns to read a wire of
    another family (`curriculum=states_first`): the linear start explains half of the variance there, and answers alone
    stay long on the plateau of their frequencies.

    States that are like the text's are a start and no skill: report F1 beside the explained variance. The gradient
    reaches encoder, codec, adapter and injector.

    Args:
        weight: its weight over time.

    Raises:
        UserError: a reader that does not take latents as keys and values alone (`injector=deep_prefix`).
    """

    needs = Needs(frozenset(), context=True)
    reaches = frozenset({"encoder", "codec", "adapter", "injector"})
    places = True
    observes = ("explained",)

    def prepare(self, readers: Mapping[str, ReaderShape], d_z: int) -> None:
        for name, shape in readers.items():
            if not shape.states:
                raise UserError(
                    "objectives.state_regression",
                    f"latents that {name} reads as embeddings, or between its layers",
                    "latents that become keys and values",
                    "set injector=deep_prefix, or objective=[answer_ce,embedding_reconstruction]",
                )

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        if seen.states is None:
            raise RuntimeError("state regression without states")
        x, y = (s.float().flatten(1, 2) for s in seen.states())
        with torch.no_grad():
            share = explained(x, y)
        return ObjectiveOutput(F.mse_loss(x, y), {"explained": share})
