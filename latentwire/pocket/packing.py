"""Several questions about one context in one row: the context is computed once, each question sees only it.

    row:      BOS  context…  question₁ answer₁  question₂ answer₂ …
    attends:  causal inside the context; question k sees BOS, the context and itself
    position: every question continues where the context ended

so that each (context, question, answer) has exactly the logits of its own prompt in a row of its own (a test holds it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentwire.lm.prompts import Prompt


@dataclass(frozen=True)
class Packed:
    """Holds a batch of rows, padded on the right.

    Attributes:
        ids: (B, T) int64 token ids.
        positions: (B, T) int64 positions.
        mask: (B, 1, T, T) bool, True where a row's position attends.
        answer: (B, T) bool, True where the token is to be predicted as a part of an answer (its EOS included).
        context: (B, T) bool, True where the token belongs to a context.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    answer: Tensor
    context: Tensor


def pack(rows: Sequence[Sequence[Prompt]], pad: int) -> Packed:
    """Pack prompts; those of one row share BOS and context (the first prompt's are taken)."""
    length = max(
        len(row[0].bos) + len(row[0].context) + sum(len(p.question) + len(p.answer) for p in row) for row in rows
    )
    shape = (len(rows), length)
    ids = torch.full(shape, pad)
    positions = torch.zeros(shape, dtype=torch.int64)
    segment = torch.full(shape, -1)  # -1 padding, 0 context, k the k-th question
    answer, context = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for b, row in enumerate(rows):
        start = len(row[0].bos) + len(row[0].context)
        ids[b, :start] = torch.tensor(row[0].bos + row[0].context)
        positions[b, :start] = torch.arange(start)
        segment[b, :start] = 0
        context[b, len(row[0].bos) : start] = True
        at = start
        for k, prompt in enumerate(row, 1):
            own = prompt.question + prompt.answer
            ids[b, at : at + len(own)] = torch.tensor(own)
            positions[b, at : at + len(own)] = torch.arange(start, start + len(own))
            segment[b, at : at + len(own)] = k
            answer[b, at + len(prompt.question) : at + len(own)] = True
            at += len(own)
    query, key = segment[:, :, None], segment[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    # A padding row attends to itself: a row that attends to nothing would be NaN.
    mask = causal & ((key == query) | ((key == 0) & (query > 0)))
    return Packed(ids, positions, mask[:, None], answer, context)
