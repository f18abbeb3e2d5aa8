"""PCGrad against a slow transcription (Yu et al., NeurIPS 2020)."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch
from methods_toys import Row, observe
from tasks_toys import applied, dot, mix, tasks
from toys import SGD, differences

from asgml.methods.pcgrad import PCGrad
from asgml.methods.shared.tasks import TaskGradients
from asgml.methods.uniform import Uniform


def projected(vectors: list[Row], i: int, order: tuple[int, ...]) -> Row:
    h = list(vectors[i])
    for j in order:
        inner = dot(h, vectors[j])
        if inner < 0:
            h = [a - inner / dot(vectors[j], vectors[j]) * b for a, b in zip(h, vectors[j], strict=True)]
    return h


def outcomes(vectors: list[Row]) -> list[Row]:
    """The applied gradient for every combination of orders in which a gradient may meet the others."""
    n = len(vectors)
    choices = [[projected(vectors, i, o) for o in permutations(set(range(n)) - {i})] for i in range(n)]
    return [[sum(column) for column in zip(*chosen, strict=True)] for chosen in product(*choices)]


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_the_applied_gradient_is_the_transcribed_one_for_some_order(modalities):
    conflicts = []
    for seed in range(3):
        vectors = tasks(modalities, seed)
        conflicts.append(any(dot(vectors[0], g) < 0 for g in vectors[1:]))
        found = applied(PCGrad(), modalities, seed)
        assert any(found == pytest.approx(p, rel=1e-6, abs=1e-9) for p in outcomes(vectors))
        plain = [sum(column) for column in zip(*vectors, strict=True)]
        assert (found != pytest.approx(plain, rel=1e-6, abs=1e-9)) == conflicts[-1]
    assert any(conflicts) or modalities == 1


class Moment:
    """Of a step, the only thing that the weights depend on besides the gradients."""

    def __init__(self, t: int):
        self.t = t


def weights(vectors: list[Row], seed: int, t: int) -> Row:
    method = PCGrad()
    method.prepare("pcgrad", ["audio", "visual"], 3, seed)
    gram = torch.tensor([[dot(a, b) for b in vectors] for a in vectors], dtype=torch.float64)
    return method.weights(Moment(t), TaskGradients({}, gram)).tolist()  # type: ignore[arg-type]


def test_the_order_changes_from_step_to_step_and_with_the_seed_only():
    """A fused gradient in conflict with both unimodal ones: the sum depends on the order."""
    vectors = [[-1.0, -1.4, -0.5], [0.7, 1.0, 0.0], [0.0, 0.0, 1.3]]
    possible = outcomes(vectors)

    def sums(seed: int) -> list[Row]:
        return [mix(weights(vectors, seed, t), vectors) for t in range(24)]

    seen = []
    for found in sums(0):
        places = [i for i, p in enumerate(possible) if found == pytest.approx(p, rel=1e-9, abs=1e-12)]
        assert places
        seen.append(places[0])
    assert len(set(seen)) > 1
    assert sums(0) == sums(0) != sums(1)


def test_without_conflict_it_is_the_uniform_loss():
    assert weights([[1.0, 0.5, 0.2], [0.3, 0.0, 0.0], [0.0, 0.0, 2.0]], 0, 0) == [1.0, 1.0, 1.0]


def test_fusion_and_heads_move_as_without_it():
    runs = [observe({"x": x}, steps=1, optimizer=SGD)[0] for x in (Uniform(), PCGrad())]
    for name in ("net.fusion", "net.heads"):
        assert not differences(*({k: v for k, v in r.final.items() if k.startswith(name)} for r in runs))
