"""Feature files for a network that is trained already: without labels to predict, with labels to evaluate."""

from __future__ import annotations

import numpy as np

from asgml.data.lengths import ValidSteps, read_valid_steps
from asgml.data.new_samples import no_labels
from asgml.data.npz import Npz
from asgml.data.spec import SPLITS, DataSpec, Kind, ModalitySpec, Table, Transform
from asgml.data.standardize import Standardize, Tokens
from callbacks.errors import UserError

TEST = SPLITS.index("test")


class NewFeatures:
    """What `Features` does with a file whose modalities, classes and statistics another file has fixed.

    Attributes:
        path: the file.
    """

    path: str

    # What the reader of the training file has.
    def _values(self, file: Npz, modality: str, present: np.ndarray, steps: ValidSteps | None) -> np.ndarray:
        raise NotImplementedError

    def _kind(self, file: Npz, modality: str, x: np.ndarray) -> tuple[Kind, tuple[int, ...], str]:
        raise NotImplementedError

    def _groups(self, file: Npz) -> np.ndarray | None:
        raise NotImplementedError

    def _check_tokens(self, modality: str, x: np.ndarray) -> None:
        raise NotImplementedError

    def new_samples(self, known: DataSpec, labelled: bool) -> Table:
        """Return the samples of the file (see `asgml.data.new_samples.new_samples`).

        Labelled ones are those that `split` calls test (2), all where there is no `split`. Without labels `y` and
        `split` are not read.

        Raises:
            UserError: arrays that the run has no use for, lacks, or has with other shapes; labels without a class.
        """
        file = Npz(self.path, "data.path")
        n = self._rows(file, known, labelled)
        chosen = self._chosen(file, n) if labelled else np.arange(n)
        y = _labels(file, known)[chosen] if labelled else no_labels(known, n)
        present = {m: self._presence(file, m, n) for m in known.modalities}
        x: dict[str, np.ndarray] = {}
        lengths: dict[str, np.ndarray] = {}
        transforms: dict[str, Transform] = {}
        for m, modality in known.modalities.items():
            steps = read_valid_steps(file, m, present[m]) if present[m].any() else None
            stored = self._values(file, m, present[m], steps)
            x[m], valid = self._fitting(file, modality, stored, steps)
            if valid is not None:
                lengths[m] = valid[chosen]
            transforms[m] = self._raw(m, x[m], modality)
            x[m] = x[m][chosen]
        group = self._groups(file)
        return Table(
            x=x,
            present={m: p[chosen] for m, p in present.items()},
            y=y,
            ids=[str(r) for r in chosen],
            transforms=transforms,
            lengths=lengths,
            row=chosen,
            group=None if group is None else group[chosen],
        )

    def _rows(self, file: Npz, known: DataSpec, labelled: bool) -> int:
        """Return the number of rows; refuse arrays that are too many or too few, or of another number of rows."""
        arrays = list(file.headers)
        there = [a.removeprefix("x_") for a in arrays if a.startswith("x_")]
        wanted = list(known.modalities)
        lacking, foreign = [m for m in wanted if m not in there], [m for m in there if m not in wanted]
        if lacking or foreign:
            found = f"modalities {', '.join(there) or '(none)'}"
            remedy = f"leave x_{foreign[0]} out of the file" if foreign else ""
            if lacking:
                m = lacking[0]
                remedy = f"save x_{m}; rows without {m} have False in present_{m}, and anything in x_{m}"
            raise file.error("", found, f"those of the run: {', '.join(wanted)}", remedy)
        if labelled and "y" not in arrays:
            remedy = "save them as y in this file; without labels: python -m asgml.predict"
            raise file.error("y", "absent", "labels or values of shape (n,)", remedy)
        n = file.headers[f"x_{wanted[0]}"][0][:1]
        if not n or n[0] == 0:
            raise file.error(
                f"x_{wanted[0]}", f"shape {file.headers[f'x_{wanted[0]}'][0]}", "(n, …) with n > 0", "save rows"
            )
        for array in arrays:
            size = file.headers[array][0]
            if size[:1] != n:
                found = f"shape {size}, but x_{wanted[0]} has {n[0]} rows"
                raise file.error(array, found, f"{n[0]} rows", "save all arrays with the same rows")
        return n[0]

    def _chosen(self, file: Npz, n: int) -> np.ndarray:
        if "split" not in file.headers:
            return np.arange(n)
        rows = np.flatnonzero(file.read("split") == TEST)
        if not len(rows):
            remedy = "save 2 for the rows to be scored, or leave split out of the file to have all of them scored"
            raise file.error("split", "no row of the test split (2)", "a test split", remedy)
        return rows

    def _presence(self, file: Npz, modality: str, n: int) -> np.ndarray:
        array = f"present_{modality}"
        if array not in file.headers:
            return np.ones(n, dtype=bool)
        if file.headers[array][1].kind != "b":
            raise file.error(array, f"dtype {file.headers[array][1]}", "bool", "save it with astype(bool)")
        return file.read(array)

    def _fitting(
        self, file: Npz, known: ModalitySpec, x: np.ndarray, steps: ValidSteps | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the stored values with the padding of the run, and the numbers of valid steps where it has any."""
        kind, shape, _ = self._kind(file, known.name, x)
        array = f"x_{known.name}"
        valid = None if steps is None else steps.length
        if known.padded and kind == known.kind and shape[1:] == known.shape[1:] and shape[0] <= known.shape[0]:
            valid = np.full(len(x), shape[0], dtype=np.int64) if valid is None else valid
            x = np.pad(x, [(0, 0), (0, known.shape[0] - shape[0]), *[(0, 0)] * (x.ndim - 2)])
        elif (kind, shape, steps is not None) != (known.kind, known.shape, known.padded):
            told = f"{kind} of {'x'.join(map(str, shape))}" + ", padded" * (steps is not None)
            up_to = ", padded, at most as long" * known.padded
            expected = f"{known.kind} of {'x'.join(map(str, known.shape))}{up_to}, as the run was trained on"
            raise file.error(array, told, expected, f"save {array} as it was saved for training")
        return x, valid

    def _raw(self, modality: str, x: np.ndarray, known: ModalitySpec) -> Transform:
        """Return the transform with statistics that stand for none; the run's own take their place."""
        if known.kind == "tokens":
            self._check_tokens(modality, x)
            return Tokens()
        unit = 1 / 255 if x.dtype == np.uint8 and known.kind in ("image", "frames") else 1.0
        return Standardize(known.shape, unit, np.zeros(1), np.ones(1))


def _labels(file: Npz, known: DataSpec) -> np.ndarray:
    """Return all labels as the run counts them, or all values of a regression."""
    dtype = file.headers["y"][1]
    if file.headers["y"][0][1:] != ():
        raise file.error("y", f"shape {file.headers['y'][0]}", "(n,)", "save one label or value per sample")
    if known.task == "regression":
        if dtype.kind not in "iuf":
            raise file.error("y", f"dtype {dtype}", "numbers, as the run predicts", "save the values as floats")
        return file.read("y").astype(np.float32)
    if dtype.kind not in "iu":
        expected = "integers, the numbers of the run's classes"
        raise file.error("y", f"dtype {dtype}", expected, "save them with astype(int)")
    y = file.read("y").astype(np.int64)
    wrong = np.flatnonzero((y < 0) | (y >= len(known.classes)))
    if len(wrong):
        row = int(wrong[0])
        shown = ", ".join(f"{i} {c}" if str(i) != c else c for i, c in enumerate(known.classes[:12]))
        raise UserError(
            f"{file.path}, array y",
            f"label {y[row]} in row {row} ({len(wrong)} label(s) without a class of the run)",
            f"one of the run's {len(known.classes)} classes: {shown}{', …' * (len(known.classes) > 12)}",
            "number the classes as in training, and leave samples of other classes out",
        )
    return y
