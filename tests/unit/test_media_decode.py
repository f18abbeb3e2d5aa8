"""Decoding: the published spectrograms, and every kind of damaged file told as such."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torchaudio.compliance import kaldi

from asgml.data.media import (
    Fbank,
    MediaError,
    OgmSpectrogram,
    check_wav,
    decode_audio,
    decode_frames,
    read_image,
    read_wav,
    spread,
)


def tone(seconds: float, rate: int, amplitude: float = 0.5) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * (200 * t + 300 * t**2))).astype(np.float32)


def wav(path: Path, wave: np.ndarray, rate: int = 16000) -> Path:
    soundfile.write(path, wave, rate)
    return path


def librosa_stft(x: np.ndarray, n_fft: int, hop: int, pad: str) -> np.ndarray:
    """`librosa.stft` with centred frames, written out."""
    x = np.pad(x, n_fft // 2, mode=pad)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    frames = [x[i : i + n_fft] * window for i in range(0, len(x) - n_fft + 1, hop)]
    return np.fft.rfft(np.array(frames), axis=1).T


@pytest.mark.parametrize("pad", ["constant", "reflect"])
def test_ogm_profile_is_the_published_spectrogram(pad):
    wave = tone(1.3, 22050, 1.4)  # louder than 1, shorter than 3 s
    out = OgmSpectrogram(pad_mode=pad)(wave, 22050)
    tiled = np.clip(np.tile(wave, 3)[: 22050 * 3], -1, 1).astype(np.float64)
    expected = np.log(np.abs(librosa_stft(tiled, 512, 353, pad)) + 1e-7)
    assert out.shape == (1, 257, 188) == OgmSpectrogram().shape
    assert out.dtype == np.float32
    assert np.abs(np.exp(out[0]) - np.exp(expected)).max() < 1e-3


def test_very_short_sound_still_fills_three_seconds():
    assert OgmSpectrogram()(tone(0.2, 22050), 22050).shape == (1, 257, 188)


def test_sound_is_resampled(tmp_path):
    a = decode_audio(wav(tmp_path / "a.wav", tone(1.5, 16000)), OgmSpectrogram())
    b = decode_audio(wav(tmp_path / "b.wav", tone(1.5, 22050), 22050), OgmSpectrogram())
    assert np.abs(np.exp(a) - np.exp(b))[0, :150].mean() < 0.1  # 16 kHz has nothing above 8 kHz


def test_fbank_profile_is_kaldis_normalised():
    wave = tone(1.0, 16000)
    out = Fbank(seconds=1.0)(wave, 16000)
    x = torch.from_numpy(wave - wave.mean())[None]
    expected = kaldi.fbank(
        x,
        htk_compat=True,
        sample_frequency=16000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
    )
    assert out.shape == (1, 128, 98) == Fbank(seconds=1.0).shape
    np.testing.assert_allclose(out[0].T, (expected.numpy() + 4.503877) / (2 * 5.141276), atol=1e-5)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.7])
def test_fbank_cuts_and_pads_to_its_length(seconds):
    profile = Fbank(8000, 1.0, 32)
    out = profile(tone(seconds, 8000), 8000)
    assert out.shape == profile.shape == (1, 32, 98)
    if seconds < 1:
        np.testing.assert_allclose(out[0, :, -1], 4.503877 / (2 * 5.141276), rtol=1e-6)


def test_channels_are_averaged_and_segments_cut(tmp_path):
    stereo = np.stack([tone(2, 8000), 0 * tone(2, 8000)], axis=1)
    wave, rate = read_wav(wav(tmp_path / "s.wav", stereo, 8000), 0.5, 1.25)
    assert (len(wave), rate) == (6000, 8000)
    np.testing.assert_allclose(wave, tone(2, 8000)[4000:10000] / 2, atol=1e-4)


def damaged(path: Path, kind: str) -> Path:
    wav(path, tone(0.5, 8000), 8000)
    content = path.read_bytes()
    if kind == "truncated":
        content = content[: len(content) // 2]
    elif kind == "cut in the header":
        content = content[:20]
    elif kind == "zero bytes":
        content = b""
    elif kind == "no sound":
        content = content[:40] + bytes(4)
    elif kind == "not decodable":
        content = b"this is no sound at all" * 20
    elif kind == "not a WAVE":
        content = content[:8] + b"AVI " + content[12:]
    elif kind == "no such file":
        path.unlink()
        return path
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "kind",
    ["truncated", "cut in the header", "zero bytes", "no sound", "not decodable", "not a WAVE", "no such file"],
)
def test_damaged_wav_is_told(tmp_path, kind):
    path = damaged(tmp_path / "x.wav", kind)
    with pytest.raises(MediaError, match="truncated" if kind == "cut in the header" else kind) as error:
        read_wav(path)
    assert error.value.path == str(path)


def test_truncated_wav_is_read_by_soundfile_without_a_word(tmp_path):
    """The reason for looking at the header ourselves."""
    path = damaged(tmp_path / "x.wav", "truncated")
    assert 0 < len(soundfile.read(path)[0]) < 4000


def test_streamed_wav_of_unknown_length_is_accepted(tmp_path):
    path = wav(tmp_path / "x.wav", tone(0.5, 8000), 8000)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    check_wav(path)


def test_nan_and_segments_outside_are_told(tmp_path):
    path = tmp_path / "n.wav"
    soundfile.write(path, np.full(800, np.nan, np.float32), 8000, subtype="FLOAT")
    with pytest.raises(MediaError, match="NaN"):
        read_wav(path)
    with pytest.raises(MediaError, match="no sound between 3 s"):
        read_wav(wav(tmp_path / "o.wav", tone(1, 8000), 8000), 3.0, 5.0)
    with pytest.raises(MediaError, match="less than one window"):
        decode_audio(wav(tmp_path / "s.wav", tone(0.01, 8000), 8000), Fbank(8000))


def picture(path: Path, value: int = 100, size: tuple[int, int] = (48, 36)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def test_damaged_images_are_told(tmp_path):
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    content = picture(tmp_path / "ok.jpg", size=(300, 300)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    for name, reason in (
        ("zero", "zero bytes"),
        ("text", "not an image"),
        ("cut", "not decodable"),
        ("no", "no such"),
    ):
        with pytest.raises(MediaError, match=reason):
            read_image(tmp_path / f"{name}.jpg", 8, 8)
    assert read_image(tmp_path / "ok.jpg", 30, 20).shape == (30, 20, 3)


def test_frames_are_spread_over_the_clip_and_its_segment(tmp_path):
    for i in range(10):
        picture(tmp_path / f"f/{i * 30:05d}.jpg", 20 * i)
    (tmp_path / "f/notes.txt").write_text("not a frame")

    def seconds(count: int, *part: float) -> list[int]:
        return [round(float(f.mean()) / 20) for f in decode_frames(tmp_path / "f", count, 4, 4, *part)]

    assert seconds(1) == [5]
    assert seconds(3) == [1, 5, 8]
    assert seconds(2, 4.0, 6.0) == [4, 5]
    assert seconds(3, 9.0, 10.0) == [9, 9, 9]
    with pytest.raises(MediaError, match="none at or after"):
        decode_frames(tmp_path / "f", 1, 4, 4, 12.0, 14.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="no image"):
        decode_frames(tmp_path / "empty", 1, 4, 4)
    with pytest.raises(MediaError, match="no such folder"):
        decode_frames(tmp_path / "absent", 1, 4, 4)


def test_spread_stays_inside_and_in_order():
    for available in range(1, 12):
        for wanted in range(1, 8):
            chosen = spread(available, wanted)
            assert chosen == sorted(chosen)
            assert len(chosen) == wanted
            assert 0 <= chosen[0] <= chosen[-1] < available
            assert wanted > available or len(set(chosen)) == wanted
