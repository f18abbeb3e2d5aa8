"""What an experiment of asgml has shown, in words: against the baseline, and of methods against their controls."""

from __future__ import annotations

import numpy as np

from asgml.report.floor import floor_of
from asgml.report.methods_table import MARGIN, controlled
from asgml.report.naming import metric
from asgml.report.regression import reader
from asgml.report.tuned import tuned_rows
from suite.report.frames import Configuration, RunFrames
from suite.report.statements import Statement
from suite.report.summary import per_seed
from suite.report.tables import PERCENT, estimate
from suite.report.verdict import Measure, Wording, judged

EPOCHS = {"test_best": "at the best validation epoch", "test": "at the last epoch"}


def measure_of(frames: RunFrames) -> Measure | None:
    """Return what the rows are compared by, accuracy or error on the test split; None where no run has either."""
    for split, at in EPOCHS.items():
        if any(reader(split)(run) is not None for run in frames.runs if run.finished):
            return Measure(f"test MAE {at}", reader(split), "units", 1.0, 3, higher=False)
        if any(run.metric(split, "accuracy") is not None for run in frames.runs if run.finished):
            return Measure(f"test accuracy {at}", metric(split), margin=MARGIN / PERCENT)
    return None


def verdict(frames: RunFrames) -> list[Statement]:
    """Say what every row has shown against the baseline, every method against its control, and what was learned."""
    measure = measure_of(frames)
    if measure is None:
        return []
    _, floor = floor_of(frames)
    learned = [Statement(text, "failed") for text in floor]
    if frames.single:
        return [*learned, *_level(frames.configurations[0], measure)]
    by_label = {c.label: c for c in frames.configurations if c.finished}
    above = controlled(tuned_rows(frames.runs))
    controls = [(by_label[above[name]], c) for name, c in by_label.items() if above.get(name) in by_label]
    if frames.base is None:
        told = "No row is a baseline, so none is judged against one: name it with --baseline LABEL."
        against = [Statement(told)]
    else:  # the family of the table of results, controls included
        pairs = [(c, frames.base) for c in frames.configurations if c is not frames.base]
        against = judged(pairs, measure, Wording(against=frames.base.label))
    return [*learned, *against, *judged(controls, measure, Wording(partners="their controls"))]


def _level(c: Configuration, measure: Measure) -> list[Statement]:
    values = per_seed(c, measure.value)
    if not values or not np.isfinite(list(values.values())).all():
        return []
    shown = estimate(values, measure.scale, 3 if measure.scale == 1 else 2).text
    unit = " %" if measure.scale == PERCENT else ""
    alone = "; one seed says nothing of how far another would lie" if len(values) == 1 else ""
    name, seeds = f"{measure.name[0].upper()}{measure.name[1:]}", f"{len(values)} seed{'s' * (len(values) > 1)}"
    return [Statement(f"{name}: {shown}{unit} with {seeds}{alone}.")]
