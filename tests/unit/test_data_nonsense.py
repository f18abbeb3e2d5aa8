"""Numbers and texts that are read without a word as something else: kept, refused, or counted in the data line."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_data_features import arrays, load, save
from test_data_table import labels, write
from test_data_table import load as load_table

from asgml.data.array_files import array_files
from asgml.data.csv_table import CsvTable
from asgml.data.dataset import MultimodalDataset
from asgml.data.features import Features
from asgml.data.media import MediaError
from asgml.data.new_samples import new_samples
from asgml.data.npz import Npz
from asgml.data.preprocessing import Preprocessing
from asgml.data.spec import Table
from asgml.data.validate import validate
from callbacks.errors import UserError
from latentwire.data.continuations import JsonLines
from latentwire.data.qa import QuestionAnswering
from latentwire.data.squad import read

N = 60
OFFSET = 1.7e9  # seconds since 1970


def seen(table: Table) -> torch.Tensor:
    return MultimodalDataset(table, 0).__getitems__([(i, 0) for i in range(len(table))])["x"]["audio"]


def told(path: str) -> list[str]:
    source = Features(path)
    return validate(source.spec(), source.tables())


# -- numbers that float32 cannot hold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_a_large_offset_is_taken_off_before_anything_is_rounded(tmp_path: Path, dtype: Any) -> None:
    """A clock that ticks once a second: as float32 all rows would be one of three values."""
    clock = (OFFSET + np.arange(N)).astype(dtype)
    values = np.stack([clock, np.arange(N)[::-1]], 1)
    path = save(tmp_path, x_audio=values)
    spec, tables = load(path)
    train = seen(tables["train"]).double()
    assert len(train[:, 0].unique()) == len(train)
    torch.testing.assert_close(train[:, 0], -train[:, 1], atol=1e-6, rtol=0)
    assert not any("audio" in line for line in told(path))
    fixed = Preprocessing.of(spec, tables["train"].transforms)
    fixed.write(tmp_path / "p.safetensors")
    again, _ = new_samples(Features(path), Preprocessing.read(tmp_path / "p.safetensors", ""), labelled=False)
    torch.testing.assert_close(seen(again)[[int(i) for i in tables["train"].ids]], train.float(), atol=0, rtol=0)


def test_numbers_of_a_table_keep_a_large_offset(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", {"audio": [int(OFFSET) + i for i in range(24)], "label": labels()})
    assert len(seen(load_table(path)[1]["train"]).unique()) == len(load_table(path)[1]["train"])


def test_ordinary_float64_is_rounded_first_as_ever(tmp_path: Path) -> None:
    x = arrays()["x_audio"]
    _, wide = load(save(tmp_path, x_audio=x))
    found = seen(wide["train"])
    assert wide["train"].x["audio"].dtype == np.float32
    _, narrow = load(save(tmp_path, x_audio=x.astype(np.float32)))
    torch.testing.assert_close(found, seen(narrow["train"]), atol=0, rtol=0)


def test_what_the_file_itself_has_lost_is_counted(tmp_path: Path) -> None:
    x = np.stack([3e6 + np.random.default_rng(0).normal(0, 30, N), np.arange(N), np.full(N, 0.1)], 1)
    lines = told(save(tmp_path, x_audio=x.astype(np.float32)))
    assert lines[0] == "train: audio: 1 of 3 features are constant: always 0"
    assert lines[1].startswith("train: audio: 1 of 3 features vary by less than float32 can tell beside their mean")


@pytest.mark.parametrize("row", [3, 59])
def test_one_value_far_outside_is_counted_with_its_row(tmp_path: Path, row: int) -> None:
    split = np.repeat([0, 1, 2], [40, 10, 10])
    x = arrays()["x_audio"]
    x[row, 2] = 1e20
    lines = told(save(tmp_path, x_audio=x, split=split))
    where = f"{'train' if row == 3 else 'test'}: audio: 1 value(s) in 1 of 6 features (first: row {row}) lie over 10000"
    assert [line for line in lines if "value(s)" in line] == [line for line in lines if line.startswith(where)] != []
    pose = [round(float(v), 3) for v in x[:24, 0]]
    pose[20] = 1e20
    path = write(tmp_path / "f.csv", {"pose": pose, "label": labels(), "split": ["train", "val", "test"] * 8})
    assert load_table(path)[2] == [
        "test: pose: 1 value(s) in 1 of 1 features (first: line 22) lie over 10000 times as far from the median as nine"
        " in ten: beside them the others are about 0"
    ]


def test_rare_and_heavy_tailed_features_are_no_outliers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=N), np.exp(2 * rng.normal(size=N)), rng.random(N) < 0.05, np.arange(N) == 7], 1)
    assert told(save(tmp_path, x_audio=x, split=np.repeat([0, 1, 2], [40, 10, 10]))) == []


def test_labels_from_1_and_given_splits_with_shared_groups_are_in_the_data_line(tmp_path: Path) -> None:
    split = np.repeat([0, 1, 2], [40, 10, 10])
    lines = told(save(tmp_path, y=np.arange(N) % 3 + 1, group=np.arange(N) % 45, split=split))
    assert lines[0] == "15 group(s) are in more than one split"
    assert lines[1].startswith("no sample is of 0: a class that is neither learned nor measured")


# -- archives ---------------------------------------------------------------------------------------------------------


def absurd(path: Path, header: str) -> Path:
    """An .npz whose only array has this header and 8 bytes."""
    padded = header.ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode() + bytes(8)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x_a.npy", content)
    path.with_suffix(".npy").write_bytes(content)
    return path


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 4), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999999, 4), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }",
        "(" * 100,
    ],
)
def test_an_absurd_header_is_told_before_anything_is_allocated(tmp_path: Path, header: str) -> None:
    path = absurd(tmp_path / "f.npz", header)
    with pytest.raises(UserError, match="unreadable"):
        Npz(str(path), "data.path")
    files = [path.with_suffix(".npy"), tmp_path / "good.npy"]
    np.save(files[1], np.zeros(4))
    found = array_files(files)
    assert found is not None
    assert found.shape == (4,)
    with pytest.raises(MediaError, match=r"not a readable \.npy file"):
        found.decode(files[0])


# -- texts ------------------------------------------------------------------------------------------------------------

HALF = '"\\ud83d"'
DEEP = "[" * 100_000


def squad(**more: str) -> str:
    part = {"context": '"Ann lives in Rome."', "question": '"Where?"', "text": '"Rome"', "start": "13", **more}
    answers = f'[{{"text": {part["text"]}, "answer_start": {part["start"]}}}]'
    asked = f'[{{"id": "1", "question": {part["question"]}, "answers": {answers}}}]'
    return f'{{"data": [{{"title": "t", "paragraphs": [{{"context": {part["context"]}, "qas": {asked}}}]}}]}}'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (squad(text='""', start="0"), "text ''"),
        (squad(text='" "', start="3"), "text ' '"),
        (squad(start="-5"), "answer_start -5"),
        (squad(context=HALF), "context '\\ud83d'"),
        (squad(question=HALF), "question '\\ud83d'"),
        (DEEP, "endless depth"),
        ('{"data": ' + DEEP, "endless depth"),
        (squad(start="1" * 5000), "no JSON"),
        (squad() + "\0", "NUL"),
    ],
)
def test_squad_of_nonsense_is_one_screen(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read(path)
    assert found in error.value.found
    assert len(str(error.value)) < 2000
    path.write_text(squad(), encoding="utf-8")
    assert list(read(path)) == ["t"]


@pytest.mark.parametrize(
    ("line", "corpus", "found"),
    [
        (f'{{"text": {HALF}}}', JsonLines, "half a character"),
        (DEEP, JsonLines, "endless depth"),
        (f'{{"context": {HALF}, "questions": []}}', QuestionAnswering, "context"),
        (f'{{"context": "a", "questions": [{{"question": {HALF}, "answers": "a"}}]}}', QuestionAnswering, "question"),
        (f'{{"context": "a", "questions": [{{"question": "b", "answers": {HALF}}}]}}', QuestionAnswering, "answers"),
        ('{"context": "a", "questions": [{"question": "b", "answers": ""}]}', QuestionAnswering, "answers"),
        (f'{{"context": "a", "document": {HALF}, "questions": []}}', QuestionAnswering, "document"),
    ],
)
def test_lines_of_nonsense_name_their_line(tmp_path: Path, line: str, corpus: Callable[..., Any], found: str) -> None:
    path = tmp_path / "c.jsonl"
    good = {"text": "word " * 60, "context": "a b", "questions": [{"question": "a?", "answers": ["a"]}]}
    path.write_text(f"{json.dumps(good)}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        corpus(path=str(path)).split("train")
    assert f"{path}, line 2" in error.value.where
    assert found in error.value.found


@pytest.mark.parametrize(
    "opened",
    [
        lambda folder: CsvTable(str(folder)).content,
        lambda folder: Npz(str(folder), "data.path"),
        read,
        lambda folder: JsonLines(path=str(folder)).split("train"),
    ],
    ids=["table", "npz", "squad", "jsonl"],
)
def test_a_list_that_is_a_folder_is_told(tmp_path: Path, opened: Callable[[Path], object]) -> None:
    with pytest.raises(UserError) as error:
        opened(tmp_path)
    assert error.value.found == "a folder"
