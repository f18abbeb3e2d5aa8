"""MGDA against a slow transcription (Sener and Koltun, NeurIPS 2018)."""

from __future__ import annotations

import math

import pytest
import torch
from methods_toys import observe
from tasks_toys import applied, arrow, dot, mix, products, simplex_minimum, tasks
from toys import SGD, differences, same

from asgml.methods.mgda import MGDA, min_norm
from asgml.methods.uniform import Uniform


def norm(w: list[float], gram: list[list[float]]) -> float:
    return sum(w[i] * w[j] * g for i, row in enumerate(gram) for j, g in enumerate(row))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_weights_are_those_of_the_shortest_combination(n):
    supports = set()
    for seed in range(5):
        gram = arrow(n, seed)
        expected = simplex_minimum(n + 1, lambda w, g=gram: norm(w, g))
        found = min_norm(torch.tensor(gram, dtype=torch.float64)).tolist()
        assert norm(found, gram) == pytest.approx(norm(expected, gram), abs=1e-9)
        assert found == pytest.approx(expected, abs=1e-4)  # the objective is flat where it is smallest
        assert min(dot(row, found) for row in gram) >= norm(found, gram) - 1e-9  # optimality, without any solver
        supports.add(tuple(w > 1e-9 for w in found))
    assert len(supports) > 1


def test_single_precision_and_extreme_norms():
    for seed in range(10):
        gram = arrow(3, seed)
        scaled = torch.tensor(gram, dtype=torch.float64) * 1e-24
        exact = min_norm(torch.tensor(gram, dtype=torch.float64))
        torch.testing.assert_close(min_norm(scaled.float()).double(), exact, rtol=1e-3, atol=1e-3)
    nothing = torch.zeros(3, 3)
    nothing[0, 0] = 1.0
    assert float(min_norm(nothing)[0]) == 0.0  # tasks that are solved
    assert float(min_norm(nothing).sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_encoders_move_by_the_shortest_combination(modalities):
    for seed in range(2):
        vectors = tasks(modalities, seed)
        gram = products(vectors)
        w = simplex_minimum(len(vectors), lambda w, g=gram: norm(w, g))
        found = applied(MGDA(), modalities, seed)
        expected = mix(w, vectors)
        assert math.sqrt(dot(found, found)) == pytest.approx(math.sqrt(dot(expected, expected)), rel=1e-6)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
        for g in vectors:  # it descends every task
            assert dot(found, g) >= dot(found, found) * (1 - 1e-9)


def test_normalised_gradients_decide_and_plain_ones_are_applied():
    def more(module):
        return [float(module.step.losses[t].detach()) for t in ("fusion", *module.modalities)]

    vectors = tasks(2, 0)
    _, capture = observe({"x": MGDA()}, steps=1, optimizer=SGD, seed=0, data_seed=0, more=more)
    norms, losses = [math.sqrt(dot(g, g)) for g in vectors], capture.seen[0].more
    scales = {"l2": norms, "loss": losses, "loss+": [a * b for a, b in zip(norms, losses, strict=True)]}
    for kind, scale in scales.items():
        gram = products([[v / s for v in g] for g, s in zip(vectors, scale, strict=True)])
        w = simplex_minimum(len(vectors), lambda w, g=gram: norm(w, g))
        assert applied(MGDA(normalize=kind), 2, 0) == pytest.approx(mix(w, vectors), rel=1e-4, abs=1e-6)


def test_fusion_and_heads_move_as_without_it():
    runs = [observe({"x": x}, steps=1, optimizer=SGD)[0] for x in (Uniform(), MGDA())]
    for name in ("net.fusion", "net.heads"):
        assert not differences(*({k: v for k, v in r.final.items() if k.startswith(name)} for r in runs))


def test_a_modality_that_nobody_has_is_no_task():
    def more(module):
        return [k for k in module.step.here]

    run, capture = observe({"mgda": MGDA()}, modalities=3, steps=4, optimizer=SGD, more=more)
    before, after = run.trace.states[2], run.trace.states[3]
    assert capture.seen[3].more == ["audio", "text"]
    assert same(before, after, "net.encoders.visual")
    assert not same(before, after, "net.encoders.text")
    assert "mgda/weight/visual" not in run.module.step.reads
