"""What may stand around embeddings of a text: `python -m latentwire.study anchors`.

Systems put a piece of text, an *anchor* such as "Context: ", between BOS and the latents or behind these, and disagree
about where BOS belongs. Each frozen pocket reader gets the text's own embeddings, as they are and as one mean of every
4 tokens, with

    anchor   none, "Context: " before the latents, "Answer: " behind them, both
    mode     the anchor's own embeddings, or their mean as one vector
    BOS      at position 0 (before everything), behind the latents, at both places, at none

Nothing is trained. Three minutes of a core; it writes docs/results/anchors.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from latentwire.data.base import Passage
from latentwire.examples import Example, examples
from latentwire.lm.frozen import FrozenLM
from latentwire.reader_study import points, reader_parser, scored, study_readers
from suite.report.tables import PERCENT, Cell, Table, columns, markdown, number, texts
from suite.runs.command import command
from suite.statistics import hierarchical_bootstrap

READ = 0.1  # F1 below which a reader cannot be said to read, and a setting not to change it
PAGE = Path("docs/results/anchors.md")
PASSAGES = 40
CHUNK = 4  # tokens of a mean, where latents are compressed
BEFORE, BEHIND = "Context: ", "Answer: "
Place = Literal["none", "before", "behind", "both"]
Mode = Literal["tokens", "mean"]
HEAD = """# Anchors around latents

