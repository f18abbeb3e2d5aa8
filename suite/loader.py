"""Batches that can be continued from any position of any epoch.

A resumed run must see exactly the batches that the uninterrupted run would have seen. Everything random about the order
of the data is therefore a function of (seed, epoch), the only state is (epoch, position), and the position counts
batches that the training loop has received, never batches that workers have prefetched.
"""

from __future__ import annotations

import atexit
import hashlib
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType, TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from callbacks.errors import UserError

Batch = list[tuple[int, int]]


class EpochBatches(Sampler[Batch]):
    """A batch sampler whose order depends on (seed, epoch) and on nothing else.

    It yields lists of `(index, epoch)`: the data set seeds its augmentation per sample by (seed, epoch, index). The
    *global* batch of `batch_size` samples is split over the ranks as `batch[rank::world]`, without padding, so that
    `world` ranks see together exactly what one rank would see.

    Training shuffles, and drops the last partial batch when there is at least one full batch. Evaluation keeps all
    samples in their order, tags them with epoch 0 whenever it is done, and gives every rank the same number of batches:
    a last global batch smaller than `world` joins the one before it.

    Args:
        n: the number of samples in the data set.
        batch_size: the number of samples in a global batch.
        seed: the seed of the permutations.
        train: whether to shuffle and drop the partial batch, or to keep everything in order.
        rank: the number of this process.
        world: the number of processes.

    Attributes:
        dropped_per_epoch: the number of samples that an epoch leaves out, other ones in every epoch.

    Raises:
        UserError: no samples, or fewer samples in a batch than ranks.
    """

    def __init__(self, n: int, batch_size: int, seed: int, train: bool, rank: int = 0, world: int = 1):
        if batch_size < world or batch_size < 1:
            key = "loader.batch_size" if train else "loader.eval_batch_size"
            raise UserError(
                key,
                f"{batch_size} for {world} rank(s)",
                f"at least {max(world, 1)}: every rank needs a sample in every batch",
                f"set {key}={max(world, 1)} or more (it is global, and split over the ranks), or lower trainer.devices",
            )
        if n < world or n < 1:
            raise UserError(
                "training split" if train else "evaluation split",
                f"{n} sample(s) for {world} rank(s)",
                f"at least {max(world, 1)}",
                f"set trainer.devices={n}" if n else "put at least one sample into this split",
            )
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}")
        self.n, self.batch_size, self.seed, self.train = n, batch_size, seed, train
        self.rank, self.world = rank, world
        self.epoch = 0
        self.start = 0
        self._arranged: tuple[int, list[int]] | None = None
        full, rest = divmod(n, batch_size)
        self.dropped_per_epoch = rest if train and full else 0
        bounds = [*range(0, full * batch_size + 1, batch_size)]
        if rest and not self.dropped_per_epoch:
            if full and rest < world:
                bounds[-1] = n
            else:
                bounds.append(n)
        self._bounds = bounds

    @property
    def sampler(self) -> EpochBatches:
        """Itself: Lightning looks for `set_epoch` on `batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, which begins at its first batch unless `start` is set after this."""
        self.epoch, self.start = int(epoch), 0

    def arrange(self, epoch: int, numbers: list[int]) -> None:
        """Set what one training epoch hands out in place of its permutation.

        It is no part of the loader's state: who arranges an epoch does it again after a restart within it.

        Args:
            epoch: the epoch.
            numbers: n numbers that the data set understands.
        """
        if len(numbers) != self.n or not self.train:
            raise ValueError(f"{len(numbers)} numbers for {self.n} samples (training: {self.train})")
        self._arranged = (epoch, list(numbers))

    def order(self, epoch: int) -> list[int]:
        """Return all indices in the order of one epoch, before they are cut into batches."""
        if not self.train:
            return list(range(self.n))
        if self._arranged is not None and self._arranged[0] == epoch:
            return self._arranged[1]
        digest = hashlib.blake2b(f"{self.seed}:{epoch}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        return torch.randperm(self.n, generator=generator).tolist()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[Batch]:
        # Read here and not at the first `next`: later changes are for the next iteration. (A `DataLoader` with
        # workers takes two iterators for its first epoch and uses the second.)
        return self._batches(self.epoch, self.start)

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        tag = epoch if self.train else 0
        order = self.order(epoch)
        for low, high in zip(self._bounds[start:], self._bounds[start + 1 :], strict=False):
            yield [(index, tag) for index in order[low:high][self.rank :: self.world]]


class ResumableLoader(DataLoader[Any]):
    """A `DataLoader` over `EpochBatches` that can be continued; Lightning's loops save and load its state.

    An iterator reads its epoch and position at its first `next`, because Lightning creates it before it announces the
    epoch. Several iterators may be created; one at a time may run. The global random state is never touched, so neither
    the number of workers nor an additional evaluation changes a run.

    Workers outlive the first SIGTERM (a signal to the whole process group must not take the data away from the step
    that is to be finished) and leave with the main process. A `UserError` in a worker reaches the main process as it
    is.

    With Lightning, set `Trainer(use_distributed_sampler=False)`: ranks are handled here.

    Args:
        dataset: the data set, which returns a finished batch from `__getitems__([(index, epoch), …])` and draws from no
            global random state.
        batches: the batch sampler.
        workers: the number of processes, which persist over epochs; 0 loads in the main process.
        pin_memory: whether to copy batches to page-locked memory.
    """

    def __init__(self, dataset: Dataset[Any], batches: EpochBatches, workers: int = 0, pin_memory: bool = False):
        super().__init__(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_as_it_is,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=_prepare_worker if workers > 0 else None,
            generator=torch.Generator().manual_seed(0),
        )
        self.batches = batches
        self._epoch, self._position = 0, 0
        self._continue = False
        self._guarded = False

    @property
    def position(self) -> int:
        """The number of batches handed out in the current epoch."""
        return self._position

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return self._run()

    def _run(self) -> Iterator[Any]:
        if not (self._continue and self.batches.epoch == self._epoch):
            self._epoch, self._position = self.batches.epoch, 0
        self._continue = False
        self.batches.start = self._position
        if self.num_workers > 0 and not self._guarded:
            # Registered after multiprocessing's own exit handler and thus run before it.
            atexit.register(_shut_down, weakref.ref(self))
            self._guarded = True
        forks = self.num_workers > 0 and self._iterator is None  # later they are there, and may be waited for
        with _signals_wait() if forks else nullcontext():
            iterator = super().__iter__()
        self.batches.start = 0
        for batch in iterator:
            if isinstance(batch, _Refused):
                raise batch.error
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return epoch, batches handed out, and what identifies the order (the number of ranks does not)."""
        return {"epoch": self._epoch, "position": self._position, **self._identity()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration continue where the state was taken; those of later epochs are complete.

        Raises:
            UserError: the state belongs to another data set size, batch size or seed.
        """
        mine = self._identity()
        if other := {key: state.get(key) for key in mine if state.get(key) != mine[key]}:
            raise UserError(
                "checkpoint: position in the data",
                ", ".join(f"{key} {value}" for key, value in other.items()),
                ", ".join(f"{key} {mine[key]}" for key in other),
                "resume with the data and loader settings of the checkpoint, or start anew with resume=never",
            )
        self.batches.set_epoch(state["epoch"])
        self._epoch, self._position, self._continue = state["epoch"], state["position"], True

    def _identity(self) -> dict[str, int]:
        b = self.batches
        return {"n": b.n, "batch_size": b.batch_size, "seed": b.seed}


class _Refused:
    """Carries a worker's UserError to the main process; torch would rebuild it from its text alone."""

    def __init__(self, error: UserError):
        self.error = error


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the block has ended: what a handler raises while a process is forked is lost.

    Python runs hooks before and after a fork, and ignores their exceptions, Ctrl-C among them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: at for number in (signal.SIGINT, signal.SIGTERM) if (at := signal.getsignal(number)) is not None}
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for waited in came:
        signal.raise_signal(waited)


def _prepare_worker(worker: int) -> None:
    sys.excepthook = _unless_receiver_left
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _outlive_first)
    info = get_worker_info()
    assert info is not None
    dataset: Any = info.dataset  # this worker's own copy
    fetch = dataset.__getitems__

    def guarded(items: Batch) -> Any:
        try:
            return fetch(items)
        except UserError as error:
            return _Refused(error)

    dataset.__getitems__ = guarded


def _unless_receiver_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report what ended a thread that hands tensors over, unless the main process was stopped while it took one."""
    if not isinstance(error, (BrokenPipeError, ConnectionResetError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _outlive_first(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_DFL)


def _shut_down(reference: weakref.ref[ResumableLoader]) -> None:
    loader = reference()
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
