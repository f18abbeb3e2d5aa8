"""A page as Markdown: tables, figure, and when a wire is worth having."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbacks.files.atomic import write_text
from latentwire.page.curve import figure, seeds
from latentwire.page.scores import configurations, methods, wires
from latentwire.page.tables import rivals_table, short_table, targets_table
from latentwire.page.worth import worth
from latentwire.report.evaluation_tables import sizes_table
from latentwire.report.stored import evaluated
from latentwire.report.timing import FILE, breakeven_table, read
from suite.report.data import RunRecord
from suite.report.frames import Configuration
from suite.report.html import compare_report
from suite.report.tables import Table, markdown

TIMED = ("4x deep_prefix", "8x deep_prefix")  # whose first seed is timed


@dataclass(frozen=True)
class Document:
    """What one study's page is called, and what it is about.

    Attributes:
        study: the study's name: `python -m latentwire.study <study>` writes `docs/results/<study>.md`.
        title: its first line.
        about: what its rows have in common.
        worth: whether it says when a wire is worth having.
    """

    study: str
    title: str
    about: str
    worth: bool = False

    @property
    def path(self) -> Path:
        """Return where the page stands."""
        return Path(f"docs/results/{self.study}.md")

    @property
    def figure(self) -> str:
        """Return the name of the figure beside the page."""
        return f"{self.study}.svg"


POCKET = Document(
    "pocket",
    "LatentWire on pocket biographies",
    "Wires for one reader, at 4 and 8 tokens per latent, each against rivals at its positions and in its bytes.",
    worth=True,
)
FURTHER = Document(
    "further",
    "LatentWire further on",
    "What is harder than one wire at 8 tokens per latent: 16 tokens per latent; a reader of another family that is\n"
    "added to a finished wire; latents in place of the question as well; two readers at once. The first row is the\n"
    "wire that the last three go on from.",
)
HEAD = """# {title}

Written by `python -m latentwire.study {study}` (`make {study}`), none of it by hand; started again, only what is
missing runs. {state}

{about}

A context is a generated text about several people, {tokens:.0f} tokens and {entropy:.1f} bytes of entropy on average.
The frozen reader gets latents in place of the text; the question stays text, except on the whole-prompt track.
{passages} test passages, {questions} questions, the same for all; checkpoints are chosen on validation. Rivals that are
trained saw as many questions as the wire beside them, on the same stream and schedule, and were chosen the same way.
"""
SHORT = """## In short

Both costs of every method. Positions: what the reader spends before every question. Bytes: messages and coded texts
with header and checksum, other text as packed token ids. F1: 95 % bootstrap over seeds and passages.
"""
WORTH = "## When is a wire worth having?\n"
FIGURES = """![F1 over positions and over bytes]({figure})

Coloured: wires; dashed grey: rivals. Methods that spend nothing on an axis are left out of it.
"""
TARGETS = "## What was asked\n"
RIVALS = """## Every method

Differences are paired by question, with 95 % intervals over seeds and passages (bootstrap), not corrected for their
number; a method is behind the wire where its interval lies above 0. Times are per message or question in batches, on a
machine that did other work as well. Encode and send: once per message; inject and prefill: with every question.
"""
BYTES = "## Bytes of one context\n"
TIME = "## Break-even\n"
LIMITS = """## What these numbers do not say

- The corpus is generated from templates, and wires were trained on its distribution (other people and facts). A wire
  for natural text has to earn such ratios anew; what carries over is the comparison on equal terms.
- Few seeds bound the noise of training roughly, and the intervals over passages are those of one corpus.
- Times are of models with four layers on a CPU. The share of a wire's own cost falls with the size of its reader.
"""


def write(
    runs: Sequence[RunRecord], labels: Sequence[str], wanted: int, document: Document = POCKET, more: str = ""
) -> Path:
    """Write page, figure and report of a study; return the page's path.

    Args:
        runs: the runs.
        labels: the labels of the study's rows, in their order.
        wanted: the number of its seeds.
        document: which page it is.
        more: what it says beside, before its limits.
    """
    found = configurations(runs, labels)
    times = {c.label: read(run) for c in found if document.worth and (run := timed(c)) is not None}
    if runs:
        out = runs[0].path.parent / "report.html"
        print(f"report: {compare_report([run.path for run in runs], out, baseline=found[0].label if found else None)}")
    write_text(document.path.parent / document.figure, figure(found))
    return write_text(document.path, page(found, times, labels, wanted, document, more))


def timed(c: Configuration) -> RunRecord | None:
    """Return the configuration's run whose break-even is shown, measured where it was not; None for any other row."""
    if c.label not in TIMED:
        return None
    run = evaluated(c)[0]
    if not (run.path / FILE).is_file():
        from latentwire.breakeven import main

        main([str(run.path)])
    return run


def page(
    found: Sequence[Configuration],
    times: Mapping[str, Mapping[str, Any]],
    labels: Sequence[str],
    wanted: int,
    document: Document = POCKET,
    more: str = "",
) -> str:
    """Return the page.

    Args:
        found: the configurations that were evaluated.
        times: what break-even has measured, by label.
        labels: the labels of all rows of the study.
        wanted: the number of seeds of the study.
        document: which page it is.
        more: what it says beside, before its limits.
    """
    if not found:
        return f"# {document.title}\n\nNo run of the study has been evaluated yet.\n"
    first = evaluated(found[0])[0]
    known = methods(found[0])
    facts = next(iter(first.result["sizes"].values()))
    head = HEAD.format(
        title=document.title,
        study=document.study,
        about=document.about,
        state=state(found, labels, wanted),
        tokens=facts["tokens"],
        entropy=facts["entropy"],
        passages=first.config["evaluation"]["passages"],
        questions=next(iter(known.values()))["n"],
    )
    parts = [head, SHORT, markdown([short_table(found)])]
    parts += [WORTH, worth(found, times)] if document.worth else []
    parts += [FIGURES.format(figure=document.figure), TARGETS, markdown([targets_table(found, labels)]), RIVALS]
    for c in found:
        for wire in wires(c):
            model = wire.partition("/")[2]
            title = f"{c.label}: {model}" if model else c.label
            parts.append(folded(title, rivals_table(c, wire)))
    messages = {c.label: m["bytes"] for c in found for m in (methods(c)[wires(c)[0]],)}
    sizes = {model: s for c in reversed(found) for model, s in evaluated(c)[0].result["sizes"].items()}
    parts += [BYTES, markdown([sizes_table("", sizes, messages)])]
    if times:
        parts.append(TIME)
        parts += [f"### {label}\n\n{markdown([untitled(breakeven_table(told))])}" for label, told in times.items()]
    parts += [more, LIMITS] if more else [LIMITS]
    return "\n".join(parts)


def state(found: Sequence[Configuration], labels: Sequence[str], wanted: int) -> str:
    """Say of how many seeds the numbers are, and which rows are missing or lack seeds."""
    told = f"Seeds: {seeds(found)}."
    have = {c.label: len(evaluated(c)) for c in found}
    missing = [f"{label} ({have.get(label, 0)} of {wanted} seeds)" for label in labels if have.get(label, 0) < wanted]
    return f"{told} **Not finished**: {', '.join(missing)}." if missing else told


def folded(title: str, table: Table) -> str:
    """Return a table below a title that opens it."""
    return f"<details><summary>{title}</summary>\n\n{markdown([table])}\n</details>\n"


def untitled(table: Table) -> Table:
    """Return the table without its heading."""
    return Table("", table.columns, table.rows, table.notes, table.strong)
