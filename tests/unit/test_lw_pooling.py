"""Pooling: an exact number of slots from any length, and padding that nobody can see."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from callbacks.errors import UserError
from latentwire.encoders.pool_expand import PoolExpand
from latentwire.encoders.pooling import (
    ChunkMean,
    ChunkQueries,
    CrossAttention,
    Hierarchical,
    Pooling,
    StridedConv,
    chunk_borders,
    left_aligned,
)
from latentwire.encoders.transport import TransportPlan

D = 8
POOLINGS: dict[str, Callable[..., Pooling]] = {
    "chunk_mean": ChunkMean,
    "cross_attention": partial(CrossAttention, max_slots=6, layers=2, heads=2),
    "cross_attention_bare": partial(CrossAttention, max_slots=6, heads=2, positions=False),
    "chunk_queries": partial(ChunkQueries, max_slots=6, layers=2, heads=2),
    "pool_expand": partial(PoolExpand, max_slots=6, layers=2, heads=2),
    "transport": partial(TransportPlan, max_slots=6, steps=8),
    "strided_conv": partial(StridedConv, stride=2, layers=2, kernel=3),
    "hierarchical": partial(Hierarchical, factor=2, levels=2, heads=2),
}
each = pytest.mark.parametrize("name", POOLINGS)


def make(name: str, slices: int = 1, **settings: object) -> Pooling:
    torch.manual_seed(0)
    return POOLINGS[name](d=D, slices=slices, **settings).double()


def batch(lengths: list[int], width: int | None = None, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Rows of the same tokens whatever `width`; NaN in the padding."""
    g = torch.Generator().manual_seed(seed)
    x = torch.full((len(lengths), width or max(lengths), D), torch.nan, dtype=torch.float64)
    for i, n in enumerate(lengths):
        x[i, :n] = torch.randn(n, D, generator=g, dtype=torch.float64)
    return x, torch.arange(x.shape[1]) < torch.tensor(lengths).unsqueeze(1)


@each
def test_more_padding_on_either_side_changes_nothing(name: str) -> None:
    pooling = make(name)
    x, mask = batch([5, 9, 3])
    expected = pooling(x, mask, [3])
    assert torch.isfinite(expected).all()
    wide, wide_mask = batch([5, 9, 3], 16)
    torch.testing.assert_close(pooling(wide, wide_mask, [3]), expected)
    left = torch.full_like(wide, torch.nan)
    left_mask = torch.zeros_like(wide_mask)
    for i, n in enumerate([5, 9, 3]):
        left[i, 16 - n :], left_mask[i, 16 - n :] = wide[i, :n], True
    torch.testing.assert_close(pooling(left, left_mask, [3]), expected)


@each
def test_a_batch_is_its_rows(name: str) -> None:
    pooling = make(name)
    lengths = [5, 9, 3, 1]
    x, mask = batch(lengths)
    together = pooling(x, mask, [2])
    for i, n in enumerate(lengths):
        torch.testing.assert_close(pooling(x[i : i + 1, :n], mask[i : i + 1, :n], [2])[0], together[i])


@each
def test_every_length_gives_every_number_of_slots(name: str) -> None:
    pooling = make(name)
    for tokens in range(1, 12):
        x, mask = batch([tokens])
        for slots in range(1, 7):
            out = pooling(x, mask, [slots])
            assert out.shape == (1, slots, D)
            assert torch.isfinite(out).all()


@each
def test_fewer_tokens_than_slots_can_be_refused(name: str) -> None:
    pooling = make(name, short="refuse")
    x, mask = batch([5, 2])
    assert pooling(x, mask, [2]).shape == (2, 2, D)
    with pytest.raises(UserError, match="text of 2 tokens"):
        pooling(x, mask, [3])


@each
def test_gradients_reach_every_parameter_and_every_token_and_no_padding(name: str) -> None:
    pooling = make(name, slices=2)
    x, mask = batch([9, 6])
    x = x.nan_to_num().requires_grad_()
    (pooling(x, mask, [6, 3]) * torch.randn(2, 9, D, dtype=torch.float64)).sum().backward()
    for parameter, p in pooling.named_parameters():
        assert p.grad is not None, parameter
        assert p.grad.abs().sum() > 0, parameter
    assert x.grad is not None
    assert torch.equal(x.grad.abs().sum(2) > 0, mask)


@each
def test_only_what_has_no_positions_ignores_the_order(name: str) -> None:
    pooling = make(name)
    x, mask = batch([7])
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    same = torch.allclose(pooling(x, mask, [3]), pooling(x[:, order], mask, [3]))
    assert same == (name == "cross_attention_bare")


@each
def test_every_slice_covers_the_whole_text(name: str) -> None:
    pooling = make(name, slices=3)
    x, mask = batch([9, 4])
    out = pooling(x, mask, [3, 0, 2])
    torch.testing.assert_close(out[:, :3], pooling(x, mask, [3, 0, 0]))
    torch.testing.assert_close(out[:, 3:], pooling(x, mask, [0, 0, 2]))


