"""One CSV file as a data set: what its columns may hold, how it is split, and how every mistake is told."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from asgml.data.csv_table import CsvTable
from asgml.data.dataset import MultimodalDataset
from asgml.data.media import Fbank, decode_audio
from asgml.data.spec import SPLITS, DataSpec, Split, Table
from asgml.data.text_tokens import token_ids
from asgml.data.validate import validate
from callbacks.errors import UserError

SMALL: dict[str, Any] = {"size": 8, "store": [8, 8], "mels": 4, "seconds": 0.1, "sample_rate": 8000, "frames": 2}
N = 24


def write(path: Path, columns: dict[str, list[Any]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def load(path: Path, **options: Any) -> tuple[DataSpec, dict[Split, Table], list[str]]:
    source = CsvTable(str(path), **{**SMALL, **options})
    spec, tables = source.spec(), source.tables()
    return spec, tables, validate(spec, tables)


def refused(path: Path, **options: Any) -> UserError:
    with pytest.raises(UserError) as error:
        load(path, **options)
    assert len(str(error.value).splitlines()) <= 8
    return error.value


def labels(n: int = N) -> list[str]:
    return [("dog", "cat")[i % 2] for i in range(n)]


def numbers(n: int = N, seed: int = 0) -> list[float]:
    return [round(float(v), 4) for v in np.random.default_rng(seed).standard_normal(n)]


def base(**more: list[Any] | None) -> dict[str, list[Any]]:
    columns: dict[str, list[Any] | None] = {"pose_0": numbers(), "pose_1": numbers(seed=1), "label": labels(), **more}
    return {k: v for k, v in columns.items() if v is not None}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve sounds, pictures, folders of two frames, vectors and sequences."""
    root, rng = tmp_path_factory.mktemp("media"), np.random.default_rng(0)
    for i in range(12):
        soundfile.write(root / f"{i}.wav", rng.uniform(-0.5, 0.5, 800 + 400 * (i == 3)).astype(np.float32), 8000)
        (root / f"clip {i}").mkdir()
        for name in (f"{i}.jpg", f"clip {i}/0.png", f"clip {i}/1.png"):
            Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(root / name)
        np.save(root / f"{i}.npy", rng.standard_normal(5))
        np.save(root / f"steps{i}.npy", rng.standard_normal((2 + i % 3, 4)))
    return root


def everything(root: Path, **more: list[Any]) -> dict[str, list[Any]]:
    i = range(12)
    return {
        "voice": [f"{n}.wav" for n in i],
        "face": [f"{n}.jpg" for n in i],
        "clip": [f"clip {n}" for n in i],
        "vector": [f"{n}.npy" for n in i],
        "steps": [f"steps{n}.npy" for n in i],
        "note": [f"The dog barks, {'loudly ' * n}" for n in i],
        "pose_x": numbers(12),
        "pose_y": numbers(12, 1),
        "age": list(i),
        "label": labels(12),
        "split": ["train"] * 8 + ["val"] * 2 + ["test"] * 2,
        **more,
    }


# -- what a column holds ------------------------------------------------------------------------------------------


def test_the_kind_of_every_column_is_found_and_shown(media: Path) -> None:
    spec, tables, warnings = load(write(media / "all.csv", everything(media)))
    found = {m: (s.kind, s.shape, s.padded) for m, s in spec.modalities.items()}
    width = len(token_ids("The dog barks, " + "loudly " * 11, "words"))
    assert found == {
        "voice": ("image", (1, 4, 8), False),
        "face": ("image", (3, 8, 8), False),
        "clip": ("frames", (2, 3, 8, 8), False),
        "vector": ("vector", (5,), False),
        "steps": ("sequence", (4, 4), True),
        "note": ("tokens", (width,), False),
        "pose": ("vector", (2,), False),
        "age": ("vector", (1,), False),
    }
    assert spec.modalities["pose"].source == "numbers (columns pose_x to pose_y)"
    assert spec.modalities["voice"].source == "sound files (column voice)"
    assert spec.classes == ["cat", "dog"]
    assert [len(tables[s]) for s in SPLITS] == [8, 2, 2]
    assert warnings == ["voice: 1 of 12 sounds are longer than 0.1 s, their ends are cut off (data.seconds)"]


