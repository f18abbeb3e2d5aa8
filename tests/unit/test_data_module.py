"""The data module: loaders, the probe batch, checks and the summary."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from asgml.data.datamodule import MultimodalData
from asgml.data.spec import SPLITS, DataSpec, ModalitySpec, Table
from callbacks.errors import UserError


class Float:
    def __call__(self, raw: np.ndarray, keys: np.ndarray, train: bool) -> torch.Tensor:
        return torch.from_numpy(raw.astype(np.float32))


class Made:
    """A source in memory; `edit(spec, tables)` spoils it."""

    def __init__(self, edit=None, classes: int = 4, sizes: tuple[int, int, int] = (50, 23, 17)):
        rng = np.random.default_rng(0)
        self._spec = DataSpec(
            {m: ModalitySpec(m, "vector", (3,)) for m in ("audio", "text")}, [f"c{i}" for i in range(classes)]
        )
        self._tables = {}
        for split, n in zip(SPLITS, sizes):
            x = {m: rng.normal(size=(n, 3)).astype(np.float32) for m in ("audio", "text")}
            self._tables[split] = Table(
                x=x,
                present={m: np.ones(n, dtype=bool) for m in x},
                y=np.arange(n) % classes,
                ids=[f"{split}{i}" for i in range(n)],
                transforms={m: Float() for m in x},
            )
        if edit:
            self._spec = edit(self._spec, self._tables) or self._spec

    def spec(self):
        return self._spec

    def tables(self):
        return self._tables

    def prepare(self, workers: int = 1) -> None:
        self.prepared_with = workers


def data(source=None, **options) -> MultimodalData:
    options = {"batch_size": 8, "eval_batch_size": 10, **options}
    return MultimodalData(source or Made(), **options)


def indices(loader) -> list[int]:
    return [int(i) for batch in loader for i in batch["index"]]


def test_train_batches_are_full_and_shuffled_evaluation_is_complete_and_in_order():
    module = data()
    train = indices(module.train_dataloader())
    assert len(train) == len(set(train)) == 48
    assert train != sorted(train)
    assert indices(module.val_dataloader()) == list(range(23))
    assert indices(module.test_dataloader()) == list(range(17))


def test_workers_do_not_change_a_batch():
    one, two = (list(data(workers=w).train_dataloader()) for w in (0, 2))
    assert len(one) == len(two) == 6
    for a, b in zip(one, two):
        assert torch.equal(a["index"], b["index"])
        assert torch.equal(a["x"]["audio"], b["x"]["audio"])


@dataclasses.dataclass
class Rank:
    global_rank: int
    world_size: int


def test_ranks_split_the_global_batch():
    whole = [batch["index"].tolist() for batch in data().train_dataloader()]
    parts = []
    for rank in range(2):
        module = data()
        module.setup()
        module.trainer = Rank(rank, 2)
        parts.append([batch["index"].tolist() for batch in module.train_dataloader()])
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(b) for b in whole]
    assert {len(b) for part in parts for b in part} == {4}


def test_a_batch_smaller_than_the_world_is_refused():
    module = data(batch_size=1)
    module.trainer = Rank(0, 2)
    with pytest.raises(UserError, match=r"loader\.batch_size"):
        module.train_dataloader()


@pytest.mark.parametrize(("n", "counts"), [(8, [2, 2, 2, 2]), (10, None), (1000, [6, 6, 6, 5])])
def test_the_probe_batch_is_held_out_balanced_and_fixed(n, counts):
    one, two = data(seed=0).probe_batch(n), data(seed=1).probe_batch(n)
    assert torch.equal(one["index"], two["index"])
    assert torch.equal(one["x"]["audio"], two["x"]["audio"])
    got = torch.bincount(one["y"], minlength=4)
    assert len(one["y"]) == min(n, 23)
    assert int(got.max() - got.min()) <= 1
    assert counts is None or got.tolist() == counts
    assert np.array_equal(one["x"]["audio"].numpy(), Made().tables()["val"].x["audio"][one["index"]])


def test_the_summary_is_printed_once_and_tells_what_is_missing(capsys):
    module = data(missing={"audio": 0.4})
    module.setup("fit")
    module.setup("test")
    printed = capsys.readouterr().out
    assert printed.count("data: train 50, val 23, test 17 samples, 4 classes") == 1
    count = int(module.table("train").present["audio"].sum())
    assert f"audio: vector 3; present in train {count} of 50" in printed
    assert "simulated missing rate 0.4" in printed
    assert 20 < count < 40


def test_missingness_reaches_the_batches_and_is_the_same_in_every_epoch():
    module = data(missing={"audio": 0.4})
    seen: dict[int, bool] = {}
    for _ in range(2):
        for batch in module.train_dataloader():
            rows = set(range(8)) if batch["rows"]["audio"] is None else set(batch["rows"]["audio"].tolist())
            assert batch["x"]["audio"].shape == (len(rows), 3)
            for place, index in enumerate(batch["index"].tolist()):
                assert seen.setdefault(index, place in rows) == (place in rows)
    assert not all(seen.values())


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ({"video": 0.1}, "no such modality"),
        ({"audio": 1.0}, "a rate in [0, 1)"),
        ({"audio": -0.1}, "a rate in [0, 1)"),
    ],
)
def test_impossible_missingness_is_refused(missing, told):
    with pytest.raises(UserError) as error:
        data(missing=missing).setup()
    assert told in str(error.value)
    assert "missing." in error.value.where


def test_prepare_data_prepares_the_source():
    source = Made()
    data(source, workers=3).prepare_data()
    assert source.prepared_with == 3


def spoil_label(spec, tables):
    tables["val"].y[5] = 4


def spoil_nan(spec, tables):
    tables["test"].x["text"][2, 1] = np.nan


def spoil_transform_nan(spec, tables):
    tables["train"].transforms["text"] = lambda raw, keys, train: torch.full((len(raw), 3), torch.nan)


def spoil_shape(spec, tables):
    tables["train"].x["text"] = np.zeros((50, 4), np.float32)


def spoil_absent(spec, tables):
    tables["train"].present["audio"][:] = False


def spoil_alone(spec, tables):
    for m in ("audio", "text"):
        tables["val"].present[m][3] = False


def spoil_ids(spec, tables):
    tables["test"].ids[0] = "train7"


def spoil_twice(spec, tables):
    tables["test"].ids[0] = "test1"


def spoil_empty(spec, tables):
    tables["val"] = Table({"audio": np.zeros((0, 3))}, {}, np.zeros(0, np.int64), [], {})


def spoil_length(spec, tables):
    tables["val"].ids.pop()


def spoil_names(spec, tables):
    del tables["val"].x["text"]


def spoil_dominant(spec, tables):
    return dataclasses.replace(spec, dominant="video")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_label, ["val split, row 5 (val5)", "label 4", "0 to 3"]),
        (spoil_nan, ["test split, x[text], row 2, column 1 (test2)", "nan (1 value(s)"]),
        (spoil_transform_nan, ["transform of text, sample train0", "NaN"]),
        (spoil_shape, ["transform of text", "(4,)", "(3,)"]),
        (spoil_absent, ["modality audio", "missing in every training sample"]),
        (spoil_alone, ["val split", "1 sample(s) without any modality, first val3"]),
        (spoil_ids, ["sample train7", "in train and again in test"]),
        (spoil_twice, ["sample test1", "twice in test"]),
        (spoil_empty, ["val split", "no sample"]),
        (spoil_length, ["val split, ids", "22 rows"]),
        (spoil_names, ["val split, `x`", "['audio']"]),
        (spoil_dominant, ["data.dominant", "'video'"]),
    ],
)
def test_spoilt_tables_are_refused(spoil, told):
    with pytest.raises(UserError) as error:
        data(Made(spoil)).setup()
    for fragment in told:
        assert fragment in str(error.value), str(error.value)


def test_a_class_without_training_sample_is_a_warning():
    def spoil(spec, tables):
        tables["train"].y[tables["train"].y == 2] = 1

    module = data(Made(spoil))
    module.setup()
    assert module.warnings == ["train has no sample of c2: never learned"]
    assert "warning: train has no sample of c2" in module.summary()


@pytest.mark.parametrize("key", ["batch_size", "eval_batch_size", "workers"])
def test_impossible_loader_options_are_refused(key):
    with pytest.raises(UserError, match=f"loader.{key}"):
        data(**{key: -1})


def test_memory_maps_are_not_scanned(tmp_path):
    """A shard may be larger than the memory; only the row that the transforms are tried on is read."""

    def spoil(spec, tables):
        x = tables["train"].x["text"].copy()
        x[5:] = np.nan
        np.save(tmp_path / "x.npy", x)
        tables["train"].x["text"] = np.load(tmp_path / "x.npy", mmap_mode="r")

    module = data(Made(spoil))
    module.setup()
    assert len(module.table("train")) == 50
