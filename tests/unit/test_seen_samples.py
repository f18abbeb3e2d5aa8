"""No sample that a run has learned from is scored as if it were new, wherever it stands and whatever it is called."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data_table import SMALL, everything, media, write

from asgml.data import CsvTable, Features
from asgml.data.contents import sample_contents
from asgml.data.datamodule import MultimodalData
from asgml.data.new_samples import new_samples
from asgml.data.preprocessing import Preprocessing
from asgml.data.seen import joined, seen_in, unseen
from asgml.data.spec import Source, Table
from asgml.data.standardize import Tokens
from callbacks.errors import UserError

assert media  # the fixture

Columns = dict[str, list[Any]]
SPLIT = ["train"] * 6 + ["val"] * 3 + ["test"] * 3


def fixed(source: Source, path: Path) -> Preprocessing:
    """What a run on a source has fixed, as it is read back."""
    names = source.spec().modalities
    data = MultimodalData(source, 4, 4, missing=dict.fromkeys(names, 0.3 if len(names) > 1 else 0.0))
    Preprocessing.of(source.spec(), data.table("train").transforms, data.seen()).write(path)
    return Preprocessing.read(path, "")


def table(path: Path, columns: Columns) -> CsvTable:
    return CsvTable(str(write(path, columns)), **SMALL)


def some(columns: Columns, rows: list[int], **more: list[Any]) -> Columns:
    return {**{k: [v[i] for i in rows] for k, v in columns.items() if k != "split"}, **more}


def test_a_table_that_grew_is_scored_on_what_is_new(media: Path, tmp_path: Path) -> None:
    """The old rows in another order and place, their numbers written otherwise, their files under other names."""
    old = everything(media, split=SPLIT, label=["a", "b", "c"] * 4)
    run = fixed(table(media / "old.csv", old), tmp_path / "p.safetensors")
    new = tmp_path / "new"
    shutil.copytree(media, new, ignore=lambda *_: ["prepared"])
    (new / "1.wav").rename(new / "renamed.wav")
    order = [5, 0, 11, 7, 1]
    voice = ["renamed.wav" if i == 1 else old["voice"][i] for i in order]
    age = [f"{float(old['age'][i]):.5f}" for i in order]
    fresh = {k: [v[0], v[1]] for k, v in some(old, [2, 3]).items()} | {"note": ["new", "newer"]}
    grown = {k: v + fresh[k] for k, v in some(old, order, voice=voice, age=age).items()}
    source = table(new / "grown.csv", grown)
    found, told = new_samples(source, run, labelled=True)
    assert found.ids == ["line 4", "line 7", "line 8"]
    assert told[0] == (
        "of 7 samples the run has seen 4, 3 that it was trained on and 1 that it was chosen on (validation): left out"
        " (--keep-seen scores them)"
    )
    kept, told = new_samples(source, run, labelled=True, keep_seen=True)
    assert (len(kept), told[0].rpartition(": ")[2]) == (7, "scored all the same (--keep-seen)")
    assert len(new_samples(source, run, labelled=False)[0]) == 7
    with pytest.raises(UserError, match=r"of 2 samples the run has seen 2, 2 that it was trained on"):
        new_samples(table(new / "known.csv", some(old, [4, 5])), run, labelled=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_feature_file_that_grew_is_scored_on_what_is_new(tmp_path: Path, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), np.arange(40) % 2
    np.savez(tmp_path / "f.npz", x_a=x, y=y)
    source = Features(str(tmp_path / "f.npz"))
    run = fixed(source, tmp_path / "p.safetensors")
    test = source.tables()["test"].row
    assert test is not None
    np.savez(tmp_path / "g.npz", x_a=np.r_[x, x[:5] + 1].astype(dtype)[::-1], y=np.r_[y, y[:5]][::-1])
    found, told = new_samples(Features(str(tmp_path / "g.npz")), run, labelled=True)
    assert found.row is not None
    assert sorted((44 - found.row).tolist()) == sorted([*test.tolist(), *range(40, 45)])
    assert told[0].startswith(f"of 45 samples the run has seen {40 - len(test)}, 28 that it was trained on and 6")
    other = Features(str(tmp_path / "f.npz"), split_seed=1)
    assert sorted(new_samples(other, run, labelled=True)[0].ids) == sorted(source.tables()["test"].ids)


def test_padding_and_its_place_make_no_other_sample(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, length = rng.standard_normal((40, 6, 2)), np.arange(40) % 4 + 1
    x[np.arange(6) >= length[:, None]] = 7
    np.savez(tmp_path / "f.npz", x_a=x, length_a=length, y=np.arange(40) % 2)
    run = fixed(Features(str(tmp_path / "f.npz")), tmp_path / "p.safetensors")
    x[np.arange(6) >= length[:, None]] = -3
    np.savez(tmp_path / "g.npz", x_a=x[:, :4], length_a=length, y=np.arange(40) % 2)
    assert new_samples(Features(str(tmp_path / "g.npz")), run, labelled=True)[1][0].startswith(
        "of 40 samples the run has seen 34"
    )


def numbers(values: Sequence[float], split: list[int]) -> Callable[[Path], Features]:
    def save(path: Path) -> Features:
        np.savez(path, x_a=np.array(values)[:, None], y=np.arange(len(values)) % 2, split=np.array(split))
        return Features(str(path))

    return save


def test_as_many_copies_are_left_out_as_were_seen(tmp_path: Path) -> None:
    """A table of few whole numbers: rows that are alike need not be the same sample."""
    run = fixed(numbers([1, 1, 2, 3, 4, 5], [0, 0, 0, 0, 1, 2])(tmp_path / "f.npz"), tmp_path / "p")
    found, _ = new_samples(numbers([1, 1, 1, 2, 2, 4, 9], [2] * 7)(tmp_path / "g.npz"), run, labelled=True)
    assert found.x["a"].ravel().tolist() == [1, 2, 9]


def test_what_a_release_before_did_not_note_is_said(tmp_path: Path) -> None:
    source = numbers([1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 1, 2])(tmp_path / "f.npz")
    before = Preprocessing.of(source.spec(), source.tables()["train"].transforms)
    before.write(tmp_path / "p.safetensors")
    found, told = new_samples(source, Preprocessing.read(tmp_path / "p.safetensors", ""), labelled=True)
    assert (len(found), told[0]) == (
        1,
        "the run is of an earlier release: which of these samples it has seen in training is not known",
    )


def test_weights_that_were_taken_over_have_seen_what_their_run_has(tmp_path: Path) -> None:
    one, two = (seen_in(numbers(v, [0, 0, 0, 1, 2])(tmp_path / "f.npz").tables()) for v in ([1, 2, 3, 4, 5], [6] * 5))
    both = joined(one, two)
    assert both is not None
    assert {s: len(d) for s, d in both.items()} == {"train": 6, "val": 2}
    assert joined(one, None) is None
    tables = numbers([3, 6, 7, 4, 9], [2, 0, 1, 2, 2])(tmp_path / "g.npz").tables()
    assert unseen(tables["test"], both)[0].x["a"].ravel().tolist() == [9]


def test_contents_are_told_apart() -> None:
    """Which modality a value is of, whether it is there, and where one ends and the next begins."""
    x = {"a": np.array([[1.0, 2], [1, 2], [0, 0], [1, 2]]), "b": np.array([[3.0], [0], [3], [3]])}
    present = {"a": np.array([True, True, False, True]), "b": np.array([True, False, True, True])}
    whole = Table(x, present, np.array([0, 1, 0, 1]), list("wxyz"), {"a": Tokens(), "b": Tokens()})
    found = sample_contents(whole).tolist()
    assert len(set(found)) == 3
    assert found[0] == found[3]
    assert 0 not in found
