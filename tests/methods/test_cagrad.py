"""CAGrad against a slow transcription (Liu et al., NeurIPS 2021)."""

from __future__ import annotations

import math

import pytest
import torch
from methods_toys import observe
from tasks_toys import applied, arrow, dot, mix, products, simplex_minimum, tasks
from toys import SGD, differences

from asgml.methods.cagrad import CAGrad, worst_case
from asgml.methods.uniform import Uniform


def quadratic(a: list[float], gram: list[list[float]], b: list[float]) -> float:
    return sum(a[i] * b[j] * g for i, row in enumerate(gram) for j, g in enumerate(row))


def objective(w: list[float], gram: list[list[float]], c: float) -> float:
    """g_w . g_0 + c |g_0| |g_w|."""
    mean = [1 / len(gram)] * len(gram)
    radius = c * math.sqrt(max(quadratic(mean, gram, mean), 0.0))
    return quadratic(w, gram, mean) + radius * math.sqrt(max(quadratic(w, gram, w), 0.0))


@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_weights_minimise_the_dual(n, c):
    supports = set()
    for seed in range(5):
        gram = arrow(n, seed)
        t = torch.tensor(gram, dtype=torch.float64)
        found = worst_case(t, c * t.mean().clamp(min=0).sqrt()).tolist()
        best = simplex_minimum(n + 1, lambda w, g=gram: objective(w, g, c))
        assert objective(found, gram, c) == pytest.approx(objective(best, gram, c), abs=1e-8)
        assert sum(found) == pytest.approx(1)
        assert min(found) >= 0
        supports.add(tuple(w > 1e-9 for w in found))
    assert len(supports) > 1


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_encoders_move_as_printed(modalities):
    for seed in range(2):
        vectors = tasks(modalities, seed)
        gram = products(vectors)
        w = simplex_minimum(len(vectors), lambda w, g=gram: objective(w, g, 0.4))
        mean, worst = mix([1 / len(vectors)] * len(vectors), vectors), mix(w, vectors)
        length = 0.4 * math.sqrt(dot(mean, mean) / dot(worst, worst))
        expected = [a + length * b for a, b in zip(mean, worst, strict=True)]
        found = applied(CAGrad(c=0.4), modalities, seed)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
        step = [a - b for a, b in zip(found, mean, strict=True)]  # on the sphere around the mean, exactly
        assert dot(step, step) == pytest.approx(0.16 * dot(mean, mean), rel=1e-6)
        gain = min(dot(g, found) for g in vectors)
        assert gain >= min(dot(g, expected) for g in vectors) - 1e-9
        assert gain >= min(dot(g, mean) for g in vectors) - 1e-12


def test_fusion_and_heads_move_as_without_it():
    runs = [observe({"x": x}, steps=1, optimizer=SGD)[0] for x in (Uniform(), CAGrad())]
    for name in ("net.fusion", "net.heads"):
        assert not differences(*({k: v for k, v in r.final.items() if k.startswith(name)} for r in runs))


def test_single_precision_agrees():
    for seed in range(10):
        t = torch.tensor(arrow(3, seed), dtype=torch.float64) * 1e-12
        radius = 0.4 * t.mean().sqrt()
        exact, single = worst_case(t, radius), worst_case(t.float(), radius.float()).double()
        torch.testing.assert_close(single, exact, rtol=1e-2, atol=1e-2)
