"""KV compaction by attention matching: M keys of a text's own cache, with biases and values that stand for all of it.

Zweiger, Fu, Guo and Kim, "Fast KV Compaction via Attention Matching" (2026, arXiv 2602.16284). With reference queries
q_i, keys k_j and values v_j of a head, the block of T keys is replaced by M of them, so that for every q_i

    mass:    sum_s exp(q_i c_s + beta_s) = sum_j exp(q_i k_j)
    output:  softmax_s(q_i c_s + beta_s) C_v = softmax_j(q_i k_j) V

hold as well as they can. Then attention over the block and anything around it is the same, as it is a mixture of the
two by mass. The paper chooses the keys that get the most attention (root mean square over the queries) or by matching
pursuit, solves for exp(beta) by non-negative least squares and for C_v by least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import Steps
from latentwire.baselines.base import Baseline
from latentwire.baselines.pooled import FP16_BYTES
from latentwire.baselines.training import TrainingBudget
from latentwire.data.base import Passage, Question
from latentwire.examples import context_ids
from latentwire.lm.attention import Asked, asked
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix, right_padded
from latentwire.lm.prompts import render

RIDGE = 1e-6  # pull towards the tokens' own weights and values, in units of the mean square of the equations
SMALLEST = 1e-9  # of exp(beta)
NEVER = -1e4  # bias of a place without a key


@dataclass(frozen=True)
class Compact:
    """Holds one head's block: which keys are kept (M,), their biases (M,) and their values (M, width)."""

    kept: Tensor
    bias: Tensor
    values: Tensor


def compact(keys: Tensor, values: Tensor, queries: Tensor, slots: int, scaling: float) -> Compact:
    """Choose `slots` keys of one head and fit biases and values to reference queries; all in float64.

    Both fits are pulled slightly towards what the kept tokens have by themselves (bias 0, own values): what the queries
    leave open stays as it was, and with all T keys nothing changes. Each query's equation of mass is divided by the
    mass, so that all count alike; the paper does not say how it weighs them.

    Args:
        keys: (T, width), as the attention meets them.
        values: (T, width).
        queries: (n, width), all queries of the heads that share these keys.
        slots: M, at most T.
        scaling: factor on the products of queries and keys.
    """
    keys, values, queries = keys.double(), values.double(), queries.double()
    logits = scaling * queries @ keys.T
    attention = logits.softmax(1)
    kept = attention.pow(2).mean(0).topk(slots).indices.sort().values
    relative = attention[:, kept]  # exp(q c) over the mass of the whole block
    weights = _weights(relative.cpu().numpy())
    bias = torch.from_numpy(np.log(weights)).to(keys)
    mixed = (logits[:, kept] + bias).softmax(1)
    own = values[kept]
    missing = attention @ values - mixed @ own
    normal = mixed.T @ mixed
    normal = normal + RIDGE * normal.diagonal().mean() * torch.eye(slots, dtype=normal.dtype, device=normal.device)
    return Compact(kept, bias, own + torch.linalg.solve(normal, mixed.T @ missing))


def _weights(relative: np.ndarray) -> np.ndarray:
    """Solve relative w = 1 for w >= 0, with a pull towards 1."""
    slots = relative.shape[1]
    pull = np.sqrt(RIDGE * max(float((relative**2).sum(0).mean()), 1e-30))
    found, _ = nnls(
        np.concatenate([relative, pull * np.eye(slots)]),
        np.concatenate([np.ones(len(relative)), np.full(slots, pull)]),
    )
    return np.maximum(found, SMALLEST)