def test_a_sample_is_what_its_own_files_hold_whatever_the_order_of_the_lines(media: Path) -> None:
    columns = everything(media)
    order = [3, 11, 0, 7, 5, 2, 9, 1, 4, 8, 6, 10]
    shuffled = {k: [v[i] for i in order] for k, v in columns.items() if k != "split"}
    _, tables, _ = load(write(media / "shuffled.csv", {**shuffled, "split": columns["split"]}))
    test = MultimodalDataset(tables["test"], 0).__getitems__([(0, 0), (1, 0)])
    profile = Fbank(8000, 0.1, 4)
    for row, i in enumerate(order[10:]):
        assert np.array_equal(test["x"]["voice"][row].numpy(), decode_audio(media / f"{i}.wav", profile))
        assert tables["test"].x["note"][row].tolist()[:3] == [zlib.crc32(w) % 4096 for w in (b"the", b"dog", b"barks")]
        stored = tables["test"].x["steps"][row]
        assert np.array_equal(stored[: 2 + i % 3], np.load(media / f"steps{i}.npy").astype(np.float32))
        assert not stored[2 + i % 3 :].any()
    assert test["lengths"]["steps"].tolist() == [2 + i % 3 for i in order[10:]]
    train = MultimodalDataset(tables["train"], 0).__getitems__([(i, 0) for i in range(8)])
    assert torch.allclose(train["x"]["pose"].mean(0), torch.zeros(2), atol=1e-6), "numbers are standardised"
    assert torch.allclose(train["x"]["vector"].std(0, correction=0), torch.ones(5), atol=1e-4)


def test_labels_and_order_change_no_shard_and_a_replaced_file_is_decoded_again(media: Path, tmp_path: Path) -> None:
    path = write(media / "again.csv", {k: everything(media)[k] for k in ("vector", "label", "split")})
    options = {"prepared": str(tmp_path)}
    load(path, **options)
    (folder,) = tmp_path.glob("vector-*")
    stamp = (folder / "index.json").stat().st_mtime_ns
    columns = {k: everything(media)[k][::-1] for k in ("vector", "label")}
    load(write(path, {**columns, "split": everything(media)["split"]}), **options)
    assert list(tmp_path.glob("vector-*")) == [folder]
    assert (folder / "index.json").stat().st_mtime_ns == stamp
    arguments = {"path": str(path), **SMALL, **options}
    assert CsvTable.input_files(arguments) == {"path": path}
    (derived,) = CsvTable.derived_files(arguments).values()
    before, kept = derived.read_bytes(), (media / "0.npy").read_bytes()
    np.save(media / "0.npy", np.full(5, 7.0))
    assert CsvTable.derived_files(arguments)["prepared/vector"].read_bytes() != before
    (media / "0.npy").write_bytes(kept)


def test_an_empty_cell_is_a_missing_modality(media: Path) -> None:
    columns = {k: everything(media)[k] for k in ("voice", "note", "pose_x", "pose_y", "label", "split")}
    for name, rows in {"voice": [0, 11], "note": [1], "pose_x": [2], "pose_y": [2]}.items():
        columns[name] = ["" if i in rows else v for i, v in enumerate(columns[name])]
    spec, tables, _ = load(write(media / "holes.csv", columns))
    gone = {m: [int(i) for i in np.flatnonzero(~tables["train"].present[m])] for m in spec.modalities}
    assert gone == {"voice": [0], "note": [1], "pose": [2]}
    assert tables["test"].present["voice"].tolist() == [True, False]
    batch = MultimodalDataset(tables["train"], 0).__getitems__([(i, 0) for i in range(3)])
    assert batch["rows"]["voice"].tolist() == [1, 2]
    columns["voice"][1] = columns["pose_x"][1] = columns["pose_y"][1] = ""
    error = refused(write(media / "holes.csv", columns))
    assert error.where.endswith("holes.csv, line 3")
    assert "no cell of voice, note, pose" in error.found


