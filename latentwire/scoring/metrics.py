"""Numbers per method from its rows, and what other ways to send a text would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import zstandard
from torch import Tensor

from callbacks.run.collapse import distinct_rate
from latentwire.codec.bits import packed_bytes, width_of
from latentwire.data.squad_metrics import normalize
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.results import AnswerLogprobs
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
    "payload",
    "positions",
)


def by_example(out: AnswerLogprobs) -> list[Tensor]:
    """Return the scores of each example, (A_i, V)."""
    counts = torch.bincount(out.row, minlength=out.batch).tolist()
    return list(out.scores.split(counts))


def summarise(rows: Sequence[Row], n_boot: int, seed: int) -> dict[str, float]:
    """Return one method's numbers from its rows: means of what the rows have, and bootstrap intervals over groups.

    NLL is per answer token within a question, then the mean over questions. `f1_low` … `nll_high` are the ends of 95 %
    intervals, `distinct` is the number of different answers over that of different gold answers.
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
    """Return f1, em and n of every kind of question."""
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


def id_bytes(lm: FrozenLM, tokens: int) -> int:
    """Return the bytes of so many ids at ceil(log2 vocabulary) bits each."""
    return packed_bytes(tokens, width_of(lm.vocab_size))


def text_sizes(lm: FrozenLM, texts: Mapping[str, Sequence[int]], bits: Sequence[float | None]) -> dict[str, float]:
    """Return the mean bytes per passage of other ways to send it.

    `zstd` is level 19 in one frame without checksum, content size and dictionary; on a single short text it has not
    much to work with. `kv` are keys and values of all layers in the model's precision. `entropy` is what the corpus
    knows of the facts, absent for real text.

    Args:
        lm: the model that reads.
        texts: ids in the model's tokenizer, by text.
        bits: entropy of each text's facts in bits, None where nobody knows it.
    """
    n = len(texts)
    squeeze = zstandard.ZstdCompressor(level=19, write_content_size=False, write_checksum=False)
    per_token = lm.anatomy.kv_numbers * lm.dtype.itemsize
    tokens = [len(ids) for ids in texts.values()]
    sizes = {
        "utf8": sum(len(t.encode()) for t in texts) / n,
        "zstd": sum(len(squeeze.compress(t.encode())) for t in texts) / n,
        "token_ids": sum(id_bytes(lm, k) for k in tokens) / n,
        "kv": per_token * sum(tokens) / n,
        "tokens": sum(tokens) / n,
    }
    known = [b for b in bits if b is not None]
    return sizes | ({"entropy": sum(known) / len(known) / 8} if len(known) == len(bits) else {})
