"""AV-digits: spoken digits (FSDD) paired by label with handwritten ones (MNIST)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch

from asgml.data.counter_rng import integers, shuffled
from asgml.data.idx import FETCH, idx_path, read_idx
from asgml.data.spec import SPLITS, DataSpec, ModalitySpec, Split, Table
from callbacks.errors import UserError, no_folder
from callbacks.ranges import Count, Seed

FSDD = "github.com/Jakobovski/free-spoken-digit-dataset"
RATE = 8000
MELS, FRAMES, HOP, WINDOW = 32, 64, 100, 256
SECONDS = FRAMES * HOP / RATE  # 0.8 s holds 98 % of the recordings whole
RANGE_DB = 60.0
MNIST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")
_OFFICIAL_TEST = range(0, 5)
_OFFICIAL_VAL = range(5, 10)


@dataclass(frozen=True)
class Recordings:
    """All of FSDD, decoded.

    Attributes:
        mel: (n, MELS, FRAMES) float32 in [0, 1].
        digit: (n,) the digit that is spoken.
        speaker: (n,) the speaker's name.
        take: (n,) the number of the take among those of its speaker and digit.
        names: the n file names without suffix.
    """

    mel: np.ndarray
    digit: np.ndarray
    speaker: np.ndarray
    take: np.ndarray
    names: list[str]


def log_mel(waves: torch.Tensor) -> torch.Tensor:
    """Return the mel spectrograms (n, MELS, FRAMES) of samples (n, FRAMES * HOP), float32 in [0, 1].

    A cell is its power in dB under the loudest cell of its recording, because speakers differ in loudness; -60 dB and
    less become 0, the loudest cell 1. Padding is 0.
    """
    from torchaudio.functional import melscale_fbanks

    window = torch.hann_window(WINDOW)
    stft = torch.stft(waves, WINDOW, HOP, window=window, center=True, pad_mode="constant", return_complex=True)
    power = stft[..., :FRAMES].abs().square()
    banks = melscale_fbanks(WINDOW // 2 + 1, 60.0, RATE / 2, MELS, RATE)
    db = 10 * torch.log10((power.transpose(1, 2) @ banks).transpose(1, 2) + 1e-10)
    return (1 + (db - db.amax(dim=(1, 2), keepdim=True)) / RANGE_DB).clamp(0, 1)


def _read_wav(path: Path) -> np.ndarray:
    """Return the mono samples of a file at 8 kHz, centred in SECONDS (padded, or cut at both ends)."""
    remedy = f"clone {FSDD} and copy recordings/{path.name} to this place"
    try:
        wave, rate = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise UserError(str(path), f"unreadable: {error}", "a wav file", remedy) from error
    if rate != RATE or wave.ndim != 1 or not len(wave):
        raise UserError(str(path), f"{rate} Hz, shape {wave.shape}", f"{RATE} Hz, mono, not empty", remedy)
    # A cut file may decode without an error, because the header's length is not enforced by every decoder.
    with path.open("rb") as file:
        promised = int.from_bytes(file.read(8)[4:], "little") + 8
    if promised > path.stat().st_size:
        found = f"{path.stat().st_size} bytes, the header promises {promised}"
        raise UserError(str(path), found, "a complete wav file", remedy)
    length = FRAMES * HOP
    out = np.zeros(length, dtype=np.float32)
    if len(wave) > length:
        start = (len(wave) - length) // 2
        out[:] = wave[start : start + length]
    else:
        start = (length - len(wave)) // 2
        out[start : start + len(wave)] = wave
    return out


def recordings(root: Path) -> list[Path]:
    """Return the files `root/fsdd/*.wav`, or `root/fsdd/recordings/*.wav` where there is such a folder, in order."""
    folder = root / "fsdd"
    return sorted((folder / "recordings" if (folder / "recordings").is_dir() else folder).glob("*.wav"))


@lru_cache(maxsize=1)  # the runs of one sweep share what is decoded
def load_recordings(root: Path) -> Recordings:
    """Read and decode `root/fsdd/*.wav` (or `root/fsdd/recordings/*.wav`), about two seconds for all 3000.

    Raises:
        UserError: no recording, a file of another name, or one that cannot be decoded.
    """
    paths = recordings(root)
    if not paths:
        folder = root / "fsdd"
        raise UserError(
            str(folder),
            "no .wav file" if folder.is_dir() else no_folder(folder),
            "the Free Spoken Digit Dataset: <digit>_<speaker>_<n>.wav",
            f"clone {FSDD} to this place, or set paths.data to the folder that holds fsdd/",
        )
    fields = []
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise UserError(
                str(path),
                f"file name {path.name}",
                "<digit>_<speaker>_<n>.wav",
                f"move {path.name} out of this folder, or rename it to that pattern",
            )
        fields.append((int(match[1]), match[2], int(match[3])))
    waves = np.stack([_read_wav(p) for p in paths])
    mel = torch.cat([log_mel(part) for part in torch.from_numpy(waves).split(500)]).numpy()
    digit, speaker, take = (np.array(column) for column in zip(*fields))
    return Recordings(mel, digit, speaker, take, [p.stem for p in paths])


def load_images(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the MNIST test images (n, 28, 28) uint8 and their labels (n,) int64 from `root/mnist`.

    Raises:
        UserError: files that are absent or damaged, or that do not belong together.
    """
    folder = root / "mnist"
    images, labels = (read_idx(folder, name) for name in MNIST)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or labels.max() > 9:
        found = f"images {images.shape}, labels {labels.shape} up to {labels.max()}"
        raise UserError(str(folder), found, "n images of 28 x 28 and n labels 0-9", f"delete both files and {FETCH}")
    return images, labels.astype(np.int64)


