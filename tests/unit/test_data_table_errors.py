"""Every mistake in a user's CSV file is one screen with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data_table import N, base, everything, labels, load, media, numbers, refused, write

from asgml.data.csv_table import CsvTable

assert media  # the fixture


@pytest.mark.parametrize(
    ("more", "options", "where", "found", "remedy"),
    [
        ({"label": None}, {}, "data.label", "no column 'label'", "set data.label to the one"),
        ({"label": None, "Label": labels()}, {}, "data.label", "no column 'label'", "set data.label=Label"),
        ({"label": [*labels(N - 1), ""]}, {}, "line 25", "column label is empty (1 such", "delete the line"),
        ({"label": [f"{i}.5" for i in range(N)]}, {}, "line 2", "label 0.5", "experiment=features"),
        ({"label": ["dog"] * N}, {}, "column label", "one class only (dog)", "another class"),
        ({"split": ["train"] * 23 + ["tset"]}, {}, "line 25", "'tset' in column split", "have the splits cut"),
        ({"split": ["train"] * N}, {}, "column split", "no sample of val and test", "leave the column out"),
        ({"group": ["a"] * 23 + [""]}, {}, "line 25", "column group is empty", "a name of its own"),
        ({"group": ["a"] * N}, {}, "f.csv", "1 group(s): a", "column or array `split`"),
        ({}, {"group": "speaker"}, "data.group", "no column 'speaker'", "set data.group="),
        ({"id": ["x"] * N}, {}, "line 3", "id x, already in line 2", "every id once"),
        ({}, {"kinds": {"face": "image"}}, "data.kinds", "'face'", "data.kinds={pose:text}"),
        ({}, {"modalities": ["face"]}, "data.modalities", "'face'", "data.modalities=[pose]"),
        ({}, {"dominant": "face"}, "data.dominant", "face", "set data.dominant=pose"),
        ({"pose_1": ["", *numbers(N - 1)]}, {}, "line 2", "1 of the 2 numbers of pose", "leave all 2 cells empty"),
        ({"pose_1": ["nan", *numbers(N - 1)]}, {}, "line 2, column pose_1", "'nan'", "correct this cell"),
        ({"pose_1": [*numbers(N - 1), "NA"]}, {}, "line 25", "line 25: 'NA' (texts)", "data.kinds={pose_1:text}"),
        ({"pose": labels()}, {}, "line 1", "would all be 'pose'", "rename one of them"),
        ({"empty": [""] * N}, {}, "column empty", "empty in every line", "delete the column empty"),
        ({"clip": [f"clips/{i}" for i in range(N)]}, {}, "line 2, column clip", "'clips/0'", "{clip:text}"),
        ({"clip": [f"{i}.mp4" for i in range(N)]}, {}, "line 2, column clip", "'0.mp4', neither", "{clip:text}"),
        ({"a": [f"{i}.wav" for i in range(23)] + ["x.jpg"]}, {}, "line 25", "line 25: 'x.jpg' (pictures)", "{a:text}"),
        ({"a": [f"{i}.wav" for i in range(N)]}, {}, "line 2, column a", "nor any other of the 24 sound", "correct the"),
        ({"a": [f"{i}.npy" for i in range(N)]}, {}, "line 2, column a", "no readable array", "numpy.save"),
        ({"audio/1": numbers()}, {}, "modality 'audio/1'", "a reserved name", "rename"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_cell_names_file_and_line(
    tmp_path: Path, more: dict[str, Any], options: dict[str, Any], where: str, found: str, remedy: str
) -> None:
    error = refused(write(tmp_path / "f.csv", base(**more)), **options)
    assert where in error.where
    assert found in error.found
    assert remedy in error.expected + error.remedy


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("", "f.csv", "0 line(s) that are not empty"),
        ("a,label\n", "f.csv", "1 line(s)"),
        ("a,a,label\n1,2,x\n", "line 1", "the name 'a' of another"),
        ("a,,label\n1,2,x\n", "line 1", "no name"),
        ('a,label\n"one\ntwo",x\n3,y,z\n', "line 4", "3 cells: 3,y,z"),
        ('a,label\n"one,x\n', "line 2", "unexpected end of data"),
        ("label\nx\ny\n", "f.csv", "columns label"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, text: str, where: str, found: str) -> None:
    path = tmp_path / "f.csv"
    path.write_text(text, encoding="utf-8")
    error = refused(path)
    assert where in error.where
    assert found in error.found
    assert refused(tmp_path / "absent.csv").where == f"data.path={tmp_path / 'absent.csv'}"
    path.write_bytes(b"a,label\n\xff,x\n")
    assert "not UTF-8" in refused(path).found


def test_unusable_files_are_told_with_their_lines_or_missing(media: Path, tmp_path: Path) -> None:
    columns = {k: everything(media)[k] for k in ("voice", "face", "vector", "label", "split")}
    columns["voice"] = ["absent.wav", *columns["voice"][1:]]
    (media / "damaged.jpg").write_bytes(b"no picture")
    columns["face"] = [*columns["face"][:-1], "damaged.jpg"]
    np.save(media / "long.npy", np.zeros(9))
    columns["vector"] = ["0.npy", "long.npy", *columns["vector"][2:]]
    path, options = write(media / "unusable.csv", columns), {"prepared": str(tmp_path)}
    error = refused(path, **options)
    assert "1 of 12 audio" not in error.found
    assert "line 2: " in error.found
    assert "absent.wav (no such file)" in error.found
    assert "data.corrupt=missing" in error.remedy
    spec, tables, _ = load(path, corrupt="missing", **options)
    gone = {m: [i for s in tables.values() for i, p in zip(s.ids, s.present[m]) if not p] for m in spec.modalities}
    assert gone == {"voice": ["line 2"], "face": ["line 13"], "vector": ["line 3"]}
    listed = next(tmp_path.glob("vector-*/corrupt.csv")).read_text(encoding="utf-8")
    assert "shape (9,), where most files have (5,)" in listed
    columns["voice"] = everything(media)["voice"]
    (media / "damaged.jpg").write_bytes((media / "0.jpg").read_bytes())
    columns["vector"][1] = "1.npy"
    assert all(t.present[m].all() for t in load(write(path, columns), **options)[1].values() for m in spec.modalities)


def test_names_and_sizes_are_known_before_anything_is_decoded(media: Path, tmp_path: Path) -> None:
    path = write(media / "known.csv", {k: everything(media)[k] for k in ("voice", "steps", "label", "split")})
    source = CsvTable(str(path), prepared=str(tmp_path))
    assert source.modality_names() == ["voice", "steps"]
    assert source.sizes() == {"train": 8, "val": 2, "test": 2}
    assert CsvTable.derived_files({"path": str(path), "prepared": str(tmp_path)}) == {}
    assert not list(tmp_path.iterdir())
