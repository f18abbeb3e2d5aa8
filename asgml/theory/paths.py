"""Linear paths: what a deep linear network of late fusion knows of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Paths:
    """Holds the correlations that decide how fast each path of a linear network learns.

    The network is `yhat = sum_m w_m x_m`, w_m the product of the path's layers, all of which begin at `start`, and the
    loss is `E (y - yhat)^2 / 2`. A deep linear network with white inputs per modality and small, balanced weights
    reduces to this along the direction that each modality learns (Saxe, McClelland, Ganguli, "Exact solutions to the
    nonlinear dynamics of learning in deep linear neural networks", ICLR 2014; of several modalities: Zhang, Latham,
    Saxe, "Understanding Unimodal Bias in Multimodal Deep Linear Networks", ICML 2024).

    Attributes:
        strengths: s_m = E x_m y, the correlation of each modality with the target, shape (N,), above 0.
        inputs: C, the covariance of the inputs, shape (N, N), positive definite.
        start: the weight u_0 of every layer at the start, above 0.
        layers: the number of layers of a path, L, 2 or more.

    Raises:
        ValueError: shapes that do not fit, or inputs that are not positive definite.
    """

    strengths: np.ndarray
    inputs: np.ndarray
    start: float = 1e-3
    layers: int = 2

    def __post_init__(self) -> None:
        n = len(self.strengths)
        if self.inputs.shape != (n, n) or np.linalg.eigvalsh(self.inputs)[0] <= 0:
            raise ValueError(f"inputs must be a positive definite matrix of shape ({n}, {n})")
        if self.layers < 2 or self.start <= 0 or np.min(self.strengths) <= 0:
            raise ValueError("layers must be 2 or more, start and every strength above 0")

    @property
    def final(self) -> np.ndarray:
        """Return the weights at the end of training, the least-squares solution `C^-1 s`, shape (N,)."""
        return np.linalg.solve(self.inputs, self.strengths)

    def residual(self, learned: Sequence[int]) -> np.ndarray:
        """Return what is left of every strength once some paths have learned all that they can alone, shape (N,).

        It is `r = s - C_S w_S`, `w_S = C_SS^-1 s_S` (0 on the learned paths themselves).

        Args:
            learned: the indices S of the paths that have learned.
        """
        chosen = list(learned)
        if not chosen:
            return np.array(self.strengths, dtype=float)
        return self.strengths - self.inputs[:, chosen] @ self.fitted(chosen)

    def fitted(self, learned: Sequence[int]) -> np.ndarray:
        """Return the weights w_S of some paths that fit the target without the others, shape (len(S),)."""
        chosen = list(learned)
        return np.linalg.solve(self.inputs[np.ix_(chosen, chosen)], self.strengths[chosen])


def redundant(
    scales: Sequence[float], rho: float = 0.0, start: float = 1e-3, layers: int = 2, weights: Sequence[float] = ()
) -> Paths:
    """Return the paths of modalities that share a correlation: `y = sum_m w_m x_m`, x_m of standard deviation sigma_m.

    Args:
        scales: sigma_m of every modality; the largest is learned first.
        rho: the correlation of every pair of inputs, 0 for independent ones; the nearer to 1, the more redundant.
        start: the weight of every layer at the start.
        layers: the number of layers of a path.
        weights: the target's weights w_m, 1 for all where left out.
    """
    sigma = np.asarray(scales, dtype=float)
    correlation = np.full((len(sigma), len(sigma)), rho) + (1 - rho) * np.eye(len(sigma))
    inputs = correlation * np.outer(sigma, sigma)
    target = np.asarray(weights if len(weights) else np.ones(len(sigma)), dtype=float)
    return Paths(inputs @ target, inputs, start, layers)


def unimodal_phase(paths: Paths) -> float:
    """Return `t_B / t_A` of two paths: how much later the slow one leaves the saddle, for small steps and weights.

    It is `1 + (s_A - s_B) / (s_B - C_BA C_AA^-1 s_A)`, whatever the number of layers: until t_A the slow path advances
    at s_B, afterwards at what A has left over. With `redundant((r, 1), rho)` it is `1 + (r^2 - 1) / (1 - rho^2)`, the
    curve that Zhang, Latham and Saxe (ICML 2024) draw for two-layer late fusion.

    Raises:
        ValueError: there are not two paths, or A leaves nothing to B.
    """
    if len(paths.strengths) != 2:
        raise ValueError("the ratio is of two paths")
    first = int(np.argmax(paths.strengths))
    slow = 1 - first
    left = paths.residual([first])[slow]
    if left <= 0:
        raise ValueError("the first path leaves the second nothing to learn")
    return float(1 + (paths.strengths[first] - paths.strengths[slow]) / left)
