"""What the page reads of a configuration: the rows of its evaluations over seeds, and differences between two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from latentwire.report.stored import evaluated, f1_of, methods_of, plain, predictions
from suite.report.data import RunRecord
from suite.report.frames import Configuration
from suite.report.grouping import group_runs
from suite.report.summary import N_BOOT
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
    rows = {run.seed: _pair(predictions(run), methods(c), wire, other) for run in evaluated(c)}
    known = {seed: pair for seed, pair in rows.items() if pair}
    asked = {tuple(r["question"] for r in mine) for mine, _ in known.values()}
    if len(known) < len(rows) or len(asked) != 1:
        return None
    groups = [r["group"] for r in next(iter(known.values()))[0]]
    mine, theirs = ({seed: [r["f1"] for r in pair[i]] for seed, pair in known.items()} for i in (0, 1))
    return hierarchical_bootstrap(mine, theirs, groups=groups, n_boot=N_BOOT)


def _pair(
    rows: Mapping[tuple[str, str], list[dict[str, Any]]],
    known: Mapping[str, Mapping[str, Any]],
    wire: str,
    other: str,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    mine, theirs = (rows.get((plain(key, known[key]), known[key]["model"])) for key in (wire, other))
    return (mine, theirs) if mine and theirs and len(mine) == len(theirs) else None


Reader = Callable[[RunRecord], float | None]


def reader(key: str, number: str) -> Reader:
    """Return what reads a number of a method from a run."""
    return lambda run: (methods_of(run).get(key) or {}).get(number)
