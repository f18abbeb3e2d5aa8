"""Batches: what is read, in which order, and what randomness may depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asgml.data.counter_rng import integers, sample_keys, shuffled, splitmix64, uniform
from asgml.data.dataset import MultimodalDataset, take
from asgml.data.missing import drop
from asgml.data.spec import Table


class Plain:
    """Raw values plus, in training, one uniform number per sample."""

    def __call__(self, raw: np.ndarray, keys: np.ndarray, train: bool) -> torch.Tensor:
        x = raw.astype(np.float32)
        if train:
            x = x + uniform(keys, 0).astype(np.float32).reshape(-1, *[1] * (x.ndim - 1))
        return torch.from_numpy(x)


class RefusesEmpty(Plain):
    def __call__(self, raw: np.ndarray, keys: np.ndarray, train: bool) -> torch.Tensor:
        assert len(raw), "transforms are never asked for zero rows"
        return super().__call__(raw, keys, train)


@pytest.fixture
def table(tmp_path) -> Table:
    rng = np.random.default_rng(0)
    n = 50
    mapped = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.float32, shape=(n, 3, 4))
    mapped[:] = rng.normal(size=mapped.shape)
    mapped.flush()
    present = {"audio": rng.random(n) < 0.7, "text": np.ones(n, dtype=bool)}
    return Table(
        x={
            "audio": np.load(tmp_path / "a.npy", mmap_mode="r"),
            "text": rng.normal(size=(n, 5)).astype(np.float32),
        },
        present=present,
        y=rng.integers(0, 4, n),
        ids=[f"s{i}" for i in range(n)],
        transforms={"audio": RefusesEmpty(), "text": Plain()},
    )


def test_a_batch_is_its_samples_one_by_one(table):
    dataset = MultimodalDataset(table, seed=3, train=True)
    order = np.random.default_rng(1).permutation(len(table))[:20]
    batch = dataset.__getitems__([(int(i), 2) for i in order])
    assert batch["index"].tolist() == order.tolist()
    assert batch["y"].tolist() == table.y[order].tolist()
    assert batch["y"].dtype == batch["index"].dtype == torch.int64
    assert batch["rows"]["text"] is None
    assert batch["rows"]["audio"].tolist() == np.flatnonzero(table.present["audio"][order]).tolist()
    singles = [dataset[(int(i), 2)] for i in order]
    for modality in ("audio", "text"):
        assert torch.equal(batch["x"][modality], torch.cat([s["x"][modality] for s in singles]))


def test_batches_keep_the_order_of_the_memory_map_restored(table):
    rows = np.array([7, 3, 3, 40, 0])
    assert np.array_equal(take(table.x["audio"], rows), np.stack([table.x["audio"][r] for r in rows]))
    assert type(take(table.x["audio"], np.array([1, 2]))) is np.ndarray


def test_augmentation_depends_on_seed_epoch_and_index_only(table):
    def seen(seed: int, epoch: int, others: list[int]) -> torch.Tensor:
        batch = MultimodalDataset(table, seed, train=True).__getitems__([(i, epoch) for i in [*others, 9]])
        return batch["x"]["text"][-1]

    assert torch.equal(seen(0, 0, []), seen(0, 0, [4, 2, 30]))
    assert not torch.equal(seen(0, 0, []), seen(0, 1, []))
    assert not torch.equal(seen(0, 0, []), seen(1, 0, []))


def test_evaluation_is_not_augmented(table):
    dataset = MultimodalDataset(table, seed=0)
    assert torch.equal(dataset[(5, 0)]["x"]["text"], dataset[(5, 9)]["x"]["text"])
    assert np.array_equal(dataset[(5, 0)]["x"]["text"][0].numpy(), table.x["text"][5])


def test_a_modality_absent_from_the_batch_has_zero_rows_of_its_shape(table):
    absent = np.flatnonzero(~table.present["audio"])[:3]
    batch = MultimodalDataset(table, seed=0, train=True).__getitems__([(int(i), 0) for i in absent])
    assert batch["x"]["audio"].shape == (0, 3, 4)
    assert batch["x"]["audio"].dtype == torch.float32
    assert batch["rows"]["audio"].shape == (0,)
    empty = MultimodalDataset(table, seed=0).__getitems__([])
    assert empty["x"]["audio"].shape == (0, 3, 4)
    assert empty["y"].shape == (0,)


def test_workers_do_not_change_a_number(table):
    samples = [[(i, 1) for i in range(start, start + 10)] for start in range(0, 50, 10)]

    def read(workers: int) -> list[torch.Tensor]:
        loader = torch.utils.data.DataLoader(
            MultimodalDataset(table, 5, train=True),
            batch_sampler=samples,
            num_workers=workers,
            collate_fn=_same,
        )
        return [batch["x"]["audio"] for batch in loader]

    for one, two in zip(read(0), read(2), strict=True):
        assert torch.equal(one, two)


def _same(batch):
    return batch


def test_splitmix64_is_the_published_one():
    # First outputs of the reference implementation for the state 0 and 1234567 (advanced by the golden gamma).
    assert int(splitmix64(np.uint64(0))) == 0xE220A8397B1DCDAF
    assert int(splitmix64(np.array([1234567], np.uint64))[0]) == 6457827717110365317


def test_keys_are_distinct_and_uniform():
    epochs, indices = np.meshgrid(np.arange(20), np.arange(1000))
    keys = sample_keys(0, epochs.ravel(), indices.ravel())
    assert len(np.unique(keys)) == keys.size
    u = uniform(keys, "crop")
    assert 0 <= u.min() < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(u, uniform(keys, "flip"))[0, 1]) < 0.03
    assert set(integers(keys, 1, -2, 3).tolist()) == {-2, -1, 0, 1, 2}
    assert sorted(shuffled(100, 1).tolist()) == list(range(100))
    assert sample_keys(-1, np.zeros(1), np.zeros(1)) != sample_keys(1, np.zeros(1), np.zeros(1))


def _many(n: int, present: dict[str, np.ndarray] | None = None) -> Table:
    x = {m: np.zeros((n, 1), np.float32) for m in ("a", "b", "c")}
    return Table(
        x=x,
        present=present or {m: np.ones(n, dtype=bool) for m in x},
        y=np.zeros(n, np.int64),
        ids=[str(i) for i in range(n)],
        transforms={m: Plain() for m in x},
    )


def test_simulated_missingness_is_fixed_and_at_its_rate():
    rates = {"a": 0.3, "b": 0.5}
    first, again = (drop(_many(4000), rates, 7, "train") for _ in range(2))
    for m in "abc":
        assert np.array_equal(first.present[m], again.present[m])
    assert abs((~first.present["a"]).mean() - 0.3) < 0.03
    assert abs((~first.present["b"]).mean() - 0.5) < 0.03
    assert first.present["c"].all()
    other_seed, other_split = drop(_many(4000), rates, 8, "train"), drop(_many(4000), rates, 7, "val")
    assert not np.array_equal(first.present["a"], other_seed.present["a"])
    assert not np.array_equal(first.present["a"], other_split.present["a"])
    both = (~first.present["a"] & ~first.present["b"]).mean()
    assert abs(both - 0.15) < 0.03  # independent of each other


def test_simulated_missingness_never_empties_a_sample():
    rng = np.random.default_rng(0)
    before = {"a": rng.random(2000) < 0.5, "b": rng.random(2000) < 0.5, "c": np.zeros(2000, dtype=bool)}
    before["c"] = ~before["a"] & ~before["b"]
    after = drop(_many(2000, before), {"a": 0.9, "b": 0.9, "c": 0.9}, 0, "train").present
    assert np.all(np.any(np.stack(list(after.values())), axis=0))
    for m in before:
        assert not np.any(after[m] & ~before[m]), "nothing absent becomes present"


def test_simulated_missingness_of_a_modality_ignores_the_rates_of_the_others():
    alone = drop(_many(500), {"a": 0.2}, 0, "train").present["a"]
    beside = drop(_many(500), {"a": 0.2, "b": 0.4}, 0, "train").present["a"]
    assert np.array_equal(alone, beside)
