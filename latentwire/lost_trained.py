"""The page of wires trained on texts in which loss is planted: `python -m latentwire.study lost_trained`.

What `lost` cannot say: whether a wire that has learned a corpus' pattern loses what breaks it. One wire for each of the
three corpora of `latentwire.data.planted` is trained on it, at 8x, where wires begin to lose answers, and answers the
test questions of its own corpus. Runs are as long as those of the study `catalogue`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from callbacks.files.atomic import write_text
from latentwire.catalogue import EPOCHS
from latentwire.data.base import Corpus
from latentwire.data.planted import LostAlongTheWay, LostByTheBoundary, LostIfSurprising
from latentwire.lost import AGAINST, READ, TEXT, Asked, Scores, cells, of_run, of_text, split
from latentwire.lost_rows import RATIO, SIZES
from latentwire.page.scores import points
from suite.report.data import RunRecord
from suite.report.tables import Cell, Table, columns, markdown, texts

PAGE = Path("docs/results/lost_trained.md")
PASSAGES = 100
HEAD = """# What a wire loses that was trained on it

Written by `python -m latentwire.study lost_trained`, none of it by hand; started again, only what is missing runs.
One wire per corpus (`lm_hidden`, `deep_prefix`, {ratio}x, {epochs} epochs of `pocket_smoke`) is trained on texts in
which loss is planted (after arXiv 2412.17483) and answers all questions about {passages} test texts of the same corpus.
Ordinary facts are the others of the same texts: a row compares within a text. F1: 95 % bootstrap over seeds and
passages; differences are paired by seed and passage. The reader on the text itself stands under each.
{missing}"""


def corpora(passages: int) -> dict[str, Corpus]:
    """Return the corpora that wires are trained on, with so many test passages."""
    return {
        "lost_boundary": LostByTheBoundary(**SIZES["lost_boundary"], test=passages),
        "lost_surprise": LostIfSurprising(**SIZES["lost_surprise"], test=passages),
        "lost_along": LostAlongTheWay(**SIZES["lost_along"], test=passages),
    }


def write(runs: Sequence[RunRecord], wanted: int) -> Path:
    """Let every finished run answer, and write the page; return its path.

    Args:
        runs: the runs of the study.
        wanted: the number of the study's seeds.
    """
    asked = {
        name: Asked.of(name, [own[i] for i in range(PASSAGES)])
        for name, corpus in corpora(PASSAGES).items()
        for own in [corpus.split("test")]
    }
    found: dict[str, dict[int, list[float]]] = {}
    for run in (r for r in runs if r.finished):
        for corpus in asked.keys() & {run.label}:
            found.setdefault(corpus, {})[int(run.seed)] = of_run(run.path, {corpus: asked[corpus]})[corpus]
    return write_text(PAGE, page(found, of_text(asked), asked, wanted))


def verdict(found: Mapping[str, Scores], asked: Mapping[str, Asked], wanted: int) -> str:
    """Say which planted facts are lost by wires that have all their seeds."""
    told = []
    for corpus, scores in found.items():
        planted = f"*{corpus}* ({AGAINST[corpus][0]})"
        if len(scores) < wanted:
            told.append(f"{planted}: {len(scores)} of {wanted} seeds, not decided.")
            continue
        _, ordinary, d = split(scores, asked[corpus])
        word = "lost" if d.high < 0 else "kept better than ordinary facts" if d.low > 0 else "not told apart"
        if ordinary.high < READ:
            word = "undecided, as ordinary facts are not read either"
        told.append(f"{planted}: {word} ({points(d)} points).")
    return f"**Verdict.** {' '.join(told) or 'No wire has been evaluated yet.'}\n"


def page(
    found: Mapping[str, Scores], text: Mapping[str, Sequence[float]], asked: Mapping[str, Asked], wanted: int
) -> str:
    """Return the page.

    Args:
        found: F1 of every question by corpus and seed.
        text: the same of the reader on the texts.
        asked: the questions, by corpus.
        wanted: the number of the study's seeds.
    """
    lines: list[list[Cell]] = []
    for corpus, of in asked.items():
        told = [*texts(corpus, *AGAINST[corpus])]
        for name, scores in ((f"wire, {RATIO}x", found.get(corpus)), (TEXT, {0: text[corpus]})):
            if scores:
                lines.append([*told, *texts(name), *cells(scores, of), *texts(len(scores))])
    missing = [corpus for corpus in asked if len(found.get(corpus, {})) < wanted]
    note = f"**Not finished**: {', '.join(missing)}.\n" if missing else ""
    titles = ["planted\nF1 % [95 %]", "ordinary\nF1 % [95 %]", "planted minus\nordinary", "seeds"]
    table = Table("", columns("corpus", "planted", "ordinary", "read", numbers=titles), lines)
    passages = len(next(iter(asked.values())).passages)
    head = HEAD.format(ratio=RATIO, epochs=EPOCHS, passages=passages, missing=note)
    return "\n".join([head, verdict(found, asked, wanted), markdown([table])])