class KVCompaction(Baseline):
    """Replaces a text's cache by M keys and values per head that answer reference queries alike; nothing is trained.

    Reference queries are those of the text read a second time behind itself (the paper's repeat-prefill, without an
    instruction between), and those of questions of other, training passages behind the text; never those of the
    evaluation. Kept keys stay at their own positions, and what follows stands where it would behind the whole text.

    What is not done of the paper: matching pursuit, budgets that differ between heads, and queries layer by layer on
    what is compacted already.

    Args:
        questions: number of questions of training passages that are asked of every text; 0: none.
        repeat: whether the text is read a second time.
    """

    name = "kv_compaction"
    remark = (
        "M keys and values per head of the text's own cache, fitted by attention matching (2602.16284): no training"
    )

    def __init__(self, questions: Steps = 16, repeat: bool = True):
        if questions == 0 and not repeat:
            raise UserError(
                "baselines.kv_compaction", f"questions={questions}, repeat={repeat}", "reference queries of some kind",
                "set baselines.kv_compaction.questions=16",
            )  # fmt: skip
        self.questions, self.repeat = questions, repeat
        self._asked: list[Question] = []
        self._known: dict[tuple[str, int, tuple[int, ...]], list[tuple[Tensor, Tensor, Tensor]]] = {}

    def fit(self, lm: FrozenLM, budget: TrainingBudget | None, slots: int, folder: Path | None = None) -> None:
        train = () if budget is None else budget.train
        self._asked = [train[i].questions[0] for i in range(min(self.questions, len(train)))]
        if not self._asked and not self.repeat:
            remedy = "set corpus.train=2000, or baselines.kv_compaction.repeat=true"
            raise UserError("baselines.kv_compaction", "no training passages", "questions to ask", remedy)

    @torch.no_grad()
    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        if lm.window is not None:
            remedy = "leave out ~baselines.kv_compaction"
            raise UserError("baselines.kv_compaction", f"a window in {lm.name}", "full attention", remedy)
        ids = [context_ids(lm, p, q) for p, q in zip(passages, questions, strict=True)]
        keys = [(lm.name, slots, i) for i in ids]
        self._known = {key: self._known.get(key) or self._compacted(lm, key[2], slots) for key in dict.fromkeys(keys)}
        rows = [self._known[key] for key in keys]
        layers = [[torch.stack(part) for part in zip(*layer, strict=True)] for layer in zip(*rows, strict=True)]
        return Prefix(
            kv=[(k, v) for k, v, _ in layers], bias=[bias for *_, bias in layers], stands_for=[len(i) for i in ids]
        )

    def message_bytes(self, lm: FrozenLM, slots: int) -> int | None:
        biases = sum(heads for (heads, _), _ in lm.anatomy.kv_shapes)
        return FP16_BYTES * slots * (lm.anatomy.kv_numbers + biases)

    def _compacted(self, lm: FrozenLM, ids: tuple[int, ...], slots: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return keys (kv_heads, M, width), values and biases (kv_heads, M) by layer."""
        if not ids:
            raise UserError("baselines.kv_compaction", "an empty context", "a text", "leave out such passages")
        start, end = len(lm.style.head), len(lm.style.head) + len(ids)
        own, reference = self._reference(lm, ids)
        found = []
        for layer, queries in zip(own, reference, strict=True):
            keys, values = layer.keys[0, :, start:end], layer.values[0, :, start:end]
            groups = queries.shape[0] // keys.shape[0]
            m = min(slots, len(ids))
            heads = [
                compact(keys[h], values[h], queries[h * groups : (h + 1) * groups].flatten(0, 1), m, layer.scaling)
                for h in range(len(keys))
            ]
            empty = (0, 0, 0, slots - m)  # places without a key, where a text has fewer tokens than M
            k = torch.stack([torch.nn.functional.pad(keys[h][c.kept], empty) for h, c in enumerate(heads)])
            v = torch.stack([torch.nn.functional.pad(c.values.to(values), empty) for c in heads])
            b = torch.stack([torch.nn.functional.pad(c.bias.float(), (0, slots - m), value=NEVER) for c in heads])
            found.append((k, v, b))
        return found

    def _reference(self, lm: FrozenLM, ids: tuple[int, ...]) -> tuple[list[Asked], list[Tensor]]:
        """Return what each layer makes of the text, and its reference queries (heads, n, width)."""
        text = [*lm.style.head, *ids]
        again = ids[: max(0, lm.max_tokens - len(text))] if self.repeat else ()
        read = torch.tensor([[*text, *again]])
        own = _asked(lm, read, torch.ones_like(read))
        queries = [[layer.queries[0, :, len(text) :]] for layer in own]
        room = lm.max_tokens - len(text)
        follows = [q for q in (render(lm.style, None, q.text).question for q in self._asked) if len(q) <= room]
        if follows:
            rows, valid = right_padded([[*text, *question] for question in follows])
            for part, layer in zip(queries, _asked(lm, rows, valid), strict=True):
                behind = valid[:, len(text) :].to(layer.queries.device)
                part.append(layer.queries[:, :, len(text) :].transpose(0, 1)[:, behind])
        if not any(part.shape[1] for part in queries[0]):  # no position is left behind the text: its own queries
            queries = [[layer.queries[0, :, -1:]] for layer in own]
        return own, [torch.cat(part, 1) for part in queries]


def _asked(lm: FrozenLM, ids: Tensor, mask: Tensor) -> list[Asked]:
    with lm.adapters_off():
        return asked(lm.decoder, ids.to(lm.input_device), mask.to(lm.input_device))
