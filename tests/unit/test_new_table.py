"""Tables of new samples are read as the run's own was: same columns, same numbers, no label where none is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_data_table import SMALL, everything, media, write

from asgml.data import CsvTable, Features, Table
from asgml.data.dataset import MultimodalDataset
from asgml.data.new_samples import new_samples
from asgml.data.preprocessing import Preprocessing
from callbacks.errors import UserError

assert media  # the fixture

N = 12
TEST = [10, 11]
NOTHING_SEEN = {split: np.zeros(0, np.int64) for split in ("train", "val")}
MODALITIES = ("voice", "face", "clip", "vector", "steps", "note", "pose", "age")
Columns = dict[str, list[Any]]


def whole() -> Columns:
    """A column of every content; line 2 lacks the voice."""
    columns = everything(Path())
    return {**columns, "voice": ["", *columns["voice"][1:]], "note": columns["note"][::-1]}


def some(rows: list[int], *without: str, **more: list[Any]) -> Columns:
    """Some rows of `whole`, without some columns."""
    return {**{k: [v[i] for i in rows] for k, v in whole().items() if k not in without}, **more}


def bare(rows: list[int], **more: list[Any]) -> Columns:
    return some(rows, "label", "split", **more)


@pytest.fixture(scope="module")
def root(media: Path) -> Path:
    """The folder that the tables lie in, with an array that is too long and one that is too wide."""
    np.save(media / "long.npy", np.zeros((5, 4)))
    np.save(media / "wide.npy", np.zeros(9))
    return media


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Preprocessing, Table]:
    """What a run on `whole` has fixed, as it is read back from its file, and its test table."""
    source = source_of(write(root / "whole.csv", whole()))
    tables = source.tables()
    path = tmp_path_factory.mktemp("run") / "preprocessing.safetensors"
    Preprocessing.of(source.spec(), tables["train"].transforms, NOTHING_SEEN).write(path)
    return Preprocessing.read(path, ""), tables["test"]


def source_of(path: Path, **options: Any) -> CsvTable:
    return CsvTable(str(path), **{**SMALL, **options})


def seen(table: Table) -> dict[str, torch.Tensor]:
    """What the network gets of all samples of a table."""
    batch = MultimodalDataset(table, 0).__getitems__([(i, 0) for i in range(len(table))])
    present = {f"present {m}": torch.from_numpy(p) for m, p in table.present.items()}
    return {**batch["x"], **present, **{f"steps of {m}": n for m, n in batch["lengths"].items()}}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# -- to predict -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [TEST, TEST[1:]], ids=["all", "a lone row"])
def test_the_network_gets_the_very_numbers_of_the_run(
    run: tuple[Preprocessing, Table], root: Path, rows: list[int]
) -> None:
    """Statistics, lengths and classes are the run's, whatever else is in the file and in whichever order it stands."""
    columns = bare(rows)
    path = write(root / "bare.csv", {name: columns[name] for name in reversed(columns)}, ";")
    table, told = new_samples(source_of(path), run[0], labelled=False)
    wanted = {k: v[[TEST.index(r) for r in rows]] for k, v in seen(run[1]).items()}
    assert equal(seen(table), wanted)
    assert table.ids == [f"line {2 + i}" for i in range(len(rows))]
    assert told == []


def test_labels_splits_and_groups_are_not_read_to_predict(run: tuple[Preprocessing, Table], root: Path) -> None:
    odd = {"label": ["", "no class"], "split": ["", "never"], "group": ["", ""], "id": ["one", "two"]}
    table, _ = new_samples(source_of(write(root / "odd.csv", bare(TEST, **odd))), run[0], labelled=False)
    assert (table.ids, len(table)) == (["one", "two"], 2)
    assert equal(seen(table), seen(run[1]))


def test_whole_columns_may_be_empty_and_words_may_look_like_anything(
    run: tuple[Preprocessing, Table], root: Path
) -> None:
    gone = {m: [""] for m in ("voice", "clip", "vector", "steps", "pose_x", "pose_y", "age")}
    path = write(root / "lone.csv", bare([11], **{**gone, "note": ["42"]}))
    table, told = new_samples(source_of(path), run[0], labelled=False)
    assert [m for m, p in table.present.items() if p.all()] == ["face", "note"]
    assert equal({"face": seen(table)["face"]}, {"face": seen(run[1])["face"][1:]})
    assert told == [f"no sample has {m}: predicted without" for m in MODALITIES if m not in ("face", "note")]


def test_longer_texts_and_sounds_are_cut_and_counted(run: tuple[Preprocessing, Table], root: Path) -> None:
    most = run[0].spec.modalities["note"].shape[0]
    path = write(root / "longer.csv", bare([2, 3], note=["bark " * (most + 1), "bark"]))
    table, told = new_samples(source_of(path), run[0], labelled=False)
    assert (table.x["note"] >= 0).sum(1).tolist() == [most, 1]
    assert told == [
        "voice: 1 of 2 sounds are longer than 0.1 s, their ends are cut off (data.seconds)",
        f"note: 1 of 2 texts are longer than {most} words, the length in training: their ends are cut off",
    ]


def test_unusable_files_are_refused_with_their_line_or_missing(
    run: tuple[Preprocessing, Table], root: Path, tmp_path: Path
) -> None:
    path = write(root / "absent.csv", bare(TEST, voice=["absent.wav", "11.wav"]))
    with pytest.raises(UserError, match=r"line 2: .*absent\.wav \(no such file\)"):
        new_samples(source_of(path, prepared=str(tmp_path)), run[0], labelled=False)
    table, _ = new_samples(source_of(path, prepared=str(tmp_path), corrupt="missing"), run[0], labelled=False)
    assert table.present["voice"].tolist() == [False, True]


