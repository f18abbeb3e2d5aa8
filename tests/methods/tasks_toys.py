"""The tasks fused + unimodal as plain vectors over all encoders, for the tests of the multi-task methods."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from methods_toys import Row, flat, observe
from toys import SGD

from asgml.methods.joint import Joint
from asgml.methods.uniform import Uniform

LR = 0.05


def tasks(modalities: int, seed: int) -> list[Row]:
    """Gradients at the first step of a run: of the fused loss, then of every unimodal one (0 at other encoders)."""
    options: dict[str, Any] = {"modalities": modalities, "steps": 1, "optimizer": SGD, "seed": seed, "data_seed": seed}
    run, joint = observe({"joint": Joint()}, **options)
    _, both = observe({"uniform": Uniform()}, **options)
    fused = {m: flat(joint.gradients[0][m]) for m in run.module.modalities}
    whole = {m: flat(both.gradients[0][m]) for m in run.module.modalities}
    out = [[v for f in fused.values() for v in f]]
    for m in fused:
        own = [w - f for w, f in zip(whole[m], fused[m], strict=True)]
        out.append([v for k in fused for v in (own if k == m else [0.0] * len(fused[k]))])
    return out


def applied(method: Any, modalities: int, seed: int) -> Row:
    """What the encoders have moved by at the first step, over the learning rate."""
    run, _ = observe({"x": method}, modalities=modalities, steps=1, optimizer=SGD, seed=seed, data_seed=seed)
    names = [f"net.encoders.{m}." for m in run.module.modalities]
    keys = [k for n in names for k, _ in run.module.named_parameters() if k.startswith(n)]
    return [v / LR for k in keys for v in (run.trace.start[k] - run.final[k]).flatten().tolist()]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def mix(weights: Sequence[float], vectors: Sequence[Row]) -> Row:
    return [sum(w * v for w, v in zip(weights, column, strict=True)) for column in zip(*vectors, strict=True)]


def products(vectors: Sequence[Row]) -> list[Row]:
    return [[dot(a, b) for b in vectors] for a in vectors]


def arrow(n: int, seed: int) -> list[Row]:
    """Inner products of one vector with n orthogonal ones, at random; conflicts likely."""
    draw = random.Random(seed)
    own = [draw.uniform(0.05, 3) for _ in range(n)]
    part = [draw.uniform(-1.5, 1.8) for _ in range(n)]  # of the fused gradient along each
    gram = [[0.0] * (n + 1) for _ in range(n + 1)]
    gram[0][0] = draw.uniform(0, 1) + sum(p * p * u for p, u in zip(part, own, strict=True))
    for i, (p, u) in enumerate(zip(part, own, strict=True), 1):
        gram[i][i], gram[0][i], gram[i][0] = u, p * u, p * u
    return gram


def simplex_minimum(size: int, objective: Callable[[Row], float], rounds: int = 60) -> Row:
    """Weights on the simplex that minimise a convex function: weight is moved between two tasks at a time by golden
    section, and towards each vertex, until nothing changes."""

    def along(w: Row, d: Row) -> Row:
        low, high = 0.0, 1.0
        for _ in range(55):
            a, b = low + 0.382 * (high - low), low + 0.618 * (high - low)
            fa, fb = (objective([x + t * y for x, y in zip(w, d, strict=True)]) for t in (a, b))
            low, high = (low, b) if fa < fb else (a, high)
        t = (low + high) / 2
        return [x + t * y for x, y in zip(w, d, strict=True)]

    w = [1 / size] * size
    for _ in range(rounds):
        before = objective(w)
        for i in range(size):
            for j in range(size):
                if i != j:
                    w = along(w, [w[j] if k == i else -w[j] if k == j else 0.0 for k in range(size)])
            w = along(w, [(k == i) - w[k] for k in range(size)])
        if abs(before - objective(w)) < 1e-13:
            break
    return w
