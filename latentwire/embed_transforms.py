"""What a reader makes of its own embeddings after a transform: `python -m latentwire.study embed_transforms`.

Each frozen pocket reader is fed the text's own embeddings in the place of latents, changed by what is put between
projectors and language models to make the two look alike: nothing; every token brought to the vocabulary's RMS (latent
systems' LayerNorm and scale); channels to the vocabulary's mean and standard deviation, over each batch; whitening;
the mean of the k nearest tokens of the vocabulary (k = 1, 8); a softmax over the whole vocabulary. Nothing is trained.
Two minutes of a core; it writes docs/results/embed_transforms.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latentwire import transforms
from latentwire.baselines.replay import Replay
from latentwire.baselines.text import NoContext, Text
from latentwire.data.base import Passage, Question
from latentwire.lm.layout import Prefix
from latentwire.lm.vocabulary import rows
from latentwire.reader_study import points, reader_parser, study_readers
from latentwire.scoring.evaluator import Evaluator
from suite.report.tables import PERCENT, Cell, Table, columns, markdown, number, texts
from suite.runs.command import command
from suite.statistics import hierarchical_bootstrap

if TYPE_CHECKING:
    from latentwire.lm.frozen import FrozenLM
    from latentwire.scoring.evaluation import Evaluation

PAGE = Path("docs/results/embed_transforms.md")
PASSAGES = 60
UNCHANGED, RMS = "nothing", "per-token RMS of the vocabulary"
TEXT, NOTHING = "the text as text", "no text"
Transform = Callable[[Tensor], Tensor]
HEAD = """# Transforms of embeddings

Written by `python -m latentwire.study embed_transforms`, none of it by hand. Frozen readers get the text's own
embeddings ({passages} test passages of biographies, {questions} questions) in the place of latents, after a transform.
Nothing is trained, and nothing is compressed: what a row loses, the transform has cost. F1 with 95 % bootstrap over
passages; differences to *nothing* are paired by question. *Cosine* and *RMS* compare the changed embeddings with their
own: cosine on average, and the ratio of root mean squares over all entries. *spread* is the standard deviation of the
tokens' RMS over its mean, for text before the transform {spread}; per-token matching sets it to 0.
"""


def transforms_of(lm: FrozenLM) -> dict[str, Transform]:
    """Return the transforms of (n, d) embeddings of a batch's texts by name, measured on the reader's vocabulary."""

    def parts() -> Any:
        return rows(lm, "embeddings")

    mean, std, covariance = transforms.moments(parts)
    size = float((std.square() + mean.square()).mean().sqrt())
    return {
        UNCHANGED: lambda x: x,
        RMS: partial(transforms.match_rms, target=size),
        "batch mean and std of the vocabulary": partial(transforms.match_moments, mean=mean, std=std),
        "whitening": partial(transforms.whitened, mean=mean, covariance=covariance, scale=size),
        "nearest token": partial(transforms.on_manifold, parts=parts, k=1),
        "8 nearest tokens": partial(transforms.on_manifold, parts=parts, k=8),
        "soft codebook, temperature 0.05": partial(transforms.soft_codebook, parts=parts, temperature=0.05),
        "soft codebook, temperature 0.2": partial(transforms.soft_codebook, parts=parts, temperature=0.2),
    }


class Transformed(Replay):
    """Gives the text's own embeddings after a transform.

    Args:
        transform: changes embeddings (n, d) of all texts of a batch.
    """

    name = "transformed"
    remark = "the text's own embeddings, transformed"

    def __init__(self, transform: Transform):
        super().__init__("question")
        self.transform = transform

    @torch.no_grad()
    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        embeds = super().prefix(lm, passages, questions, slots).embeds
        assert embeds is not None
        return Prefix(embeds=self.transform(embeds.flatten(0, 1).float()).to(embeds).view_as(embeds))


def geometry(x: Tensor, y: Tensor) -> dict[str, float]:
    """Compare changed embeddings y (n, d) with their own x: mean cosine, ratio of RMS, and the spread of y's."""
    sizes = transforms.rms(y)[:, 0]
    return {
        "cosine": float(torch.nn.functional.cosine_similarity(x, y, dim=-1).mean()),
        "rms": float(y.pow(2).mean().sqrt() / x.pow(2).mean().sqrt()),
        "spread": float(sizes.std(correction=0) / sizes.mean()),
    }


