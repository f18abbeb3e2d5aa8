"""The effective rank of vectors, against its definition written out (Roy and Vetterli, EUSIPCO 2007)."""

from __future__ import annotations

import math

import pytest
import torch

from callbacks.run.collapse import effective_rank
from callbacks.run.spectrum import entropy_rank, singular_values


def literal(rows: list[list[float]]) -> float:
    """The exponential of the entropy of sigma_i / sum_j sigma_j, sigma from the eigenvalues of the Gram matrix."""
    gram = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
    eigenvalues = torch.linalg.eigvalsh(torch.tensor(gram, dtype=torch.float64)).tolist()
    sigma = [math.sqrt(max(0.0, e)) for e in eigenvalues]
    share = [s / sum(sigma) for s in sigma]
    return math.exp(-sum(p * math.log(p) for p in share if p > 0))


@pytest.mark.parametrize("shape", [(3, 5), (6, 4), (7, 7), (1, 9)])
def test_it_is_what_the_paper_defines(shape: tuple[int, int]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)
    assert entropy_rank(singular_values(x)) == pytest.approx(literal(x.tolist()), rel=1e-6)
    centred = x - x.mean(0)
    if len(x) > 1:
        assert effective_rank(x) == pytest.approx(literal(centred.tolist()), rel=1e-6)


def test_latents_that_are_all_equal_have_rank_1() -> None:
    collapsed = torch.randn(8, generator=torch.Generator().manual_seed(0)).expand(40, 8)
    assert entropy_rank(singular_values(collapsed)) == pytest.approx(1.0, abs=1e-6)
    assert effective_rank(collapsed) == 0.0, "around their mean there is nothing left"
    assert entropy_rank(singular_values(torch.zeros(3, 4))) == 0.0


def test_orthogonal_vectors_of_one_length_count_one_by_one() -> None:
    for k in (1, 3, 6):
        assert entropy_rank(singular_values(2.5 * torch.eye(6)[:k])) == pytest.approx(k)
