"""Numbers per question and per method, from scores and texts alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import zstandard
from torch import Tensor

from callbacks.run.collapse import distinct_rate
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.results import AnswerLogprobs
from latentwire.scoring.squad_metrics import normalize
from suite.statistics import bootstrap_interval

Row = dict[str, Any]
INTERVALS = ("f1", "em", "nll")
MEANS = (
    *INTERVALS,
    "first_token_top1",
    "first_token_top5",
    "kl_to_text",
    "swap_gap",
    "entropy",
    "margin",
    "stopped",
    "bytes",
)


@dataclass(frozen=True)
class FirstToken:
    """The distribution of an answer's first token.

    Attributes:
        top1, top5: 1.0 where the first token of any reference is the likeliest, among the five likeliest.
        entropy: in nats.
        margin: log-probability of the likeliest minus that of the second, in nats.
    """

    top1: float
    top5: float
    entropy: float
    margin: float


def first_tokens(scores: Tensor, gold: Sequence[Collection[int]]) -> list[FirstToken]:
    """From log-probabilities (B, V) of the first position and the first tokens of each example's references."""
    top = scores.topk(min(5, scores.shape[1]))
    # -inf times 0 is NaN, and a probability of 0 adds nothing
    entropy = -(scores.exp() * scores.clamp(min=-1e4)).sum(-1)
    listed = zip(top.indices.tolist(), top.values.tolist(), entropy.tolist(), gold, strict=True)
    return [
        FirstToken(float(ids[0] in refs), float(any(i in refs for i in ids)), h, p[0] - p[1])
        for ids, p, h, refs in listed
    ]


def kl(teacher: Tensor, out: AnswerLogprobs) -> list[float]:
    """KL(teacher ‖ model) in nats of each example, mean over its answer positions; teacher: (N, V) as `out.scores`."""
    teacher = teacher.to(out.scores.device)
    each = (teacher.exp() * (teacher - out.scores)).sum(-1)
    zeros = each.new_zeros(out.batch)
    return (zeros.index_add(0, out.row, each) / zeros.index_add(0, out.row, torch.ones_like(each))).tolist()


def by_example(out: AnswerLogprobs) -> list[Tensor]:
    """Scores of each example, (A_i, V)."""
    counts = torch.bincount(out.row, minlength=out.batch).tolist()
    return list(out.scores.split(counts))


def summarise(rows: Sequence[Row], n_boot: int, seed: int) -> dict[str, float]:
    """One method's numbers from its rows: means of what the rows have, and bootstrap intervals over groups.

    NLL is per answer token within a question, then the mean over questions. `f1_low` … `nll_high`: 95 %. `distinct`:
    different answers over different gold answers.
    """
    groups = [r["group"] for r in rows]
    out: dict[str, float] = {}
    for name in MEANS:
        values = [r[name] for r in rows if r.get(name) is not None]
        if len(values) != len(rows):
            continue
        out[name] = sum(values) / len(values)
        if name in INTERVALS:
            got = bootstrap_interval(values, groups, n_boot, seed)
            out |= {f"{name}_low": got.low, f"{name}_high": got.high}
    out["distinct"] = distinct_rate([normalize(r["prediction"]) for r in rows], [normalize(r["gold"]) for r in rows])
    out["n"] = len(rows)
    return out


def by_kind(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """kind -> f1, em, n."""
    kinds: dict[str, list[Row]] = {}
    for r in rows:
        kinds.setdefault(r["kind"], []).append(r)
    return {
        kind: {
            "f1": sum(r["f1"] for r in part) / len(part),
            "em": sum(r["em"] for r in part) / len(part),
            "n": len(part),
        }
        for kind, part in sorted(kinds.items())
    }


def packed_bytes(lm: FrozenLM, tokens: int) -> int:
    """Bytes of so many ids at ceil(log2 vocabulary) bits each."""
    return math.ceil(tokens * math.ceil(math.log2(lm.vocab_size)) / 8)


def text_sizes(lm: FrozenLM, texts: Mapping[str, Sequence[int]], bits: Sequence[float | None]) -> dict[str, float]:
    """Mean bytes per passage of other ways to send it. texts: text -> its ids in this model's tokenizer.

    `zstd` is level 19 in one frame without checksum, content size and dictionary; on a single short text it has not
    much to work with. `kv`: keys and values of all layers in the model's precision. `entropy`: what the corpus
    knows of the facts, absent for real text.
    """
    n = len(texts)
    squeeze = zstandard.ZstdCompressor(level=19, write_content_size=False, write_checksum=False)
    heads, width = lm.kv_shape
    per_token = 2 * lm.n_layers * heads * width * lm.dtype.itemsize
    tokens = [len(ids) for ids in texts.values()]
    sizes = {
        "utf8": sum(len(t.encode()) for t in texts) / n,
        "zstd": sum(len(squeeze.compress(t.encode())) for t in texts) / n,
        "token_ids": sum(packed_bytes(lm, k) for k in tokens) / n,
        "kv": per_token * sum(tokens) / n,
        "tokens": sum(tokens) / n,
    }
    known = [b for b in bits if b is not None]
    return sizes | ({"entropy": sum(known) / len(known) / 8} if len(known) == len(bits) else {})
