"""CREMA-D, AVE and Kinetics-Sounds: published lists, splits, and each bad input told with its place and remedy."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from asgml.data.ave import EVENTS, Ave
from asgml.data.cremad import EMOTIONS, CremaD
from asgml.data.kinetics_sounds import KineticsSounds
from asgml.data.media import decode_audio, decode_frames
from asgml.data.ranges import Frames, SampleRate
from asgml.data.spec import SPLITS
from asgml.data.validate import validate
from callbacks.errors import UserError

DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))
SMALL = {"audio": "fbank", "sample_rate": 8000, "seconds": 0.3, "mels": 8, "size": 8, "store": [10, 12]}


def real(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not there (set SUITE_DATA)")
    return DATA / name


# -- the published lists ----------------------------------------------------------------------------------------


def test_published_cremad_lists():
    clips = CremaD(str(real("cremad"))).clips()
    assert {s: len(c) for s, c in clips.items()}["test"] == 744
    assert len(clips["train"]) + len(clips["val"]) == 6698
    actors = {s: {c.group for c in clips[s]} for s in SPLITS}
    assert len(actors["train"] | actors["val"]) == 91 == len(actors["test"])
    assert not actors["train"] & actors["val"]
    assert 0.07 < len(clips["val"]) / 6698 < 0.13
    for c in clips["test"]:
        assert EMOTIONS[c.label] == c.id.split("_")[2]


def test_speaker_disjoint_cremad_uses_every_clip_once():
    source = CremaD(str(real("cremad")), split="speaker_disjoint")
    clips = source.clips()
    assert sum(map(len, clips.values())) == 7442 == len({c.id for s in SPLITS for c in clips[s]})
    actors = [{c.group for c in clips[s]} for s in SPLITS]
    assert sum(map(len, actors)) == 91 == len(set.union(*actors))
    assert all(set(range(6)) == {c.label for c in clips[s]} for s in SPLITS)
    assert source.clips() == clips
    other = CremaD(str(real("cremad")), split="speaker_disjoint", split_seed=1).clips()
    assert {c.group for c in other["test"]} != actors[2]


def test_published_class_file_has_a_byte_order_mark_and_our_order():
    text = (real("cremad") / "stat.csv").read_bytes()
    assert text.startswith(b"\xef\xbb\xbf")
    assert text.decode("utf-8-sig").split() == EMOTIONS


def test_published_kinetics_sounds_lists():
    clips = KineticsSounds(str(real("kinetics_sounds"))).clips()
    assert len(clips["test"]) == 2597
    assert len(clips["train"]) + len(clips["val"]) == 14799
    for split in SPLITS:
        assert {c.label for c in clips[split]} == set(range(31))
    counts, val = Counter(c.label for c in clips["train"]), Counter(c.label for c in clips["val"])
    assert all(abs(val[k] / (val[k] + counts[k]) - 0.1) < 0.01 for k in counts)
    assert any(c.id.startswith("-") for c in clips["train"])
    assert any("_" in c.group for c in clips["train"])
    first = next(c for c in clips["test"] if c.id == "-3Mwkq-7TV4_2")
    assert (first.label, first.group, first.audio) == (23, "-3Mwkq-7TV4", "test_wav/-3Mwkq-7TV4_2.wav")


# -- small folders in the published layouts ---------------------------------------------------------------------


def cremad(root: Path, actors: int = 6) -> Path:
    """Real files: six emotions per actor, sound and picture unlike each other."""
    rng = np.random.default_rng(0)
    rows = []
    for actor in range(1001, 1001 + actors):
        for emotion in EMOTIONS:
            clip = f"{actor}_IEO_{emotion}_XX"
            (root / "AudioWAV").mkdir(parents=True, exist_ok=True)
            soundfile.write(root / f"AudioWAV/{clip}.wav", rng.uniform(-0.5, 0.5, 4000), 8000)
            (root / f"Image-01-FPS/{clip}").mkdir(parents=True)
            for second in range(2):
                pixels = rng.integers(0, 255, (20, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / f"Image-01-FPS/{clip}/{second * 30:05d}.jpg")
            rows.append(f"{clip},{emotion}")
    (root / "train.csv").write_text("\ufeff" + "\r\n".join(rows[:-6]), encoding="utf-8")
    (root / "test.csv").write_text("\n".join(rows[-6:]) + "\n\n")
    return root


def source(root: Path, **change) -> CremaD:
    return CremaD(**{"path": str(root), "val_fraction": 0.2, **SMALL, **change})


@pytest.mark.parametrize("frames", [1, 2])
def test_prepared_tables_equal_direct_decoding(tmp_path, frames):
    s = source(cremad(tmp_path), frames=frames)
    s.prepare(workers=2)
    tables, clips = s.tables(), s.clips()
    validate(s.spec(), tables)
    assert {k: len(t) for k, t in tables.items()} == {"train": 24, "val": 6, "test": 6}
    for split in SPLITS:
        table = tables[split]
        assert table.ids == [c.id for c in clips[split]]
        assert table.y.tolist() == [c.label for c in clips[split]]
        for i, c in enumerate(clips[split]):
            np.testing.assert_array_equal(table.x["audio"][i], decode_audio(tmp_path / c.audio, s.profile))
            np.testing.assert_array_equal(table.x["visual"][i], decode_frames(tmp_path / c.frames, frames, 10, 12))
    assert s.spec().modalities["visual"].shape == ((3, 8, 8) if frames == 1 else (2, 3, 8, 8))


def test_profiles_and_splits_share_a_folder_without_mixing(tmp_path):
    cremad(tmp_path)
    source(tmp_path).prepare()
    audio = {p.name for p in (tmp_path / "prepared").glob("audio-*")}
    source(tmp_path, split="speaker_disjoint").prepare()
    assert {p.name for p in (tmp_path / "prepared").glob("audio-*")} == audio
    source(tmp_path, mels=9).prepare()
    assert len(list((tmp_path / "prepared").glob("audio-*"))) == 2
    assert len(list((tmp_path / "prepared").glob("visual-*"))) == 1


def test_media_may_be_removed_after_preparation(tmp_path):
    cremad(tmp_path)
    before = source(tmp_path).tables()["test"].x["audio"][:]
    for path in (tmp_path / "AudioWAV").iterdir():
        path.unlink()
    source(tmp_path).prepare()
    np.testing.assert_array_equal(source(tmp_path).tables()["test"].x["audio"][:], before)


def spoil(root: Path) -> None:
    clip = "1001_IEO_{}_XX"
    path = root / f"AudioWAV/{clip.format('NEU')}.wav"
    path.write_bytes(path.read_bytes()[:500])
    (root / f"Image-01-FPS/{clip.format('HAP')}/00030.jpg").write_bytes(b"")
    (root / f"AudioWAV/{clip.format('SAD')}.wav").unlink()


def test_corrupt_files_are_refused_with_their_names(tmp_path):
    spoil(cremad(tmp_path))
    s = source(tmp_path)
    s.prepare()
    with pytest.raises(UserError, match="2 of 36 audio files") as error:
        s.tables()
    text = str(error.value)
    assert "1001_IEO_NEU_XX.wav (truncated: header promises 8000 bytes of sound, 456 are there)" in text
    assert "1001_IEO_SAD_XX.wav (no such file)" in text
    assert "data.corrupt=missing" in text
    assert (next((tmp_path / "prepared").glob("audio-*")) / "corrupt.csv").read_text().count("\n") == 3
    for name in ("NEU", "SAD"):
        soundfile.write(tmp_path / f"AudioWAV/1001_IEO_{name}_XX.wav", np.ones(4000) * 0.1, 8000)
    with pytest.raises(UserError, match=r"1 of 36 visual files.*00030.jpg \(zero bytes\)"):
        s.tables()


def test_corrupt_files_may_count_as_missing(tmp_path, caplog):
    spoil(cremad(tmp_path))
    s = source(tmp_path, corrupt="missing")
    tables = s.tables()
    validate(s.spec(), tables)
    gone = {
        m: sorted(t.ids[i].split("_")[2] for t in tables.values() for i in np.flatnonzero(~t.present[m]))
        for m in ("audio", "visual")
    }
    assert gone == {"audio": ["NEU", "SAD"], "visual": ["HAP"]}
    assert sum(len(t) for t in tables.values()) == 36
    assert "2 of 36 audio files cannot be used" in caplog.text


@pytest.mark.parametrize("policy", ["refuse", "missing"])
def test_a_modality_missing_everywhere_is_refused(tmp_path, policy):
    cremad(tmp_path)
    for path in (tmp_path / "AudioWAV").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="modality audio: missing everywhere"):
        source(tmp_path, corrupt=policy).tables()


def test_absent_data_are_told_with_the_remedy(tmp_path):
    for cls, word in (
        (CremaD, "CheyneyComputerScience"),
        (Ave, "YapengTian"),
        (KineticsSounds, "kinetics-dataset"),
    ):
        with pytest.raises(UserError, match=word) as error:
            cls(str(tmp_path / "nowhere")).tables()
        assert "set data.path" in error.value.remedy
    cremad(tmp_path)
    (tmp_path / "AudioWAV").rename(tmp_path / "wav")
    with pytest.raises(UserError, match="AudioWAV") as error:
        source(tmp_path).prepare()
    assert error.value.found == "no such folder"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty list"),
        ("\n\n", "empty list"),
        ("1001_IEO_NEU_XX,NEU\n1002_IEO_HAP_XX,HAPPY\n", r"line 2\n.*'HAPPY'[\s\S]*replace 'HAPPY' by 'HAP'"),
        ("1001_IEO_NEU_XX,NEU\n1002_IEO_HAP_XX\n", "line 2"),
        ("1001_IEO_NEU_XX,NEU,1\n", "line 1"),
        ("1001_IEO_NEU_XX,\n", "line 1"),
        ("1001_IEO_NEU_XX,NEU\n1001_IEO_NEU_XX,NEU\n", r"line 2\n.*already in .*line 1"),
        ("somebody,NEU\n", "<actor>_<sentence>"),
        ("\xff\xfe", "not UTF-8"),
    ],
)
def test_bad_lists_are_told_with_file_and_line(tmp_path, text, told):
    cremad(tmp_path)
    (tmp_path / "train.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=told) as error:
        source(tmp_path).clips()
    assert str(tmp_path / "train.csv") in error.value.where


def test_a_clip_in_both_lists_is_a_leak(tmp_path):
    cremad(tmp_path)
    with (tmp_path / "test.csv").open("a") as file:
        file.write("1001_IEO_NEU_XX,NEU\n")
    with pytest.raises(UserError, match=r"already in .*train.csv, line 1"):
        source(tmp_path).clips()


def test_impossible_parameters_are_refused():
    for key, value in (("frames", 0), ("store", [3]), ("crop_scale", [0.5, 2.0]), ("seconds", 0.0), ("size", 0)):
        with pytest.raises(UserError, match=f"data.{key}"):
            CremaD("x", **{key: value})


def test_constructors_carry_their_types():
    """Configs are type-checked against them; a subclass must not lose what it inherits."""
    for cls in (CremaD, Ave, KineticsSounds):
        inherited = {f.name: f.type for f in fields(cls)}
        assert inherited["frames"] is Frames
        assert inherited["sample_rate"] == SampleRate | None


# -- AVE --------------------------------------------------------------------------------------------------------


def ave(root: Path) -> Path:
    rows = {
        "train": ["Church bell&aaa&good&2&5", "Bark&bbb&good&0&10", "Church bell&VWi2ENBuTbw&good&0&0"],
        "val": ["Violin, fiddle&ccc&good&0&4"],
        "test": ["Bark&aaa&good&6&9", "Mandolin&-d_d&good&1&3"],
    }
    (root / "Audios").mkdir(parents=True)
    for name, lines in rows.items():
        (root / f"{name}Set.txt").write_text("\n".join(lines) + "\n")
        for video in {line.split("&")[1] for line in lines}:
            ramp = np.repeat(np.arange(10) / 20, 8000) * np.sin(np.arange(80000) * 0.7)  # louder by the second
            soundfile.write(root / f"Audios/{video}.wav", ramp, 8000)
            (root / f"Image-01-FPS/{video}").mkdir(parents=True, exist_ok=True)
            for second in range(10):
                Image.new("RGB", (12, 10), (second * 20,) * 3).save(
                    root / f"Image-01-FPS/{video}/{second * 25:05d}.jpg"
                )
    header = "Category&VideoID&Quality&StartTime&EndTime"
    (root / "Annotations.txt").write_text("\n".join([header, *(line for lines in rows.values() for line in lines)]))
    return root


def test_ave_uses_the_annotated_seconds(tmp_path):
    s = Ave(**{"path": str(ave(tmp_path)), **SMALL, "seconds": 2.0})
    tables = s.tables()
    validate(s.spec(), tables)
    assert {k: t.ids for k, t in tables.items()} == {
        "train": ["aaa_2_5_0", "bbb_0_10_2", "VWi2ENBuTbw_0_0_0"],
        "val": ["ccc_0_4_7"],
        "test": ["aaa_6_9_2", "-d_d_1_3_27"],
    }
    assert tables["test"].y.tolist() == [2, 27]
    assert len(EVENTS) == 28 == len(set(EVENTS))
    grey = {i: round(float(t.x["visual"][k].mean()) / 20) for t in tables.values() for k, i in enumerate(t.ids)}
    assert grey["aaa_2_5_0"] == 3
    assert grey["aaa_6_9_2"] == 7
    assert grey["VWi2ENBuTbw_0_0_0"] == 5  # an event of no length: the whole clip
    loud = {i: float(t.x["audio"][k].mean()) for t in tables.values() for k, i in enumerate(t.ids)}
    assert loud["aaa_6_9_2"] > loud["aaa_2_5_0"]
    whole = Ave(**{"path": str(tmp_path), **SMALL, "seconds": 2.0, "segment": False}).tables()
    assert round(float(whole["train"].x["visual"][0].mean()) / 20) == 5


def test_ave_tells_bad_lines(tmp_path):
    ave(tmp_path)
    path = tmp_path / "trainSet.txt"
    for line, told in (
        ("Barks&bbb&good&0&10", "replace 'Barks' by 'Bark'"),
        ("Bark&bbb&good&0", "line 1"),
        ("Bark&b&good&x&1", "seconds"),
    ):
        path.write_text(line + "\n")
        with pytest.raises(UserError, match=told) as error:
            Ave(str(tmp_path)).clips()
        assert f"{path}, line 1" in error.value.where


# -- Kinetics-Sounds --------------------------------------------------------------------------------------------


def test_kinetics_sounds_tells_bad_lines(tmp_path):
    (tmp_path / "my_train.txt").write_text("".join(f"-_{i:09d}_000001_000011,10,{i % 31}\n" for i in range(93)))
    test = tmp_path / "my_test.txt"
    test.write_text("abcdefghij__12,10,30\n")
    assert KineticsSounds(str(tmp_path)).clips()["test"][0].group == "abcdefghij_"
    for line, told in (
        ("abcdefghij__12,10,31", "label '31'"),
        ("short_12,10,3", "youtube id"),
        ("-_000000003_7,10,3", "already in .*my_train.txt, line 4"),
    ):
        test.write_text(line + "\n")
        with pytest.raises(UserError, match=told):
            KineticsSounds(str(tmp_path)).clips()


def test_kinetics_sounds_reads_files_of_the_list_a_clip_is_in(tmp_path):
    lists = {"train": [f"{i:011d}_000001_000011" for i in range(62)], "test": ["-bcdefghij__12"]}
    for split, clips in lists.items():
        (tmp_path / f"my_{split}.txt").write_text("".join(f"{c},10,{i % 31}\n" for i, c in enumerate(clips)))
        (tmp_path / f"{split}_wav").mkdir()
        for clip in clips:
            soundfile.write(tmp_path / f"{split}_wav/{clip}.wav", np.sin(np.arange(4000.0)), 8000)
            (tmp_path / f"{split}_img/Image-01-FPS/{clip}").mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / f"{split}_img/Image-01-FPS/{clip}/00000.jpg")
    s = KineticsSounds(**{"path": str(tmp_path), **SMALL, "frames": 3})
    tables = s.tables()
    validate(s.spec(), tables)
    assert [len(tables[k]) for k in SPLITS] == [31, 31, 1]