class ShiftedImage:
    """Turns images (b, H, W) into (b, 1, H, W) float32: standardised, and shifted in training.

    Args:
        mean: the mean to subtract, in raw values.
        std: the standard deviation to divide by, in raw values.
        reach: the largest shift in rows and in columns.
        fill: the raw value that is shifted in.
    """

    def __init__(self, mean: float, std: float, reach: tuple[int, int], fill: float = 0.0):
        self.mean, self.std, self.reach, self.fill = mean, std, reach, fill

    def __call__(self, raw: np.ndarray, keys: np.ndarray, train: bool) -> torch.Tensor:
        x = raw.astype(np.float32)
        if train and any(self.reach):
            (up, left), (_, height, width) = self.reach, x.shape
            pad = np.pad(x, ((0, 0), (up, up), (left, left)), constant_values=self.fill)
            i = integers(keys, "rows", 0, 2 * up + 1)[:, None] + np.arange(height)
            j = integers(keys, "columns", 0, 2 * left + 1)[:, None] + np.arange(width)
            x = pad[np.arange(len(x))[:, None, None], i[:, :, None], j[:, None, :]]
        return torch.from_numpy((x - np.float32(self.mean)) / np.float32(self.std)).unsqueeze(1)

    def fitted(self) -> dict[str, np.ndarray]:
        """Return what the training split has given it (see `asgml.data.preprocessing.Fitted`)."""
        return {"mean": np.array(self.mean), "std": np.array(self.std)}

    def refitted(self, numbers: Mapping[str, np.ndarray], where: str) -> ShiftedImage:
        """Return it with mean and standard deviation of another training split."""
        return ShiftedImage(float(numbers["mean"]), float(numbers["std"]), self.reach, self.fill)


