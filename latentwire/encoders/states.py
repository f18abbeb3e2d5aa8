"""The hidden states of a frozen language model as features of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.errors import UserError
from latentwire.encoders.base import Tokens
from latentwire.lm.frozen import FrozenLM


def refuse_model(lm: FrozenLM, max_tokens: int) -> None:
    """Refuse a model whose states cannot be features of texts of so many tokens. Raises UserError."""
    if max_tokens + len(lm.style.head) > lm.max_tokens:
        raise UserError(
            "encoder.max_tokens",
            f"{max_tokens} and a head of {len(lm.style.head)}",
            f"the {lm.max_tokens} positions of {lm.name}",
            f"set encoder.max_tokens={lm.max_tokens - len(lm.style.head)} or less",
        )
    if lm.d_hidden != lm.d_model:
        raise UserError(
            f"encoder on {lm.name}",
            f"states {lm.d_hidden} wide and embeddings {lm.d_model} wide",
            "one width",
            "set encoder=token, or take another model: +lm@encoder_lm=pocket_llama",
        )


def headed(lm: FrozenLM, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Return ids and mask of texts behind the head of a prompt (BOS), (B, H + T) each."""
    head = torch.tensor(lm.style.head, dtype=torch.long, device=tokens.ids.device)
    batch = tokens.ids.shape[0]
    mask = torch.cat([tokens.mask.new_ones(batch, len(head)), tokens.mask], 1)
    return torch.cat([head.expand(batch, -1), tokens.ids], 1), mask


def frozen_states(lm: FrozenLM, tokens: Tokens, layers: Sequence[int]) -> Tensor:
    """Return the states (layers, B, T, d_model) of texts, read behind the head, without gradient, adapters off."""
    ids, mask = headed(lm, tokens)
    with lm.adapters_off():
        return lm.hidden(ids, mask, layers)[:, :, len(lm.style.head) :]