# -- to be scored -----------------------------------------------------------------------------------------------------


def test_labels_are_the_runs_classes_by_name(run: tuple[Preprocessing, Table], root: Path) -> None:
    """One class alone, and the greater of the two: numbered anew it would be 0."""
    dogs = some([4, 6], "split", label=["dog", "dog"], group=["a", "b"])
    table, told = new_samples(source_of(write(root / "dogs.csv", dogs)), run[0], labelled=True)
    assert (table.y.tolist(), run[0].spec.classes) == ([1, 1], ["cat", "dog"])
    assert table.group is not None
    assert table.group.tolist() == ["a", "b"]
    assert told == ["test has no sample of cat: not measured"], "nothing of what was odd in training"


def test_only_rows_of_test_are_scored_and_read(run: tuple[Preprocessing, Table], root: Path) -> None:
    rows = some([0, *TEST], voice=["absent.wav", "10.wav", "11.wav"], label=["no class", "dog", "cat"])
    table, _ = new_samples(source_of(write(root / "some.csv", rows)), run[0], labelled=True)
    assert table.ids == ["line 3", "line 4"]
    assert equal(seen(table), seen(run[1]))


def test_the_runs_own_table_is_scored_on_its_test_rows_where_they_were_cut(root: Path) -> None:
    """Also under other keys, and in another place; never on rows that were trained on."""
    columns = {k: v for k, v in whole().items() if k in ("pose_x", "pose_y", "age", "label")}
    own = source_of(write(root / "cut.csv", columns), test_fraction=0.3)
    tables = own.tables()
    fixed = Preprocessing.of(own.spec(), tables["train"].transforms, NOTHING_SEEN)
    again = source_of(write(root / "moved.csv", columns, "\t"), test_fraction=0.3, corrupt="missing")
    table, _ = new_samples(again, fixed, labelled=True)
    assert table.ids == tables["test"].ids
    assert equal(seen(table), seen(tables["test"]))
    assert len(new_samples(again, fixed, labelled=False)[0]) == N
    with pytest.raises(UserError, match=r"other splits"):
        new_samples(source_of(root / "moved.csv", test_fraction=0.3, split_seed=1), fixed, labelled=True)


def test_a_network_that_was_trained_on_features_takes_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "f.npz", x_pose=rng.standard_normal((40, 2)), y=np.arange(40) % 2)
    features = Features(str(tmp_path / "f.npz"))
    fixed = Preprocessing.of(features.spec(), features.tables()["train"].transforms, NOTHING_SEEN)
    rows = {"pose_x": [0.5, 1], "pose_y": [2, 3], "label": [1, 0]}
    table, _ = new_samples(source_of(write(tmp_path / "t.csv", rows)), fixed, labelled=True)
    assert table.y.tolist() == [1, 0]
    mean, std = (fixed.numbers["pose"][k] for k in ("mean", "std"))
    np.testing.assert_allclose(seen(table)["pose"], (np.array([[0.5, 2], [1, 3]]) - mean) / std, rtol=1e-5)


# -- what is refused --------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], Columns], dict[str, Any], str]] = {
    "a column is gone": (lambda: some(TEST, "pose_y"), {}, "lacks pose_y"),
    "a foreign column": (lambda: some(TEST, pose_z=[1, 2]), {}, "foreign pose_z"),
    "a foreign file": (lambda: some(TEST, voice=["10.wav", "11.jpg"]), {}, r"line 3, column voice\n.*'11.jpg'"),
    "a word for a number": (lambda: some(TEST, age=[1, "old"]), {}, r"line 3, column age\n.*'old'"),
    "half a vector": (lambda: some(TEST, pose_x=["", 1]), {}, r"line 2\n.*1 of the 2 numbers of pose"),
    "an empty row": (lambda: some(TEST, **{k: ["", v[0]] for k, v in bare(TEST).items()}), {}, r"line 2\n.*no cell of"),
    "a longer sequence": (
        lambda: some([0, 1], "split", steps=["steps0.npy", "long.npy"]),
        {},
        r"line 3, column steps\n.*5 steps.*\n.*at most 4 steps",
    ),
    "another width": (lambda: some(TEST, vector=["10.npy", "wide.npy"]), {}, r"shape \(9,\), where the run has \(5,\)"),
    "other keys": (lambda: some(TEST), {"mels": 8}, r"data, voice\n.*1x8x8\n.*1x4x8, as the run"),
    "other tokens": (lambda: some(TEST), {"tokens": "bytes"}, r"data, note\n.*256 tokens"),
    "a class of its own": (
        lambda: some(TEST, label=["dog", "cow"]),
        {},
        r"line 3, column label\n.*'cow'.*\n.*cat, dog",
    ),
    "no label": (lambda: some(TEST, label=["dog", ""]), {}, r"line 3\n.*label is empty"),
    "no labels": (lambda: some(TEST, "label"), {}, r"(?s)no column 'label'.*python -m asgml\.predict"),
    "no row of test": (lambda: some(TEST, split=["val", "train"]), {}, "no row of test"),
    "no such split": (lambda: some(TEST, "split"), {"split": "fold"}, r"(?s)no column 'fold'.*data\.split=null"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_as_in_the_run_is_refused_by_name(
    kind: str, run: tuple[Preprocessing, Table], root: Path, tmp_path: Path
) -> None:
    columns, options, told = WRONG[kind]
    with pytest.raises(UserError, match=told) as error:
        new_samples(source_of(write(root / "wrong.csv", columns()), prepared=str(tmp_path), **options), run[0], True)
    assert len(str(error.value).splitlines()) <= 8