def test_kinds_and_modalities_are_chosen_by_the_user(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", base(code=[10 + i for i in range(N)]))
    assert list(load(path)[0].modalities) == ["pose", "code"]
    spec, *_ = load(path, kinds={"code": "text"}, modalities=["code"])
    assert {m: s.kind for m, s in spec.modalities.items()} == {"code": "tokens"}
    assert load(path, modalities=["code"], dominant="code")[0].dominant == "code"
    spec, *_ = load(write(tmp_path / "g.csv", {"age": numbers(), "f1": numbers(), "f2": numbers(), "label": labels()}))
    assert [(m, s.shape) for m, s in spec.modalities.items()] == [("age", (1,)), ("f", (2,))]


def test_texts_are_cut_with_a_count_and_bytes_need_no_words(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", {"note": [f"a b c {i}" for i in range(N)], "label": labels()})
    spec, tables, warnings = load(path, max_tokens=3)
    assert spec.modalities["note"].shape == (3,)
    assert warnings == [f"note: {N} of {N} texts are longer than 3 words, their ends are cut off (data.max_tokens)"]
    spec, tables, _ = load(path, tokens="bytes")
    first = tables["train"].x["note"][0]
    assert spec.modalities["note"].vocabulary == 256
    assert bytes(first[first >= 0].astype(np.uint8).tolist()).startswith(b"a b c ")
    assert token_ids("Zoë  barks!", "words") == token_ids("zoe\u0308 BARKS !", "words")


# -- labels and splits --------------------------------------------------------------------------------------------


def test_labels_are_sorted_as_numbers_or_as_names(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", base(label=[(10, 9, 2)[i % 3] for i in range(N)]))
    spec, tables, _ = load(path)
    assert spec.classes == ["2", "9", "10"]
    assert sum((tables[s].y == 2).sum() for s in SPLITS) == N / 3
    semicolons = write(tmp_path / "g.csv", base(label=None, emotion=labels()), delimiter=";")
    assert load(semicolons, label="emotion")[0].classes == ["cat", "dog"]


def test_splits_are_given_or_cut_by_group_or_by_class(tmp_path: Path) -> None:
    group = [f"speaker {i % 6}" for i in range(N)]
    spec, tables, _ = load(write(tmp_path / "f.csv", base(group=group)))
    members = [set(np.asarray(tables[s].group).tolist()) for s in SPLITS]
    assert sum(map(len, members)) == len(set.union(*members)) == 6
    assert "6 groups" in spec.notes["split"]
    spec, tables, _ = load(write(tmp_path / "g.csv", base()))
    assert all({0, 1} == set(tables[s].y.tolist()) for s in SPLITS)
    fold = ["training"] * 18 + ["TEST"] * 6
    spec, tables, warnings = load(
        write(tmp_path / "h.csv", base(fold=fold, speaker=group)), split="fold", group="speaker"
    )
    assert len(tables["test"]) == 6
    assert "no val there: cut 0.15 of train by 6 groups" in spec.notes["split"]
    assert "6 group(s) are in more than one split" in warnings
    assert list(spec.modalities) == ["pose"]


def test_a_recording_that_is_listed_twice_is_in_one_split_and_files_in_two_are_counted(media: Path) -> None:
    twice = {k: everything(media)[k] + everything(media)[k][:6] for k in ("face", "age", "label")}
    twice["label"] = [*labels(12), "cat", *labels(6)[1:]]
    _, tables, warnings = load(write(media / "twice.csv", twice))
    assert sum(map(len, tables.values())) == 18
    assert warnings == [
        "6 row(s) repeat another (first: line 14 is line 2), 1 of them with another label; they are kept, in one split"
    ]
    home = {i: s for s in SPLITS for i in tables[s].ids}
    assert all(home[f"line {14 + i}"] == home[f"line {2 + i}"] for i in range(6))
    error = refused(write(media / "torn.csv", {**twice, "split": ["train"] * 12 + ["test"] * 6}))
    assert error.where.endswith("torn.csv, line 14")
    assert "the same cells as line 2, in another split (6 such line(s))" in error.found
    shared = {k: everything(media)[k] for k in ("face", "pose_x", "label", "split")}
    shared["face"] = ["0.jpg", *shared["face"][1:-1], "0.jpg"]
    assert "face: 1 file(s) are in more than one split" in load(write(media / "shared.csv", shared))[2]


def test_numbers_and_texts_may_come_again(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", {"mood": [("good", "bad")[i % 2] for i in range(N)], "label": labels()})
    _, tables, warnings = load(path)
    held = len(tables["val"]) + len(tables["test"])
    assert held == 8
    assert warnings == [f"{held} row(s) of val and test have the same cells as one of train"]


def test_a_class_absent_from_train_or_from_a_part_is_a_warning_with_its_name(tmp_path: Path) -> None:
    rare = [*labels(N - 2), "owl", "owl"]
    *_, warnings = load(write(tmp_path / "f.csv", base(label=rare, split=["train"] * 18 + ["val"] * 3 + ["test"] * 3)))
    assert "train has no sample of owl: never learned" in warnings
    *_, warnings = load(write(tmp_path / "g.csv", base(label=rare)))
    assert [w for w in warnings if "owl" in w] == [f"{s} has no sample of owl: not measured" for s in ("val", "test")]
