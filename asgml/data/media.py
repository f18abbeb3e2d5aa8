"""Decoding one media file: wav to log spectrogram, images to uint8 frames. A damaged file is never silence."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from PIL import Image, UnidentifiedImageError
from torchaudio.compliance import kaldi

from asgml.data.pictures import shown
from asgml.data.resampling import resample
from callbacks.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
DECODER = 2  # raised when a file is decoded to other values than before: shards of another number are made anew
RATES = (1000, 768_000)  # Hz of a sound file; a damaged header promises any other
CANCELLED = 0.01  # of the channels' level: a mean below it is no sound of theirs (-40 dB)


class MediaError(Exception):
    """Reports one file that cannot be used, with the reason. Preparation collects these and never stops at one."""

    def __init__(self, path: Path | str, reason: str):
        self.path, self.reason = str(path), reason
        super().__init__(f"{path}: {reason}")


# -- audio ------------------------------------------------------------------------------------------------------


def check_wav(path: Path) -> None:
    """Refuse a file that is absent, empty, or shorter than its RIFF header promises.

    libsndfile reads a truncated wav up to its end without a word, so sizes are compared here. A data size of 0 or
    0xFFFFFFFF (written by streaming encoders) promises nothing. Files without a RIFF header are left to libsndfile.

    Raises:
        MediaError: with the reason.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise MediaError(path, "no such file" if isinstance(error, FileNotFoundError) else str(error)) from error
    if size == 0:
        raise MediaError(path, "zero bytes")
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF":
            return
        if len(head) < 12 or head[8:] != b"WAVE":
            raise MediaError(path, "not a WAVE file, though its first bytes say RIFF")
        while True:
            chunk = file.read(8)
            if len(chunk) < 8:
                raise MediaError(path, "truncated: no data chunk")
            name, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            left = size - file.tell()
            if name == b"data":
                if length not in (0, 0xFFFFFFFF) and length > left:
                    raise MediaError(path, f"truncated: header promises {length} bytes of sound, {left} are there")
                if left == 0:
                    raise MediaError(path, "no sound")
                return
            if length > left:
                raise MediaError(path, "truncated: the file ends before its data chunk")
            file.seek(length + length % 2, 1)  # chunks are padded to even length


def seconds_of(path: Path) -> float | None:
    """Return the length of a sound by its header, None where it has none that can be read."""
    try:
        return float(soundfile.info(path).duration)
    except (soundfile.LibsndfileError, OSError):
        return None