class AVDigits:
    """Pairs ten digits, heard and seen: audio is a (1, 32, 64) log-mel of 0.8 s, visual a (1, 28, 28) image.

    Splits share neither recordings nor images: images are cut by index, 4 : 1 : 1, in file order, because neighbours
    may share a writer.

    Args:
        path: the folder that holds `fsdd/` and `mnist/` (idx files, plain or .gz).
        split: `speaker_disjoint` keeps the speakers apart too; `official` is FSDD's own test split (takes 0-4 of every
            speaker and digit), with takes 5-9 cut from train as val.
        val_speakers: the speakers of val under `speaker_disjoint`.
        test_speakers: the speakers of test under `speaker_disjoint`; all others train.
        copies: the pairings per training recording, each with another image. Val and test have one.
        pairing_seed: the seed that decides which image goes with which recording. Not the run's seed: the seeds of a
            study share their data.
        augment: whether training shifts audio by up to 4 frames in time and images by up to 2 pixels.
    """

    def __init__(
        self,
        path: str,
        split: Literal["speaker_disjoint", "official"] = "speaker_disjoint",
        val_speakers: list[str] | None = None,
        test_speakers: list[str] | None = None,
        copies: Count = 1,
        pairing_seed: Seed = 0,
        augment: bool = True,
    ):
        self.path = path
        self.split = split
        self.val_speakers = list(val_speakers) if val_speakers is not None else ["theo"]
        self.test_speakers = list(test_speakers) if test_speakers is not None else ["yweweler"]
        self.copies, self.pairing_seed, self.augment = copies, pairing_seed, augment
        self._tables: dict[Split, Table] | None = None
        self._notes: dict[str, Any] = {}

    @staticmethod
    def input_files(arguments: Mapping[str, Any]) -> dict[str, Path | list[Path]]:
        """Return the recordings as one input, and both MNIST files (see `suite.runs.reads`)."""
        root = Path(arguments["path"]).expanduser()
        images = {f"path/mnist/{name}": path for name in MNIST if (path := idx_path(root / "mnist", name)) is not None}
        return {"path/fsdd": recordings(root), **images}

    def prepare(self, workers: int = 1) -> None:
        """Do nothing: the 3000 recordings are decoded into memory in seconds."""

    def modality_names(self) -> list[str]:
        return ["audio", "visual"]

    def spec(self) -> DataSpec:
        self.tables()
        modalities = {
            "audio": ModalitySpec("audio", "image", (1, MELS, FRAMES)),
            "visual": ModalitySpec("visual", "image", (1, 28, 28)),
        }
        return DataSpec(modalities, [str(d) for d in range(10)], None, self._notes)

    def tables(self) -> dict[Split, Table]:
        if self._tables is not None:
            return self._tables
        if self.copies < 1:
            raise UserError("data.copies", str(self.copies), "1 or more", "set data.copies=1")
        root = Path(self.path).expanduser()
        heard = load_recordings(root)
        images, labels = load_images(root)
        audio_rows = self._split_recordings(heard)
        cuts = np.cumsum([0, *(len(labels) * share // 6 for share in (4, 1))])
        image_rows = {s: np.arange(a, b) for s, a, b in zip(SPLITS, cuts, [*cuts[1:], len(labels)])}
        self._tables = self._pair(heard, images, labels, audio_rows, image_rows)
        self._notes |= {
            "recordings": {s: len(audio_rows[s]) for s in SPLITS},
            "images": {s: f"{image_rows[s][0]}-{image_rows[s][-1]}" for s in SPLITS},
            "pairings per training recording": self.copies,
        }
        return self._tables

    def _split_recordings(self, recordings: Recordings) -> dict[Split, np.ndarray]:
        if self.split == "official":
            val, test = (np.isin(recordings.take, list(t)) for t in (_OFFICIAL_VAL, _OFFICIAL_TEST))
            self._notes["split"] = "official: takes 0-4 test; takes 5-9 cut from train as val"
        elif self.split == "speaker_disjoint":
            self._check_speakers(sorted(set(recordings.speaker.tolist())))
            val, test = (np.isin(recordings.speaker, s) for s in (self.val_speakers, self.test_speakers))
            told = f"val {', '.join(self.val_speakers)}; test {', '.join(self.test_speakers)}; the others train"
            self._notes["split"] = f"speaker_disjoint: {told}"
        else:
            raise UserError("data.split", repr(self.split), "speaker_disjoint or official", "set data.split=official")
        return {"train": np.flatnonzero(~val & ~test), "val": np.flatnonzero(val), "test": np.flatnonzero(test)}

    def _check_speakers(self, known: list[str]) -> None:
        for key, names in (("val_speakers", self.val_speakers), ("test_speakers", self.test_speakers)):
            unknown = [n for n in names if n not in known]
            if unknown or not names:
                found = f"unknown speaker {unknown[0]!r}" if unknown else "an empty list"
                raise UserError(f"data.{key}", found, f"some of {', '.join(known)}", f"set data.{key}=[{known[0]}]")
        both = sorted(set(self.val_speakers) & set(self.test_speakers))
        if both or len(set(self.val_speakers) | set(self.test_speakers)) == len(known):
            found = f"{', '.join(both)} in both" if both else "every speaker in val or test"
            expected = "disjoint val and test speakers, and others to train on"
            remedy = f"set data.val_speakers=[{known[0]}] data.test_speakers=[{known[-1]}], for example"
            raise UserError("data.val_speakers, data.test_speakers", found, expected, remedy)

    def _pair(
        self,
        recordings: Recordings,
        images: np.ndarray,
        labels: np.ndarray,
        audio_rows: Mapping[Split, np.ndarray],
        image_rows: Mapping[Split, np.ndarray],
    ) -> dict[Split, Table]:
        """Pair by label inside each split; an image comes again only after all others of its digit."""
        train_mel = recordings.mel[audio_rows["train"]]
        train_pixels = images[image_rows["train"]]
        shift = int(self.augment)
        transforms = {
            "audio": ShiftedImage(float(train_mel.mean()), float(train_mel.std()), (0, 4 * shift)),
            "visual": ShiftedImage(float(train_pixels.mean()), float(train_pixels.std()), (2 * shift, 2 * shift)),
        }
        tables: dict[Split, Table] = {}
        for split in SPLITS:
            copies = self.copies if split == "train" else 1
            heard = np.tile(audio_rows[split], copies)
            seen = np.empty(len(heard), dtype=np.int64)
            for digit in range(10):
                of_digit = np.flatnonzero(recordings.digit[heard] == digit)
                pool = image_rows[split][labels[image_rows[split]] == digit]
                if len(of_digit) and copies > len(pool):
                    raise UserError(
                        "data.copies" if copies > 1 else str(Path(self.path) / "mnist"),
                        f"{copies} pairing(s) per recording, {len(pool)} {split} image(s) of digit {digit}",
                        "at least as many images as pairings",
                        f"set data.copies={len(pool)}" if len(pool) else f"delete the MNIST files and {FETCH}",
                    )
                pool = pool[shuffled(len(pool), self.pairing_seed, f"{split} {digit}")]
                seen[of_digit] = pool[np.arange(len(of_digit)) % max(1, len(pool))]
            tables[split] = Table(
                x={"audio": recordings.mel[heard], "visual": images[seen]},
                present={m: np.ones(len(heard), dtype=bool) for m in transforms},
                y=recordings.digit[heard].astype(np.int64),
                ids=[f"{recordings.names[a]}+{v:05d}" for a, v in zip(heard, seen)],
                transforms=dict(transforms),
                group=recordings.speaker[heard],
                grouped_by="speaker",
            )
        return tables
