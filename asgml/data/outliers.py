"""Values so far from all others of their feature that a mean and a standard deviation say nothing of the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from asgml.data.spec import Kind
from asgml.data.standardize import Stored

FAR = 1e4  # times the distance from the median that nine values in ten stay within
SHARE = 0.9
_SAMPLE = 1 << 20  # elements of which median and distance are taken
_CHUNK = 1 << 22  # elements looked at in one go


def outliers(
    x: Stored,
    kind: Kind,
    train: np.ndarray,
    rows: np.ndarray,
    lengths: np.ndarray | None,
    named: Callable[[int], str],
) -> list[str]:
    """Return a line that counts the values of some rows that lie far outside those of training, if there are any.

    A feature of which nine in ten values are one and the same (a rare word, a mask) has no such distance, and is passed
    over.

    Args:
        x: the values, (n, …), as the encoder gets them but for their scale.
        kind: what a sample is; features are told apart as in `asgml.data.standardize.statistics`.
        train: the rows that say what is usual.
        rows: the rows that are looked at.
        lengths: the number of valid steps of each sequence, (n,): only these count. None stands for all steps.
        named: what a row is called.
    """
    if x.dtype.kind not in "iuf" or x.dtype.itemsize == 1 or not len(train) or not len(rows):
        return []
    width = max(1, int(np.prod(x.shape[1:])))
    sample = train[:: max(1, len(train) * width // _SAMPLE)]
    usual = _by_feature(x, kind, sample, lengths)[0]
    middle = np.median(usual, axis=0)
    within = np.quantile(np.abs(usual - middle), SHARE, axis=0, method="lower")
    limit = np.where(within > 0, FAR * within, np.inf)
    count, first, step = 0, -1, max(1, _CHUNK // width)
    hit = np.zeros(len(middle), dtype=bool)
    for part in (rows[i : i + step] for i in range(0, len(rows), step)):
        values, owner = _by_feature(x, kind, part, lengths)
        far = np.abs(values - middle) > limit
        if far.any():
            first = int(owner[far.any(axis=1).argmax()]) if first < 0 else first
            count, hit = count + int(far.sum()), hit | far.any(axis=0)
    if not count:
        return []
    where = f"{count} value(s) in {int(hit.sum())} of {len(hit)} features (first: {named(first)})"
    return [f"{where} lie over {FAR:g} times as far from the median as nine in ten: beside them the others are about 0"]


def _by_feature(x: Stored, kind: Kind, rows: np.ndarray, lengths: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the values that count, (k, features) float64, and the row that each of the k is of."""
    values = x[rows].astype(np.float64)
    channel = x.ndim - (3 if kind in ("image", "frames") else 1)
    values = np.moveaxis(values, channel, -1)
    owner = np.broadcast_to(rows.reshape(-1, *[1] * (values.ndim - 2)), values.shape[:-1])
    if lengths is None:
        return values.reshape(-1, values.shape[-1]), owner.reshape(-1)
    counts = np.arange(x.shape[1]) < lengths[rows][:, None]
    return values[counts], owner[counts]
