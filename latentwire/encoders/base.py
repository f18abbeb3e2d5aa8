"""What every encoder offers: text to tokens without silent loss, tokens to latents."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from latentwire.encoders.slots import LatentLayout

Overflow = Literal["refuse", "count"]


@dataclass(frozen=True)
class Tokens:
    """A batch of texts, padded on the right.

    Attributes:
        ids: (B, T) long, 0 in the padding.
        mask: (B, T) bool, true on tokens; a row's length decides, never an id.
        cut: how many tokens were cut off each text; all 0 unless `overflow=count`.
    """

    ids: Tensor
    mask: Tensor
    cut: tuple[int, ...]

    def to(self, device: torch.device | str) -> Tokens:
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device))


class Encoder(nn.Module):
    """Base of the encoders.

    A text longer than `max_tokens` is refused; with `overflow=count` its end is cut and counted, in `Tokens.cut`
    and in `cut_texts` and `cut_tokens`, which sum over this process (a data loader's workers count for
    themselves).

    Args:
        d_z: width of a latent.
        max_tokens: longest text, in this encoder's tokens.
        overflow: `refuse` or `count`.
    """

    def __init__(self, d_z: int, max_tokens: int, overflow: Overflow):
        super().__init__()
        if d_z < 1 or max_tokens < 1:
            raise UserError("encoder d_z, max_tokens", f"{d_z}, {max_tokens}", "1 or more each", "correct them")
        self.d_z, self.max_tokens, self.overflow = d_z, max_tokens, overflow
        self.cut_texts = self.cut_tokens = 0

    def ids(self, text: str) -> Sequence[int]:
        """Ids of one text, no special tokens, not cut."""
        raise NotImplementedError

    def forward(self, tokens: Tokens, layout: LatentLayout) -> Tensor:
        """Tokens of B texts -> latents (B, layout.slots, d_z)."""
        raise NotImplementedError

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> Tokens on the CPU. Raises UserError for an empty text and, with `refuse`, for a long one."""
        rows, cut = [], []
        for text in texts:
            ids = list(self.ids(text))
            if not ids:
                raise UserError("text to encode", repr(text), "at least one token", "leave empty texts out")
            over = max(len(ids) - self.max_tokens, 0)
            if over and self.overflow == "refuse":
                raise UserError(
                    "text to encode",
                    f"{len(ids)} tokens: {text[:60]!r}…",
                    f"at most {self.max_tokens}",
                    "set encoder.max_tokens higher, or encoder.overflow=count to cut and count",
                )
            rows.append(ids[: self.max_tokens])
            cut.append(over)
        self.cut_texts += sum(n > 0 for n in cut)
        self.cut_tokens += sum(cut)
        lengths = torch.tensor([len(ids) for ids in rows])
        width = int(lengths.max())
        padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in rows], dtype=torch.long)
        return Tokens(padded, torch.arange(width) < lengths.unsqueeze(1), tuple(cut))

    def encode(self, texts: Sequence[str], layout: LatentLayout) -> Tensor:
        """`tokenize` and `forward`: texts -> (B, layout.slots, d_z)."""
        device = next((t.device for t in [*self.parameters(), *self.buffers()]), torch.device("cpu"))
        return self(self.tokenize(texts).to(device), layout)


def build_encoder(factory: Callable[..., Encoder], lm: Any, d_z: int, slices: Sequence[str]) -> Encoder:
    """An encoder from its configured partial, which gets those of `lm`, `d_z` and `slices` that it has parameters
    for.

    Args:
        factory: e.g. a partial of `ByteEncoder`, which needs no `lm`.
        lm: `FrozenLM` that a pretrained encoder stands on.
        d_z: width of a latent.
        slices: slice names that layouts will use, `shared` first.
    """
    offered = {"lm": lm, "d_z": d_z, "slices": list(slices)}
    wanted = inspect.signature(factory).parameters
    return factory(**{name: value for name, value in offered.items() if name in wanted})
