"""How prefix, text and answers of a batch lie in columns; the same for scoring and for generation.

    cache    [head k/v | M latents k/v]                                       only with `Prefix.kv`
    input    [head | M latents | padding, context, question | answer, padding]

`head` is BOS (and a chat template's beginning); it is in the cache where there is one, else in the input.
Positions count real tokens only, padding is masked by length (never by id), and all answers start in the same
column. Padding stands behind the head, so that no row of the attention is without a key, also where the latents
are a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentwire.lm.reading import LayerRead

Ids = Sequence[Sequence[int]]
KeysValues = tuple[Tensor, Tensor]  # of one layer


class _Rows(torch.autograd.Function):
    # a row is read by several questions; index_select adds their gradients up one number at a time on the CPU, which
    # costs more than the reader's attention
    @staticmethod
    def forward(ctx, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.batch = len(x)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (rows,) = ctx.saved_tensors
        reads = torch.arange(ctx.batch, device=rows.device)[:, None] == rows  # (B, N)
        return (reads.to(gradient) @ gradient.flatten(1)).view(ctx.batch, *gradient.shape[1:]), None


@dataclass
class Prefix:
    """Holds what a model reads between the head and the question; an empty one is the no-context baseline.

    Attributes:
        embeds: (B, M, d_model), read after the head.
        kv: per layer keys and values (B, kv_heads, M, head_dim) of M latents, keys as the attention reads them
            (a model's own keys are stored after RoPE); the head's own stand before them.
        text_ids: B contexts as token ids; with embeds or kv they follow the latents.
        bias: per layer (B, kv_heads, M) on the attention's logits for the keys of `kv`; None: none.
        stands_for: with `kv`, the number of positions of each example that the latents stand for: what follows is read
            that far behind the head; None: M.
        reads: what layers read of M latents by attention of their own, in no column and no cache; None: nothing.
    """

    embeds: Tensor | None = None
    kv: list[KeysValues] | None = None
    text_ids: Ids | None = None
    bias: list[Tensor] | None = None
    stands_for: list[int] | None = None
    reads: list[LayerRead] | None = None

    @property
    def has_latents(self) -> bool:
        """Whether there are any latents."""
        return self.embeds is not None or self.kv is not None or self.reads is not None

    @property
    def latents(self) -> int:
        """The number of latents that are read, M: places in the input or the cache, or keys of `reads` if more."""
        found = [] if self.embeds is None else [self.embeds.shape[1]]
        found += [] if self.kv is None else [self.kv[0][0].shape[2]]
        found += [] if self.reads is None else [self.reads[0].keys.shape[2]]
        if not found:
            raise ValueError("a prefix without latents")
        return max(found)

    def parts(self) -> dict[str, list[Tensor]]:
        """Return what stands at the latents' places, (B, M, width) per layer, by part: embeddings, keys, values, reads.

        Reads are what layers add where a latent alone is attended to.
        """
        found = {} if self.embeds is None else {"embeddings": [self.embeds]}
        if self.kv is not None:
            for part, layers in zip(("keys", "values"), zip(*self.kv, strict=True), strict=True):
                found[part] = [x.transpose(1, 2).flatten(2) for x in layers]
        if self.reads is not None:
            found["reads"] = [read.alone() for read in self.reads]
        return found

    def positions(self, row: int) -> int:
        """Return the number of latents and tokens that the prefix of an example has: places that are attended to.

        They are columns of the input or the cache; of `reads`, which have none, those beyond the other latents count.
        """
        latents = 0 if self.embeds is None and self.kv is None and self.reads is None else self.latents
        return latents + (0 if self.text_ids is None else len(self.text_ids[row]))

    def wait(self) -> None:
        """Wait for an accelerator that still computes it."""
        held = [*([] if self.embeds is None else [self.embeds]), *(k for k, _ in self.kv or ())]
        held += [read.keys for read in self.reads or ()]
        for device in {t.device for t in held if t.device.type == "cuda"}:
            torch.cuda.synchronize(device)

    def select(self, rows: Sequence[int]) -> Prefix:
        """Return the examples `rows`, in that order; an example may come several times."""

        def pick(x: Tensor) -> Tensor:
            return _Rows.apply(x, torch.tensor(rows, device=x.device))

        return Prefix(
            embeds=None if self.embeds is None else pick(self.embeds),
            kv=None if self.kv is None else [(pick(k), pick(v)) for k, v in self.kv],
            text_ids=None if self.text_ids is None else [self.text_ids[i] for i in rows],
            bias=None if self.bias is None else [pick(b) for b in self.bias],
            stands_for=None if self.stands_for is None else [self.stands_for[i] for i in rows],
            reads=None if self.reads is None else [read.map(pick, lambda shared: shared) for read in self.reads],
        )


def check_kv(kv: Sequence[KeysValues], batch: int, shapes: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> None:
    """Raise ValueError where keys and values are not `batch` rows of (heads, width) as `shapes` has them by layer."""
    slots = kv[0][0].shape[2] if kv else 0
    wanted = [[(batch, heads, slots, width) for heads, width in pair] for pair in shapes]
    found = [[tuple(t.shape) for t in pair] for pair in kv]
    if found != wanted:
        raise ValueError(f"kv of {len(kv)} layers {found[:1]}, the model wants {len(wanted)} of {wanted[:1]}")


@dataclass(frozen=True)
class TextColumns:
    """Holds the text columns of a batch and the bookkeeping of all columns.

    Attributes:
        ids: (B, W) text padded on the left, then answers padded on the right; 0 in the padding.
        mask: (B, fixed + W) int64, 1 on everything real.
        positions: (B, fixed - cached + W) positions of the input columns.
        longest: number of positions that the longest example takes.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    longest: int


def lay_out_text(text: Ids, answers: Ids | None, cached: int, fixed: int) -> TextColumns:
    """Lay out B texts (context and question) and answers after `fixed` columns, `cached` of them in a cache."""
    length = torch.tensor([len(t) for t in text])
    batch, width = len(text), int(length.max())
    column = torch.arange(width) - (width - length[:, None])
    ids = torch.tensor([[*[0] * (width - len(t)), *t] for t in text], dtype=torch.long).view(batch, width)
    masks = [torch.ones(batch, fixed, dtype=torch.long), (column >= 0).long()]
    positions = [torch.arange(cached, fixed).expand(batch, -1), fixed + column.clamp(min=0)]
    longest = length
    if answers is not None:
        answer_ids, valid = right_padded(answers)
        ids = torch.cat([ids, answer_ids], 1)
        masks.append(valid.long())
        positions.append(fixed + length[:, None] + torch.arange(answer_ids.shape[1]))
        longest = length + valid.sum(1)
    return TextColumns(ids, torch.cat(masks, 1), torch.cat(positions, 1), fixed + int(longest.max()))


def right_padded(rows: Ids) -> tuple[Tensor, Tensor]:
    """Return ids (B, A), padded with 0 on the right, and which are real (B, A): by length, as 0 may be a token."""
    length = torch.tensor([len(r) for r in rows])
    width = int(length.max())
    ids = torch.tensor([[*r, *[0] * (width - len(r))] for r in rows], dtype=torch.long).view(len(rows), width)
    return ids, torch.arange(width) < length[:, None]
