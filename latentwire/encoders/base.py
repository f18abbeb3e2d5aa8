"""What every encoder offers: text to tokens without silent loss, tokens to latents."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import Count, Width
from latentwire.encoders.said import Saying
from latentwire.encoders.slots import LatentLayout
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import right_padded

Overflow = Literal["refuse", "count"]
Beside: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Tokens:
    """Holds a batch of texts as ids, padded on the right.

    Attributes:
        ids: (B, T) long, 0 in the padding.
        mask: (B, T) bool, true on tokens; a row's length decides, never an id.
        cut: number of tokens that were cut off each text; all 0 unless `overflow=count`.
        beside: ids and mask (B, U) of the same texts in the tokens of a second model; None: there is none.
    """

    ids: Tensor
    mask: Tensor
    cut: tuple[int, ...]
    beside: Beside | None = None

    def to(self, device: torch.device | str) -> Tokens:
        """Return the same on a device."""
        beside = None if self.beside is None else (self.beside[0].to(device), self.beside[1].to(device))
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device), beside=beside)

    def select(self, rows: Sequence[int]) -> Tokens:
        """Return some of the texts, in that order."""
        kept = list(rows)
        beside = None if self.beside is None else (self.beside[0][kept], self.beside[1][kept])
        return Tokens(self.ids[kept], self.mask[kept], tuple(self.cut[i] for i in kept), beside)


class Encoder(nn.Module):
    """Turns texts into latents; base of all encoders.

    A text longer than `max_tokens` is refused; with `overflow=count` its end is cut and counted, in `Tokens.cut` and in
    `cut_texts` and `cut_tokens`, which sum over this process (a data loader's workers count for themselves).

    Attributes:
        lm: the language model that it stands on; None: none.
        checkpointing: whether layers of a language model that it trains are computed again in a backward pass.
        places: arguments that say where files lie; they may differ from machine to machine and change no message.

    Args:
        d_z: width of a latent.
        max_tokens: longest text, in this encoder's tokens.
        overflow: what happens to a longer one, `refuse` or `count`.
    """

    lm: FrozenLM | None = None
    checkpointing: bool = False
    places: ClassVar[tuple[str, ...]] = ()

    def __init__(self, d_z: Width, max_tokens: Count, overflow: Overflow):
        super().__init__()
        self.d_z, self.max_tokens, self.overflow = d_z, max_tokens, overflow
        self.cut_texts = self.cut_tokens = 0

    def ids(self, text: str) -> Sequence[int]:
        """Return the ids of one text, no special tokens, not cut."""
        raise NotImplementedError

    def all_ids(self, texts: Sequence[str]) -> Sequence[Sequence[int]]:
        """Return the ids of several texts, as `ids` does of each."""
        return [self.ids(text) for text in texts] if self.lm is None else self.lm.style.encode_all(texts)

    def lost(self, text: str) -> tuple[str, ...]:
        """Return the runs of characters of a text that its ids do not hold; see `Style.lost`."""
        return () if self.lm is None else self.lm.style.lost(text)

    def forward(self, tokens: Tokens, layout: LatentLayout) -> Tensor:
        """Encode B texts as latents (B, layout.slots, d_z)."""
        raise NotImplementedError

    def said(self) -> dict[str, Tensor]:
        """Return what its parts have said of the last texts in training, (B, …) by name, and forget it."""
        return {name: x for part in self.modules() if isinstance(part, Saying) for name, x in part.take().items()}

    def says(self) -> dict[str, int]:
        """Return how wide what its parts say is, by name."""
        return {name: n for part in self.modules() if isinstance(part, Saying) for name, n in part.says.items()}

    def fit(self, texts: Sequence[str], layout: LatentLayout) -> None:
        """Fit what is not trained to training texts, once, before training; most encoders have nothing to fit."""

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokenise on the CPU. Raises UserError for an empty text and, with `refuse`, for a long one."""
        rows, cut = [], []
        for text, found in zip(texts, self.all_ids(texts), strict=True):
            ids = list(found)
            if not ids:
                raise UserError(
                    "text to encode", repr(text), "at least one token", "take the empty texts out of the corpus"
                )
            over = max(len(ids) - self.max_tokens, 0)
            if over and self.overflow == "refuse":
                raise UserError(
                    "text to encode",
                    f"{len(ids)} tokens: {text[:60]!r}…",
                    f"at most {self.max_tokens}",
                    f"set encoder.max_tokens={len(ids)}, or encoder.overflow=count to cut and count",
                )
            rows.append(ids[: self.max_tokens])
            cut.append(over)
        self.cut_texts += sum(n > 0 for n in cut)
        self.cut_tokens += sum(cut)
        return Tokens(*right_padded(rows), tuple(cut))

    def encode(self, texts: Sequence[str], layout: LatentLayout) -> Tensor:
        """Tokenise and encode texts as latents (B, layout.slots, d_z)."""
        device = next((t.device for t in [*self.parameters(), *self.buffers()]), torch.device("cpu"))
        return self(self.tokenize(texts).to(device), layout)


def build_encoder(factory: Callable[..., Encoder], lm: FrozenLM | None, d_z: int, slices: Sequence[str]) -> Encoder:
    """Build an encoder from its configured partial; it gets what it has parameters for.

    Args:
        factory: e.g. a partial of `ByteEncoder`, which has no parameter `lm`.
        lm: the language model that a pretrained encoder stands on; None for an encoder that stands on none.
        d_z: width of a latent.
        slices: names of the slices that layouts will use, `shared` first.
    """
    offered = {"lm": lm, "d_z": d_z, "slices": list(slices)}
    wanted = inspect.signature(factory).parameters
    return factory(**{name: value for name, value in offered.items() if name in wanted})
