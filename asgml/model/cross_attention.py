"""A stream that reads a context by attention, through one residual: scaled, normalised, matched in norm.

The block is shared by `fusion=cross_attention` and the feedback system (`asgml.feedback`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asgml.model.variants import VARIANTS, VariantName
from callbacks.errors import UserError
from callbacks.ranges import Count, Finite, Width
from callbacks.stages.branch import Branch

WEIGHT = 0.1


def match_norm(branch: Tensor, stream: Tensor) -> Tensor:
    """Return the branch with the L2 norm of the stream, token by token: `b |x| / |b|` (…, d); 0 where the branch is 0.

    It is the scaling of AA-CLIP's adapters (Ma et al., CVPR 2025, arXiv 2503.06661). The gradient also passes through
    both norms, as in the published code.
    """
    size = torch.linalg.vector_norm(branch, dim=-1, keepdim=True)
    target = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
    return branch * (target / size.clamp_min(torch.finfo(branch.dtype).eps))


def mix(stream: Tensor, branch: Tensor, weight: Tensor | float, matched: bool, keep: Tensor | float = 1.0) -> Tensor:
    """Return `keep * x + weight * b` (…, d), with b brought to the norm of x first if `matched`.

    Args:
        stream: x, (…, d).
        branch: b, (…, d).
        weight: the weight of the branch.
        matched: whether b is brought to the norm of x, token by token.
        keep: the weight of the stream: 1 for a residual branch, `1 - weight` for an adapter that mixes.
    """
    added = weight * (match_norm(branch, stream) if matched else branch)
    return stream + added if isinstance(keep, float) and keep == 1.0 else keep * stream + added


class CrossAttentionBranch(nn.Module):
    """Adds to every token of a stream what it reads in a context: x <- x + w |x| A(x, c) / |A(x, c)|.

        A(x, c) = O concat_h softmax(Q_h x̂ (K_h ĉ)^T / sqrt(d_h)) V_h ĉ,    x̂ = LN(x), ĉ = LN(c)

    `variant` chooses what of this holds, each adding one thing to the one before: `full` adds A(x, c) of the raw x and
    c as it is; `scaled` weights it; `normalised` puts both LayerNorms in front; `norm_matched` (the default) brings the
    branch to the norm of its token before the weight; `learnable` makes the weight a parameter. A token whose context
    is masked altogether stays as it is.

    Args:
        dim: the width of the stream.
        context_dim: the width of the context.
        heads: the number of attention heads, a divisor of `width`.
        width: the width inside the attention; None is the smaller of the two others.
        variant: how the branch joins the stream.
        weight: the weight w, of `learnable` its initial value; None is 0.1, and 1 in `full`.
        where: the key of the configuration, for errors.

    Raises:
        UserError: a width that the heads do not divide, or a weight in `full`.
    """

    def __init__(
        self,
        dim: Width,
        context_dim: Width,
        heads: Count = 4,
        width: Width | None = None,
        variant: VariantName = "norm_matched",
        weight: Finite | None = None,
        where: str = "model.fusion",
    ):
        super().__init__()
        if variant not in VARIANTS:
            raise UserError(f"{where}.variant", str(variant), ", ".join(VARIANTS), f"set {where}.variant=norm_matched")
        self.options, self.heads = VARIANTS[variant], heads
        width = min(dim, context_dim) if width is None else width
        if heads < 1 or width % heads:
            found = f"{heads} heads for an attention of width {width}"
            raise UserError(f"{where}.heads", found, "a number of heads that divides it", f"set {where}.heads=1")
        if weight is not None and not self.options.scaled:
            found = f"{weight} with variant={variant}, which adds the branch at full scale"
            raise UserError(f"{where}.weight", found, "null", f"set {where}.variant=norm_matched, or leave weight out")
        self.queries = nn.Linear(dim, width)
        self.keys = nn.Linear(context_dim, width, bias=False)  # a bias would add the same to all scores of a query
        self.values = nn.Linear(context_dim, width)
        self.out = nn.Linear(width, dim)
        for linear in (self.queries, self.keys, self.values, self.out):
            nn.init.xavier_uniform_(linear.weight)
        normalised = self.options.normalised
        self.stream_norm = nn.LayerNorm(dim) if normalised else nn.Identity()
        self.context_norm = nn.LayerNorm(context_dim) if normalised else nn.Identity()
        initial = 1.0 if not self.options.scaled else WEIGHT if weight is None else weight
        self.weight = nn.Parameter(torch.tensor(initial)) if self.options.learnable else initial
        self.branch = Branch()

    def forward(self, stream: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the stream (B, T, dim) with the branch.

        Args:
            stream: the tokens that read, (B, T, dim).
            context: the tokens that are read, (B, K, context_dim).
            mask: whether a token of the context is there, (B, K) bool; None is all.
        """
        q, k, v = self._project(stream, context)
        allowed, any_there = _allowed(context, mask)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        output = self.out(read.transpose(1, 2).flatten(2))
        full = mix(stream, output, self.weight, self.options.matched)
        full = torch.where(any_there, full, stream)
        return self.branch(full, stream) if self.branch.watched else full

    def attention(self, stream: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attention weights (B, heads, T, K) of the same arguments; 0 for masked tokens."""
        q, k, _ = self._project(stream, context)
        allowed, any_there = _allowed(context, mask)
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        return torch.where(any_there.unsqueeze(1), weights, 0.0)

    def _project(self, stream: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, heads, tokens, width / heads)."""
        x, c = self.stream_norm(stream), self.context_norm(context)
        made = (self.queries(x), self.keys(c), self.values(c))
        q, k, v = (y.unflatten(2, (self.heads, y.shape[2] // self.heads)).transpose(1, 2) for y in made)
        return q, k, v


def _allowed(context: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what may be attended to, (B, 1, 1, K), and whether a row has anything, (B, 1, 1).

    A row without anything attends to everything, lest its softmax become NaN; its output is not used.
    """
    if mask is None:
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
    any_there = mask.any(1, keepdim=True)
    return (mask | ~any_there)[:, None, None], any_there.unsqueeze(2)
