# No `from __future__ import annotations` here: subclasses in other modules inherit these fields, and their generated
# constructors must carry the types themselves, not names that would be looked up in the subclass's module.
"""What every list of audio-visual clips shares: reading lists, preparing shards, tables."""

import csv
import dataclasses
import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np

from asgml.data.media import AudioProfile, Fbank, OgmSpectrogram, clip_names, decode_audio, decode_frames
from asgml.data.media_transforms import ImageTransform, SpectrogramTransform
from asgml.data.new_samples import require_alike
from asgml.data.ranges import Bands, Frames, Pixels, SampleRate, Seconds
from asgml.data.shard_rows import Shard
from asgml.data.shards import ShardJob, all_there, check_space, fingerprint, renews, stale_rows, stamp_of, write_shard
from asgml.data.spec import DataSpec, Kind, ModalitySpec, Split, Table, Transform
from callbacks.errors import UserError
from callbacks.ranges import PositiveShare

log = logging.getLogger(__name__)

RATES = {"ogm": 22050, "fbank": 16000}  # Hz, as published with each profile


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
class MediaSource:
    """Reads audio-visual clips named by lists; a subclass adds `class_names`, `clips` and what the data set is called.

    The constructor reads no file. `tables` prepares what is not prepared.

    Args:
        path: the root of the data set.
        audio: the audio profile, `ogm` (log magnitude spectrogram) or `fbank` (Kaldi log-mel); see `asgml.data.media`.
        sample_rate: the rate in Hz to which sound is resampled; null is 22050 for ogm and 16000 for fbank.
        seconds: the length of the audio input.
        mels: the number of mel bands of fbank.
        pad_mode: the padding of ogm's STFT.
        frames: the number of frames per clip, spread over it. One gives an image (3, size, size), several give frames
            (T, 3, size, size).
        size: the side of the visual encoder's square input in pixels.
        store: the height and width of the stored frames; with the aspect ratio of the originals, random crops are those
            of the published protocols.
        crop_scale: the range of the training crop's share of the area.
        prepared: the folder of the shards; null is `<root>/prepared`.
        corrupt: what unusable or absent files mean: `refuse` (an error that lists them) or `missing` (the sample stays,
            without that modality).

    Raises:
        UserError: a parameter out of its range.
    """

    NAME: ClassVar[str] = "data"
    EXPERIMENT: ClassVar[str] = ""  # its experiment, as in experiment=…
    LAYOUT: ClassVar[str] = ""  # the folders and files under `path`, one a line
    OBTAIN: ClassVar[str] = ""  # where to get it
    DOMINANT: ClassVar[str | None] = None
    GROUPED_BY: ClassVar[str | None] = None  # what `Clip.group` is, where several clips share one

    path: str
    audio: Literal["ogm", "fbank"] = "ogm"
    sample_rate: SampleRate | None = None
    seconds: Seconds = 3.0
    mels: Bands = 128
    pad_mode: Literal["constant", "reflect"] = "constant"
    frames: Frames = 1
    size: Pixels = 224
    store: list[Pixels] = field(default_factory=lambda: [256, 256])
    crop_scale: list[PositiveShare] = field(default_factory=lambda: [0.08, 1.0])
    prepared: str | None = None
    corrupt: Literal["refuse", "missing"] = "refuse"

    def __post_init__(self) -> None:
        self.store, self.crop_scale = list(self.store), list(self.crop_scale)
        low, high = [*self.crop_scale, 0, 0][:2]
        rate_fits = self.sample_rate is None or self.sample_rate >= 1000
        scale_fits = len(self.crop_scale) == 2 and 0 < low <= high <= 1
        self.require("audio", self.audio in RATES, "ogm or fbank", "ogm")
        self.require("sample_rate", rate_fits, "1000 Hz or more, or null", "null")
        self.require("seconds", self.seconds >= 0.05, "0.05 or more", "3.0")
        self.require("mels", self.mels >= 1, "1 or more", "128")
        self.require("frames", self.frames >= 1, "1 or more", "1")
        self.require("size", self.size >= 1, "1 or more", "224")
        self.require("store", len(self.store) == 2 and min(self.store) >= 1, "height and width", "[256,256]")
        self.require("crop_scale", scale_fits, "[low, high] with 0 < low <= high <= 1", "[0.08,1.0]")

    def require(self, key: str, fits: bool, expected: str, example: str) -> None:
        """Refuse the value of the parameter `key` unless it `fits`; the remedy sets it to `example`."""
        if not fits:
            raise UserError(f"data.{key}", str(getattr(self, key)), expected, f"set data.{key}={example}")

    # -- what a data set says about itself ----------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """The folder with lists and media."""
        return Path(self.path)

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

    @property
    def list_files(self) -> dict[str, Path]:
        """The lists that `clips` reads, by their name."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what `DataSpec.notes` says beside source and policy, known without reading a file."""
        return {}

    # -- what a run reads (see `suite.runs.reads`) ------------------------------------------------------------------

    @classmethod
    def input_files(cls, arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Return the lists; of the media, what a run reads are the shards."""
        return {f"path/{name}": path for name, path in cls(**arguments).list_files.items()}

    @classmethod
    def derived_files(cls, arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Return the prepared shards, media that have changed since decoded again; {} before preparation."""
        source = cls(**arguments)
        if not source.list_files or not all(path.is_file() for path in source.list_files.values()):
            return {}
        jobs = source._jobs(source.clips())
        if not all_there(jobs.values()):
            return {}
        for modality, job in jobs.items():
            if stale_rows(job):
                write_shard(job, title=f"{source.NAME}: {modality}")
        return {f"prepared/{modality}": job.folder / "data.npy" for modality, job in jobs.items()}

    # -- the Source interface -----------------------------------------------------------------------------------

    @property
    def profile(self) -> AudioProfile:
        """The audio profile with its parameters."""
        rate = RATES[self.audio] if self.sample_rate is None else self.sample_rate
        if self.audio == "ogm":
            return OgmSpectrogram(rate, self.seconds, pad_mode=self.pad_mode)
        return Fbank(rate, self.seconds, self.mels)

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

    def prepare(self, workers: int = 1) -> None:
        """Decode every listed clip once; done twice, it does nothing, and it continues after an interruption.

        Raises:
            UserError: lists or media that are not there, or too little room on the disk.
        """
        self._prepare(self.clips(), workers)

    def _prepare(self, splits: Mapping[Split, list[Clip]], workers: int = 1) -> None:
        jobs = self._jobs(splits)
        if not all_there(jobs.values()):
            self._require_media(splits)
            check_space(list(jobs.values()))
        for modality, job in jobs.items():
            write_shard(job, workers, f"{self.NAME}: {modality}")

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
        jobs = self._jobs(splits)
        if not all_there(jobs.values()) or any(renews(Shard(job.folder)) for job in jobs.values()):
            self._prepare(splits)
        shards = {modality: Shard(job.folder) for modality, job in jobs.items()}
        for modality, shard in shards.items():
            self._report(modality, shard)
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
            tables[split] = Table(x, present, y, ids, transforms, group=group, grouped_by=self.GROUPED_BY or "group")
        return tables

    # -- shards -------------------------------------------------------------------------------------------------

    @property
    def prepared_root(self) -> Path:
        """The folder of the shards."""
        return Path(self.prepared) if self.prepared else self.root / "prepared"

    def _jobs(self, splits: Mapping[Split, list[Clip]]) -> dict[str, ShardJob]:
        """Return one job per modality over the clips of all splits, by id: every way to split shares its shards."""
        clips = sorted((clip for listed in splits.values() for clip in listed), key=lambda clip: clip.id)
        ids = [clip.id for clip in clips]
        profile, (height, width), root = self.profile, self.store, self.root

        def job(
            modality: str, name: str, shape: tuple[int, ...], dtype: str, params: dict[str, Any], **calls: Any
        ) -> ShardJob:
            files = [[c.id, c.audio if modality == "audio" else c.frames, c.start, c.end] for c in clips]
            code = fingerprint([self.NAME, modality, params, files])
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
            ),
        }

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
                "no such folder",
                f"{self.NAME} under data.path={self.path}{layout}",
                f"{self.OBTAIN}; then set data.path to its folder, and decode it once:"
                f" python -m asgml.data.prepare experiment={self.EXPERIMENT} data.path={self.path}",
            )

    def _report(self, modality: str, shard: Shard) -> None:
        if not shard.bad:
            return
        listing = shard.folder / "corrupt.csv"
        found = f"{len(shard.bad)} of {len(shard.ids)} {modality} files cannot be used: " + "; ".join(
            f"{path} ({reason})" for _, path, reason in shard.bad[:3]
        )
        if len(shard.bad) > 3:
            found += "; …"
        if len(shard.bad) == len(shard.ids):
            raise UserError(
                f"{self.NAME}, modality {modality}: missing everywhere, see {listing}",
                found,
                "at least one usable file",
                f"{self.OBTAIN}; then run the same command again",
            )
        if self.corrupt == "refuse":
            raise UserError(
                str(listing),
                found,
                "every listed file decodable",
                "replace these files and start the same command again,"
                f" or set data.corrupt=missing to train on these samples without {modality}",
            )
        log.warning("%s: %s; treated as missing (all of them: %s)", self.NAME, found, listing)


