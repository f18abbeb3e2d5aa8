"""The linear map of one period on the saddle: the exact rate of every combination of mechanisms, and the start."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asgml.theory.mechanism import Mechanism


@dataclass(frozen=True)
class Saddle:
    """Holds how a two-layer path grows while all weights are small.

    Attributes:
        rate: the growth of its layers per step, in the long run; the path's weight grows at twice that.
        scale: the path's weight follows `(scale u_0)^2 exp(2 rate t)` once the fastest direction has taken over,
            averaged over the steps of a period.
    """

    rate: float
    scale: float


def period(mechanism: Mechanism, strength: float, own: float) -> list[np.ndarray]:
    """Return the maps of the steps of one period, the due step first, after the map of a step of the warm-up.

    The state has the layers of the newest tau + 1 steps (encoder a, head b, unimodal head v, in turn), then the three
    velocities. The gradients on the saddle are, as ascent, `s b + gamma own v`, `s a` and `gamma own a`.

    Args:
        mechanism: how the path is trained.
        strength: s, what the fused loss offers the path.
        own: the path's own correlation with the target, which its unimodal loss offers.
    """
    m, n = mechanism, 3
    size = n * (m.tau + 2)
    maps = []
    for step in range(-1, m.every):
        masked, update = step > 0, np.zeros((size, size))
        frozen = step < 0 or (masked and m.masking == "hard")
        unimodal = 0.0 if masked and m.masking == "fusion_preserving" else m.gamma * own
        gradient = np.array([[0.0, strength, unimodal], [strength, 0.0, 0.0], [m.gamma * own, 0.0, 0.0]])
        soft = m.soft_scale if masked and m.masking == "soft" else 1.0
        for layer in range(n):
            held = m.held == "path" or layer == 0
            velocity, age = size - n + layer, m.tau if held else 0
            update[layer, layer] = update[velocity, velocity] = 1.0
            if held and frozen:
                continue
            update[velocity, velocity] = m.momentum
            update[velocity, n * age : n * age + n] += (soft * m.factor if held else 1.0) * gradient[layer]
            update[layer] += m.lr * update[velocity]
        for lag in range(1, m.tau + 1):
            update[n * lag : n * lag + n, n * (lag - 1) : n * lag] = np.eye(n)
        maps.append(update)
    return maps


def growth_rate(mechanism: Mechanism, strength: float, own: float | None = None) -> float:
    """Return by what log of a factor a two-layer path's layers grow per step on the saddle, in the long run.

    It is the log of the largest eigenvalue of one period's map, per step, and below 0 where what is left of the
    strength points the other way and nothing else grows.

    Args:
        mechanism: how the path is trained.
        strength: what the fused loss offers the path.
        own: the path's own correlation with the target; `strength` where left out.
    """
    return _rate(whole_period(period(mechanism, strength, strength if own is None else own)), mechanism)


def saddle(mechanism: Mechanism, strength: float, own: float | None = None) -> Saddle:
    """Return rate and scale of a two-layer path that starts on the saddle with equal layers.

    Args:
        mechanism: how the path is trained.
        strength: what the fused loss offers the path, above 0.
        own: the path's own correlation with the target; `strength` where left out.
    """
    hold, *steps = maps = period(mechanism, strength, strength if own is None else own)
    whole, size = whole_period(maps), len(hold)
    rate, (_, right), (_, left) = _rate(whole, mechanism), leading(whole), leading(whole.T)
    state = np.zeros(size)
    state[: size - 3] = 1.0
    if mechanism.gamma == 0:
        state[2 : size - 3 : 3] = 0.0  # the unimodal head is not there
    passed = -(-mechanism.tau // mechanism.every) * mechanism.every  # the warm-up, up to the next whole period
    for t in range(passed):
        state = (hold if t < mechanism.tau else steps[t % mechanism.every]) @ state
    state, logs = right * (left @ state) / (left @ right), list[float]()
    for t in range(passed, passed + mechanism.every):
        state = steps[t % mechanism.every] @ state
        logs.append(0.5 * float(np.log(abs(state[0] * state[1]))) - rate * (t + 1))
    return Saddle(rate, float(np.exp(np.mean(logs))))


def whole_period(maps: list[np.ndarray]) -> np.ndarray:
    """Return the map of one period from those of its steps (`period`), without the warm-up's."""
    whole = np.eye(len(maps[0]))
    for update in maps[1:]:
        whole = update @ whole
    return whole


def _rate(whole: np.ndarray, mechanism: Mechanism) -> float:
    return float(np.log(max(leading(whole)[0], 1e-300))) / mechanism.every


def leading(matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the eigenvalue of the largest real part, as a real number, and its eigenvector."""
    values, vectors = np.linalg.eig(matrix)
    top = int(np.argmax(values.real))
    return float(values[top].real), vectors[:, top].real
