"""A batch in parts and on ranks: which rows a part has, and how the means of parts make the mean of the whole.

A step reads its texts once, and cuts the graph between what a language model reads (`Prefix`) and the model. Each part
of the rows then goes through the model forwards and backwards before the next one does, and what all parts say of the
prefixes goes back through injector, codec and encoder at once (the cached gradients of Gao et al., 2021,
arXiv 2101.06983). Dropout and codebooks of the wire, and the texts that are each other's wrong ones, are those of the
undivided batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from callbacks.step.ranks import sum_over_ranks, world_size
from latentwire.data.base import Question
from latentwire.lm.layout import Prefix
from latentwire.objectives.base import ANSWER_TOKENS, TEXTS, TOKENS, RowKind
from latentwire.train.batches import Batch, Rows


@dataclass(frozen=True)
class Part:
    """Holds the rows of some passages of a batch; they read the texts of the whole batch, by its numbers.

    Attributes:
        asked: pairs (index of the passage in the batch, question) in the order of the rows `answer`.
        rows: rows by language model and kind.
    """

    asked: list[tuple[int, Question]]
    rows: dict[str, dict[RowKind, Rows]]


def parts(batch: Batch, count: int) -> list[Part]:
    """Return the rows of a batch in at most `count` parts of about equally many passages; none is empty."""
    if count == 1:
        return [Part(batch.asked, batch.rows)]
    n = len(batch.passages)
    bounds = [i * n // count for i in range(count + 1)]
    return [_between(batch, low, high) for low, high in pairwise(bounds) if high > low]


def _between(batch: Batch, low: int, high: int) -> Part:
    asked = [b for b, _ in batch.asked]
    passages = len(batch.passages)

    def kept(kind: RowKind, r: Rows) -> Rows:
        # wrong rows read another passage's text than the one they ask about; beginnings come after all passages
        of = asked if kind in ("answer", "wrong") else r.source
        of = [batch.continued[s - passages] for s in of] if kind == "continuation" else of
        rows = [i for i, b in enumerate(of) if low <= b < high]
        return Rows([r.source[i] for i in rows], [r.question[i] for i in rows], [r.answer[i] for i in rows])

    rows = {name: {kind: kept(kind, r) for kind, r in kinds.items()} for name, kinds in batch.rows.items()}
    return Part([pair for pair in batch.asked if low <= pair[0] < high], rows)


def sizes(rows: Mapping[str, Mapping[RowKind, Rows]], batch: Batch) -> dict[tuple[str, str], int]:
    """Return what means are over, by model and name: `rows` of a kind, tokens of answers, texts and their tokens."""
    found = {(name, str(kind)): len(r) for name, kinds in rows.items() for kind, r in kinds.items()}
    for name, kinds in rows.items():
        found[name, TEXTS] = batch.messages
        if "answer" in kinds:
            found[name, ANSWER_TOKENS] = sum(map(len, kinds["answer"].answer))
    return found | {(name, TOKENS): int(mask.sum()) for name, (_, mask) in batch.context.items()}


class Weights:
    """Weighs the mean over a part such that the parts of all ranks add up to the mean over the whole batch.

    DDP averages gradients over ranks: a rank's part counts for its share of the whole, times the number of ranks. On
    one rank with one part all weights are 1.

    Args:
        batch: this rank's batch.
        texts: number of texts that this rank encodes.
        device: where ranks add up.
    """

    def __init__(self, batch: Batch, texts: int, device: torch.device):
        own = {**sizes(batch.rows, batch), ("", ""): texts}
        self.total: Mapping[tuple[str, str], float | Tensor] = own
        self.ranks = world_size()
        if self.ranks > 1:
            dtype = torch.float64 if device.type == "cpu" else torch.float32
            summed = sum_over_ranks(torch.tensor([float(n) for n in own.values()], dtype=dtype, device=device))
            self.total = dict(zip(own, summed.clamp(min=1).unbind(), strict=True))
        self.texts = self._share(("", ""), texts)

    def of(self, over: str, model: str, sizes: Mapping[tuple[str, str], int]) -> float | Tensor:
        """Return the weight of a mean over what is named `over` in a part with these sizes."""
        key = (model, over)
        return self._share(key, sizes.get(key, 0))

    def _share(self, key: tuple[str, str], size: int) -> float | Tensor:
        total = self.total.get(key, 0)
        if isinstance(total, Tensor):
            return self.ranks * size / total.float()
        return size / total if total else 1.0


class Cut:
    """Cuts the graph at the prefixes of a batch, and joins it again.

    Args:
        prefixes: what the models read, by name.
    """

    def __init__(self, prefixes: Mapping[str, Prefix]):
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self.prefixes = {name: self._leaf(prefix) for name, prefix in prefixes.items()}

    def _leaf(self, prefix: Prefix) -> Prefix:
        def leaf(x: Tensor) -> Tensor:
            # in float32, where parts add up
            found = x.detach().to(torch.promote_types(x.dtype, torch.float32)).requires_grad_(x.requires_grad)
            self._pairs.append((x, found))
            return found

        return Prefix(
            embeds=None if prefix.embeds is None else leaf(prefix.embeds),
            kv=None if prefix.kv is None else [(leaf(k), leaf(v)) for k, v in prefix.kv],
            reads=None if prefix.reads is None else [read.map(leaf, leaf) for read in prefix.reads],
        )

    def joined(self, scale: float = 1.0) -> Tensor | None:
        """Return a number whose gradient is what the parts have left at the cut; None where they have left nothing.

        Args:
            scale: factor of the loss under mixed precision, which a backward pass will apply once more.
        """
        left = [(x, leaf.grad / scale) for x, leaf in self._pairs if leaf.grad is not None]
        return torch.stack([(x.to(g) * g).sum() for x, g in left]).sum() if left else None


def narrowed(prefix: Prefix, rows: Mapping[RowKind, Rows]) -> tuple[Prefix, dict[RowKind, Rows]]:
    """Return the prefix of those texts alone that some rows read, and the rows by its numbers."""
    needed = sorted({source for r in rows.values() for source in r.source})
    number = {old: new for new, old in enumerate(needed)}
    renumbered: dict[RowKind, Rows] = {
        kind: Rows([number[s] for s in r.source], r.question, r.answer) for kind, r in rows.items()
    }
    return prefix.select(needed), renumbered


def unsynchronised(strategy: Any) -> AbstractContextManager[Any]:
    """Keep a backward pass within the block from being averaged over ranks; the next one outside averages all."""
    model = strategy.model
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def share_of(batch_size: int, rank: int, world: int) -> int:
    """Return how many of the first `batch_size` contexts of a global batch a rank has."""
    return len(range(rank, batch_size, world))
