"""Growth on the saddle in closed form: by what a path's layers grow per step while all weights are small.

A rate is `log(u_{t+1} / u_t)` of a two-layer path whose layers are balanced; `x = eta s` is the learning rate times the
path's correlation with what is still to be learned. `asgml.theory.saddle` has every combination of these.
"""

from __future__ import annotations

import math

from scipy.special import lambertw

from callbacks.stages.delay_stability import growth


def plain(x: float) -> float:
    """Return the rate of gradient descent, `log(1 + x)`."""
    return math.log1p(x)


def frequency_hard(x: float, k: int) -> float:
    """Return the rate with an update every k steps, `log(1 + x) / k`: the time grows by exactly k."""
    return math.log1p(x) / k


def frequency_soft(x: float, k: int, scale: float) -> float:
    """Return the rate where the gradient of the other steps is scaled, `(log(1 + x) + (k - 1) log(1 + scale x)) / k`.

    For small x it is x times the mean factor, `(1 + (k - 1) scale) / k`.
    """
    return (math.log1p(x) + (k - 1) * math.log1p(scale * x)) / k


def delayed(x: float, tau: float) -> float:
    """Return the rate under a delay of tau steps in continuous time: g with `g = x exp(-g tau)`, `W(x tau) / tau`.

    W is Lambert's function. The discrete rate is that of `heavy_ball` without momentum, within a share of x / 2.
    """
    return float(lambertw(x * tau).real) / tau if tau > 0 else x


def delay_stretch(x: float, tau: float) -> float:
    """Return how many times longer a path stays on the saddle under a delay, `x tau / W(x tau)`, continuous time."""
    return x / delayed(x, tau)


def heavy_ball(x: float, beta: float, tau: int = 0) -> float:
    """Return the rate under momentum and delay, `log z` of the largest root of `(z - 1)(z - beta) z^tau = x z`.

    This is the polynomial of the stability map at the curvature -s: what decides where a delay is stable (positive
    curvature, at the solution) decides on the saddle how much the delay slows.
    """
    return math.log(growth(-x, beta, tau))


def heavy_ball_small(x: float, beta: float) -> float:
    """Return the first order of `heavy_ball` without delay in x: `x / (1 - beta)`, the effective rate."""
    return x / (1 - beta)


def encoder_held(x: float, factor: float) -> float:
    """Return the first order of the rate where `factor` acts on the encoder alone and the head is free: `x sqrt(f)`.

    The layers a (held) and b (free) follow `a' = f x b`, `b' = x a`. So an update of the encoder every k steps costs a
    factor of sqrt(k) in time, not k, and a matched learning rate 1/k does the same.
    """
    return x * math.sqrt(factor)


def encoder_delayed(x: float, tau: float) -> float:
    """Return the continuous rate where the encoder alone is delayed, `2 W(x tau / 2) / tau`: half of tau counts."""
    return delayed(x, tau / 2)


def with_unimodal(x: float, own: float, gamma: float) -> float:
    """Return the first order of the rate with a unimodal loss through a head of its own: `sqrt(x^2 + gamma^2 own^2)`.

    Args:
        x: the learning rate times what the fused loss still has to offer the path, which shrinks as others learn.
        own: the learning rate times the path's own correlation with the target, which does not.
        gamma: the weight of the unimodal loss.
    """
    return math.hypot(x, gamma * own)