Written by `python -m latentwire.study anchors`, none of it by hand. Frozen readers get the text's own embeddings
({passages} test passages of biographies, {questions} questions) in the place of latents, between anchors, and BOS at
several places. Nothing is trained, so that a wire that is trained with an anchor may get used to it; what is shown is
what an anchor does to a reader that is not. *own*: one embedding per token, which the reader knows. *means*: one mean
of every {chunk} tokens, as compressed latents that are none of its vocabulary. F1 with 95 % bootstrap over passages;
differences are to no anchor with BOS at position 0, paired by question. NLL: nats per token of the gold answer.
"""


@dataclass(frozen=True)
class Setting:
    """Says what stands around latents.

    Attributes:
        anchor: where text stands: `none`, `before`, `behind` the latents, or `both`.
        mode: the anchor's `tokens`, or their `mean` as one vector.
        bos: where BOS stands: before everything, behind the latents, or both; (True, False) is the reader's own head.
    """

    anchor: Place = "none"
    mode: Mode = "tokens"
    bos: tuple[bool, bool] = (True, False)

    def __str__(self) -> str:
        said = "no anchor" if self.anchor == "none" else f"anchor {self.anchor}, {self.mode}"
        where = {(True, False): "BOS at 0", (False, True): "BOS behind", (True, True): "BOS at 0 and behind"}
        return f"{said}, {where.get(self.bos, 'no BOS')}"


BASE = Setting()
SETTINGS = (
    BASE,
    Setting("before"),
    Setting("before", "mean"),
    Setting("behind"),
    Setting("behind", "mean"),
    Setting("both"),
    Setting(bos=(False, True)),
    Setting(bos=(True, True)),
    Setting(bos=(False, False)),
)


def around(lm: FrozenLM, latents: Tensor, setting: Setting, bos: Sequence[int]) -> Tensor:
    """Return what the reader gets behind its head for latents (M, d): (N, d).

    BOS at position 0 is the head, which every reader puts first; where it shall not stand there, see `headless`.

    Args:
        lm: the reader.
        latents: the latents.
        setting: what stands around them.
        bos: ids of the reader's head, which stand behind the latents where the setting says so.
    """

    def text(said: str) -> Tensor:
        x = lm.embed(torch.tensor(lm.style.encode(said))).float()
        return x if setting.mode == "tokens" else x.mean(0, keepdim=True)

    parts = [latents.float()]
    if setting.anchor in ("before", "both"):
        parts.insert(0, text(BEFORE))
    if setting.anchor in ("behind", "both"):
        parts.append(text(BEHIND))
    if setting.bos[1] and bos:
        parts.append(lm.embed(torch.tensor(bos)).float())
    return torch.cat(parts)


class headless:
    """Takes the head from a reader within a block, so that nothing stands at position 0 before the latents.

    Args:
        lm: the reader.
        wanted: whether it is taken; False changes nothing.
    """

    def __init__(self, lm: FrozenLM, wanted: bool):
        self.lm, self.wanted, self.style = lm, wanted, lm.style

    def __enter__(self) -> None:
        if self.wanted:
            self.lm.style = replace(self.style, head=())

    def __exit__(self, *_: object) -> None:
        self.lm.style = self.style


def chunked(x: Tensor, size: int) -> Tensor:
    """Return the mean of every `size` rows of (T, d), the last ones of fewer: (ceil(T / size), d)."""
    return torch.stack([part.mean(0) for part in x.split(size)])


@torch.no_grad()
def measure(lm: FrozenLM, passages: Sequence[Passage], n_boot: int = 2000) -> dict[str, dict[str, dict[str, Any]]]:
    """Score every setting on one reader; return numbers by kind of latents (`own`, `means`) and setting.

    Args:
        lm: the reader.
        passages: passages whose questions are asked.
        n_boot: number of bootstrap draws.
    """
    asked = examples(lm, passages)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, size in (("own", 1), ("means", CHUNK)):
        rows: dict[str, list[dict[str, float]]] = {}
        for setting in SETTINGS:
            rows[str(setting)] = answered(lm, asked, setting, size)
        groups = [e.passage.group for e in asked]
        base = rows[str(BASE)]
        found[kind] = {}
        for name, mine in rows.items():
            got = [r["f1"] for r in mine]
            own = hierarchical_bootstrap({0: got}, groups=groups, n_boot=n_boot)
            numbers = {"f1": own.estimate, "f1_low": own.low, "f1_high": own.high, "n": len(mine)}
            numbers |= {"nll": sum(r["nll"] for r in mine) / len(mine)}
            if name != str(BASE):
                d = hierarchical_bootstrap({0: got}, {0: [r["f1"] for r in base]}, groups=groups, n_boot=n_boot)
                numbers |= {"delta": d.estimate, "low": d.low, "high": d.high}
            found[kind][name] = numbers
    return found


def answered(lm: FrozenLM, asked: Sequence[Example], setting: Setting, size: int) -> list[dict[str, float]]:
    """Let a reader answer under one setting; return F1 and NLL per question, in order."""
    bos = lm.style.head

    def embeds(batch: Sequence[Example]) -> Tensor:
        latents = (chunked(lm.embed(torch.tensor(e.prompt.context)).float(), size) for e in batch)
        return torch.stack([around(lm, z, setting, bos) for z in latents])

    with headless(lm, not setting.bos[0]):
        return scored(lm, asked, embeds)


def verdict(found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> str:
    """Say for which latents an anchor or a place of BOS matters, by reader."""
    told = []
    for reader, kinds in found.items():
        for kind, rows in kinds.items():
            if (floor := rows[str(BASE)]["f1"]) < READ:
                told.append(f"`{reader}` reads {floor * PERCENT:.1f} % of {kind} embeddings: nothing is decided there.")
                continue
            moved = [f"{n} ({points(r)})" for n, r in rows.items() if "low" in r and not r["low"] <= 0 <= r["high"]]
            matter = f"these change F1: {'; '.join(moved)}" if moved else "no setting changes F1 with certainty"
            told.append(f"On `{reader}` with {kind} embeddings {matter}.")
    return f"**Verdict.** {' '.join(told)}\n"


def table(kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Show all settings of one reader for both kinds of latents."""
    lines = []
    for kind, rows in kinds.items():
        for name, r in rows.items():
            f1_text = f"{r['f1'] * PERCENT:.1f} [{r['f1_low'] * PERCENT:.1f}, {r['f1_high'] * PERCENT:.1f}]"
            delta = Cell(points(r), r["delta"]) if "delta" in r else Cell("—")
            lines.append([*texts(kind, name), Cell(f1_text, r["f1"]), delta, number(r["nll"], 3)])
    titles = ["F1 %\n[95 %]", "Δ F1\nto the first", "NLL\nnats/token"]
    return Table("", columns("latents", "what stands around them", numbers=titles), lines)


def page(found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]], passages: int) -> str:
    """Return the page of what was measured by reader."""
    n = next(iter(next(iter(found.values())).values()))[str(BASE)]["n"]
    parts = [HEAD.format(passages=passages, questions=n, chunk=CHUNK), verdict(found)]
    parts += [f"## `{reader}`\n\n{markdown([table(kinds)])}" for reader, kinds in found.items()]
    return "\n".join(parts)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = reader_parser("anchors", __doc__, PAGE, PASSAGES).parse_args(argv)
    return study_readers(args, measure, page)