# -- lists ------------------------------------------------------------------------------------------------------


def read_rows(path: Path, delimiter: str, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return (line number, fields) of each line of a list file; blank lines and a byte order mark are passed over.

    Raises:
        UserError: a file that is absent, empty or not text, or a line of another number of columns.
    """
    layout = delimiter.join(columns)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        remedy = f"set data.path to the folder that holds {path.name}"
        raise UserError(str(path), "no such file", f"a list of lines {layout}", remedy) from error
    except UnicodeDecodeError as error:
        raise UserError(str(path), f"not UTF-8 text ({error.reason})", f"lines {layout}", "save it as UTF-8") from error
    rows = []
    reader = csv.reader(text.splitlines(), delimiter=delimiter, quoting=csv.QUOTE_NONE)
    for number, fields in enumerate(reader, start=1):
        if not any(f.strip() for f in fields):
            continue
        if len(fields) != len(columns) or not all(f.strip() for f in fields):
            remedy = f"restore the published line: {len(columns)} fields, none empty"
            raise UserError(f"{path}, line {number}", delimiter.join(fields), layout, remedy)
        rows.append((number, [f.strip() for f in fields]))
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
    remedy = f"replace {name!r} by {near[0]!r}" if near else "restore the published line"
    raise UserError(where, f"label {name!r}", f"one of {shown}", remedy)


def require_unique(seen: dict[str, str], name: str, where: str) -> None:
    """Note in `seen` where `name` stands; refuse it if it stood elsewhere before."""
    if name in seen:
        raise UserError(where, f"{name}, already in {seen[name]}", "every clip listed once", "delete this line")
    seen[name] = where
