"""Media that decode without a word to something else than what was recorded: refused, or counted in the data line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from PIL import Image
from test_data_table import SMALL, load, write

from asgml.data.ave import Ave
from asgml.data.cremad import EMOTIONS
from asgml.data.csv_table import CsvTable
from asgml.data.media import Fbank, MediaError, OgmSpectrogram, decode_audio, read_image, read_wav
from asgml.data.media_source import label_of, read_rows
from asgml.data.resampling import _polyphase, resample
from asgml.data.spec import DataSpec, ModalitySpec, Split, Table
from asgml.data.standardize import Tokens
from asgml.data.validate import validate
from callbacks.errors import UserError

COLUMNS = ("id", "LABEL")

# -- sounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), [(22051, 8000), (44101, 16000), (8000, 22051), (16001, 16000)])
def test_any_two_rates_are_resampled_in_little_memory(source: int, target: int) -> None:
    """A tone stays that tone; a filter per phase would be 176 million numbers from 22 051 to 8 000 Hz."""
    time = np.arange(source // 4) / source
    out = resample(torch.from_numpy(np.sin(2 * np.pi * 440 * time).astype(np.float32)), source, target)
    assert out.shape == (-(-len(time) * target // source),)
    there = np.arange(len(out)) / target
    wanted = np.sin(2 * np.pi * 440 * there)
    inner = slice(100, len(out) - 100)
    assert np.abs(out.numpy()[inner] - wanted[inner]).max() < 5e-3
    assert len(_polyphase(source, target)[0]) < 16 * max(source, target)


@pytest.mark.parametrize(("source", "target"), [(441, 160), (160, 441), (7, 5), (101, 100)])
def test_polyphase_is_the_filter_of_torchaudio(monkeypatch: pytest.MonkeyPatch, source: int, target: int) -> None:
    wave = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32))
    expected = torchaudio.functional.resample(wave, source, target)
    monkeypatch.setattr("asgml.data.resampling.MOST", 0)
    np.testing.assert_allclose(resample(wave, source, target), expected, atol=1e-4)


def sound(path: Path, wave: np.ndarray, rate: int = 16000) -> Path:
    soundfile.write(path, wave.astype(np.float32), rate, subtype="FLOAT")
    return path


def test_channels_in_opposite_phase_are_no_silence(tmp_path: Path) -> None:
    left = np.random.default_rng(0).uniform(-0.5, 0.5, 1600)
    with pytest.raises(MediaError, match="2 channels are in opposite phase"):
        read_wav(sound(tmp_path / "x.wav", np.stack([left, -0.999 * left], 1)))
    near = read_wav(sound(tmp_path / "y.wav", np.stack([left, -0.9 * left], 1)))[0]
    np.testing.assert_allclose(near, 0.05 * left, atol=1e-6)
    assert not read_wav(sound(tmp_path / "z.wav", np.zeros((1600, 2))))[0].any()


@pytest.mark.parametrize("profile", [OgmSpectrogram(seconds=0.1), Fbank(seconds=0.1)], ids=["ogm", "fbank"])
def test_less_than_one_window_is_no_sound(tmp_path: Path, profile: OgmSpectrogram | Fbank) -> None:
    with pytest.raises(MediaError, match="ms of sound, less than one window"):
        decode_audio(sound(tmp_path / "x.wav", np.full(1, 0.5)), profile)


def test_a_rate_that_no_recorder_has_is_told(tmp_path: Path) -> None:
    content = bytearray(sound(tmp_path / "x.wav", np.full(800, 0.5)).read_bytes())
    at = content.index(b"fmt ") + 12
    for rate in (4_294_967_291, 3):
        content[at : at + 4] = rate.to_bytes(4, "little")
        (tmp_path / "x.wav").write_bytes(content)
        with pytest.raises(MediaError, match=f"a sample rate of {rate}|not decodable"):
            read_wav(tmp_path / "x.wav")


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    wide = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(wide).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", 8, 8)[..., 0].tolist() == np.rint(wide / 257).astype(int).tolist()


def test_what_has_no_range_or_nothing_left_is_told(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "x.tif")
    (tmp_path / "x.tif").rename(tmp_path / "x.png")
    with pytest.raises(MediaError, match="a picture of floats"):
        read_image(tmp_path / "x.png", 8, 8)
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(tmp_path / "y.png")
    with pytest.raises(MediaError, match="values 0 to 63 of 65535"):
        read_image(tmp_path / "y.png", 8, 8)


def test_a_picture_is_upright(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", 8, 8), np.rot90(pixels, -1))


# -- counted in the data line -----------------------------------------------------------------------------------------


def test_silence_and_pictures_of_one_colour_are_counted_by_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        sound(tmp_path / f"{i}.wav", np.zeros(400) if i in (1, 2, 11) else rng.uniform(-1, 1, 400), 8000)
        grey = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) if i != 5 else np.full((8, 8, 3), 7, np.uint8)
        Image.fromarray(grey).save(tmp_path / f"{i}.png")
    split = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    columns = {"a": [f"{i}.wav" for i in range(12)], "v": [f"{i}.png" for i in range(12)], "split": split}
    path = write(tmp_path / "f.csv", {**columns, "label": ["x", "y"] * 6})
    for _ in range(2):  # also from shards that are there
        assert load(path, **SMALL)[2] == [
            "train: a: 2 of 6 files are silent (first: 1.wav)",
            "train: v: 1 of 6 files are pictures of one colour (first: 5.png)",
            "test: a: 1 of 3 files are silent (first: 11.wav)",
        ]
    sound(tmp_path / "1.wav", rng.uniform(-1, 1, 500), 8000)
    CsvTable(str(path), **SMALL).prepare()
    assert load(path, **SMALL)[2][0] == "train: a: 1 of 6 files are silent (first: 2.wav)"


def split_table(group: list[str], y: list[int]) -> Table:
    n = len(y)
    x, present = {"a": np.zeros((n, 1), np.int64)}, {"a": np.ones(n, bool)}
    ids = [f"{group[0]}{i}{y}" for i in range(n)]
    return Table(x, present, np.array(y), ids, {"a": Tokens()}, group=np.array(group), grouped_by="speaker")


def test_groups_in_two_splits_and_ghost_classes_are_counted_for_every_source() -> None:
    spec = DataSpec({"a": ModalitySpec("a", "tokens", (1,))}, ["0", "1", "2"])
    tables: dict[Split, Table] = {
        "train": split_table(["p", "q"], [1, 2]),
        "val": split_table(["q", "r"], [2, 1]),
        "test": split_table(["s", "s"], [1, 1]),
    }
    told = validate(spec, tables)
    assert told[0] == "1 speaker(s) are in more than one split"
    assert told[1].startswith("no sample is of 0: a class that is neither learned nor measured")
    assert told[2:] == ["test has no sample of 2: not measured"]


# -- lists ------------------------------------------------------------------------------------------------------------


def test_a_line_that_names_the_columns_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("ID, label\na,NEU\r\n\nb,HAP\n", encoding="utf-8")
    assert read_rows(tmp_path / "l.csv", ",", COLUMNS) == [(2, ["a", "NEU"]), (4, ["b", "HAP"])]


@pytest.mark.parametrize(
    ("content", "where", "found"),
    [
        (b"a,NEU\nb\0,HAP\n", "line 2", "a NUL character"),
        (b"a," + b"N" * 200_000, "line 1", "NNN"),
        ("a,NEU\n".encode("utf-16"), "l.csv", "not UTF-8"),
        (None, "l.csv", "a folder"),
    ],
    ids=["NUL", "endless", "utf-16", "a folder"],
)
def test_a_list_that_is_none_is_one_screen(tmp_path: Path, content: bytes | None, where: str, found: str) -> None:
    path = tmp_path / "l.csv"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError) as error:
        [label_of(fields[1], EMOTIONS, f"{path}, line {n}") for n, fields in read_rows(path, ",", COLUMNS)]
    assert (where in error.value.where, found in error.value.found) == (True, True)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize("content", [b"a,label\n\0,x\n1,y\n", b'a,label\n"' + b"1" * 200_000 + b'",x\n2,y\n'])
def test_a_table_with_nul_or_an_endless_cell_is_one_screen(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"NUL character|field larger than field limit") as error:
        load(path)
    assert "line 2" in error.value.where + error.value.found


def test_a_separator_of_lines_that_unicode_knows_is_no_end_of_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", {"note": ["one\u2028two", "three\x0bfour"] * 6, "label": ["x", "y"] * 6})
    assert sum(len(t) for t in load(path)[1].values()) == 12
    with path.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 13


@pytest.mark.parametrize(("start", "end"), [("8", "3"), ("0", "inf"), ("nan", "3"), ("-1", "3"), ("0", "1e400")])
def test_an_interval_that_is_none_names_its_line(tmp_path: Path, start: str, end: str) -> None:
    for split in ("train", "val", "test"):
        lines = [f"Bark&{split}{i}&good&0&{i}" for i in range(3)]
        if split == "val":
            lines[2] = f"Bark&x&good&{start}&{end}"
        (tmp_path / f"{split}Set.txt").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"valSet\.txt, line 3") as error:
        Ave(path=str(tmp_path)).clips()
    assert start in error.value.found
    (tmp_path / "valSet.txt").write_text("Bark&x&good&3&3\nBark&y&good&1&3")
    source = Ave(path=str(tmp_path))
    told = "1 of 2 events have no length (first: x_3_3_2): the whole clip is used"
    assert source.remarks_of(source.clips()["val"]) == [told]
