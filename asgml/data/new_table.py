# No `from __future__ import annotations` here: see `asgml.data.decoded`.
"""CSV files for a network that is trained already: without labels to predict, with labels to evaluate."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from asgml.data.array_files import ArrayFiles, array_shapes
from asgml.data.csv_columns import (
    FILES,
    Column,
    Content,
    read_columns,
    read_known_columns,
    refuse_absent_files,
    refuse_empty_rows,
    refuse_other_contents,
)
from asgml.data.csv_rows import CsvRows, read_csv, read_groups, read_ids, read_known_labels, split_words
from asgml.data.decoded import DecodedSource
from asgml.data.new_samples import no_labels, require_alike
from asgml.data.shard_rows import Shard
from asgml.data.shards import ShardJob, fingerprint
from asgml.data.spec import SPLITS, DataSpec, ModalitySpec, Table, Transform
from asgml.data.standardize import Standardize
from asgml.data.text_tokens import Units, padded_tokens
from callbacks.errors import UserError

SHOWN = 12  # columns in an error


class NewTable(DecodedSource):
    """What `CsvTable` does with a file whose modalities, classes and statistics another file has fixed.

    Attributes:
        label: the column of the class.
        split: the column of the split; None is `split`.
        group: the column of the group; None is `group`.
        modalities: the modalities of use; None allows no other column.
        kinds: the contents that the cells of a column do not tell.
        tokens: what a text is split into.
    """

    label: str
    split: str | None
    group: str | None
    modalities: list[str] | None
    kinds: dict[str, Content] | None
    tokens: Units

    # What the reader of the training file has.
    @property
    def file(self) -> Path:
        """The CSV file."""
        raise NotImplementedError

    def _job(self, column: Column, arrays: ArrayFiles | None) -> ShardJob:
        raise NotImplementedError

    def _modality_of(self, column: Column, width: int, arrays: ArrayFiles | None) -> ModalitySpec:
        """Return a modality; `width` is the length of texts, `arrays` what npy files have in common."""
        raise NotImplementedError

    def _stored(self, shard: Shard, column: Column) -> tuple[Any, np.ndarray]:
        raise NotImplementedError

    def _unfitted(self, column: Column) -> Transform | None:
        """Return the transform of a column whose content needs no statistics, else None."""
        raise NotImplementedError

    def _longer_sounds(self, column: Column) -> list[str]:
        raise NotImplementedError

    def _own_notes(self) -> dict[str, str]:
        raise NotImplementedError

    def _own_test_rows(self) -> np.ndarray:
        """Return the rows that a run on this very table is tested on."""
        raise NotImplementedError

    def new_samples(self, known: DataSpec, labelled: bool) -> Table:
        """Return the samples of the file (see `asgml.data.new_samples.new_samples`).

        Without labels all rows are returned, and the columns of label, split and group, which need not be there, are
        not read. Labelled samples are the rows that the split calls test, all where the file has no such column. The
        table that the run was trained on, told by its cells, has its test rows, also where they were cut, and is
        refused under keys that cut it otherwise.

        Longer texts are cut to the length that they had in training, and counted; longer sequences are refused.

        Raises:
            UserError: columns that the run has no use for, or lacks; cells of another kind or size than those of the
                run; labels without a class; whatever else is wrong in the file, with its line.
        """
        rows, own = read_csv(self.file), False
        if labelled:
            own = known.notes.get("table") == fingerprint(rows.cells)
            rows = self._own_test(rows, known) if own else self._scored(rows)
        columns = self._columns_as(rows, known)
        refuse_empty_rows(rows, columns)
        y = self._labels_as(rows, known) if labelled else no_labels(known, len(rows))
        ids = read_ids(rows)
        groups = rows.cells.get(self.group or "group") if labelled else None
        group = None if groups is None else read_groups(rows, self.group or "group", groups)
        self._require_alike(columns, known)
        arrays = {c.name: self._arrays_as(rows, c, known) for c in columns if c.content == "npy"}
        jobs = {c.name: self._job(c, arrays.get(c.name)) for c in columns if c.content in FILES}
        named = {c.name: jobs[c.name] for c in columns if c.name in jobs and c.present.any()}
        cells = {c.name: c.cells for c in columns}
        shards = self.shards_of(
            named,
            lambda: refuse_absent_files(rows, columns),
            lambda modality, cell: f"line {rows.lines[cells[modality].index(cell)]}: ",
        )
        x, present, transforms = dict[str, Any](), dict[str, np.ndarray](), dict[str, Transform]()
        lengths: dict[str, np.ndarray] = {}
        remarks: list[str] = []
        for column in columns:
            m, modality = column.name, known.modalities[column.name]
            x[m], present[m] = self._values(column, modality, jobs, shards, remarks)
            if modality.padded:
                of = arrays[m].lengths
                steps = [of.get(self.root / c, 0) if p else 0 for c, p in zip(column.cells, present[m])]
                lengths[m] = np.array(steps, dtype=np.int64)
            # Statistics that stand for none; the run's own take their place.
            raw = Standardize(modality.shape, 1.0, np.zeros(1), np.ones(1))
            transforms[m] = self._unfitted(column) or raw
            remarks += self._longer_sounds(column)
            if m in shards:
                remarks += self.told_of(m, shards[m], column.cells)
        return Table(x, present, y, ids, transforms, lengths, group=group, remarks=remarks, unseen=own)

    def _own_test(self, rows: CsvRows, known: DataSpec) -> CsvRows:
        """Return the test rows of the table that the run was trained on."""
        if self._own_notes()["cut"] != known.notes["cut"]:
            raise UserError(
                str(self.file),
                "the table that the run was trained on, with other splits",
                f"the splits of the run ({known.notes['split']}): others hold test rows that it was trained on",
                "leave out what you set of data.split, data.group, data.split_seed, data.val_fraction and "
                "data.test_fraction",
            )
        return rows.taken(self._own_test_rows())

    def _scored(self, rows: CsvRows) -> CsvRows:
        """Return the rows that are scored."""
        name = self.split or "split"
        cells = rows.cells.get(name)
        if cells is None and self.split is None:
            return rows
        if cells is None:
            near = difflib.get_close_matches(name, rows.cells, 1)
            found, expected = f"no column {name!r} in {self.file}", f"one of {', '.join(rows.cells)}; null for `split`"
            remedy = f"set data.split={near[0] if near else 'null'}; without `split` all rows are scored"
            raise UserError("data.split", found, expected, remedy)
        test = np.flatnonzero(split_words(rows, name, cells) == SPLITS.index("test"))
        if not len(test):
            remedy = "write test for the rows to be scored, or leave the column out to have all of them scored"
            raise UserError(f"{self.file}, column {name}", "no row of test", "a test split", remedy)
        return rows.taken(test)

    def _columns_as(self, rows: CsvRows, known: DataSpec) -> list[Column]:
        """Return the run's modalities, each as the run has it; refuse columns that are too many or too few."""
        roles = {self.label, "id", self.split or "split", self.group or "group"}
        of_table = all(m.columns for m in known.modalities.values())
        if of_table:
            there = [name for name in rows.cells if name not in roles]
            wanted = [name for m in known.modalities.values() for name in m.columns]
        else:  # the run was trained on another source: what the columns hold, their cells say
            found = {c.name: c for c in read_columns(rows, roles, self.kinds or {}, self.modalities)}
            there, wanted = list(found), list(known.modalities)
        lacking, foreign = [n for n in wanted if n not in there], [n for n in there if n not in wanted]
        if lacking or (foreign and self.modalities is None):
            remedy = f"leave the column {foreign[0]} out of the file" if foreign else ""
            if lacking:
                remedy = f"add the column {lacking[0]}; its cells may be empty where samples lack it"
            told = [f"lacks {_listed(lacking)}"] * bool(lacking) + [f"foreign {_listed(foreign)}"] * bool(foreign)
            expected = f"the columns of the run: {_listed(wanted)}"
            raise UserError(f"{self.file}, header", "; ".join(told), expected, remedy)
        if not of_table:
            return [found[m] for m in known.modalities]
        columns = read_known_columns(rows, {m.name: (m.content, m.columns) for m in known.modalities.values()})
        refuse_other_contents(rows, [c for c in columns if c.name not in (self.kinds or {})])
        return columns

    def _labels_as(self, rows: CsvRows, known: DataSpec) -> np.ndarray:
        if known.task != "classification":
            remedy = "score it on a feature file: data=features data.path=F.npz"
            raise UserError(f"{self.file}, data.label", "classes", "numbers, as the run predicts", remedy)
        return read_known_labels(rows, self.label, known.classes)

    def _require_alike(self, columns: list[Column], known: DataSpec) -> None:
        """Refuse modalities that these settings read in another form than the run's."""
        here = {}
        for column in columns:
            modality = known.modalities[column.name]
            arrays = ArrayFiles(modality.shape, {}) if column.content == "npy" else None
            here[column.name] = self._modality_of(column, modality.shape[0], arrays)
            if here[column.name].vocabulary != modality.vocabulary:
                found = f"{here[column.name].vocabulary} tokens of data.tokens={self.tokens}"
                expected = f"{modality.vocabulary}, as the run was trained on"
                raise UserError(f"data, {column.name}", found, expected, "leave data.tokens as the run has it")
        require_alike(DataSpec(here, known.classes, task=known.task), known)

    def _arrays_as(self, rows: CsvRows, column: Column, known: DataSpec) -> ArrayFiles:
        """Return npy files in the shape of the run; refuse sequences of other lengths than it takes."""
        modality = known.modalities[column.name]
        shape = modality.shape
        shapes = array_shapes(sorted({self.root / cell for cell in column.cells if cell}))
        alike = {p: s[0] for p, s in shapes.items() if len(s) == len(shape) == 2 and s[-1] == shape[-1]}
        wrong = {p: n for p, n in alike.items() if n > shape[0] or (n < shape[0] and not modality.padded)}
        if wrong:
            lines = [i for i, cell in enumerate(column.cells) if cell and self.root / cell in wrong]
            steps = wrong[self.root / column.cells[lines[0]]]
            raise UserError(
                f"{rows.where(lines[0])}, column {column.name}",
                f"a sequence of {steps} steps ({len(lines)} such line(s))",
                f"{'at most ' * modality.padded}{shape[0]} steps, as the run was trained on",
                f"save arrays of {shape[0]} steps, or leave these cells empty",
            )
        return ArrayFiles(shape, alike, "the run has")

    def _values(
        self,
        column: Column,
        known: ModalitySpec,
        jobs: Mapping[str, ShardJob],
        shards: Mapping[str, Shard],
        remarks: list[str],
    ) -> tuple[Any, np.ndarray]:
        """Return the stored values (n, …) of a modality and who has it; add to `remarks` how many texts were cut."""
        if column.name in shards:
            return self._stored(shards[column.name], column)
        if column.content in FILES:  # empty in every line
            job = jobs[column.name]
            return np.broadcast_to(np.zeros(1, job.dtype), (len(column.cells), *job.shape)), column.present
        if column.content != "text":
            return cast("np.ndarray", column.numbers), column.present
        most = known.shape[0]
        tokens, cut = padded_tokens(column.cells, self.tokens, most)
        if cut:
            told = f"{cut} of {int(column.present.sum())} texts are longer than {most} {self.tokens}"
            remarks.append(f"{column.name}: {told}, the length in training: their ends are cut off")
        return np.pad(tokens, [(0, 0), (0, most - tokens.shape[1])], constant_values=-1), column.present


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", …" * (len(names) > SHOWN)
