# No `from __future__ import annotations` here: subclasses in other modules inherit these fields, and their generated
# constructors must carry the types themselves, not names that would be looked up in the subclass's module.
"""What every list of audio-visual clips shares: reading lists, preparing shards, tables."""

import dataclasses
import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from asgml.data.decoded import DecodedSource, content_of
from asgml.data.media import DECODER, chosen_frames, clip_names, decode_audio, decode_frames
from asgml.data.media_transforms import ImageTransform, SpectrogramTransform
from asgml.data.new_samples import require_alike
from asgml.data.shards import ShardJob, fingerprint, stamp_of
from asgml.data.spec import DataSpec, Kind, ModalitySpec, Split, Table, Transform
from callbacks.errors import UserError, no_folder
from callbacks.files.given import read_given


@dataclass(frozen=True)
class Clip:
    """One sample.

    Attributes:
        id: the clip's name, unique over all splits.
        label: the index of its class.
        audio: its sound file, relative to the root.
        frames: its folder of frames, relative to the root.
        group: its actor or video.
        start: where the part to use begins, in seconds.
        end: where the part to use ends, in seconds; None is the end of the file.
    """

    id: str
    label: int
    audio: str
    frames: str
    group: str = ""
    start: float = 0.0
    end: float | None = None


@dataclass
class MediaSource(DecodedSource):
    """Reads audio-visual clips named by lists; a subclass adds `class_names`, `clips` and what the data set is called.

    The constructor reads no file. `tables` prepares what is not prepared. The arguments are those of `DecodedSource`.

    Raises:
        UserError: a parameter out of its range.
    """

    EXPERIMENT: ClassVar[str] = ""  # its experiment, as in experiment=…
    LAYOUT: ClassVar[str] = ""  # the folders and files under `path`, one a line
    DOMINANT: ClassVar[str | None] = None
    GROUPED_BY: ClassVar[str | None] = None  # what `Clip.group` is, where several clips share one

    # -- what a data set says about itself ----------------------------------------------------------------------

    def modality_names(self) -> list[str]:
        """Return the modalities, known without reading a file."""
        return ["audio", "visual"]

    @property
    def class_names(self) -> list[str]:
        """The names of the classes; label `i` is the i-th."""
        raise NotImplementedError

    def clips(self) -> dict[Split, list[Clip]]:
        """Read the lists and return the clips of the three splits.

        Raises:
            UserError: lists that are absent, unreadable or contradictory, naming file and line.
        """
        raise NotImplementedError

    @property
    def folders(self) -> tuple[str, str]:
        """The folders of the sounds and of the frames under the root, of samples that no list names."""
        raise NotImplementedError

    def sizes(self) -> dict[Split, int]:
        return {split: len(clips) for split, clips in self.clips().items()}

    def facts(self) -> dict[str, Any]:
        """Return what `DataSpec.notes` says beside source and policy, known without reading a file."""
        return {}

    def remarks_of(self, clips: Sequence[Clip]) -> list[str]:
        """Return what deserves a warning about the clips of one split, read off the lists, a line each."""
        return []

    # -- the Source interface -----------------------------------------------------------------------------------

    def spec(self) -> DataSpec:
        image: tuple[int, ...] = (3, self.size, self.size)
        kind: Kind = "image"
        if self.frames > 1:
            kind, image = "frames", (self.frames, *image)
        return DataSpec(
            {
                "audio": ModalitySpec("audio", "image", self.profile.shape),
                "visual": ModalitySpec("visual", kind, image),
            },
            self.class_names,
            self.DOMINANT,
            {"source": self.NAME, "corrupt": self.corrupt, **self.facts()},
        )

    def tables(self) -> dict[Split, Table]:
        return self._tables_of(self.clips())

    def new_samples(self, known: DataSpec, labelled: bool) -> Table:
        """Return the clips of the test list; without labels, all that lie in the folders of sounds and frames."""
        require_alike(self.spec(), known)
        clips = self.clips()["test"] if labelled else self._found()
        return self._tables_of({"test": clips})["test"]

    def _found(self) -> list[Clip]:
        """Return a clip for every sound and every folder of frames, their class unknown."""
        names = clip_names(*(self.root / folder for folder in self.folders))
        return [Clip(n, 0, f"{self.folders[0]}/{n}.wav", f"{self.folders[1]}/{n}") for n in names]

    def _tables_of(self, splits: Mapping[Split, list[Clip]]) -> dict[Split, Table]:
        shards = self.shards_of(self._jobs(splits), partial(self._require_media, splits))
        scale = (self.crop_scale[0], self.crop_scale[1])
        transforms: dict[str, Transform] = {
            "audio": SpectrogramTransform(),
            "visual": ImageTransform(self.size, self.frames, scale),
        }
        tables: dict[Split, Table] = {}
        for split in splits:
            ids = [clip.id for clip in splits[split]]
            chosen = {modality: shard.select(ids) for modality, shard in shards.items()}
            x = {modality: cast("np.ndarray", rows) for modality, (rows, _) in chosen.items()}
            present = {modality: usable for modality, (_, usable) in chosen.items()}
            y = np.array([clip.label for clip in splits[split]], dtype=np.int64)
            group = np.array([clip.group for clip in splits[split]]) if self.GROUPED_BY else None
            remarks = [line for modality, shard in shards.items() for line in self.told_of(modality, shard, ids)]
            remarks += self.remarks_of(splits[split])
            grouped_by = self.GROUPED_BY or "group"
            tables[split] = Table(x, present, y, ids, transforms, group=group, grouped_by=grouped_by, remarks=remarks)
        return tables

    # -- shards -------------------------------------------------------------------------------------------------

    def jobs(self) -> dict[str, ShardJob]:
        """Return one job per modality over the clips of all splits, by id: every way to split shares its shards."""
        return self._jobs(self.clips())

    def _jobs(self, splits: Mapping[Split, list[Clip]]) -> dict[str, ShardJob]:
        clips = sorted((clip for listed in splits.values() for clip in listed), key=lambda clip: clip.id)
        ids = [clip.id for clip in clips]
        profile, (height, width), root = self.profile, self.store, self.root

        def job(
            modality: str, name: str, shape: tuple[int, ...], dtype: str, params: dict[str, Any], **calls: Any
        ) -> ShardJob:
            files = [[c.id, c.audio if modality == "audio" else c.frames, c.start, c.end] for c in clips]
            code = fingerprint([self.NAME, DECODER, modality, params, files])
            return ShardJob(self.prepared_root / f"{modality}-{name}-{code}", ids, shape, dtype, params=params, **calls)

        return {
            "audio": job(
                "audio",
                self.audio,
                profile.shape,
                "float32",
                {"profile": self.audio, **dataclasses.asdict(profile)},
                decode=lambda row: decode_audio(root / clips[row].audio, profile, clips[row].start, clips[row].end),
                signature=lambda row: stamp_of(root / clips[row].audio),
                content=lambda row: content_of([root / clips[row].audio], clips[row].start, clips[row].end),
            ),
            "visual": job(
                "visual",
                f"{self.frames}x{height}x{width}",
                (self.frames, height, width, 3),
                "uint8",
                {"frames": self.frames, "height": height, "width": width},
                decode=lambda row: decode_frames(
                    root / clips[row].frames, self.frames, height, width, clips[row].start, clips[row].end
                ),
                signature=lambda row: stamp_of(root / clips[row].frames),
                content=lambda row: content_of(
                    chosen_frames(root / clips[row].frames, self.frames, clips[row].start, clips[row].end)
                ),
            ),
        }

    def media(self) -> list[Path]:
        clips = [clip for part in self.clips().values() for clip in part]
        return [self.root / place for clip in clips for place in (clip.audio, clip.frames)]

    def require_media(self) -> None:
        self._require_media(self.clips())

    def _require_media(self, splits: Mapping[Split, list[Clip]]) -> None:
        for clips in splits.values():
            for relative in (clips[0].audio, clips[0].frames) if clips else ():
                self.require_folder(self.root / Path(relative).parent)

    def require_folder(self, folder: Path) -> None:
        """Refuse a data set one of whose folders is not there; the remedy says where to get it."""
        if not folder.is_dir():
            layout = "".join(f"\n              {line}" for line in self.LAYOUT.splitlines())
            raise UserError(
                str(folder),
                no_folder(folder),
                f"{self.NAME} under data.path={self.path}{layout}",
                f"{self.OBTAIN}; then set data.path to its folder, and decode it once:"
                f" python -m asgml.data.prepare experiment={self.EXPERIMENT} data.path={self.path}",
            )


