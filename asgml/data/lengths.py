"""Sequences of different lengths in one array: which steps are valid, and how these come to the front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asgml.data.npz import Npz
from callbacks.errors import UserError


@dataclass(frozen=True)
class ValidSteps:
    """The valid steps of every row of a modality: one run of them, everything else is padding.

    Attributes:
        array: the array of the file that says so.
        start: the first valid step, (n,) int64; 0 where the modality is absent.
        length: the number of valid steps, (n,) int64; 0 where the modality is absent.
    """

    array: str
    start: np.ndarray
    length: np.ndarray

    def to_front(self, x: np.ndarray) -> np.ndarray:
        """Return `x` (n, T, …) with the valid steps of each row first and zeros after them.

        Rows without a valid step, whose modality is absent, are left as they are.
        """
        steps = x.shape[1]
        x = x.copy()
        for start in np.unique(self.start[self.start > 0]):
            rows = np.flatnonzero(self.start == start)
            x[rows, : steps - start] = x[rows, start:]
        x[(np.arange(steps) >= self.length[:, None]) & (self.length > 0)[:, None]] = 0
        return x


def read_valid_steps(file: Npz, modality: str, present: np.ndarray) -> ValidSteps | None:
    """Read `mask_<modality>` (n, T) bool or `length_<modality>` (n,) integers; None where the file has neither.

    Args:
        file: the file.
        modality: the modality, whose features have the shape (n, T) or (n, T, F).
        present: the rows that have the modality, (n,) bool; the others are not looked at.

    Raises:
        UserError: both arrays, an array of another shape or type, a present row without a valid step, or valid steps
            with a gap between them.
    """
    mask, length = f"mask_{modality}", f"length_{modality}"
    given = [a for a in (mask, length) if a in file.headers]
    if not given:
        return None
    if len(given) == 2:
        raise file.error(f"{mask} and {length}", "both", "one of the two", f"leave {length} out of the file")
    shape = file.headers[f"x_{modality}"][0]
    if len(shape) not in (2, 3):
        found = f"for x_{modality} of shape {shape}"
        raise file.error(given[0], found, "features of shape (n, T, F)", f"leave {given[0]} out of the file")
    steps = shape[1]
    found_shape, dtype = file.headers[given[0]]
    if given[0] == mask:
        if dtype.kind != "b" or found_shape != shape[:2]:
            found = f"{dtype} of shape {found_shape}"
            raise file.error(mask, found, f"bool of shape {shape[:2]}", f"save {mask} with astype(bool), True = valid")
        valid = file.read(mask)
        count = valid.sum(1)
        start: np.ndarray = np.where(count > 0, valid.argmax(1), 0)
        last: np.ndarray = np.where(count > 0, steps - valid[:, ::-1].argmax(1), 0)
        gaps = np.flatnonzero(present & (last - start != count))
        if len(gaps):
            row = int(gaps[0])
            inside = int(start[row] + np.argmin(valid[row, start[row] :]))
            raise file.error(
                mask,
                f"a gap in row {row}, at step {inside} ({len(gaps)} such row(s))",
                "the valid steps of a row side by side",
                f"move the valid steps of each row together in x_{modality}, and save length_{modality} in place of "
                f"{mask}",
            )
    else:
        if dtype.kind not in "iu":
            raise file.error(length, f"dtype {dtype}", "integers", f"save {length} with astype(int)")
        count = file.read(length).astype(np.int64)
        start = np.zeros(len(count), dtype=np.int64)
        wrong = np.flatnonzero(present & ((count < 0) | (count > steps)))
        if len(wrong):
            found = f"{count[wrong[0]]} in row {wrong[0]} ({len(wrong)} such row(s))"
            expected = f"1 to {steps}, the steps of x_{modality}"
            raise file.error(length, found, expected, f"save {length} as the number of valid steps of each row")
    empty = np.flatnonzero(present & (count == 0))
    if len(empty):
        remedy = f"save present_{modality} with False in these rows"
        raise file.error(given[0], f"no valid step in row {empty[0]} ({len(empty)} such row(s))", "1 or more", remedy)
    start, count = np.where(present, start, 0), np.where(present, count, 0)
    return ValidSteps(given[0], start.astype(np.int64), count.astype(np.int64))


def require_sequence(file: Npz, modality: str, kind: str, steps: ValidSteps) -> None:
    """Refuse valid steps of a modality that has no steps.

    Raises:
        UserError: another kind than `sequence`.
    """
    if kind == "sequence":
        return
    remedy = f"leave {steps.array} out of the file"
    if kind == "tokens":
        remedy += f", and mark padding in x_{modality} with -1"
    elif kind == "vector":
        remedy = f"set 'data.kinds={{{modality}:sequence}}', or {remedy}"
    raise UserError(f"{file.path}, array {steps.array}", f"for a modality of kind {kind}", "kind sequence", remedy)
