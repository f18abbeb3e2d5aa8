"""ProbeHeads: the classifiers of all modalities, trained together on features that they cannot change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from callbacks.step.ranks import sum_over_ranks

Rows = tuple[Tensor, Tensor, Tensor]  # features (n, d) in fp32, labels (n,), weights (n,)
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def probe_logits(weights: list[Tensor], features: Tensor) -> Tensor:
    """Return the logits (n, classes) of a probe on features (n, d).

    Args:
        weights: the probe's tensors: `[weight, bias]` of a linear one, those of both layers of one with a hidden layer
            (ReLU).
        features: the rows.
    """
    hidden = features if len(weights) == 2 else torch.relu(F.linear(features, weights[0], weights[1]))
    return F.linear(hidden, weights[-2], weights[-1])


def probe_gradients(weights: list[Tensor], rows: Rows) -> list[Tensor]:
    """Return the gradients of the weighted sum of cross-entropies `sum_i w_i CE(probe(f_i), y_i)`.

    They are written out (softmax less one-hot, back through the layers), because a graph for two or four small matrices
    costs three times what the products do.

    Args:
        weights: the probe's tensors, as in `probe_logits`.
        rows: features, labels and weights.
    """
    features, labels, w = rows
    hidden = features if len(weights) == 2 else torch.relu(F.linear(features, weights[0], weights[1]))
    error = torch.softmax(F.linear(hidden, weights[-2], weights[-1]), 1)
    error.scatter_add_(1, labels[:, None], error.new_full((1, 1), -1.0).expand(labels.shape[0], 1))
    error.mul_(w[:, None])
    last = [error.T @ hidden, error.sum(0)]
    if len(weights) == 2:
        return last
    error = (error @ weights[2]).mul_(hidden > 0)
    return [error.T @ features, error.sum(0), *last]


class ProbeHeads:
    """Holds a classifier per modality; the weights of all are one vector, so that one Adam step moves them together.

    The step is that of Kingma and Ba (2015), algorithm 1, with their default rates: `torch.optim.Adam` gives the same
    numbers and takes six times as long for so few weights.

    Args:
        classes: the number of classes.
        hidden: the width of the hidden layer; 0 makes the probes linear.
        lr: the learning rate of Adam.
        seed: the seed of the initial weights, which are uniform within ±1/sqrt(d), d the size of the features.

    Attributes:
        sizes: the size of each modality's features.
        weights: the tensors of each modality's probe, see `probe_logits`; they are views of the one vector.
    """

    def __init__(self, classes: int, hidden: int, lr: float, seed: int):
        self.classes, self.hidden, self.lr, self.seed = classes, hidden, lr, seed
        self.sizes: dict[str, int] = {}
        self.weights: dict[str, list[Tensor]] = {}
        self._flat = self._first = self._second = torch.empty(0)
        self._steps = 0

    def _shapes(self, size: int) -> list[tuple[int, ...]]:
        widths = [(self.hidden, size), (self.classes, self.hidden)] if self.hidden else [(self.classes, size)]
        return [shape for out, inner in widths for shape in ((out, inner), (out,))]

    def build(self, sizes: Mapping[str, int], device: torch.device) -> None:
        """Build the probes of all modalities, from their feature sizes; those that exist keep their weights.

        Where a modality joins later, Adam's averages start anew for all.
        """
        parts = []
        for m, size in sizes.items():
            if m in self.weights:
                parts += [w.flatten() for w in self.weights[m]]
                continue
            generator, bound = torch.Generator().manual_seed(self.seed), size**-0.5
            for shape in self._shapes(size):
                drawn = torch.rand(shape, generator=generator, dtype=torch.float32)
                parts.append(((drawn * 2 - 1) * bound).flatten().to(device))
        self._install(dict(sizes), torch.cat(parts))
        self._first, self._second, self._steps = torch.zeros_like(self._flat), torch.zeros_like(self._flat), 0

    def _install(self, sizes: dict[str, int], flat: Tensor) -> None:
        self.sizes, self._flat = sizes, flat
        shapes = {m: self._shapes(size) for m, size in sizes.items()}
        views = iter(flat.split([torch.Size(s).numel() for of in shapes.values() for s in of]))
        self.weights = {m: [next(views).view(s) for s in of] for m, of in shapes.items()}

    @torch.no_grad()
    def logits(self, m: str, features: Tensor) -> Tensor:
        """Return the logits (n, classes) of modality m's probe."""
        return probe_logits(self.weights[m], features)

    @torch.no_grad()
    def train(self, batch: Mapping[str, Rows]) -> None:
        """Move all probes by one Adam step on the weighted mean cross-entropy over the rows of all ranks.

        A modality that has no row in the batch takes a gradient of 0.
        """
        parts: list[Tensor] = []
        counts: list[Tensor] = []
        for m, weights in self.weights.items():
            if m in batch:
                parts += [g.flatten() for g in probe_gradients(weights, batch[m])]
                counts.append(batch[m][2].sum())
            else:
                parts += [torch.zeros_like(w).flatten() for w in weights]
                counts.append(self._flat.new_zeros(()))
        n = len(counts)
        total = sum_over_ranks(torch.cat([*parts, torch.stack(counts)]))
        gradient = total[:-n]
        each = gradient.split([sum(w.numel() for w in weights) for weights in self.weights.values()])
        torch._foreach_div_(list(each), list(total[-n:].clamp(min=1.0).unbind()))
        self._steps += 1
        self._first.lerp_(gradient, 1 - BETA1)
        self._second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        spread = (self._second / (1 - BETA2**self._steps)).sqrt_().add_(EPS)
        self._flat.addcdiv_(self._first, spread, value=-self.lr / (1 - BETA1**self._steps))

    def state(self) -> dict[str, Any]:
        """Return weights and Adam's averages, on the CPU."""
        names = ("flat", "first", "second")
        vectors = {n: getattr(self, f"_{n}").detach().cpu().clone() for n in names}
        return {"sizes": dict(self.sizes), "steps": self._steps, **vectors}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Take over what `state` returned."""
        self._install(dict(state["sizes"]), state["flat"].to(device))
        self._first, self._second, self._steps = state["first"].to(device), state["second"].to(device), state["steps"]
