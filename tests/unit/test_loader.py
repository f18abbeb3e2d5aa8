"""EpochBatches and ResumableLoader: the same batches, whatever the interruption, the workers or the ranks."""

from __future__ import annotations

import signal
import socket
from itertools import chain
from multiprocessing.resource_sharer import DupFd
from typing import Any

import pytest
import torch

from callbacks.errors import UserError
from suite.loader import EpochBatches, ResumableLoader


class Indices(torch.utils.data.Dataset):
    """Gives back what it was asked for."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitems__(self, items: list[tuple[int, int]]) -> dict[str, Any]:
        if any(index == 99 for index, _ in items):
            raise UserError("sample 99", "NaN", "finite values", "repair it")
        return {"items": items}


def loader(n: int = 22, size: int = 4, train: bool = True, workers: int = 0, seed: int = 0) -> ResumableLoader:
    return ResumableLoader(Indices(n), EpochBatches(n, size, seed, train), workers)


def epoch(data: ResumableLoader, number: int) -> list[list[tuple[int, int]]]:
    data.batches.set_epoch(number)
    return [batch["items"] for batch in data]


def test_training_epochs_are_different_permutations_that_depend_on_seed_and_epoch_only() -> None:
    data = loader()
    torch.manual_seed(1)
    first, second = epoch(data, 0), epoch(data, 1)
    torch.manual_seed(2)
    assert epoch(loader(), 1) == second != first
    assert epoch(data, 0) == first != epoch(loader(seed=1), 0)
    for number, batches in ((0, first), (1, second)):
        flat = [item for batch in batches for item in batch]
        assert [len(batch) for batch in batches] == [4] * 5
        assert len({index for index, _ in flat}) == 20
        assert {tag for _, tag in flat} == {number}
    assert data.batches.dropped_per_epoch == 2
    assert len(data) == 5


def test_training_set_smaller_than_a_batch_is_kept() -> None:
    batches = EpochBatches(3, 8, 0, train=True)
    assert sorted(index for index, _ in next(iter(batches))) == [0, 1, 2]
    assert (len(batches), batches.dropped_per_epoch) == (1, 0)


def test_evaluation_keeps_every_sample_in_order_at_any_epoch() -> None:
    data = loader(7, 3, train=False)
    expected = [[(0, 0), (1, 0), (2, 0)], [(3, 0), (4, 0), (5, 0)], [(6, 0)]]
    assert epoch(data, 0) == epoch(data, 5) == expected
    assert data.batches.dropped_per_epoch == 0


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [4, 9, 13, 16, 22])
def test_ranks_see_together_what_one_rank_sees(n: int, world: int, train: bool) -> None:
    ranks = [EpochBatches(n, 4, 0, train, rank, world) for rank in range(world)]
    for batches in ranks:
        batches.set_epoch(3)
    columns = [list(batches) for batches in ranks]
    assert len({len(column) for column in columns}) == 1
    assert all(batch for column in columns for batch in column)
    together = [sorted(chain(*parts)) for parts in zip(*columns, strict=True)]
    one = EpochBatches(n, 4, 0, train)
    one.set_epoch(3)
    alone = [sorted(batch) for batch in one]
    if train:
        assert together == alone
    else:
        assert [*chain(*together)] == [*chain(*alone)] == [(i, 0) for i in range(n)]


def test_too_few_samples_for_the_ranks_is_told() -> None:
    with pytest.raises(UserError, match=r"loader.batch_size\n"):
        EpochBatches(10, 2, 0, True, 0, 3)
    with pytest.raises(UserError, match=r"loader.eval_batch_size\n"):
        EpochBatches(10, 2, 0, False, 0, 3)
    with pytest.raises(UserError, match="2 sample"):
        EpochBatches(2, 4, 0, False, 0, 3)
    with pytest.raises(UserError, match="0 sample"):
        EpochBatches(0, 4, 0, True)


@pytest.mark.parametrize("workers", [0, 2])
def test_continues_from_every_position_and_later_epochs_are_complete(workers: int) -> None:
    whole = loader()
    second, third = epoch(whole, 1), epoch(whole, 2)
    data = loader(workers=workers)
    for position in range(6) if workers == 0 else (2, 5):
        stopped = loader(workers=workers)
        stopped.batches.set_epoch(1)
        iterator = iter(stopped)
        assert [next(iterator)["items"] for _ in range(position)] == second[:position]
        state = stopped.state_dict()
        assert state["position"] == position  # not what the workers have prefetched
        data.load_state_dict(state)
        early = iter(data)  # Lightning creates the iterator before it announces the epoch
        data.batches.set_epoch(1)
        assert data.state_dict() == state
        assert [batch["items"] for batch in early] == second[position:]
        assert len(data) == 5
        assert epoch(data, 2) == third


def test_position_of_another_epoch_is_forgotten() -> None:
    data = loader()
    data.load_state_dict({**loader().state_dict(), "epoch": 1, "position": 3})
    assert len(epoch(data, 2)) == 5
    assert len(epoch(data, 1)) == 5


def test_iterator_left_in_the_middle_does_not_shift_the_next_one() -> None:
    data = loader(workers=1)
    first = epoch(data, 0)
    data.batches.set_epoch(0)
    next(iter(data))
    assert epoch(data, 0) == first


def test_iterating_leaves_the_global_random_state_alone() -> None:
    data = loader()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(data)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("other", [{"n": 23}, {"size": 5}, {"seed": 1}])
def test_position_in_another_order_is_refused(other: dict[str, int]) -> None:
    with pytest.raises(UserError, match="position in the data"):
        loader(**other).load_state_dict(loader().state_dict())


@pytest.mark.parametrize("workers", [0, 1])
def test_error_about_a_sample_arrives_as_it_is(workers: int) -> None:
    data = loader(100, 4, train=False, workers=workers)
    with pytest.raises(UserError, match="sample 99") as caught:
        list(data)
    assert caught.value.remedy == "repair it"


def test_ctrl_c_while_workers_are_forked_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python ignores what a handler raises in the hooks of a fork; the interrupt waits until the workers are there."""
    forked, begin, handler = list[str](), torch.utils.data.DataLoader.__iter__, signal.getsignal(signal.SIGINT)

    def interrupted(self: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        forked.append("whole")
        return begin(loader())

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", interrupted)
    data = loader(workers=1)
    with pytest.raises(KeyboardInterrupt):
        epoch(data, 0)
    assert forked == ["whole"]
    assert signal.getsignal(signal.SIGINT) is handler


class Addresses(Indices):
    """Names where a worker hands its file descriptors over, as it does for tensors in shared memory."""

    def __getitems__(self, items: list[tuple[int, int]]) -> Any:
        return DupFd(0)._id[0]  # type: ignore[attr-defined]


def test_main_process_that_is_stopped_while_it_takes_a_tensor_leaves_no_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    addresses = ResumableLoader(Addresses(8), EpochBatches(8, 4, 0, True), workers=1)
    for address in addresses:
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as receiver:
                receiver.connect(address)
    list(addresses)  # the worker lives on
    assert capfd.readouterr().err == ""
