"""Which class is taken for which: the confusion matrix of the fused prediction on the test split."""

from __future__ import annotations

import html

import numpy as np

from asgml.report.answers import SampleAnswers, read_answers
from suite.report import figures as fig
from suite.report.data import RunRecord
from suite.report.frames import Configuration, RunFrames
from suite.report.sections import Item

MAX_CLASSES = 40


def counts_of(answers: SampleAnswers) -> np.ndarray:
    """Return how many samples of class i (row) were taken for class j (column), (classes, classes)."""
    flat = np.bincount(answers.y * answers.classes + answers.guess, minlength=answers.classes**2)
    return flat.reshape(answers.classes, answers.classes)


def confusion(frames: RunFrames) -> list[Item]:
    """Draw one matrix per configuration, the counts of its seeds added up; none where there are too many classes."""
    shown, sentence = frames.shown(_drawable)
    panels = []
    for c in shown:
        tables = [counts_of(a) for run in c.curves if (a := _answers(run)) is not None]
        if tables and len({t.shape for t in tables}) == 1:
            whole = np.sum(tables, axis=0)
            panels.append((c.label, fig.matrix(whole, _names(c, len(whole)), "predicted class", "true class")))
    if not panels:
        return []
    note = "Test split, best validation epoch, fused prediction. Colour: share of the true class; counts on hover"
    note += ", added up over seeds." if any(len(c.curves) > 1 for c in shown) else "."
    return [Item("", panels, f"{note} {sentence}".strip())]


def no_confusion(frames: RunFrames) -> str:
    """Say why there is no matrix: no predictions, too many classes, or seeds that differ in them."""
    kept = [a.classes for c in frames.configurations for run in c.curves if (a := read_answers(run)) is not None]
    if not kept:
        return "no class predictions of a test split in predictions_best.npz"
    if min(kept) > MAX_CLASSES:
        return f"{max(kept)} classes are too many to be drawn (at most {MAX_CLASSES})"
    return "the seeds of a configuration were tested on different classes"


def _drawable(run: RunRecord) -> bool:
    return _answers(run) is not None


def _answers(run: RunRecord) -> SampleAnswers | None:
    answers = read_answers(run)
    return None if answers is None or answers.classes > MAX_CLASSES else answers


def _names(c: Configuration, classes: int) -> list[str]:
    """Return the names of the classes as the runs have them, else their numbers."""
    given = next((list(names) for run in c.curves if (names := run.result.get("classes"))), [])
    names = [str(name) for name in given] if len(given) == classes else [str(i) for i in range(classes)]
    return [html.escape(name) for name in names]