# -- lists ------------------------------------------------------------------------------------------------------


def read_rows(path: Path, delimiter: str, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return (line number, fields) of each line of a list file.

    Blank lines, a byte order mark, and a first line that names the columns are passed over.

    Raises:
        UserError: a file that is absent, empty or not text, or a line of another number of columns.
    """
    layout = delimiter.join(columns)
    remedy = f"set data.path to the folder that holds {path.name}"
    text = read_given(path, str(path), f"a list of lines {layout}", remedy)
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        fields = [f.strip() for f in line.split(delimiter)]
        if not any(fields):
            continue
        if not rows and [f.lower() for f in fields] == [c.lower() for c in columns]:
            continue
        if len(fields) != len(columns) or not all(fields):
            remedy = f"restore the published line: {len(columns)} fields, none empty"
            raise UserError(f"{path}, line {number}", line.strip(), layout, remedy)
        rows.append((number, fields))
    if not rows:
        raise UserError(str(path), "an empty list", f"lines {layout}", f"restore the published {path.name}")
    return rows


def label_of(name: str, classes: Sequence[str], where: str) -> int:
    """Return the index of a class name.

    Raises:
        UserError: no such class; `where` names file and line.
    """
    if name in classes:
        return list(classes).index(name)
    near = difflib.get_close_matches(name, classes, 1)
    shown = ", ".join(classes[:12]) + (", …" if len(classes) > 12 else "")
    remedy = f"replace {name!r} by {near[0]!r}" if near else "restore the published line; delete it if it is a header"
    raise UserError(where, f"label {name!r}", f"one of {shown}", remedy)


def require_unique(seen: dict[str, str], name: str, where: str) -> None:
    """Note in `seen` where `name` stands; refuse it if it stood elsewhere before."""
    if name in seen:
        raise UserError(where, f"{name}, already in {seen[name]}", "every clip listed once", "delete this line")
    seen[name] = where