@each
def test_a_row_without_tokens_is_an_error(name: str) -> None:
    x, mask = batch([3, 2])
    mask[1] = False
    with pytest.raises(ValueError, match="without tokens"):
        make(name)(x, mask, [1])


def test_chunk_means_are_the_means_of_the_chunks() -> None:
    x, mask = batch([10, 7, 2])
    out = ChunkMean(D)(x, mask, [3])
    for row, chunks in enumerate(([(0, 3), (3, 6), (6, 10)], [(0, 2), (2, 4), (4, 7)], [(0, 1), (0, 1), (1, 2)])):
        for j, (a, b) in enumerate(chunks):
            torch.testing.assert_close(out[row, j], x[row, a:b].mean(0))


@pytest.mark.parametrize("slots", [1, 2, 3, 5, 8, 13])
def test_chunks_cover_the_text_without_overlap_or_repeat_its_tokens(slots: int) -> None:
    for tokens in range(1, 30):
        start, end = (b[0].tolist() for b in chunk_borders(torch.tensor([tokens]), slots))
        inside = [t for a, b in zip(start, end, strict=True) for t in range(a, b)]
        assert sorted(set(inside)) == list(range(tokens))
        if tokens >= slots:
            assert inside == list(range(tokens))
            sizes = {b - a for a, b in zip(start, end, strict=True)}
            assert max(sizes) - min(sizes) <= 1
        else:
            assert len(inside) == slots
            assert inside == sorted(inside)


def test_fewer_queries_are_the_first_of_more() -> None:
    pooling = make("cross_attention")
    x, mask = batch([7, 3])
    torch.testing.assert_close(pooling(x, mask, [6])[:, :2], pooling(x, mask, [2]))
    with pytest.raises(UserError, match="max_slots=7"):
        pooling(x, mask, [7])


def test_strided_convolution_of_one_text_is_torchs_own() -> None:
    pooling = make("strided_conv")
    x, mask = batch([12])
    h = x
    for conv, norm in zip(pooling.convs, pooling.norms, strict=True):
        h = norm(torch.nn.functional.gelu(conv(h.transpose(1, 2)).transpose(1, 2)))
    torch.testing.assert_close(pooling(x, mask, [3]), h)  # 12 -> 6 -> 3


def test_left_alignment_keeps_the_order() -> None:
    x = torch.arange(4.0).view(1, 4, 1)
    mask = torch.tensor([[False, True, False, True]])
    moved, at = left_aligned(x, mask)
    assert moved[0, :2, 0].tolist() == [1.0, 3.0]
    assert at.tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(
    "call",
    [
        lambda: StridedConv(D, kernel=2),
        lambda: StridedConv(D, stride=5, kernel=3),
        lambda: Hierarchical(D, factor=2, levels=12),
        lambda: CrossAttention(D, heads=3),
    ],
)
def test_impossible_settings_are_refused(call) -> None:
    with pytest.raises(UserError):
        call()


def test_fresh_chunk_queries_are_nearly_chunk_means_and_learn_to_read_elsewhere() -> None:
    x, mask = batch([12, 7])
    queries, means = make("chunk_queries", slices=2), make("chunk_mean", slices=2)
    near = queries(x, mask, [3, 2]) - means(x, mask, [3, 2])
    assert near.detach().abs().max() < 0.2
    other = x.clone()
    other[0, 11, 0] += 1.0  # of the last chunk alone
    before, after = (queries(y, mask, [3, 2])[0, 0] for y in (x, other))
    assert not torch.equal(before, after), "the first slot reads the whole text"
    queries(x, mask, [3, 2]).pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in queries.parameters())


def test_expanded_slots_know_no_more_of_a_text_than_its_few_vectors_say() -> None:
    """Literally: P = floor(share M) chunk means, to which a fresh pooling adds the query of a slot and little else."""
    torch.manual_seed(0)
    pooling = PoolExpand(D, share=0.4, max_slots=7, heads=2).double()
    x, mask = batch([11, 9])
    out = pooling(x, mask, [7])
    for row, tokens in enumerate((11, 9)):
        few = torch.stack([x[row, i * tokens // 2 : (i + 1) * tokens // 2].mean(0) for i in range(2)])
        for j in range(7):
            near = few[j * 2 // 7] + pooling.expand.queries[0, j]
            assert (out[row, j] - near).abs().max() < 0.1
            assert not torch.equal(out[row, j], near)
    swapped = x.clone()
    swapped[0, [0, 3]] = x[0, [3, 0]]  # in one chunk: the means stay
    torch.testing.assert_close(pooling(swapped, mask, [7]), out)
    assert [PoolExpand(D, share=s, heads=2).narrow(m) for s, m in ((0.4, 7), (0.5, 26), (0.9, 10), (0.5, 1))] == [
        2,
        13,
        9,
        2,
    ]