@torch.no_grad()
def measure(lm: FrozenLM, passages: Sequence[Passage], n_boot: int = 2000) -> dict[str, dict[str, Any]]:
    """Score every transform on one reader; return numbers by row, the text and no text among them.

    Args:
        lm: the reader.
        passages: passages whose questions are asked.
        n_boot: number of bootstrap draws.
    """
    own = transforms_of(lm)
    read = {name: Transformed(f) for name, f in own.items()}
    evaluator = Evaluator({lm.name: lm}, passages, {TEXT: Text(), NOTHING: NoContext(), **read}, 8, n_boot=n_boot)
    scores = evaluator.run({}, slots=1)
    ids = torch.tensor([i for p in passages for i in lm.style.encode(p.text)])
    x = lm.embed(ids).float()
    found: dict[str, dict[str, Any]] = {}
    for name, method in scores.methods.items():
        changed = {} if name not in own else geometry(x, own[name](x))
        found[name] = {k: method[k] for k in ("f1", "f1_low", "f1_high", "nll", "n")} | changed
        if name in own and name != UNCHANGED:
            found[name] |= against(scores, name, UNCHANGED, n_boot)
    return found


def against(scores: Evaluation, name: str, other: str, n_boot: int) -> dict[str, float]:
    """Return F1 of a row minus that of another on the same questions, with its interval over passages."""
    mine, theirs = ([r for r in scores.rows if r["method"] == m] for m in (name, other))
    got = hierarchical_bootstrap(
        {0: [r["f1"] for r in mine]},
        {0: [r["f1"] for r in theirs]},
        groups=[r["group"] for r in mine],
        n_boot=n_boot,
    )
    return {"delta": got.estimate, "low": got.low, "high": got.high}


def verdict(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Say which transforms cost answers on which reader, matching every token's RMS first."""
    told = []
    for reader, by_row in found.items():
        row = by_row[RMS]
        word = "costs" if row["high"] < 0 else "gains" if row["low"] > 0 else "neither costs nor gains with certainty"
        hurts = [f"{n} ({points(r)})" for n, r in by_row.items() if r.get("high", 0.0) < 0 and n != RMS]
        free = [n for n, r in by_row.items() if "low" in r and r["low"] <= 0 <= r["high"] and n != RMS]
        line = f"On `{reader}` matching every token to the vocabulary's RMS {word}: {points(row)} points of F1."
        line += f" Also lossy: {', '.join(hurts)}." if hurts else " No other transform is lossy."
        line += f" Not told apart from nothing: {', '.join(free)}." if free else ""
        told.append(line)
    return f"**Verdict.** {' '.join(told)}\n"


def table(by_row: Mapping[str, Mapping[str, Any]]) -> Table:
    """Show all rows of one reader."""
    lines = []
    for name, r in by_row.items():
        f1 = f"{r['f1'] * PERCENT:.1f} [{r['f1_low'] * PERCENT:.1f}, {r['f1_high'] * PERCENT:.1f}]"
        delta = Cell(points(r), r["delta"]) if "delta" in r else Cell("—")
        shape = [number(r.get(key), 3) for key in ("cosine", "rms", "spread")]
        lines.append([*texts(name), Cell(f1, r["f1"]), delta, number(r["nll"], 3), *shape])
    titles = ["F1 %\n[95 %]", "Δ F1\nto nothing", "NLL\nnats/token", "cosine", "RMS\nratio", "spread"]
    return Table("", columns("embeddings after", numbers=titles), lines)


def page(found: Mapping[str, Mapping[str, Mapping[str, Any]]], passages: int) -> str:
    """Return the page of what was measured by reader."""
    first = next(iter(found.values()))
    spread = ", ".join(f"{by_row[UNCHANGED]['spread']:.2f} (`{reader}`)" for reader, by_row in found.items())
    parts = [HEAD.format(passages=passages, questions=first[UNCHANGED]["n"], spread=spread), verdict(found)]
    parts += [f"## `{reader}`\n\n{markdown([table(by_row)])}" for reader, by_row in found.items()]
    return "\n".join(parts)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = reader_parser("embed_transforms", __doc__, PAGE, PASSAGES).parse_args(argv)
    return study_readers(args, measure, page)
