"""A run's answers to the test split, as its kept predictions have them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np

from callbacks.errors import UserError, quoted
from callbacks.files.sealed import check_archive
from suite.report.data import RunRecord
from suite.runs.written import refuse_other_file

TEST = 2  # the test split's code in predictions.npz, see asgml.train.predictions


@dataclass(frozen=True)
class SampleAnswers:
    """A run's answers to the test split, ascending in index.

    Attributes:
        index: (n,) the samples' positions in the split's table.
        y: (n,) their labels.
        guess: (n,) the class of the fused prediction.
        classes: the number of classes.
        group: (n,) the clusters of the samples (speakers, actors, videos), None without clusters.
        grouped_by: what a cluster is.
    """

    index: np.ndarray
    y: np.ndarray
    guess: np.ndarray
    classes: int
    group: np.ndarray | None = None
    grouped_by: str = "group"

    @property
    def correct(self) -> np.ndarray:
        """(n,) whether the fused prediction is right."""
        return self.guess == self.y

    @property
    def clusters(self) -> int:
        """The number of clusters, 0 without any."""
        return 0 if self.group is None else len(np.unique(self.group))


def read_answers(run: RunRecord) -> SampleAnswers | None:
    """Read the test predictions at the best validation epoch; None where there are none, and in a regression.

    Raises:
        UserError: a file that is damaged or lacks an array. `row`, `id`, `group` and `grouped_by` may be absent.
    """
    path = run.path / "predictions_best.npz"
    if not path.is_file():
        return None
    refuse_other_file(path, run.result)
    expected, remedy = "predictions as the run wrote them", f"rm {quoted(path)}; the report then leaves them out"
    check_archive(path, expected, remedy)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {k: stored[k] for k in stored.files}
    except (ValueError, OSError, EOFError, LookupError, BadZipFile, zlib.error) as error:
        raise UserError(str(path), str(error) or type(error).__name__, expected, remedy) from error
    if "value" in arrays:
        return None
    missing = {"index", "y", "split", "prob"} - set(arrays)
    if missing:
        raise UserError(str(path), f"no array {sorted(missing)[0]!r}", "index, y, split, prob", f"rm {quoted(path)}")
    rows = np.flatnonzero(arrays["split"] == TEST)
    if rows.size == 0:
        return None
    rows = rows[np.argsort(arrays["index"][rows], kind="stable")]
    prob = arrays["prob"][rows]
    group = arrays["group"][rows] if "group" in arrays else None
    by = str(arrays["grouped_by"]) if "grouped_by" in arrays else "group"
    return SampleAnswers(arrays["index"][rows], arrays["y"][rows], prob.argmax(1), prob.shape[1], group, by)
