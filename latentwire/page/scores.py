"""What the page reads of a configuration: the rows of its evaluations over seeds, and differences between two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from latentwire.report.stored import evaluated, f1_of, methods_of, plain, predictions
from suite.report.data import RunRecord
from suite.report.frames import Configuration
from suite.report.grouping import group_runs
from suite.report.summary import N_BOOT
from suite.report.tables import PERCENT, signed
from suite.statistics import Bootstrap, hierarchical_bootstrap

WIRE, TEXT, BUDGET, CODED = "wire", "text", "token_budget", "text_lm_coded"


def configurations(runs: Sequence[RunRecord], labels: Sequence[str]) -> list[Configuration]:
    """Return those of the labels that have an evaluated run, in the order of the labels."""
    groups = group_runs(runs) if runs else []  # a run in progress may stand in a group of its own
    known = {c.label: c for frames in groups for c in frames.configurations if evaluated(c)}
    return [known[label] for label in labels if label in known]


def methods(c: Configuration) -> dict[str, dict[str, Any]]:
    """Return what the first evaluation says of every method that all evaluations of the configuration have."""
    runs = evaluated(c)
    return {k: m for k, m in methods_of(runs[0]).items() if all(k in methods_of(run) for run in runs)}


def wires(c: Configuration) -> list[str]:
    """Return the names of the configuration's wires: `wire`, or `wire/<model>` for several readers."""
    return [key for key, m in methods(c).items() if m["kind"] == WIRE]


def beside(c: Configuration, wire: str, name: str) -> str | None:
    """Return the key of a method on the reader of a wire; None where it was not evaluated."""
    found = methods(c)
    own = (key for key, m in found.items() if m["model"] == found[wire]["model"] and plain(key, m) == name)
    return next(own, None)


def mean(c: Configuration, key: str, number: str) -> float | None:
    """Return the mean of a number of a method over seeds; None where it has none."""
    values = [methods_of(run)[key].get(number) for run in evaluated(c)]
    known = [float(v) for v in values if v is not None]
    return float(np.mean(known)) if known else None


def f1(c: Configuration, key: str) -> float:
    """Return the mean F1 of a method over seeds."""
    found = f1_of(evaluated(c), key)
    assert found is not None  # `methods` has only what every run has
    return found.mean


def ratios(c: Configuration, wire: str) -> dict[int, float]:
    """Return F1 of a wire over that of the text on its reader, by seed; without seeds on which the text has none."""
    text = beside(c, wire, TEXT)
    if text is None:
        return {}
    found = {run.seed: methods_of(run) for run in evaluated(c)}
    return {seed: m[wire]["f1"] / m[text]["f1"] for seed, m in found.items() if m[text]["f1"]}


def gain(c: Configuration, wire: str, other: str) -> Bootstrap | None:
    """Return F1 of a wire minus that of another method on the same questions: interval over seeds and passages.

    None where the rows of an evaluation are not there, or the seeds were asked different questions.
    """
    return gain_over(c, wire, c, other)


def gain_over(c: Configuration, wire: str, against: Configuration, other: str) -> Bootstrap | None:
    """Return F1 of a wire minus that of a method of another configuration, as `gain` does; paired by common seeds."""
    mine, theirs = _rows_of(c, wire), _rows_of(against, other)
    shared = sorted(set(mine) & set(theirs))
    asked = {tuple(r["question"] for r in rows[seed]) for rows in (mine, theirs) for seed in shared}
    complete = all(mine.values()) and all(theirs.values())
    if not shared or not complete or len(asked) != 1:
        return None
    groups = [r["group"] for r in mine[shared[0]]]
    ours, others = ({seed: [r["f1"] for r in rows[seed]] for seed in shared} for rows in (mine, theirs))
    return hierarchical_bootstrap(ours, others, groups=groups, n_boot=N_BOOT)


def points(d: Bootstrap) -> str:
    """Return a difference of F1 and its interval in points."""
    mean, low, high = (signed(x * PERCENT, 1) for x in (d.estimate, d.low, d.high))
    return f"{mean} [{low}, {high}]"


def _rows_of(c: Configuration, key: str) -> dict[int, list[dict[str, Any]]]:
    """Return the rows of a method by seed; empty lists where an evaluation's rows are not there."""
    method = methods(c)[key]
    name = (plain(key, method), method["model"])
    return {run.seed: predictions(run).get(name) or [] for run in evaluated(c)}


Reader = Callable[[RunRecord], float | None]


def reader(key: str, number: str) -> Reader:
    """Return what reads a number of a method from a run."""
    return lambda run: (methods_of(run).get(key) or {}).get(number)
