"""The recursion itself: the steps that the suite's stages make, on linear paths, many settings at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from asgml.theory.mechanism import Mechanism
from asgml.theory.paths import Paths

Case = tuple[Paths, Sequence[Mechanism]]  # the paths, and the mechanism of each


@dataclass(frozen=True)
class Adam:
    """Holds the settings of Adam (Kingma and Ba, ICLR 2015): decay rates of both moments and epsilon."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


class Recursion:
    """Trains B sets of N linear paths side by side, in float64 and without noise.

    The layers of a path are L factors of its weight, the last of which is the head, and one more for the head of the
    unimodal loss. All settings may differ between cases and paths, except the number of layers.

    Args:
        cases: the paths with a mechanism for each.
        adam: Adam in place of gradient descent; momenta of the mechanisms are then not read, and constant factors act
            on the learning rate.

    Attributes:
        layers: the layers as they are, shape (B, N, L + 1).
        t: the number of steps made.
    """

    def __init__(self, cases: Sequence[Case], adam: Adam | None = None):
        def column(of: Callable[[Mechanism], object]) -> np.ndarray:
            return np.array([[of(m) for m in mechanisms] for _, mechanisms in cases])

        self.adam, self.t = adam, 0
        self.strengths = np.stack([p.strengths for p, _ in cases])
        self.inputs = np.stack([p.inputs for p, _ in cases])
        self.own = np.einsum("bnn->bn", self.inputs)
        depth = cases[0][0].layers
        start = np.array([p.start for p, _ in cases])
        self.layers = np.tile(start[:, None, None], (1, self.strengths.shape[1], depth + 1))
        self.gamma, self.tau, self.every = column(lambda m: m.gamma), column(lambda m: m.tau), column(lambda m: m.every)
        self.hard = column(lambda m: m.masking == "hard")
        self.softness = column(lambda m: m.soft_scale if m.masking == "soft" else 1.0)
        self.fusion_only = column(lambda m: m.masking == "fusion_preserving")
        self.held = np.ones(self.layers.shape, bool)
        self.held[..., depth - 1 :] = column(lambda m: m.held == "path")[..., None]
        self.beta = column(lambda m: m.momentum)[..., None]
        self.lr = column(lambda m: m.lr)[..., None] * np.where(self.held, column(lambda m: m.factor)[..., None], 1.0)
        self.first, self.second = np.zeros_like(self.layers), np.zeros_like(self.layers)
        self.count = np.zeros_like(self.layers)
        self.ring = np.zeros((int(self.tau.max()) + 1, *self.layers.shape))

    @property
    def weights(self) -> np.ndarray:
        """Return the weight of every path in the fused output, shape (B, N)."""
        return self.layers[..., :-1].prod(-1)

    def ascent(self, masked: np.ndarray) -> np.ndarray:
        """Return the negative gradient of `E (y - sum w_m x_m)^2 / 2 + gamma sum_m E (y - w'_m x_m)^2 / 2`.

        Args:
            masked: the paths between two updates, shape (B, N); `fusion_preserving` detaches the feature there.
        """
        encoder, head, own_head = self.layers[..., :-2], self.layers[..., -2], self.layers[..., -1]
        feature = encoder.prod(-1)
        fused = self.strengths - np.einsum("bnm,bm->bn", self.inputs, feature * head)
        own = self.gamma * (self.strengths - self.own * feature * own_head)
        at_feature = fused * head + np.where(masked & self.fusion_only, 0.0, own * own_head)
        out = np.empty_like(self.layers)
        for layer in range(encoder.shape[-1]):
            out[..., layer] = at_feature * np.delete(encoder, layer, -1).prod(-1)
        out[..., -2], out[..., -1] = fused * feature, own * feature
        return out

    def step(self) -> None:
        """Make one step of all cases."""
        masked = self.t % self.every != 0
        fresh, depth = self.ascent(masked), len(self.ring)
        self.ring[self.t % depth] = fresh
        rows, columns = np.indices(self.tau.shape)
        stale = self.ring[(self.t - self.tau) % depth, rows, columns]
        gradient = np.where(self.held, stale, fresh)
        gradient = gradient * np.where(self.held & masked[..., None], self.softness[..., None], 1.0)
        still = self.held & ((masked & self.hard) | (self.t < self.tau))[..., None]
        self.layers = np.where(still, self.layers, self.layers + self._update(gradient, still))
        self.t += 1

    def _update(self, gradient: np.ndarray, still: np.ndarray) -> np.ndarray:
        """Return what the layers move by, and take the gradient into the moments of those that are not still."""
        if self.adam is None:
            self.first = np.where(still, self.first, self.beta * self.first + gradient)
            return self.lr * self.first
        a = self.adam
        self.count = self.count + ~still
        self.first = np.where(still, self.first, a.beta1 * self.first + (1 - a.beta1) * gradient)
        self.second = np.where(still, self.second, a.beta2 * self.second + (1 - a.beta2) * gradient**2)
        count = np.maximum(self.count, 1)
        spread = np.sqrt(self.second / (1 - a.beta2**count)) + a.epsilon
        return self.lr * self.first / (1 - a.beta1**count) / spread


def half_times(cases: Sequence[Case], steps: int, adam: Adam | None = None, share: float = 0.5) -> np.ndarray:
    """Return after how many steps every path reaches a share of its final weight, infinite where it does not.

    Args:
        cases: the paths with a mechanism for each.
        steps: the number of steps to make at most; it ends when all have arrived.
        adam: Adam in place of gradient descent.
        share: the share of the final weight.
    """
    recursion = Recursion(cases, adam)
    aim = share * np.stack([p.final for p, _ in cases])
    out = np.full(aim.shape, np.inf)
    for t in range(1, steps + 1):
        recursion.step()
        out = np.where(np.isinf(out) & (recursion.weights >= aim), t, out)
        if np.isfinite(out).all():
            break
    return out
