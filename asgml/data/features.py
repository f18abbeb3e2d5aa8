"""Any feature set as one .npz file, with any number of modalities."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from asgml.data.lengths import ValidSteps, read_valid_steps, require_sequence
from asgml.data.new_features import NewFeatures
from asgml.data.npz import Npz
from asgml.data.outliers import outliers
from asgml.data.spec import RANK, SPLITS, DataSpec, Kind, ModalitySpec, Split, Table, Transform
from asgml.data.splits import Cut, shared_groups
from asgml.data.standardize import Standardize, Tokens, standardizing
from asgml.data.targets import Targets, read_targets
from asgml.data.validate import nonfinite, place
from callbacks.errors import UserError
from callbacks.ranges import OpenShare, Seed

# The ranks of one stored sample that each kind accepts; missing leading or channel dimensions are added.
_RANKS: dict[Kind, tuple[int, ...]] = {
    "vector": (0, 1),
    "sequence": (1, 2),
    "image": (2, 3),
    "frames": (3, 4),
    "tokens": (1,),
}
_MAX_CHANNELS = 4


class Features(NewFeatures):
    """Reads any feature set from one .npz file, with any number of modalities.

    The file holds the arrays

    - `x_<modality>` (n, …): the features.
    - `y` (n,): the labels, integers from 0; or numbers to be regressed, see `task`.
    - `split` (n,), optional: 0 train, 1 val, 2 test. Without it the three are cut by class, or by whole groups if there
      is a `group`. A file with train and test only gets its val from train (and likewise for a missing test).
    - `group` (n,), optional: integers or strings; cut splits never share a group. Given splits that do are reported.
    - `present_<modality>` (n,) bool, optional: False where the sample lacks the modality (its row is then never read).
    - `length_<modality>` (n,) integers or `mask_<modality>` (n, T) bool (True = valid), optional, for sequences of
      different lengths padded to T steps: padding is neither standardised with nor encoded, whatever it holds. The
      valid steps of a row stand side by side, anywhere.

    The kind of a modality is read off the rank of a sample: (F,) vector, (T, F) sequence, (T, C, H, W) frames. Three
    dimensions are ambiguous: up to 4 in front are the channels of an image, more are single-channel frames. `kinds`
    overrides this, also for (F, T) spectrograms (`image`) and integer rows padded with -1 (`tokens`). What was decided
    is in `spec().notes`.

    Args:
        path: the file. It is read into memory; object arrays are refused, nothing is ever unpickled.
        dominant: the modality known to be learned first.
        standardize: whether to give zero mean and unit variance per feature (vector, sequence) or channel (image,
            frames), with statistics of the present training rows. 8-bit images are scaled to [0, 1] in any case.
        task: `classification`, `regression`, or `auto`: integers are labels, fractions are regressed. Floats that are
            all whole numbers, as well as integers that are to be regressed, need the word.
        classes: the class names; null names the labels 0, 1, … themselves.
        kinds: the kind of a modality, where the rank does not tell.
        val_fraction: the share of val in what is cut; unused where `split` gives it.
        test_fraction: the share of test in what is cut; unused where `split` gives it.
        split_seed: the seed of the cut. Not the run's seed: all seeds of a study share the splits.

    Raises:
        UserError: everything else in the file, naming array and row.
    """

    def __init__(
        self,
        path: str,
        dominant: str | None = None,
        standardize: bool = True,
        task: Literal["auto", "classification", "regression"] = "auto",
        classes: list[str] | None = None,
        kinds: dict[str, Kind] | None = None,
        val_fraction: OpenShare = 0.15,
        test_fraction: OpenShare = 0.15,
        split_seed: Seed = 0,
    ):
        self.path = path
        self.dominant = dominant
        self.standardize = standardize
        self.task = task
        self.classes = None if classes is None else list(classes)
        self.kinds = dict(kinds or {})
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self._loaded: tuple[DataSpec, dict[Split, Table]] | None = None

    @staticmethod
    def input_files(arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Return the file (see `suite.runs.reads`)."""
        return {"path": Path(arguments["path"]).expanduser()}

    def prepare(self, workers: int = 1) -> None:
        """Do nothing: the file is read as it is."""

    def spec(self) -> DataSpec:
        return self._load()[0]

    def tables(self) -> dict[Split, Table]:
        return self._load()[1]

    def modality_names(self) -> list[str]:
        return self._modalities(Npz(self.path, "data.path"))

    # -- reading ------------------------------------------------------------------------------------------------

    def _load(self) -> tuple[DataSpec, dict[Split, Table]]:
        if self._loaded is not None:
            return self._loaded
        file = Npz(self.path, "data.path")
        names = self._modalities(file)
        targets = read_targets(file, self.task, self.classes)
        y = targets.y
        present = {m: self._present(file, m, len(y)) for m in names}
        steps = {m: read_valid_steps(file, m, present[m]) for m in names}
        notes: dict[str, Any] = {"file": Path(self.path).name}
        group = self._groups(file)
        split = self._split(file, targets, group, notes)
        rows = {s: np.flatnonzero(split == i) for i, s in enumerate(SPLITS)}

        specs: dict[str, ModalitySpec] = {}
        x: dict[Split, dict[str, np.ndarray]] = {s: {} for s in SPLITS}
        transforms: dict[str, Transform] = {}
        lengths: dict[str, np.ndarray] = {}
        remarks: dict[Split, list[str]] = {s: [] for s in SPLITS}
        for m in names:
            valid = steps[m]
            stored = self._values(file, m, present[m], valid)
            kind, shape, why = self._kind(file, m, stored)
            specs[m] = ModalitySpec(m, kind, shape, padded=valid is not None)
            notes[f"kind/{m}"] = f"{kind} of {'x'.join(map(str, shape))}: {why}"
            if valid is not None:
                require_sequence(file, m, kind, valid)
                lengths[m] = valid.length
                least, most = valid.length[present[m]].min(), valid.length[present[m]].max()
                notes[f"lengths/{m}"] = f"{least} to {most} of {shape[0]} steps, by {valid.array}"
            train = rows["train"][present[m][rows["train"]]]
            transforms[m], told = self._transform(m, stored, specs[m], train, lengths.get(m), notes)
            remarks["train"] += [f"{m}: {line}" for line in told]
            if isinstance(transform := transforms[m], Standardize):
                stored = transform.stored(stored)
                shaped = stored.reshape(len(stored), *shape)
                for s in SPLITS:
                    these = rows[s][present[m][rows[s]]]
                    far = outliers(shaped, kind, train, these, lengths.get(m), "row {}".format)
                    remarks[s] += [f"{m}: {line}" for line in far]
            for s in SPLITS:
                x[s][m] = stored[rows[s]]
        tables: dict[Split, Table] = {
            s: Table(
                x=x[s],
                present={m: present[m][rows[s]] for m in names},
                y=y[rows[s]],
                ids=[str(r) for r in rows[s]],
                transforms=transforms,
                row=rows[s],
                group=None if group is None else group[rows[s]],
                lengths={m: n[rows[s]] for m, n in lengths.items()},
                remarks=remarks[s],
            )
            for s in SPLITS
        }
        span = (float(y.min()), float(y.max())) if targets.task == "regression" else None
        spec = DataSpec(specs, targets.classes, self.dominant, notes, targets.task, span)
        self._loaded = spec, tables
        return self._loaded

    def _modalities(self, file: Npz) -> list[str]:
        """Return the names in file order; refuse an array that is unknown or has not one row per label."""
        arrays = list(file.headers)
        names = [a.removeprefix("x_") for a in arrays if a.startswith("x_")]
        if not names or "" in names:
            found = f"arrays {', '.join(arrays) or '(none)'}"
            raise file.error("", found, "at least one array x_<modality>", "name the feature arrays x_<modality>")
        optional = [f"{what}_{m}" for what in ("present", "length", "mask") for m in names]
        known = ["y", "split", "group", *(f"x_{m}" for m in names), *optional]
        unknown = [a for a in arrays if a not in known]
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            raise file.error(
                ", ".join(unknown),
                "not an array of the feature format" + (f"; did you mean {near[0]}?" if near else ""),
                "y, split, group, x_<modality>, present_<modality>, length_<modality>, mask_<modality> (modalities "
                f"here: {', '.join(names)})",
                f"leave {unknown[0]} out of the file" + (f", or save it as {near[0]}" if near else ""),
            )
        if "y" not in arrays:
            raise file.error("y", "absent", "labels or values of shape (n,)", "save them as y in this file")
        for m in self.kinds:
            if m not in names:
                remedy = f"set 'data.kinds={{{names[0]}:{self.kinds[m]}}}' instead"
                raise UserError("data.kinds", f"modality {m!r}", f"one of {', '.join(names)}", remedy)
        if self.dominant and self.dominant not in names:
            found, remedy = f"modality {self.dominant!r}", f"set data.dominant={names[0]}"
            raise UserError("data.dominant", found, f"one of {', '.join(names)}", remedy)
        shape = file.headers["y"][0]
        if len(shape) != 1 or shape[0] == 0:
            raise file.error("y", f"shape {shape}", "(n,) with n > 0", "save one label or value per sample")
        for array in arrays:
            size = file.headers[array][0]
            if not size or size[0] != shape[0]:
                found = f"shape {size}, but y has {shape[0]} rows"
                raise file.error(array, found, f"{shape[0]} rows", "save all arrays with the same rows")
            if not array.startswith(("x_", "mask_")) and len(size) != 1:
                raise file.error(array, f"shape {size}", "(n,)", "save one value per sample")
            if 0 in size:
                found = f"shape {size}: no value at all"
                raise file.error(array, found, "no empty dimension", f"leave {array} out of the file")
        return names

    def _present(self, file: Npz, modality: str, n: int) -> np.ndarray:
        array = f"present_{modality}"
        if array not in file.headers:
            return np.ones(n, dtype=bool)
        if file.headers[array][1].kind != "b":
            raise file.error(array, f"dtype {file.headers[array][1]}", "bool", "save it with astype(bool)")
        present = file.read(array)
        if not present.any():
            raise file.error(
                array,
                "False in every row",
                "at least one present row",
                f"leave x_{modality} and {array} out of the file, or save True for the rows that have {modality}",
            )
        return present

    def _groups(self, file: Npz) -> np.ndarray | None:
        """Return the group of each sample as it is in the file, bytes as strings."""
        if "group" not in file.headers:
            return None
        kind = file.headers["group"][1].kind
        if kind not in "iuUS":
            found = f"dtype {file.headers['group'][1]}"
            remedy = "save it as np.unique(group, return_inverse=True)[1]"
            raise file.error("group", found, "integers or strings", remedy)
        group = file.read("group")
        return np.char.decode(group, "utf-8", "replace") if kind == "S" else group

    def _split(self, file: Npz, targets: Targets, given: np.ndarray | None, notes: dict[str, Any]) -> np.ndarray:
        """Return the split of each sample, (n,) of 0, 1, 2, given or cut; `notes` says which."""
        group = None if given is None else np.unique(given, return_inverse=True)[1].reshape(-1)
        y, what = targets.strata, "class" if targets.task == "classification" else "value"
        rule = Cut(self.val_fraction, self.test_fraction, self.split_seed, str(file.path), what)
        if "split" not in file.headers:
            split, notes["split"] = rule.all(y, group)
            return split

        if file.headers["split"][1].kind not in "iu":
            found = f"dtype {file.headers['split'][1]}"
            raise file.error("split", found, "integers 0 train, 1 val, 2 test", "save it with split.astype(int)")
        split = file.read("split").astype(np.int64)
        wrong = np.flatnonzero((split < 0) | (split > 2))
        if len(wrong):
            found = f"{split[wrong[0]]} in row {wrong[0]} ({len(wrong)} such row(s))"
            remedy = "save 0, 1 or 2 in these rows, or leave the rows out of every array"
            raise file.error("split", found, "0 train, 1 val, 2 test", remedy)
        lacking = [i for i in range(3) if not np.any(split == i)]
        if 0 in lacking or len(lacking) == 2:
            found = f"no sample of {' and '.join(SPLITS[i] for i in lacking)}"
            raise file.error(
                "split",
                found,
                "train (0) and at least one of val (1) and test (2)",
                "save 0 for training rows and 1 or 2 for others, or leave `split` out of the file to have it cut",
            )
        split, notes["split"] = rule.lacking(split, y, group)
        if group is not None:  # counted as a warning by `asgml.data.validate`
            notes["groups in more than one split"] = shared_groups(split, group)
        return split

    # -- values -------------------------------------------------------------------------------------------------

    def _values(self, file: Npz, modality: str, present: np.ndarray, steps: ValidSteps | None) -> np.ndarray:
        """Return the array: finite and within float32 where present, valid steps in front, padding 0."""
        array = f"x_{modality}"
        dtype = file.headers[array][1]
        if dtype.kind not in "biuf":
            raise file.error(array, f"dtype {dtype}", "numbers", "save the features as float32")
        x = file.read(array) if steps is None else steps.to_front(file.read(array))
        found = nonfinite(x, np.flatnonzero(present))
        if found:
            count, first, value = found
            raise file.error(
                array,
                f"{value} in {place(first)} ({count} value(s) that are not finite in all)",
                "finite numbers in every present row",
                f"replace these values, or save present_{modality} with False in rows that are missing",
            )
        if dtype.kind == "f" and dtype.itemsize > 4:
            with np.errstate(over="ignore", invalid="ignore"):
                found = nonfinite(x.astype(np.float32), np.flatnonzero(present))
            if found:
                raise file.error(
                    array,
                    f"beyond float32 in {place(found[1])} ({found[0]} value(s))",
                    f"magnitudes below {np.finfo(np.float32).max:.1e}",
                    f"divide {array} by a constant before saving it",
                )
        return x

    def _kind(self, file: Npz, modality: str, x: np.ndarray) -> tuple[Kind, tuple[int, ...], str]:
        """Return the kind, the shape of a sample as the encoder sees it, and the reason."""
        sample = x.shape[1:]
        array = f"x_{modality}"
        fitting = [k for k, ranks in _RANKS.items() if len(sample) in ranks] or ["vector"]
        setting = f"set 'data.kinds={{{modality}:{fitting[0]}}}'"
        if modality in self.kinds:
            kind, why = self.kinds[modality], "data.kinds says so"
            if kind not in _RANKS:
                raise UserError(f"data.kinds.{modality}", repr(kind), f"one of {', '.join(RANK)}", setting)
        else:
            by_rank: dict[int, Kind] = {0: "vector", 1: "vector", 2: "sequence", 4: "frames"}
            why = f"{len(sample)} dimension(s) per sample"
            if len(sample) == 3:
                kind = "image" if sample[0] <= _MAX_CHANNELS else "frames"
                told = "channels of an image" if kind == "image" else "frames of one channel"
                why = f"3 dimensions, {sample[0]} in front taken as {told} (data.kinds.{modality} overrides)"
            elif len(sample) in by_rank:
                kind = by_rank[len(sample)]
            else:
                found = f"{len(sample)} dimensions per sample {sample}"
                expected = "(F,), (T, F), (C, H, W), (T, H, W) or (T, C, H, W)"
                raise file.error(array, found, expected, f"reshape {array} to one of these before saving it")
        if len(sample) not in _RANKS[kind]:
            found = f"samples of shape {sample}"
            expected = f"{' or '.join(map(str, _RANKS[kind]))} dimension(s) for kind {kind}"
            raise file.error(array, found, expected, f"{setting}, or reshape {array} before saving it")
        if kind == "tokens" and x.dtype.kind not in "iu":
            remedy = f"save {array} with astype(int)"
            raise file.error(array, f"dtype {x.dtype}", "integers for kind tokens", remedy)
        shape = {
            ("vector", 0): (1,),
            ("sequence", 1): (*sample, 1),
            ("image", 2): (1, *sample),
            ("frames", 3): (*sample[:1], 1, *sample[1:]),
        }.get((kind, len(sample)), sample)
        return kind, shape, why

    def _transform(
        self,
        modality: str,
        x: np.ndarray,
        spec: ModalitySpec,
        train: np.ndarray,
        lengths: np.ndarray | None,
        notes: dict[str, Any],
    ) -> tuple[Transform, list[str]]:
        """Return the transform of a modality, and a line for each thing to know about its features."""
        if spec.kind == "tokens":
            self._check_tokens(modality, x)
            return Tokens(), []
        unit = 1 / 255 if x.dtype == np.uint8 and spec.kind in ("image", "frames") else 1.0
        if unit != 1:
            notes[f"scale/{modality}"] = "8 bit to [0, 1]"
        if not self.standardize or not len(train):
            return Standardize(spec.shape, unit, np.zeros(1), np.ones(1)), []
        stored = x.reshape(len(x), *spec.shape)
        transform, spread = standardizing(stored, spec.shape, spec.kind, train, lengths, unit)
        if spread.constant:
            notes[f"constant features/{modality}"] = spread.constant
        return transform, spread.told()

    def _check_tokens(self, modality: str, x: np.ndarray) -> None:
        where = f"{Path(self.path)}, array x_{modality}"
        if x.min() < -1:
            row, column = np.argwhere(x < -1)[0]
            raise UserError(
                where,
                f"{x[row, column]} in row {row}, column {column}",
                "token numbers from 0, or -1 for padding",
                f"save x_{modality} with -1 for padding and no other negative number",
            )
        pad = x == -1
        inside = np.argwhere(pad[:, :-1] & ~pad[:, 1:])
        if len(inside):
            found = f"padding before a token in row {inside[0, 0]}, column {inside[0, 1]}"
            raise UserError(where, found, "padding (-1) at the end only", "move the tokens to the front")
