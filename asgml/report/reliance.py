"""Which modality the fused prediction relies on, as `asgml.train.Reliance` has measured it."""

from __future__ import annotations

from asgml.report.naming import metric, modalities
from suite.report.frames import RunFrames
from suite.report.summary import per_seed
from suite.report.tables import INTERVALS, PERCENT, Table, columns, estimate, texts

SHOWN = {"follows": "follows\n{} %", "confidence": "confidence in\n{} %", "without": "accuracy\nwithout {} %"}


def reliance_table(frames: RunFrames) -> Table | None:
    """Show per modality what predictions follow where modalities disagree; None where no run measured it."""
    best = any(run.metric("reliance_best", "both") is not None for run in frames.runs)
    split, at = ("reliance_best", "best validation") if best else ("reliance", "last")
    if not any(run.metric(split, "both") is not None for run in frames.runs):
        return None
    names = [(key, m) for m in modalities(frames) for key in SHOWN]
    rows = []
    for c in frames.configurations:
        numbers = [estimate(per_seed(c, metric(split, f"{key}/{m}")), PERCENT) for key, m in names]
        rows.append([*texts(c.label), *numbers, estimate(per_seed(c, metric(split, "both")), PERCENT)])
    head = columns(
        "configuration", numbers=[*(SHOWN[key].format(m) for key, m in names), "both labels\nin the top 2 %"]
    )
    notes = [
        f"Test split, {at} epoch, fused prediction. {INTERVALS}",
        "Every test sample is given one modality of a sample of another class, the same partners in all runs. Follows: "
        "predictions of that modality's class; confidence: the mean probability of it; both labels in the top 2: the "
        "accuracy on misaligned samples of MIDAS (arXiv 2509.25831). Accuracy without: the modality is absent.",
    ]
    return Table("Reliance on each modality", head, rows, notes, frames.baseline_rows).without_empty()
