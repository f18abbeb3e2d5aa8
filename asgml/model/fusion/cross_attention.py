"""Fusion in which every modality reads the others by attention before it is classified."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from asgml.model.cross_attention import CrossAttentionBranch
from asgml.model.fusion.base import Fusion, keep
from asgml.model.modality_dict import ModalityDict
from asgml.model.variants import VariantName
from callbacks.errors import UserError
from callbacks.ranges import Count, Finite, Width


class CrossAttention(Fusion):
    """Fuses by cross-attention: the tokens of each modality read those of all others, and are then classified.

        t_m = P_m f_m,    x_m = t_m + w_m |t_m| A_m(t_m, t_others) / |A_m|,    logits = b + sum_m W_m mean(LN_m(x_m))

    A feature vector (B, d) becomes `tokens` tokens of width `dim`; a sequence (B, T, d) becomes `tokens` for each step.
    The biases of P_m tell the modalities apart. A_m is `CrossAttentionBranch`: normalised, brought to the norm of the
    stream and scaled by `weight`, so that it leaves the encoders their gradient; `variant` goes back from there step by
    step (`callbacks.BranchShare` and `python -m asgml.feedback.share` measure what that costs).

    An absent modality is masked as context and has no summand, so that a row's logits are those of the modalities that
    it has: one that is alone is classified as it is. A presence mask may be (B, T) for a sequence, False for padding.

    Args:
        dims: the width of each modality's feature.
        classes: the number of classes.
        dim: the width of a token.
        tokens: the number of tokens of a vector; with one, and two modalities, there is nothing to choose from.
        heads: the number of attention heads, a divisor of `dim`.
        variant: how the branch joins the stream: `full`, `scaled`, `normalised`, `norm_matched` or `learnable`.
        weight: the weight of the branch, of `learnable` the initial one; null is 0.1, and 1 in `full`.
        weights: the weight of single modalities' branches, by name, in place of `weight`.

    Raises:
        UserError: a width that the heads do not divide, no token, a weight in `full`, or one for what is no modality.
    """

    def __init__(
        self,
        dims: dict[str, Count],
        classes: Count,
        dim: Width = 64,
        tokens: Count = 4,
        heads: Count = 4,
        variant: VariantName = "norm_matched",
        weight: Finite | None = None,
        weights: Mapping[str, Finite] | None = None,
    ):
        super().__init__(dims, classes)
        if tokens < 1:
            raise UserError("model.fusion.tokens", str(tokens), "at least 1", "set model.fusion.tokens=4")
        for name in weights or {}:
            if name not in dims:
                near = difflib.get_close_matches(name, dims, 1)
                raise UserError(
                    f"model.fusion.weights.{name}",
                    "a weight for a modality that the data does not have",
                    f"one of {', '.join(dims)}",
                    f"did you mean {near[0]}?" if near else f"leave {name} out of model.fusion.weights",
                )
        self.dim, self.tokens = dim, tokens
        self.projections = ModalityDict({m: nn.Linear(d, tokens * dim) for m, d in dims.items()})
        own = {m: (weights or {}).get(m, weight) for m in dims}
        self.branches = ModalityDict(
            {m: CrossAttentionBranch(dim, dim, heads, None, variant, own[m]) for m in dims if len(dims) > 1}
        )
        self.norms = ModalityDict({m: nn.LayerNorm(dim) for m in dims})
        self.linears = ModalityDict({m: nn.Linear(dim, classes, bias=False) for m in dims})
        self.bias = nn.Parameter(torch.zeros(classes))

    def fuse(self, features: dict[str, Tensor], present: dict[str, Tensor] | None) -> Tensor:
        tokens, masks = self._tokens(features, present)
        size = next(iter(features.values())).shape[0]
        logits = self.bias.to(next(iter(tokens.values())).dtype).expand(size, -1)
        for m in self.dims:
            x = tokens[m]
            if m in self.branches:
                x = self.branches[m](x, *self._context(m, tokens, masks))
            there = masks[m].unsqueeze(2)
            total = torch.where(there, self.norms[m](x), 0.0).sum(1)
            pooled = total / masks[m].sum(1, keepdim=True).clamp(min=1)
            logits = logits + keep(self.linears[m](pooled), masks[m].any(1))
        return logits

    def attention(
        self, features: dict[str, Tensor], present: dict[str, Tensor] | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Return how much each modality's tokens attend to each other modality's.

        Args:
            features: the features, as in `forward`.
            present: the masks, as in `forward`.

        Returns:
            By reading and read modality the weights (B, heads, T_reading, T_read). Over all read ones they sum to 1 for
            a row that has one of them, and are 0 where the reading modality is absent.
        """
        kept = features if present is None else {m: keep(features[m], present[m]) for m in self.dims}
        tokens, masks = self._tokens(kept, present)
        found: dict[str, dict[str, Tensor]] = {}
        for m in self.branches:
            weights = self.branches[m].attention(tokens[m], *self._context(m, tokens, masks))  # type: ignore[operator]
            weights = torch.where(masks[m][:, None, :, None], weights, 0.0)
            others = [n for n in self.dims if n != m]
            parts = weights.split([tokens[n].shape[1] for n in others], dim=3)
            found[m] = dict(zip(others, parts, strict=True))
        return found

    def _tokens(
        self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tokens (B, T_m, dim) and whether each is there, (B, T_m)."""
        tokens, masks = {}, {}
        for m in self.dims:
            f = features[m] if features[m].dim() == 3 else features[m].unsqueeze(1)
            size, steps = f.shape[:2]
            tokens[m] = self.projections[m](f).reshape(size, steps * self.tokens, self.dim)
            if present is None:  # a mask all the same, so that masks of True take the same kernel
                mask = torch.ones(size, steps, dtype=torch.bool, device=f.device)
            else:
                mask = present[m] if present[m].dim() == 2 else present[m].unsqueeze(1).expand(size, steps)
            masks[m] = mask.repeat_interleave(self.tokens, dim=1)
        return tokens, masks

    def _context(
        self, modality: str, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return what a modality reads, (B, K, dim), and whether it is there, (B, K)."""
        others = [m for m in self.dims if m != modality]
        return torch.cat([tokens[m] for m in others], 1), torch.cat([masks[m] for m in others], 1)
