"""Fusions: slices sum to the whole, absent modalities contribute exactly nothing, order does not matter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from asgml.model.fusion.base import Fusion
from asgml.model.fusion.concat import Concat
from asgml.model.fusion.cross_attention import CrossAttention
from asgml.model.fusion.film import FiLM
from asgml.model.fusion.gated import Gated
from asgml.model.fusion.mlp import ConcatMLP
from asgml.model.fusion.sum import Sum
from asgml.model.fusion.transformer import LateTransformer
from asgml.model.rows import present_mask, scatter
from callbacks.errors import UserError

FUSIONS: dict[str, Callable[..., Fusion]] = {
    "concat": Concat,
    "sum": Sum,
    "film": partial(FiLM, dim=6),
    "gated": partial(Gated, dim=6),
    "gated_sigmoid": partial(Gated, dim=6, gate="sigmoid"),
    "mlp": partial(ConcatMLP, dim=7),
    "transformer": partial(LateTransformer, dim=8, heads=2, feedforward=12),
    "cross_attention": partial(CrossAttention, dim=8, heads=2, tokens=2),
    "cross_attention_full": partial(CrossAttention, dim=8, heads=2, tokens=2, variant="full"),
    "cross_attention_learnable": partial(CrossAttention, dim=8, heads=2, tokens=2, variant="learnable"),
}
DIMS = {"audio": 3, "visual": 4, "text": 2}
B, C = 6, 5

every_fusion = pytest.mark.parametrize("name", FUSIONS)


def features(dims: dict[str, int] = DIMS) -> dict[str, Tensor]:
    return {m: torch.randn(B, d, dtype=torch.float64, requires_grad=True) for m, d in dims.items()}


def build(name: str, dims: dict[str, int] = DIMS) -> Fusion:
    torch.manual_seed(1)
    return FUSIONS[name](dims=dims, classes=C).double()


def rows(*absent: int) -> Tensor:
    mask = torch.ones(B, dtype=torch.bool)
    mask[list(absent)] = False
    return mask


@every_fusion
@pytest.mark.parametrize("n", [1, 2, 3])
def test_any_number_of_modalities(name, n):
    dims = dict(list(DIMS.items())[:n])
    fusion, f = build(name, dims), features(dims)
    fusion(f).square().sum().backward()
    assert fusion(f).shape == (B, C)
    assert fusion({m: v[:0] for m, v in f.items()}).shape == (0, C)
    assert all(v.grad.count_nonzero() > 0 for v in f.values())
    if not (name == "gated" and n == 1):  # the softmax over one modality is 1 whatever its scores
        assert all(p.grad.count_nonzero() > 0 for p in fusion.parameters())


@pytest.mark.parametrize("name", ["concat", "sum"])
def test_slices_sum_to_the_fused_logits(name):
    fusion, f = build(name), features()
    parts = [fusion.unimodal_logits(f, m) for m in DIMS]
    assert torch.allclose(sum(parts), fusion(f), atol=1e-14)
    only = fusion.unimodal_logits({"visual": f["visual"][:2]}, "visual")  # present rows alone are enough
    assert torch.allclose(only, parts[1][:2], atol=1e-14)


def test_concat_slice_is_the_block_of_the_weight():
    fusion, f = build("concat"), features()
    expected = f["visual"] @ fusion.linear.weight[:, 3:7].T + fusion.linear.bias / 3
    assert torch.allclose(fusion.unimodal_logits(f, "visual"), expected, atol=1e-14)


@pytest.mark.parametrize("name", ["film", "gated", "mlp", "transformer", "cross_attention"])
def test_fusions_that_mix_have_no_slices(name):
    assert build(name).unimodal_logits(features(), "audio") is None


@every_fusion
def test_masks_of_true_are_no_masks(name):
    fusion, f = build(name), features()
    without, with_masks = fusion(f), fusion(f, {m: rows() for m in DIMS})
    assert torch.equal(without, with_masks)
    one, two = (
        torch.autograd.grad(x.square().sum(), [*f.values(), *fusion.parameters()]) for x in (without, with_masks)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@every_fusion
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_an_absent_modality_contributes_nothing(name, garbage):
    fusion, f = build(name), features()
    present = {"audio": rows(0, 1, 5), "visual": rows(1, 2, 5), "text": rows(3, 5)}  # row 5 has nothing at all
    spoilt = {m: torch.where(present[m].unsqueeze(1), v, garbage).detach().requires_grad_() for m, v in f.items()}
    clean, dirty = fusion(f, present), fusion(spoilt, present)
    assert torch.equal(clean, dirty)
    assert dirty.isfinite().all()
    parameters = list(fusion.parameters())
    one = torch.autograd.grad(clean.square().sum(), [*f.values(), *parameters])
    with torch.autograd.set_detect_anomaly(True):  # NaN must not even arise on the way
        two = torch.autograd.grad(fusion(spoilt, present).square().sum(), [*spoilt.values(), *parameters])
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)
        assert b.isfinite().all()
    for m, gradient in zip(DIMS, two, strict=False):
        assert gradient[~present[m]].count_nonzero() == 0


@pytest.mark.parametrize("name", ["concat", "sum"])
def test_linear_fusions_of_a_subset_are_the_sum_of_its_slices(name):
    fusion, f = build(name), features()
    with torch.no_grad():
        if name == "concat":  # its bias belongs to the whole, not to a modality
            fusion.linear.bias.zero_()
    fused = fusion(f, {"audio": rows(*range(B)), "visual": rows(), "text": rows()})
    expected = fusion.unimodal_logits(f, "visual") + fusion.unimodal_logits(f, "text")
    assert torch.allclose(fused, expected, atol=1e-14)


@every_fusion
@pytest.mark.parametrize("training", [True, False])
def test_rows_do_not_see_each_other(name, training):
    """Logits follow their rows, with and without masks, in training as in evaluation."""
    fusion, f = build(name).train(training), features()
    present = {"audio": rows(0, 5), "visual": rows(1, 5), "text": rows(0, 2, 5)}
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    with torch.set_grad_enabled(training):
        for masks in (None, present):
            chosen = None if masks is None else {m: mask[order] for m, mask in masks.items()}
            permuted = fusion({m: v[order] for m, v in f.items()}, chosen)
            assert torch.allclose(permuted, fusion(f, masks)[order], atol=1e-13)
            first = None if masks is None else {m: mask[:1] for m, mask in masks.items()}
            one = fusion({m: v[:1] for m, v in f.items()}, first)
            assert torch.allclose(one, fusion(f, masks)[:1], atol=1e-13)


@every_fusion
def test_the_order_of_modalities_does_not_matter(name):
    """A fusion built in another order, with the same weights, gives the same logits; so does a permuted input."""
    backwards = dict(reversed(DIMS.items()))
    if name == "film":
        one = FiLM(DIMS, C, dim=6, modulator="visual").double()
        two = FiLM(backwards, C, dim=6, modulator="visual").double()
    else:
        one, two = build(name), build(name, backwards)
    order = torch.cat([torch.arange(7, 9), torch.arange(3, 7), torch.arange(0, 3)])  # text, visual, audio
    state = one.state_dict()
    for key, value in state.items():
        if value.ndim == 2 and value.shape[1] == 9:  # a layer over the concatenation
            state[key] = value[:, order]
    two.load_state_dict(state)
    f = features()
    present = {"audio": rows(0), "visual": rows(1), "text": rows(0, 2)}
    assert torch.equal(one(f), one(dict(reversed(f.items()))))
    for masks in (None, present):
        assert torch.allclose(one(f, masks), two(f, masks), atol=1e-13)


def test_film_of_two_is_the_published_layer():
    fusion = FiLM({"a": 3, "b": 4}, C, dim=6).double()
    f = features({"a": 3, "b": 4})
    gamma, beta = 1 + fusion.scales["b"](f["a"]), fusion.shift(f["a"])
    assert torch.allclose(fusion(f), fusion.linear(gamma * fusion.projections["b"](f["b"]) + beta), atol=1e-14)
    # without the modulating modality the other passes as it is
    alone = fusion(f, {"a": rows(*range(B)), "b": rows()})
    assert torch.allclose(alone, fusion.linear(fusion.projections["b"](f["b"])), atol=1e-14)


def test_film_modulator_must_be_a_modality():
    assert FiLM(DIMS, C).modulator == "audio"
    with pytest.raises(UserError, match="did you mean visual"):
        FiLM(DIMS, C, modulator="visuall")


def test_gated_of_two_is_the_bimodal_unit():
    fusion = Gated({"a": 3, "b": 4}, C, dim=6).double()
    f = features({"a": 3, "b": 4})
    both = torch.cat([f["a"], f["b"]], 1)
    z = torch.sigmoid(fusion.scores["a"](both) - fusion.scores["b"](both))
    a, b = (torch.tanh(fusion.projections[m](f[m])) for m in "ab")
    assert torch.allclose(fusion(f), fusion.linear(z * a + (1 - z) * b), atol=1e-14)


def test_mlp_is_a_hidden_layer_over_the_concatenation():
    fusion, f = build("mlp"), features()
    hidden = (torch.cat([f[m] for m in DIMS], 1) @ fusion.hidden.weight.T + fusion.hidden.bias).clamp(min=0)
    assert torch.allclose(fusion(f), hidden @ fusion.linear.weight.T + fusion.linear.bias, atol=1e-14)


def attended(layer, tokens: Tensor) -> Tensor:
    """One post-norm layer over the tokens (T, d) of one row, head by head (Vaswani et al., NeurIPS 2017, Section 3)."""
    attention, d = layer.self_attn, tokens.shape[1]
    q, k, v = (tokens @ attention.in_proj_weight.T + attention.in_proj_bias).split(d, 1)
    width = d // attention.num_heads
    mixed = []
    for h in range(attention.num_heads):
        part = slice(h * width, (h + 1) * width)
        mixed.append((q[:, part] @ k[:, part].T / width**0.5).softmax(1) @ v[:, part])
    x = layer.norm1(tokens + attention.out_proj(torch.cat(mixed, 1)))
    return layer.norm2(x + layer.linear2(layer.linear1(x).relu()))


def test_transformer_is_attention_over_the_tokens_of_the_modalities_that_are_there():
    """A literal transcription on the tokens of each row alone: masked is absent, and class token and e_m are in it."""
    fusion, f = build("transformer"), features()
    present = {"audio": rows(0, 5), "visual": rows(1, 5), "text": rows(0, 2, 5)}
    for i in range(B):
        there = [m for m in DIMS if present[m][i]]
        tokens = torch.stack([fusion.class_token, *(fusion.projections[m](f[m][i]) for m in there)])
        for layer in fusion.layers:
            tokens = attended(layer, tokens)
        assert torch.allclose(fusion(f, present)[i], fusion.linear(tokens[0]), atol=1e-13), i


def test_transformer_begins_with_different_layers_and_says_what_its_heads_need():
    one, two = build("transformer").layers
    assert not torch.equal(one.linear1.weight, two.linear1.weight)
    with pytest.raises(UserError, match=r"model\.fusion\.dim=9 or"):
        LateTransformer(DIMS, C, dim=8, heads=3)
    LateTransformer(DIMS, C, dim=9, heads=3)
    with pytest.raises(UserError, match="at least 1"):
        LateTransformer(DIMS, C, layers=0)


def test_scatter_places_rows_and_passes_their_gradient():
    f = torch.randn(2, 3, requires_grad=True)
    where = torch.tensor([3, 1])
    placed = scatter(f, where, 5)
    assert torch.equal(placed[where], f)
    assert torch.equal(placed[[0, 2, 4]], torch.zeros(3, 3))
    weight = torch.randn(5, 3)
    (placed * weight).sum().backward()
    assert torch.equal(f.grad, weight[where])
    assert scatter(f, None, 2) is f
    assert torch.equal(present_mask(where, 5), torch.tensor([False, True, False, True, False]))
    assert present_mask(None, 3).all()
    assert torch.equal(scatter(f[:0], where[:0], 2), torch.zeros(2, 3))
