"""Cross-attention: the residual block and its variants, and the fusion in which every modality reads the others."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from asgml.model.cross_attention import VARIANTS, CrossAttentionBranch, match_norm, mix
from asgml.model.fusion.cross_attention import CrossAttention
from callbacks.errors import UserError
from callbacks.stages.branch import branches_of, measured, norm_sums, switched

B, T, K, D, C = 3, 5, 4, 8, 6  # rows, tokens of stream and context, their widths


def block(variant: str = "norm_matched", **options) -> CrossAttentionBranch:
    torch.manual_seed(0)
    made = CrossAttentionBranch(D, C, heads=2, variant=variant, **options).double()
    for p in made.parameters():  # no bias is 0 and no normalisation is the identity
        p.data += 0.1 * torch.randn_like(p) if p.dim() else 0.0
    return made


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x, c = 3 * torch.randn(B, T, D, dtype=torch.float64), 20 * torch.randn(B, K, C, dtype=torch.float64)
    return x.requires_grad_(), c


def layer_norm(v: Tensor, layer: nn.LayerNorm) -> Tensor:
    centred = v - v.mean()
    return centred / (centred.square().mean() + layer.eps).sqrt() * layer.weight + layer.bias


def read(made: CrossAttentionBranch, token: Tensor, context: list[Tensor], normalised: bool) -> Tensor:
    """What one token reads, head by head and key by key."""
    if normalised:
        token = layer_norm(token, made.stream_norm)
        context = [layer_norm(v, made.context_norm) for v in context]
    width, parts = made.out.in_features // made.heads, []
    for h in range(made.heads):
        rows = slice(h * width, (h + 1) * width)
        q = made.queries.weight[rows] @ token + made.queries.bias[rows]
        scores = torch.stack([q @ (made.keys.weight[rows] @ v) / width**0.5 for v in context]).exp()
        seen = [made.values.weight[rows] @ v + made.values.bias[rows] for v in context]
        parts.append(sum(s / scores.sum() * v for s, v in zip(scores, seen, strict=True)))
    return made.out.weight @ torch.cat(parts) + made.out.bias


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_its_formula_token_by_token(variant):
    made, (x, c) = block(variant, weight=None if variant == "full" else 0.3), inputs()
    c = c / 20 if variant in ("full", "scaled") else c  # exp of the literal scores stays finite
    mask = torch.tensor([[True] * K, [True, False, True, False], [False] * K])
    found = made(x, c, mask)
    for b in range(B):
        there = [c[b, k] for k in range(K) if mask[b, k]]
        for t in range(T):
            token = x[b, t]
            if not there:
                assert torch.equal(found[b, t], token)
                continue
            out = read(made, token, there, variant not in ("full", "scaled"))
            if variant in ("norm_matched", "learnable"):
                out = out * token.norm() / out.norm()
            weight = 1.0 if variant == "full" else 0.3
            assert torch.allclose(found[b, t], token + weight * out, atol=1e-12), (b, t)
    assert isinstance(made.weight, nn.Parameter) == (variant == "learnable")


def test_a_matched_branch_has_its_share_of_the_streams_norm_whatever_the_context():
    made, (x, c) = block(), inputs()
    for scale in (1e-3, 1.0, 1e3):
        added = made(x, scale * c) - x
        assert torch.allclose(added.norm(dim=-1), 0.1 * x.norm(dim=-1), rtol=1e-9)
    loud = block("scaled")
    ratio = [(loud(x, s * c) - x).norm() / x.norm() for s in (1.0, 1e3)]
    assert ratio[1] > 100 * ratio[0]


def test_norm_matching_of_nothing_is_nothing_and_has_finite_gradients():
    x, _ = inputs()
    nothing = torch.zeros_like(x, requires_grad=True)
    match_norm(nothing, x).sum().backward()
    assert torch.equal(match_norm(nothing, x), torch.zeros_like(x))
    assert nothing.grad.isfinite().all()
    assert x.grad.isfinite().all()


def test_mix_with_a_kept_share_is_the_published_adapter():
    """x <- w a |x| / |a| + (1 - w) x (AA-CLIP)."""
    x, _ = inputs()
    a = torch.randn(B, T, D, dtype=torch.float64)
    expected = 0.1 * a * x.norm(dim=-1, keepdim=True) / a.norm(dim=-1, keepdim=True) + 0.9 * x
    assert torch.allclose(mix(x, a, 0.1, matched=True, keep=0.9), expected, atol=1e-14)


@pytest.mark.parametrize("variant", ["full", "norm_matched"])
def test_the_drawn_weights_are_those_that_the_output_is_made_with(variant):
    made, (x, c) = block(variant), inputs()
    mask = torch.tensor([[True] * K, [True, False, True, False], [False] * K])
    weights = made.attention(x, c, mask)
    assert weights.shape == (B, 2, T, K)
    assert torch.allclose(weights[:2].sum(-1), torch.ones(2, 2, T, dtype=torch.float64))
    assert weights[1, :, :, [1, 3]].count_nonzero() == 0
    assert weights[2].count_nonzero() == 0
    values = made._project(x, c)[2]
    out = made.out((weights @ values).transpose(1, 2).flatten(2))
    expected = mix(x, out, made.weight, made.options.matched)
    assert torch.allclose(made(x, c, mask)[:2], expected[:2], atol=1e-12)


def test_a_branch_is_left_out_measured_and_told_apart_from_its_size():
    made, (x, c) = block("full"), inputs()
    full = made(x, c)
    with measured(made):
        made(x, c)
        made(x, c)
    sizes = norm_sums(branches_of(made))
    assert torch.allclose(sizes[0], 2 * (full - x).norm(dim=-1).sum())
    assert torch.allclose(sizes[1], 2 * x.norm(dim=-1).sum())
    with switched(made, "off"):
        assert torch.equal(made(x, c), x)
    with switched(made, "inflated"):
        inflated = made(x, c)
    with switched(made, "turned"):
        turned = made(x, c)
    assert torch.allclose(inflated.norm(dim=-1), full.norm(dim=-1))
    assert torch.allclose(torch.cosine_similarity(inflated, x, -1), torch.ones(B, T, dtype=torch.float64))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.allclose(torch.cosine_similarity(turned, full, -1), torch.ones(B, T, dtype=torch.float64))
    assert torch.equal(made(x, c), full)


# -- the fusion
DIMS = {"audio": 3, "visual": 4, "text": 2}


def fusion(dims=DIMS, **options) -> CrossAttention:
    torch.manual_seed(2)
    return CrossAttention(dims, C, **{"dim": 8, "tokens": 2, "heads": 2} | options).double()


def features(**lengths: int) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {m: torch.randn(B, *([lengths[m]] if m in lengths else []), d).double() for m, d in DIMS.items()}


def test_a_row_is_classified_by_the_modalities_that_it_has_alone():
    """The masked batch, row by row, against fusions of the present modalities only, with the same weights."""
    whole, f = fusion(), features()
    present = {"audio": torch.tensor([True, True, False]), "visual": torch.tensor([True, False, False])}
    present["text"] = torch.tensor([True, True, True])
    found = whole(f, present)
    for b, there in enumerate([("audio", "visual", "text"), ("audio", "text"), ("text",)]):
        part = fusion({m: DIMS[m] for m in there})
        kept = {k: v for k, v in whole.state_dict().items() if k in part.state_dict()}
        part.load_state_dict(kept)
        expected = part({m: f[m][b : b + 1] for m in there})
        assert torch.allclose(found[b], expected[0], atol=1e-12), there


def test_steps_of_a_sequence_are_tokens_and_padding_is_not_there():
    model, f = fusion(), features(visual=5)
    present = {m: torch.ones(B, dtype=torch.bool) for m in DIMS}
    assert torch.equal(model(f), model(f, present))
    steps = torch.tensor([[True, True, False, False, False]] * B)
    garbage = {**f, "visual": torch.where(steps.unsqueeze(2), f["visual"], torch.nan)}
    short = {**f, "visual": f["visual"][:, :2]}
    assert torch.allclose(model(garbage, {**present, "visual": steps}), model(short, present), atol=1e-12)
    assert not torch.allclose(model(f), model(short), atol=1e-3)


def test_attention_weights_are_drawn_by_reading_and_read_modality():
    model, f = fusion(), features(text=3)
    present = {"audio": torch.tensor([True, False, True]), "visual": torch.tensor([False, True, False])}
    present["text"] = torch.tensor([True, True, False])
    found = model.attention(f, present)
    assert {m: set(read) for m, read in found.items()} == {m: set(DIMS) - {m} for m in DIMS}
    assert found["audio"]["text"].shape == (B, 2, 2, 6)
    total = found["audio"]["visual"].sum(-1) + found["audio"]["text"].sum(-1)
    assert torch.allclose(total[0], torch.ones_like(total[0]))  # reads text alone
    assert found["audio"]["visual"][0].count_nonzero() == 0
    assert total[1].count_nonzero() == 0  # is absent
    assert total[2].count_nonzero() == 0  # has nobody to read


def test_weights_of_single_modalities_and_what_is_refused():
    model = fusion(weight=0.2, weights={"text": 0.05}, variant="learnable")
    assert {m: round(model.branches[m].weight.item(), 6) for m in DIMS} == {"audio": 0.2, "visual": 0.2, "text": 0.05}
    build = partial(CrossAttention, DIMS, C)
    for options, expected in (
        ({"weights": {"txt": 0.1}}, "did you mean text"),
        ({"heads": 3}, r"model\.fusion\.heads=1"),
        ({"tokens": 0}, r"model\.fusion\.tokens=4"),
        ({"variant": "full", "weight": 0.1}, "leave weight out"),
        ({"variant": "halved"}, r"model\.fusion\.variant=norm_matched"),
    ):
        with pytest.raises(UserError, match=expected):
            build(**options)
