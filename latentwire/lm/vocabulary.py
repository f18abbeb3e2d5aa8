"""The tokens that vectors are nearest to, over a vocabulary of any size in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import DynamicCache

from latentwire.lm.frozen import FrozenLM

AT_ONCE = 8192  # rows of the vocabulary that are in memory together: 134 MB in float32 at width 4096
TINY = 1e-12  # a vector shorter than this has no direction and is near to nothing
UNKNOWN = "\ufffd"


def size(lm: FrozenLM) -> int:
    """Return the number of tokens; rows of the embedding table beyond them are padding."""
    return min(len(lm.tokenizer), int(lm.model.get_input_embeddings().weight.shape[0]))


def embeddings(lm: FrozenLM, ids: Tensor) -> Tensor:
    """Return the input embeddings (n, d_model) of token ids (n,)."""
    return lm.embed(ids)


class _Written(Exception):
    """Carries what the first layer writes out of a forward pass of which nothing else is wanted."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = values


class _FirstLayer(DynamicCache):
    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        raise _Written(value_states)


@torch.no_grad()
def first_values(lm: FrozenLM, ids: Tensor) -> Tensor:
    """Return the values (n, kv_heads * head_dim) that the first layer makes of token ids (n,), each alone.

    They depend on the token only; the forward pass ends where they are written.
    """
    ids = ids.to(lm.input_device)[:, None]
    try:
        lm.decoder(
            input_ids=ids,
            position_ids=torch.zeros_like(ids),
            past_key_values=_FirstLayer(config=lm.model.config),
            use_cache=True,
        )
    except _Written as first:
        return first.values.transpose(1, 2).flatten(1)
    raise RuntimeError(f"{lm.name}: the first layer wrote no values")


def head(lm: FrozenLM, ids: Tensor) -> Tensor:
    """Return the rows (n, d_hidden) of the language-model head for token ids (n,)."""
    weight: Tensor = lm.model.get_output_embeddings().weight
    return weight[ids.to(weight.device)]


SPACES: dict[str, Callable[[FrozenLM, Tensor], Tensor]] = {
    "embeddings": embeddings,
    "values": first_values,
    "head": head,
}


def rows(lm: FrozenLM, space: str, at_once: int = AT_ONCE) -> Iterator[Tensor]:
    """Yield what all tokens are in a space, (up to at_once, d), in the order of their ids.

    Args:
        lm: the model that reads.
        space: `embeddings`, the `values` of the first layer, or the language-model `head`.
        at_once: number of tokens in one part.
    """
    n = size(lm)
    for start in range(0, n, at_once):
        yield SPACES[space](lm, torch.arange(start, min(start + at_once, n)))


@torch.no_grad()
def nearest(vectors: Tensor, parts: Iterator[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Return the k rows of a table that are nearest to vectors by cosine: their numbers and cosines, both (N, k).

    Memory is that of one part and of N times its rows, whatever the size of the table.

    Args:
        vectors: (N, d).
        parts: the table (V, d) in parts, in order.
        k: number of rows; V of them where the table has fewer.
    """
    found: tuple[Tensor, Tensor] | None = None
    start, unit = 0, None
    for part in parts:
        if unit is None:
            unit = normalize(vectors.to(part.device).float(), dim=-1, eps=TINY)
        cosine = unit @ normalize(part.float(), dim=-1, eps=TINY).T
        best = cosine.topk(min(k, len(part)), -1)
        both = best.values, best.indices + start
        if found is not None:
            both = torch.cat([found[0], both[0]], -1), torch.cat([found[1], both[1]], -1)
        kept = both[0].topk(min(k, both[0].shape[-1]), -1)
        found = kept.values, both[1].gather(-1, kept.indices)
        start += len(part)
    if found is None:
        raise ValueError("a table without rows")
    return found[1].cpu(), found[0].cpu()


def piece(lm: FrozenLM, token: int) -> str:
    """Return a token as it reads; as the tokenizer writes it where it is blank, or no character that can be printed."""
    text = str(lm.tokenizer.decode([token]))
    shown = text.strip() and text.isprintable() and UNKNOWN not in text
    return text if shown else str(lm.tokenizer.convert_ids_to_tokens(token))
