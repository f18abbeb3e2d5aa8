"""Sounds and pictures: decoded to finite numbers of the promised shape, or refused; never slow, never silent damage."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fuzzing import damaged, fuzz
from hypothesis import strategies as st
from PIL import Image

from asgml.data.media import Fbank, OgmSpectrogram, decode_audio, decode_frames, read_image

PROFILES = (OgmSpectrogram(8000, 0.2), Fbank(8000, 0.2, 8))


def sound(form: str, subtype: str, channels: int = 1) -> bytes:
    out = io.BytesIO()
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, channels))
    soundfile.write(out, wave, 8000, format=form, subtype=subtype)
    return out.getvalue()


@st.composite
def waves(draw: st.DrawFn) -> bytes:
    """A RIFF file whose header says anything."""
    rate = draw(st.sampled_from([0, 1, 7999, 8001, 22051, 44101, 767_999, 2**31, 2**32 - 1]) | st.integers(1, 200_000))
    channels, bits = draw(st.sampled_from([1, 1, 2, 0, 7, 65535])), draw(st.sampled_from([16, 8, 24, 32, 0, 64, 65535]))
    kind = draw(st.sampled_from([1, 3, 2, 6, 7, 17, 0xFFFE]))
    block = channels * bits // 8 & 0xFFFF
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * block & 0xFFFFFFFF, block, bits)
    body = draw(st.sampled_from([b"", b"\0", b"\1\2" * 2000, b"\0" * 9000, b"\xff\x7f" * 8000]))
    size = draw(st.sampled_from([len(body), len(body), 0, 1, 2**32 - 1, 2**31]))
    content = b"fmt " + struct.pack("<I", draw(st.sampled_from([16, 16, 18, 2**31]))) + form
    content += b"data" + struct.pack("<I", size) + body
    return b"RIFF" + struct.pack("<I", len(content) + 4 & 0xFFFFFFFF) + b"WAVE" + content


@pytest.mark.parametrize("profile", PROFILES, ids=["ogm", "fbank"])
def test_sounds(profile: OgmSpectrogram | Fbank, tmp_path: Path) -> None:
    kinds = [sound("WAV", "PCM_16"), sound("WAV", "FLOAT", 2), sound("FLAC", "PCM_16"), sound("OGG", "VORBIS")]

    def act(data: bytes) -> None:
        (tmp_path / "x.wav").write_bytes(data)
        for start, end in ((0.0, None), (0.1, 0.2)):
            found = decode_audio(tmp_path / "x.wav", profile, start, end)
            assert found.shape == profile.shape
            assert np.isfinite(found).all()

    fuzz("sounds", 50, waves() | st.one_of(*map(damaged, kinds)), act)


def picture(mode: str, form: str) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 7)).astype(np.uint16)
    image = Image.fromarray(pixels) if mode == "I;16" else Image.fromarray((pixels >> 8).astype(np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(out, form, **({"exif": exif} if form != "GIF" else {}))
    return out.getvalue()


PICTURES = [
    ("RGB", "PNG"),
    ("P", "PNG"),
    ("I;16", "PNG"),
    ("RGBA", "PNG"),
    ("1", "PNG"),
    ("L", "JPEG"),
    ("CMYK", "JPEG"),
]
OTHERS = [("F", "TIFF"), ("I", "TIFF"), ("RGB", "BMP"), ("P", "GIF"), ("LAB", "TIFF"), ("RGB", "WEBP")]


@pytest.mark.parametrize("folder", [False, True], ids=["picture", "frames"])
def test_pictures(folder: bool, tmp_path: Path) -> None:
    """By what they hold, not by what they are called: a .png may be any picture that Pillow knows."""
    kinds = [picture(mode, form) for mode, form in PICTURES + OTHERS]
    head = st.tuples(st.sampled_from([1, 8, 70_000, 2**31 - 1, 2**32 - 1]), st.sampled_from([1, 8, 70_000, 2**31]))
    huge = head.map(lambda size: kinds[0][:16] + struct.pack(">II", *size) + kinds[0][24:])

    def act(data: bytes) -> None:
        (tmp_path / "x.png").write_bytes(data)
        found = decode_frames(tmp_path, 2, 6, 5) if folder else read_image(tmp_path / "x.png", 6, 5)[None]
        assert (found.shape[1:], found.dtype) == ((6, 5, 3), np.uint8)

    fuzz("pictures", 60, huge | st.one_of(*map(damaged, kinds)), act)
