"""The page as Markdown: its questions, figure, predictions and tables in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asgml.report.methods_table import MARGIN
from asgml.tune.options import StudyTree
from asgml.tune.page.axes import Courses, axes_table
from asgml.tune.page.evidence import JOINT, Evidence
from asgml.tune.page.forest import caption, forest
from asgml.tune.page.passes import Passes, encoder_passes
from asgml.tune.page.predictions import predictions, predictions_table
from asgml.tune.page.questions import Answer, asynchrony, holding_back, skipping
from asgml.tune.page.rows_table import rows_table
from asgml.tune.page.short import short_table
from asgml.tune.page.wording import points
from callbacks.errors import UserError
from suite.report.summary import ALPHA, FEWEST
from suite.report.tables import Table, markdown

FIGURE, CLAIM = "asgml.svg", 10  # seeds of a claim
HEAD = """# ASGML settled

Written by `python -m asgml.tune.page RUNS` from the runs of `python -m asgml.study settle --data FOLDER`, none of it by
hand. Rows, data sets and budget ({trials} trials of every row from the same distribution, chosen on validation, then
{seeds} other seeds at the chosen point) are those of `conf/asgml/settle.yaml`; each table says what there is of them.
What was predicted beforehand is in [docs/theory.md](../theory.md).

{state}
"""
SHORT = """## In short

Test accuracy in % at the best validation epoch, mean ± half of the 95 % t interval over seeds: the rows that every
data set has.
"""
QUESTIONS = """## The three questions

Test accuracy at the best validation epoch where nothing else is said; differences in percentage points, paired by seed,
with 95 % t intervals; p from paired t tests with Holm's correction over all comparisons of a question, all data sets
together. *Helps* and *harms* need p below {alpha:g} after Holm. *Equivalent*: two one-sided t tests (TOST) that the
difference lies within {points}, p below {alpha:g}, each by itself and not corrected for the number of rows. What is
neither is undecided, which is no evidence of sameness. The few trials of a row draw its rate and its knobs together, so
the effect of a knob alone cannot be read from what was chosen.
"""
AXES = """## Three axes

The share of joint training's epochs, full updates and compute at which a row first has joint training's validation
accuracy at its best epoch, same seed: median (range) over the seeds that reach it. A soft step, or one from the fusion
path only, is no update. Compute is counted and not timed, because the runs shared their machine: the operations of
forward and backward passes of encoders, as measured by `torch.utils.flop_counter`. A `hard` skipped encoder does its
forward pass only, a method with a gradient per task two backward passes, one with frozen teachers two forward passes;
fusion, heads, probes, evaluation and what a method does once an epoch are left out.
"""
ROWS = """## Every row

±: half of the 95 % t interval over seeds. Train − test: accuracy on the training batches of the best validation epoch,
as they were trained on while weights moved, minus that of the test split. Differences here are not corrected for the
number of rows.
"""
PREDICTIONS = """## The predictions

Those of [docs/theory.md](../theory.md), section 4. *Held*: shown by intervals or tests of equivalence on every data set
on which it could be tested; *refuted*: contradicted beyond its error on one; *undecided*: neither. Times are steps
until the probe of the dominant modality is half way from chance to what the modality reaches alone; rows have rates of
their own. [phases.md](phases.md) asks the same of untuned rows by the loss of heads, which is the path of the law.
"""


def costs(data: Evidence) -> tuple[Mapping[str, Passes], str]:
    """Return what the encoders of a data set cost, or {} with the reason where its data are not there."""
    config: Mapping[str, Any] = data.rows[JOINT].runs[0].config
    try:
        return encoder_passes(config), ""
    except UserError as error:  # the rest of the page needs no data
        return {}, " ".join(str(error).split())


def page(sets: Sequence[Evidence], options: StudyTree, margin: float = MARGIN) -> tuple[str, str]:
    """Return the page and its figure; "" for the figure where there is nothing to draw.

    Args:
        sets: what there is of each data set of the study.
        options: the study.
        margin: the margin of equivalence, in percentage points.
    """
    usable = [data for data in sets if data.counts]
    courses = [Courses(data, *costs(data)) for data in usable]
    back, over_uniform = holding_back(usable, margin)
    beyond, over_controls = asynchrony(usable, margin, over_uniform)
    reach, _ = skipping(courses, margin)
    head = HEAD.format(trials=_trials(sets, options), seeds=_seeds(options), state=_state(sets))
    questions = QUESTIONS.format(points=points(margin), alpha=ALPHA)
    short = [SHORT, markdown([short_table(usable)])] if usable else []
    parts = [
        head,
        *short,
        questions,
        *(_answered(number, a) for number, a in enumerate((back, beyond, reach), start=1)),
    ]
    figure = forest(usable, over_uniform, margin) if over_uniform else ""
    if figure:
        parts.append(f"![What every row gains over uniform, per data set]({FIGURE})\n\n{caption(margin)}\n")
    if usable:
        held = predictions(usable, over_uniform, over_controls, margin)
        parts += [PREDICTIONS, markdown([predictions_table(held)])]
        parts.append(AXES)
        parts += [f"### {c.evidence.name}\n\n{markdown([_titled(axes_table(c), '')])}" for c in courses]
        parts += [ROWS, *(f"### {data.name}{_flag(data)}\n\n{markdown([rows_table(data)])}" for data in usable)]
    return "\n".join(part if part.endswith("\n") else f"{part}\n" for part in parts), figure


def _trials(sets: Sequence[Evidence], options: StudyTree) -> str:
    """Return how many trials the rows have had: `4`, or `4 to 8`."""
    found = sorted({row.trials for data in sets for row in data.tuned.values() if row.trials}) or [options.trials]
    return " to ".join(str(n) for n in dict.fromkeys((found[0], found[-1])))


def _seeds(options: StudyTree) -> str:
    """Return how many seeds the data sets of a study have: `10`, or `5 to 10`."""
    found = sorted({len(options.data_sets[name].own(options).seeds) for name in options.sets or options.data_sets})
    return " to ".join(str(n) for n in dict.fromkeys((found[0], found[-1])))


def _titled(table: Table, title: str) -> Table:
    return Table(title, table.columns, table.rows, table.notes, table.strong)


def _flag(data: Evidence) -> str:
    return "" if data.finished else " (not finished)"


def _answered(number: int, a: Answer) -> str:
    table = (
        ""
        if a.table is None
        else f"\n<details><summary>All comparisons</summary>\n\n{markdown([a.table])}\n</details>\n"
    )
    return f"### {number}. {a.question}\n\n{a.paragraph}\n{table}"


def _state(sets: Sequence[Evidence]) -> str:
    """Say which data sets are finished, which are not, and which of these are in the numbers all the same."""
    finished = [data.name for data in sets if data.finished]
    lines = [f"Finished: {', '.join(finished)}." if finished else "No data set is finished."]
    few = {
        data.name: n for data in sets if data.counts and (n := max(len(c.finished) for c in data.rows.values())) < CLAIM
    }
    if few:
        named = ", ".join(f"{name} ({n})" for name, n in few.items())
        lines += [
            "",
            f"Fewer than {CLAIM} seeds, so an indication and no claim ([protocols](../protocols.md)): {named}.",
        ]
    open_ = [data for data in sets if not data.finished]
    if open_:
        lines += ["", "**Not finished**, so that answers may still change:", ""]
        for data in open_:
            use = (
                "in the numbers below"
                if data.counts
                else f"left out: fewer than {FEWEST} seeds of joint and uniform, or one of these lost a seed"
            )
            lines.append(f"- {data.name}: {data.state} ({use})")
    return "\n".join(lines)
