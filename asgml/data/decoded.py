# No `from __future__ import annotations` here: subclasses in other modules inherit these fields, and their generated
# constructors must carry the types themselves, not names that would be looked up in the subclass's module.
"""What every source of media files shares: how they are decoded, once, to shards, and what unusable files mean."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from asgml.data.contents import SIZE
from asgml.data.media import AudioProfile, Fbank, MediaError, OgmSpectrogram
from asgml.data.ranges import Bands, Frames, Pixels, SampleRate, Seconds
from asgml.data.shard_rows import Shard
from asgml.data.shards import ShardJob, all_there, check_space, renews, stale_rows, write_shard
from asgml.data.spec import Split
from callbacks.errors import UserError
from callbacks.ranges import PositiveShare

log = logging.getLogger(__name__)

BLOCK = 1 << 20  # bytes of a file that are hashed in one go
RATES = {"ogm": 22050, "fbank": 16000}  # Hz, as published with each profile


@dataclass
class DecodedSource:
    """Decodes the media files of a data set; a subclass says which (`jobs`), in which lists they stand and its splits.

    The constructor reads no file.

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
    OBTAIN: ClassVar[str] = ""  # where to get it

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

    # -- what a subclass says -----------------------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """The folder with lists and media."""
        return Path(self.path)

    @property
    def list_files(self) -> dict[str, Path]:
        """The lists that name the files, by their name."""
        return {}

    def jobs(self) -> dict[str, ShardJob]:
        """Return what is decoded of each modality, read off the lists.

        Raises:
            UserError: lists that are absent, unreadable or contradictory, naming file and line.
        """
        raise NotImplementedError

    def sizes(self) -> dict[Split, int]:
        """Return the number of samples of each split, read off the lists.

        Raises:
            UserError: as `jobs`.
        """
        raise NotImplementedError

    def media(self) -> list[Path]:
        """Return the files, and folders of frames, that are decoded.

        Raises:
            UserError: as `jobs`.
        """
        raise NotImplementedError

    def require_media(self) -> None:
        """Refuse a data set of which nothing is there, before any shard is written."""
        raise NotImplementedError

    def place_of(self, modality: str, name: str) -> str:
        """Return what stands before the path of an unusable file in an error: its place in a list, or nothing."""
        return ""

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
        jobs = source.jobs()
        if not all_there(jobs.values()):
            return {}
        for modality, job in jobs.items():
            if stale_rows(job):
                write_shard(job, title=f"{source.NAME}: {modality}")
        return {f"prepared/{modality}": job.folder / "data.npy" for modality, job in jobs.items()}

    @classmethod
    def files_behind(cls, arguments: Mapping[str, Any]) -> list[Path]:
        """Return the media, folders of frames with what is in them."""
        places = cls(**arguments).media()
        return [*places, *(file for place in places if place.is_dir() for file in place.iterdir())]

    # -- preparation --------------------------------------------------------------------------------------------

    @property
    def profile(self) -> AudioProfile:
        """The audio profile with its parameters."""
        rate = RATES[self.audio] if self.sample_rate is None else self.sample_rate
        if self.audio == "ogm":
            return OgmSpectrogram(rate, self.seconds, pad_mode=self.pad_mode)
        return Fbank(rate, self.seconds, self.mels)

    def prepare(self, workers: int = 1) -> None:
        """Decode every listed file once; done twice, it does nothing, and it continues after an interruption.

        Raises:
            UserError: lists or media that are not there, or too little room on the disk.
        """
        self._decode(self.jobs(), self.require_media, workers)

    def _decode(self, jobs: Mapping[str, ShardJob], require: Callable[[], None], workers: int = 1) -> None:
        if not all_there(jobs.values()):
            require()
            check_space(list(jobs.values()))
        for modality, job in jobs.items():
            write_shard(job, workers, f"{self.NAME}: {modality}")

    def shards(self) -> dict[str, Shard]:
        """Return the shard of every modality, prepared where it is not yet.

        Raises:
            UserError: as `prepare`; files that are unusable, under `corrupt: refuse`, or a modality without any other.
        """
        return self.shards_of(self.jobs(), self.require_media)

    def shards_of(
        self,
        jobs: Mapping[str, ShardJob],
        require: Callable[[], None],
        place_of: Callable[[str, str], str] | None = None,
    ) -> dict[str, Shard]:
        """Return the shard of every job, as `shards`.

        Args:
            jobs: what is decoded, by modality.
            require: refuses media of which nothing is there, before any shard is written.
            place_of: what stands before the path of an unusable file; None is the method of that name.
        """
        if not all_there(jobs.values()) or any(renews(Shard(job.folder)) for job in jobs.values()):
            self._decode(jobs, require)
        shards = {modality: Shard(job.folder) for modality, job in jobs.items()}
        for modality, shard in shards.items():
            self._report(modality, shard, place_of or self.place_of)
        return shards

    def told_of(self, modality: str, shard: Shard, names: Iterable[str]) -> list[str]:
        """Return a line that counts silent sounds, or pictures of one colour, among some samples, if there are any."""
        names = [name for name in names if name]
        blank = shard.blank_among(names)
        what = "pictures of one colour" if shard.dtype == "uint8" else "silent"
        told = f"{len(blank)} of {len(set(names))} files are {what} (first: {blank[0]})" if blank else ""
        return [f"{modality}: {told}"] if told else []

    @property
    def prepared_root(self) -> Path:
        """The folder of the shards."""
        return Path(self.prepared) if self.prepared else self.root / "prepared"

    def _report(self, modality: str, shard: Shard, place_of: Callable[[str, str], str]) -> None:
        if not shard.bad:
            return
        listing = shard.folder / "corrupt.csv"
        found = f"{len(shard.bad)} of {len(shard.ids)} {modality} files cannot be used: " + "; ".join(
            f"{place_of(modality, shard.ids[row])}{path} ({reason})" for row, path, reason in shard.bad[:3]
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
                f" or set data.corrupt=missing to use these samples without {modality}",
            )
        log.warning("%s: %s; treated as missing (all of them: %s)", self.NAME, found, listing)


def content_of(files: Sequence[Path], *part: object) -> str:
    """Return 16 hex digits of the BLAKE2b of what files hold, whatever they are called.

    Args:
        files: the files.
        part: what else tells which part of them is meant.

    Raises:
        MediaError: a file that cannot be read.
    """
    found = hashlib.blake2b(json.dumps([len(files), *part]).encode(), digest_size=SIZE)
    for path in files:
        try:
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    found.update(block)
        except OSError as error:
            raise MediaError(path, f"cannot be read: {error.strerror}") from error
    return found.hexdigest()
