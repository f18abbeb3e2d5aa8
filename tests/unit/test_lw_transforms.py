"""Transforms of embeddings: each against its slow definition, over vocabularies in parts of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from latentwire import transforms

Table = tuple[Tensor, Callable[[], Iterator[Tensor]]]


@pytest.fixture
def table() -> Table:
    whole = torch.randn(37, 6, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 2, 6) + 0.3
    return whole, lambda: iter(whole.split(5))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(11, 6, generator=torch.Generator().manual_seed(1))


def test_moments_are_those_of_the_whole_table(table: Table) -> None:
    whole, parts = table
    mean, std, covariance = transforms.moments(parts)
    torch.testing.assert_close(mean, whole.mean(0))
    torch.testing.assert_close(std, whole.std(0, correction=0))
    torch.testing.assert_close(covariance, torch.cov(whole.T, correction=0))


def test_rms_matching_keeps_directions_and_no_magnitude(x: Tensor) -> None:
    y = transforms.match_rms(x, 0.25)
    torch.testing.assert_close(transforms.rms(y), torch.full((11, 1), 0.25))
    torch.testing.assert_close(normalize(y, dim=-1), normalize(x, dim=-1))


def test_moments_of_a_batch_become_the_given_ones(x: Tensor, table: Table) -> None:
    mean, std, _ = transforms.moments(table[1])
    y = transforms.match_moments(x, mean, std)
    torch.testing.assert_close(y.mean(0), mean)
    torch.testing.assert_close(y.std(0, correction=0), std)


def test_a_whitened_table_has_equal_and_independent_directions(table: Table) -> None:
    whole, parts = table
    mean, _, covariance = transforms.moments(parts)
    y = transforms.whitened(whole, mean, covariance, 0.5)
    torch.testing.assert_close(torch.cov(y.T, correction=0), 0.25 * torch.eye(6), atol=1e-4, rtol=0)


def test_the_manifold_is_the_weighed_mean_of_the_nearest(x: Tensor, table: Table) -> None:
    whole, parts = table
    y = transforms.on_manifold(x, parts, 3, 0.1)
    for row, got in zip(x, y, strict=True):
        cosine = normalize(row, dim=-1) @ normalize(whole, dim=-1).T
        best = cosine.topk(3)
        torch.testing.assert_close(got, (best.values / 0.1).softmax(-1) @ whole[best.indices])


def test_the_nearest_token_of_a_token_is_itself(table: Table) -> None:
    whole, parts = table
    torch.testing.assert_close(transforms.on_manifold(whole, parts, 1), whole)


@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_the_soft_codebook_is_one_softmax_whatever_the_parts(x: Tensor, table: Table, temperature: float) -> None:
    whole, parts = table
    cosine = normalize(x, dim=-1) @ normalize(whole, dim=-1).T
    torch.testing.assert_close(
        transforms.soft_codebook(x, parts, temperature), (cosine / temperature).softmax(-1) @ whole
    )
