"""Samples for a network that is trained already: from any data source, under what the run has fixed of its data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from asgml.data.preprocessing import Preprocessing
from asgml.data.seen import unseen
from asgml.data.spec import DataSpec, Source, Table
from asgml.data.validate import validate_new
from callbacks.errors import UserError


@runtime_checkable
class ReadsNewSamples(Protocol):
    """A source that needs neither splits nor labels of samples that are not trained on."""

    def new_samples(self, known: DataSpec, labelled: bool) -> Table:
        """Return the samples that the source names, as one table with the modalities of `known`, in its order.

        Args:
            known: what the run has fixed: modalities, shapes and classes; label `i` is `known.classes[i]`.
            labelled: whether to return the samples to be scored, with their labels; else all of them, with any.

        Raises:
            UserError: samples that do not fit.
        """
        ...


def new_samples(source: Source, run: Preprocessing, labelled: bool, keep_seen: bool = False) -> tuple[Table, list[str]]:
    """Return the samples of a source as the run's network reads them, and a line for each thing to know about them.

    A source without `new_samples` is asked for its test split, and prepared as for training. Of samples that are scored
    those that the run was trained or chosen on are left out, and counted.

    Args:
        source: the source.
        run: what the run has fixed of its data.
        labelled: whether the samples are scored.
        keep_seen: whether samples that the run has seen are scored as well, and only counted.

    Raises:
        UserError: samples that do not fit, naming array or key.
    """
    if isinstance(source, ReadsNewSamples):
        table = run.applied(source.new_samples(run.spec, labelled))
    else:
        table = _test_split(source, run)
    told = list[str]()
    if labelled:
        table, told = unseen(table, run.seen, keep_seen)
    # What the run's source warned of is about other samples.
    return table, [*told, *validate_new(replace(run.spec, warnings=[]), table, labelled)]


def own_test_split(source: Source, run: Preprocessing) -> tuple[Table, list[str]]:
    """Return the test split of the run's very data, prepared and cut as for training; otherwise as `new_samples`."""
    table = _test_split(source, run)
    return table, validate_new(run.spec, table, labelled=True)


def _test_split(source: Source, run: Preprocessing) -> Table:
    source.prepare()
    tables = source.tables()
    require_alike(source.spec(), run.spec)
    return run.applied(tables["test"])


def no_labels(known: DataSpec, n: int) -> np.ndarray:
    """Return what stands for the labels of `n` samples that have none, (n,)."""
    return np.zeros(n, dtype=np.int64 if known.task == "classification" else np.float32)


def require_alike(here: DataSpec, known: DataSpec) -> None:
    """Refuse data whose modalities, shapes or classes are not those of a run.

    Raises:
        UserError: the first difference.
    """

    def told(spec: DataSpec) -> dict[str, Any]:
        shapes = {m: f"{s.kind} of {'x'.join(map(str, s.shape))}" for m, s in spec.modalities.items()}
        return {"task": spec.task, "modalities": list(shapes), **shapes, "classes": spec.classes}

    ours, theirs = told(known), told(here)
    for what, value in ours.items():
        if theirs.get(what) != value:
            found, expected = f"{theirs.get(what)}", f"{value}, as the run was trained on"
            raise UserError(f"data, {what}", found, expected, "give data of the same layout and classes")
