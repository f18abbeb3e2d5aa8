# No `from __future__ import annotations` here: see `asgml.data.decoded`.
"""Any data set as one CSV file: paths of media, numbers and texts by modality, and a label."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np

from asgml.data.array_files import ArrayFiles, array_files
from asgml.data.csv_columns import FILES, Column, Content, read_columns, refuse_absent_files, refuse_empty_rows
from asgml.data.csv_rows import CsvRows, read_csv, read_groups, read_ids, read_labels, read_split
from asgml.data.csv_splits import split_rows
from asgml.data.decoded import content_of
from asgml.data.media import DECODER, chosen_frames, decode_audio, decode_frames, read_image, seconds_of
from asgml.data.media_transforms import ImageTransform, SpectrogramTransform
from asgml.data.new_table import NewTable
from asgml.data.outliers import outliers
from asgml.data.ranges import Frames, Pixels
from asgml.data.shard_rows import Shard, ShardRows
from asgml.data.shards import ShardJob, fingerprint, stamp_of
from asgml.data.spec import SPLITS, DataSpec, Kind, ModalitySpec, Split, Table, Transform
from asgml.data.splits import Cut
from asgml.data.standardize import Standardize, Tokens, standardizing
from asgml.data.text_tokens import VOCABULARY, Units, padded_tokens
from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, OpenShare, PositiveShare, Probability, Seed


@dataclass(frozen=True)
class Listed:
    """What a CSV file says, no file that it names read.

    Attributes:
        rows: its rows.
        columns: its modalities, by name.
        y: the labels, (n,) int64.
        classes: the class names.
        ids: the samples' names.
        split: the split of each row, (n,) of 0, 1, 2.
        split_rule: how the splits came about.
        group: the group of each row, (n,) strings; None without groups.
        warnings: what deserves a warning, counted.
    """

    rows: CsvRows
    columns: dict[str, Column]
    y: np.ndarray
    classes: list[str]
    ids: list[str]
    split: np.ndarray
    split_rule: str
    group: np.ndarray | None
    warnings: list[str]


@dataclass
class CsvTable(NewTable):
    """Reads a data set from one CSV file with a header, one sample a line.

    Columns:

    - `label`: the class, by a name or a whole number. Classes are sorted.
    - `split`, optional: train, val or test. Without it the three are cut by class, or by whole groups where there are
      any; a file without val or without test gets it from train. Rows that repeat another stay in its split.
    - `group`, optional: what a sample belongs to (its speaker, its video); cut splits never share a group.
    - `id`, optional: the sample's name.
    - every other column is a modality: paths of sounds (wav, flac, ogg), of pictures (jpg, png), of folders of frames
      or of npy files (vectors (F,), sequences (T, F) of any lengths), relative to the CSV file; a text; or a number.
      Numeric columns of a common prefix (`pose_0`, `pose_1` or `pose_x`, `pose_y`) are one vector.

    An empty cell says that the sample lacks the modality. What a column holds is found from its cells and printed;
    `kinds` overrides it. Sounds, pictures and arrays are decoded once to shards, see `asgml.data.prepare`.

    Limits: labels are classes; numbers to be regressed want `asgml.data.Features`.

    Args:
        path: the CSV file, UTF-8, separated by commas, semicolons or tabs.
        label: the column of the class.
        split: the column of the split; null is `split`, if there is such a column.
        group: the column of the group; null is `group`, if there is such a column.
        modalities: the modalities to use; null uses all.
        kinds: what a column holds (audio, image, frames, npy, numbers, text), where its cells do not tell.
        dominant: the modality known to be learned first.
        val_fraction: the share of val in what is cut.
        test_fraction: the share of test in what is cut.
        split_seed: the seed of the cut.
        tokens: what a text is split into, `words` (hashed to 4096 numbers) or `bytes` (for scripts without spaces).
        max_tokens: the number of tokens after which a text is cut; texts that are cut are counted.
        flip: the probability that a picture is mirrored in training.
        prepared: the folder of the shards; null is `prepared` beside the file.
        corrupt: what unusable or absent files mean: `refuse` (an error that lists them with their lines) or `missing`
            (the sample stays, without that modality).

    The other arguments are those of `DecodedSource`; `frames` concerns folders of frames.

    Raises:
        UserError: a parameter out of its range; whatever is wrong in the file, with its line.
    """

    NAME: ClassVar[str] = "table"
    OBTAIN: ClassVar[str] = "correct these cells, whose paths are relative to the table"

    audio: Literal["ogm", "fbank"] = "fbank"
    frames: Frames = 4
    size: Pixels = 64
    store: list[Pixels] = field(default_factory=lambda: [72, 72])
    crop_scale: list[PositiveShare] = field(default_factory=lambda: [0.8, 1.0])
    label: Annotated[str, NOT_EMPTY] = "label"
    split: str | None = None
    group: str | None = None
    modalities: list[str] | None = None
    kinds: dict[str, Content] | None = None
    dominant: str | None = None
    val_fraction: OpenShare = 0.15
    test_fraction: OpenShare = 0.15
    split_seed: Seed = 0
    tokens: Units = "words"
    max_tokens: Count = 256
    flip: Probability = 0.0

    # -- what a run reads (see `suite.runs.reads`) ------------------------------------------------------------------

    @property
    def file(self) -> Path:
        """The CSV file."""
        return Path(self.path).expanduser()

    @property
    def root(self) -> Path:
        return self.file.parent

    @property
    def list_files(self) -> dict[str, Path]:
        return {self.file.name: self.file}

    @classmethod
    def input_files(cls, arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Return the CSV file; of the files that it names, what a run reads are the shards."""
        return {"path": Path(arguments["path"]).expanduser()}

    # -- the file itself --------------------------------------------------------------------------------------------

    @cached_property
    def content(self) -> Listed:
        """What the file says, read once.

        Raises:
            UserError: whatever is wrong in it, with its line.
        """
        rows = read_csv(self.file)
        split_name, group_name = self.split or "split", self.group or "group"
        splits = rows.column("split", self.split, "split")
        groups = rows.column("group", self.group, "group")
        y, classes = read_labels(rows, self.label)
        roles = {self.label, "id"} | ({split_name} if splits else set()) | ({group_name} if groups else set())
        columns = {c.name: c for c in read_columns(rows, roles, self.kinds or {}, self.modalities)}
        if self.dominant is not None and self.dominant not in columns:
            remedy = f"set data.dominant={next(iter(columns))}"
            raise UserError("data.dominant", self.dominant, f"one of {', '.join(columns)}", remedy)
        refuse_empty_rows(rows, list(columns.values()))
        group = None if groups is None else read_groups(rows, group_name, groups)
        given = None if splits is None else read_split(rows, split_name, splits)
        cut = Cut(self.val_fraction, self.test_fraction, self.split_seed, str(self.file))
        split, rule, warnings = split_rows(rows, list(columns.values()), y, group, given, cut)
        return Listed(rows, columns, y, classes, read_ids(rows), split, rule, group, warnings)

    def modality_names(self) -> list[str]:
        """Return the modalities, known without reading a file beside the table."""
        return list(self.content.columns)

    def sizes(self) -> dict[Split, int]:
        return {split: int((self.content.split == i).sum()) for i, split in enumerate(SPLITS)}

    # -- shards -------------------------------------------------------------------------------------------------

    def jobs(self) -> dict[str, ShardJob]:
        """Return one job per modality of files, over its distinct files: labels, splits and order change no shard."""
        columns = self.content.columns.values()
        return {c.name: self._job(c, self._arrays.get(c.name)) for c in columns if c.content in FILES}

    def _job(self, column: Column, arrays: ArrayFiles | None) -> ShardJob:
        paths = sorted(set(column.cells) - {""})
        (height, width), root, profile = self.store, self.root, self.profile
        decode: Any
        shape: tuple[int, ...]
        params: dict[str, Any] = {}
        content = lambda row: content_of([root / paths[row]])  # noqa: E731
        if column.content == "audio":
            shape, dtype, params = profile.shape, "float32", {"profile": repr(profile)}
            decode = lambda row: decode_audio(root / paths[row], profile)  # noqa: E731
        elif arrays is not None:
            shape, dtype = arrays.shape, "float32"
            decode = lambda row: arrays.decode(root / paths[row])  # noqa: E731
        else:
            frames = self.frames if column.content == "frames" else 1
            shape, dtype = (frames, height, width, 3), "uint8"
            if column.content == "frames":
                decode = lambda row: decode_frames(root / paths[row], frames, height, width)  # noqa: E731
                content = lambda row: content_of(chosen_frames(root / paths[row], frames))  # noqa: E731
            else:
                decode = lambda row: read_image(root / paths[row], height, width)[None]  # noqa: E731
        code = fingerprint([self.NAME, DECODER, column.content, list(shape), params, paths])
        name = "".join(c if c.isalnum() else "_" for c in column.name)
        return ShardJob(
            self.prepared_root / f"{name}-{column.content}-{code}",
            paths,
            shape,
            dtype,
            decode,
            lambda row: stamp_of(root / paths[row]),
            {"content": column.content, **params},
            content,
        )

    @cached_property
    def _arrays(self) -> dict[str, ArrayFiles]:
        """What the npy files of each modality have in common; a modality none of whose files can be read is refused."""
        out = {}
        for column in self.content.columns.values():
            if column.content == "npy":
                found = array_files(self.root / cell for cell in sorted(set(column.cells) - {""}))
                if found is None or len(found.shape) > 2:
                    told = "no readable array of numbers" if found is None else f"arrays of {len(found.shape)} axes"
                    first = self.content.rows.where(int(column.present.argmax()))
                    raise UserError(
                        f"{first}, column {column.name}",
                        told,
                        f"npy files of vectors (F,) or sequences (T, F), by paths relative to {self.root}",
                        "save them with numpy.save; pictures go as jpg or png",
                    )
                out[column.name] = found
        return out

    def media(self) -> list[Path]:
        columns = [c for c in self.content.columns.values() if c.content in FILES]
        return [self.root / cell for column in columns for cell in sorted(set(column.cells) - {""})]

    def require_media(self) -> None:
        """Refuse a column none of whose files is there."""
        refuse_absent_files(self.content.rows, list(self.content.columns.values()))

    def place_of(self, modality: str, name: str) -> str:
        return f"line {self.content.rows.lines[self.content.columns[modality].cells.index(name)]}: "

    # -- the Source interface -----------------------------------------------------------------------------------

    def spec(self) -> DataSpec:
        content = self.content
        notes = {"file": self.file.name, "split": content.split_rule, "corrupt": self.corrupt, **self._own_notes()}
        warnings = list(content.warnings)
        specs = {}
        for name, column in content.columns.items():
            specs[name] = self._modality(column)
            if column.content == "text" and (cut := self._texts[name][1]):
                told = f"{cut} of {int(column.present.sum())} texts are longer than {self.max_tokens} {self.tokens}"
                warnings.append(f"{name}: {told}, their ends are cut off (data.max_tokens)")
            warnings += self._longer_sounds(column)
        return DataSpec(specs, content.classes, self.dominant, notes, warnings=warnings)

    def _modality(self, column: Column) -> ModalitySpec:
        width = self._texts[column.name][0].shape[1] if column.content == "text" else 0
        return self._modality_of(column, width, self._arrays.get(column.name))

    def _modality_of(self, column: Column, width: int, arrays: ArrayFiles | None) -> ModalitySpec:
        kind: Kind = "image"
        shape: tuple[int, ...] = (3, self.size, self.size)
        if column.content == "audio":
            shape = self.profile.shape
        elif column.content == "text":
            kind, shape = "tokens", (width,)
        elif column.content == "numbers":
            kind, shape = "vector", (len(column.names),)
        elif arrays is not None:
            kind, shape = "vector" if len(arrays.shape) == 1 else "sequence", arrays.shape
        elif column.content == "frames" and self.frames > 1:
            kind, shape = "frames", (self.frames, *shape)
        return ModalitySpec(
            column.name,
            kind,
            shape,
            arrays is not None and arrays.padded,
            VOCABULARY[self.tokens] if column.content == "text" else None,
            column.told,
            column.content,
            column.names,
        )

    def _own_notes(self) -> dict[str, str]:
        """What tells the table again: its cells, and the split of each row."""
        return {"table": fingerprint(self.content.rows.cells), "cut": fingerprint(self.content.split.tolist())}

    def _own_test_rows(self) -> np.ndarray:
        return np.flatnonzero(self.content.split == SPLITS.index("test"))

    @cached_property
    def _texts(self) -> dict[str, tuple[np.ndarray, int]]:
        """The tokens (n, L) of every modality of texts, and how many texts are cut."""
        columns = [c for c in self.content.columns.values() if c.content == "text"]
        return {c.name: padded_tokens(c.cells, self.tokens, self.max_tokens) for c in columns}

    def _longer_sounds(self, column: Column) -> list[str]:
        """Return a warning that counts the sounds of which the end is not used, if there are any."""
        if column.content != "audio":
            return []
        lengths = [seconds_of(self.root / cell) for cell in set(column.cells) - {""}]
        cut = sum(n is not None and n > self.seconds for n in lengths)
        told = f"{cut} of {len(lengths)} sounds are longer than {self.seconds:g} s"
        return [f"{column.name}: {told}, their ends are cut off (data.seconds)"] if cut else []

    def tables(self) -> dict[Split, Table]:
        content, shards = self.content, self.shards()
        x, present, transforms = dict[str, Any](), dict[str, np.ndarray](), dict[str, Transform]()
        lengths: dict[str, np.ndarray] = {}
        told: dict[str, list[str]] = {}
        for name, column in content.columns.items():
            if column.content in FILES:
                x[name], present[name] = self._stored(shards[name], column)
            elif column.content == "text":
                x[name], present[name] = self._texts[name][0], column.present
            else:
                x[name], present[name] = column.numbers, column.present
            if column.content == "npy" and self._arrays[name].padded:
                of = self._arrays[name].lengths
                steps = [of.get(self.root / c, 0) if p else 0 for c, p in zip(column.cells, present[name])]
                lengths[name] = np.array(steps, dtype=np.int64)
            train = np.flatnonzero((content.split == 0) & present[name])
            transforms[name], told[name] = self._transform(column, x[name], train, lengths.get(name))
            if column.content == "numbers" and isinstance(transform := transforms[name], Standardize):
                x[name] = transform.stored(x[name])
        split_tables = {s: self._table(i, x, present, transforms, lengths) for i, s in enumerate(SPLITS)}
        for i, split in enumerate(SPLITS):
            rows = np.flatnonzero(content.split == i)
            lines = [f"{name}: {line}" for name, lines in told.items() if i == 0 for line in lines]
            for name, column in content.columns.items():
                if name in shards:
                    lines += self.told_of(name, shards[name], [column.cells[row] for row in rows])
                if column.content in ("numbers", "npy"):
                    train, these = (np.flatnonzero(present[name] & (content.split == n)) for n in (0, i))
                    kind = self._modality(column).kind
                    far = outliers(x[name], kind, train, these, lengths.get(name), content.ids.__getitem__)
                    lines += [f"{name}: {line}" for line in far]
            split_tables[split].remarks.extend(lines)
        return split_tables

    def _stored(self, shard: Shard, column: Column) -> tuple[Any, np.ndarray]:
        """Return the rows of a shard by sample, and who has the modality; absent samples stand on any row."""
        cells = [cell or shard.ids[0] for cell in column.cells]
        rows, usable = shard.select(cells)
        return rows, usable & column.present

    def _transform(
        self, column: Column, x: Any, train: np.ndarray, lengths: np.ndarray | None
    ) -> tuple[Transform, list[str]]:
        """Return the transform of a modality, and a line for each thing to know about its features."""
        if (fixed := self._unfitted(column)) is not None:
            return fixed, []
        spec = self._modality(column)
        rows = train if len(train) else np.arange(1)  # a modality absent from train is refused later, by name
        transform, spread = standardizing(x, spec.shape, spec.kind, rows, lengths)
        return transform, spread.told()

    def _unfitted(self, column: Column) -> Transform | None:
        if column.content == "audio":
            return SpectrogramTransform()
        if column.content == "text":
            return Tokens()
        if column.content in ("image", "frames"):
            scale = (self.crop_scale[0], self.crop_scale[1])
            return ImageTransform(self.size, self.frames if column.content == "frames" else 1, scale, self.flip)
        return None

    def _table(
        self,
        number: int,
        x: Mapping[str, Any],
        present: Mapping[str, np.ndarray],
        transforms: dict[str, Transform],
        lengths: Mapping[str, np.ndarray],
    ) -> Table:
        rows = np.flatnonzero(self.content.split == number)
        group = self.content.group
        return Table(
            {m: cast("np.ndarray", v.taken(rows) if isinstance(v, ShardRows) else v[rows]) for m, v in x.items()},
            {m: p[rows] for m, p in present.items()},
            self.content.y[rows],
            [self.content.ids[row] for row in rows],
            transforms,
            {m: n[rows] for m, n in lengths.items()},
            group=None if group is None else group[rows],
        )