def read_wav(path: Path, start: float = 0.0, end: float | None = None) -> tuple[np.ndarray, int]:
    """Read the samples from `start` to `end` seconds (None: to the end) and average the channels.

    Channels in opposite phase are refused: their average is silence.

    Returns:
        The samples as float32 (n,) with n ≥ 1, and their rate in Hz.

    Raises:
        MediaError: whatever makes the file unusable.
    """
    try:
        check_wav(path)
        with soundfile.SoundFile(path) as file:
            rate, length = file.samplerate, file.frames
            if not RATES[0] <= rate <= RATES[1]:
                raise MediaError(path, f"a sample rate of {rate} Hz, not {RATES[0]} to {RATES[1]}")
            first = min(round(start * rate), length)
            last = length if end is None else min(round(end * rate), length)
            if last <= first:
                raise MediaError(path, f"no sound between {start:g} s and {'its end' if end is None else f'{end:g} s'}")
            file.seek(first)
            wave = file.read(last - first, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise MediaError(path, f"not decodable: {error.error_string}") from error
    except OSError as error:
        raise MediaError(path, f"cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise MediaError(path, f"its header promises {last - first} samples, more than the memory holds") from error
    if len(wave) < last - first:
        raise MediaError(path, f"truncated: {last - first} samples promised, {len(wave)} decoded")
    if not np.isfinite(wave).all():
        raise MediaError(path, "NaN or infinite samples")
    mean = wave.mean(axis=1)
    if wave.shape[1] > 1 and _level(mean) < CANCELLED * _level(wave):
        raise MediaError(path, f"its {wave.shape[1]} channels are in opposite phase: their average is silence")
    return mean, rate


def _level(wave: np.ndarray) -> float:
    """Return the root mean square of samples, their offset included."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


@dataclass(frozen=True)
class OgmSpectrogram:
    """Makes the log magnitude spectrogram of OGM-GE (Peng et al., CVPR 2022): 22 050 Hz, 3 s, 257 × 188.

    The wave is tiled until it fills `seconds`, cut, and clipped to ±1; then log(|STFT| + 1e-7) with a periodic Hann
    window of `n_fft`. As in `librosa.stft`, frames are centred: n_fft/2 samples are padded at both ends, hence
    1 + samples // hop frames. `pad_mode` constant (zeros) is librosa's default from 0.9 on, reflect before; the first
    and the last frame differ. Resampling is torchaudio's windowed sinc where librosa.load has soxr.

    Attributes:
        sample_rate: the rate in Hz to which sound is resampled.
        seconds: the length that is transformed.
        n_fft: the length of a window in samples.
        hop: the samples between two windows.
        pad_mode: the padding at both ends.
    """

    sample_rate: int = 22050
    seconds: float = 3.0
    n_fft: int = 512
    hop: int = 353
    pad_mode: Literal["constant", "reflect"] = "constant"

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a spectrogram: (1, frequencies, frames)."""
        return 1, self.n_fft // 2 + 1, 1 + self._samples // self.hop

    @property
    def _samples(self) -> int:
        return int(self.sample_rate * self.seconds)

    def __call__(self, wave: np.ndarray, rate: int) -> np.ndarray:
        """Return the spectrogram of (n,) float32 samples at `rate` Hz: `shape`, float32.

        Raises:
            ValueError: less sound than one window.
        """
        x = resample(torch.from_numpy(wave), rate, self.sample_rate)
        _require_a_window(len(x), self.sample_rate, self.n_fft)
        x = x.repeat(-(-self._samples // len(x)))[: self._samples].clamp(-1.0, 1.0)
        window = torch.hann_window(self.n_fft)
        spectrum = torch.stft(
            x, self.n_fft, self.hop, window=window, center=True, pad_mode=self.pad_mode, return_complex=True
        )
        return torch.log(spectrum.abs() + 1e-7).numpy()[None]


@dataclass(frozen=True)
class Fbank:
    """Makes the Kaldi log-mel filterbank as prepared for AST and MMPareto: 128 mel, 25 ms windows every 10 ms.

    The mean is removed, `torchaudio.compliance.kaldi.fbank` (htk_compat, Hann window, no dither, no energy) applied,
    frames cut or zero-padded to as many as `seconds` of sound have, then (x + 4.503877) / (2 * 5.141276). Stored
    frequency × time, as the other profile.

    Attributes:
        sample_rate: the rate in Hz to which sound is resampled.
        seconds: the length to which frames are cut or padded.
        mels: the number of mel bands.
    """

    sample_rate: int = 16000
    seconds: float = 3.0
    mels: int = 128

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a filterbank: (1, mels, frames)."""
        window, shift = int(self.sample_rate * 0.025), int(self.sample_rate * 0.010)
        return 1, self.mels, 1 + (int(self.sample_rate * self.seconds) - window) // shift

    def __call__(self, wave: np.ndarray, rate: int) -> np.ndarray:
        """Return the filterbank of (n,) float32 samples at `rate` Hz: `shape`, float32.

        Raises:
            ValueError: less sound than one window (25 ms).
        """
        x = resample(torch.from_numpy(wave), rate, self.sample_rate)
        _require_a_window(len(x), self.sample_rate, int(self.sample_rate * 0.025))
        features = kaldi.fbank(
            (x - x.mean())[None],
            htk_compat=True,
            sample_frequency=self.sample_rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=self.mels,
            dither=0.0,
            frame_shift=10,
        )
        frames = self.shape[2]
        features = torch.nn.functional.pad(features[:frames], (0, 0, 0, max(0, frames - len(features))))
        return ((features + 4.503877) / (2 * 5.141276)).T.contiguous().numpy()[None]


AudioProfile = OgmSpectrogram | Fbank


def _require_a_window(samples: int, rate: int, window: int) -> None:
    if samples < window:
        told = f"{samples / rate * 1000:.2g} ms of sound"
        raise ValueError(f"{told}, less than one window of {window / rate * 1000:.0f} ms")


def decode_audio(path: Path, profile: AudioProfile, start: float = 0.0, end: float | None = None) -> np.ndarray:
    """Return a wav, from `start` to `end` seconds, as `profile.shape` float32.

    Raises:
        MediaError: a file that cannot be used.
    """
    wave, rate = read_wav(path, start, end)
    try:
        out = profile(wave, rate)
    except ValueError as error:
        raise MediaError(path, str(error)) from error
    if not np.isfinite(out).all():
        raise MediaError(path, "its spectrogram is not finite")
    return out


# -- images -----------------------------------------------------------------------------------------------------


def read_image(path: Path, height: int, width: int) -> np.ndarray:
    """Return an image as RGB uint8 (height, width, 3), resized bilinearly with antialiasing (see `pictures.shown`).

    Raises:
        MediaError: a file that cannot be used.
    """
    try:
        if path.stat().st_size == 0:
            raise MediaError(path, "zero bytes")
        with Image.open(path) as image:
            rgb = shown(image)
    except FileNotFoundError as error:
        raise MediaError(path, "no such file") from error
    except UnidentifiedImageError as error:
        raise MediaError(path, "not an image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what PIL's decoders raise
        raise MediaError(path, f"not decodable: {error}") from error
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def frame_files(folder: Path) -> list[Path]:
    """Return the images of a folder by name, which is their order in time.

    Raises:
        MediaError: no such folder, or no image in it.
    """
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as error:
        raise MediaError(folder, "no such folder of frames") from error
    if not files:
        raise MediaError(folder, "no image in this folder")
    return files


def spread(available: int, wanted: int) -> list[int]:
    """Return the middles of `wanted` equal stretches of range(available); some twice where `available` is smaller."""
    return [int((i + 0.5) * available / wanted) for i in range(wanted)]


def decode_frames(
    folder: Path, frames: int, height: int, width: int, start: float = 0.0, end: float | None = None
) -> np.ndarray:
    """Return the frames of `chosen_frames` as uint8 (frames, height, width, 3).

    Raises:
        MediaError: a frame that cannot be used, or none in the chosen seconds.
    """
    return np.stack([read_image(file, height, width) for file in chosen_frames(folder, frames, start, end)])


def chosen_frames(folder: Path, frames: int, start: float = 0.0, end: float | None = None) -> list[Path]:
    """Return the files of `frames` frames, spread over the clip.

    With frames at 1 per second, frame i shows second i: `start` and `end` (seconds) restrict the choice.

    Raises:
        MediaError: no frame in the chosen seconds.
    """
    files = frame_files(folder)
    chosen = files[int(start) : None if end is None else max(int(start) + 1, round(end))]
    if not chosen:
        raise MediaError(folder, f"{len(files)} frames, none at or after second {start:g}")
    return [chosen[i] for i in spread(len(chosen), frames)]


def clip_names(audio: Path, frames: Path) -> list[str]:
    """Return the clips that have a sound `<audio>/<clip>.wav` or a folder of frames `<frames>/<clip>/`, in order.

    Raises:
        UserError: there is none.
    """
    names = {p.stem for p in audio.glob("*.wav")} | {p.name for p in frames.glob("*") if p.is_dir()}
    if not names:
        found = "no clip" if audio.is_dir() or frames.is_dir() else "no such folders"
        expected = "sounds <clip>.wav and folders of frames <clip>/"
        remedy = "put the clips there, or give the folder above these two"
        raise UserError(f"{audio}, {frames}", found, expected, remedy)
    return sorted(names)
