"""The Lightning data module of every source."""

from __future__ import annotations

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from asgml.data.counter_rng import shuffled
from asgml.data.dataset import Batch, MultimodalDataset
from asgml.data.missing import check_rates, drop
from asgml.data.ranges import BatchSize, MissingRate
from asgml.data.seen import Seen, seen_in
from asgml.data.spec import SPLITS, DataSpec, Source, Split, Table, subset
from asgml.data.validate import validate
from callbacks.errors import UserError
from callbacks.ranges import Count, Seed, Workers
from suite.loader import EpochBatches, ResumableLoader

NAMED = 12  # classes that the summary names


class MultimodalData(lightning.LightningDataModule):
    """Holds the train, val and test loaders over a `Source`, checked and summarised once.

    `setup` may be called without a trainer and does its work once. Rank and world size are the trainer's where there is
    one.

    Args:
        source: where the data come from.
        batch_size: the number of samples in a global training batch, which is split over the ranks.
        eval_batch_size: the same for validation and test, where no sample is ever dropped.
        workers: the number of loader processes per rank; it changes no number.
        seed: the seed of the run: order of the samples, augmentation, simulated missingness.
        missing: the simulated missing rate per modality; the same samples in every epoch, in all three splits. No
            sample loses all its modalities.
        limit: the number of training samples to keep, classes as equal as possible (for debugging); null keeps all.

    Raises:
        UserError: a number out of its range, and (in `setup`) everything that `asgml.data.validate` refuses.
    """

    def __init__(
        self,
        source: Source,
        batch_size: BatchSize,
        eval_batch_size: BatchSize,
        workers: Workers = 0,
        seed: Seed = 0,
        missing: dict[str, MissingRate] | None = None,
        limit: Count | None = None,
    ):
        super().__init__()
        for key, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("workers", workers, 0),
            ("limit", 1 if limit is None else limit, 1),
        ):
            if value < least:
                raise UserError(f"loader.{key}", str(value), f"{least} or more", f"set loader.{key}={least}")
        self.source = source
        self.batch_size, self.eval_batch_size, self.workers = batch_size, eval_batch_size, workers
        self.seed, self.missing, self.limit = seed, dict(missing or {}), limit
        self._spec: DataSpec | None = None
        self._given: dict[Split, Table] = {}
        self._datasets: dict[Split, MultimodalDataset] = {}
        self.warnings: list[str] = []

    # -- set-up -------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        self.source.prepare(workers=max(1, self.workers))

    def setup(self, stage: str | None = None) -> None:
        if self._datasets:
            return
        spec, tables = self.source.spec(), self.source.tables()
        self._given = tables
        self.warnings = validate(spec, tables)
        check_rates(self.missing, list(spec.modalities))
        if any(self.missing.values()):
            tables = {split: drop(tables[split], self.missing, self.seed, split) for split in SPLITS}
            self.warnings = validate(spec, tables)
        if self.limit is not None:
            tables = {**tables, "train": subset(tables["train"], _balanced(tables["train"].y, self.limit))}
        self._spec = spec
        self._datasets = {s: MultimodalDataset(tables[s], self.seed, train=s == "train") for s in SPLITS}
        self._print_summary()

    @property
    def spec(self) -> DataSpec:
        """The data set as the model sees it."""
        self.setup()
        assert self._spec is not None
        return self._spec

    def table(self, split: Split) -> Table:
        """Return the checked table of one split, simulated missingness applied."""
        self.setup()
        return self._datasets[split].table

    def seen(self) -> Seen:
        """Return digests of the samples of training and validation, with the modalities that simulation takes away."""
        self.setup()
        return seen_in(self._given)

    @property
    def present_counts(self) -> dict[Split, dict[str, int]]:
        """The number of samples in which each modality is present, per split."""
        return {s: {m: int(p.sum()) for m, p in self.table(s).present.items()} for s in SPLITS}

    def summary(self) -> str:
        """Return split sizes, classes, shapes and present counts as plain text."""
        sizes = ", ".join(f"{s} {len(self.table(s))}" for s in SPLITS)
        span = self.spec.target_range
        what = _named(self.spec.classes) if span is None else f"regression of y in [{span[0]:g}, {span[1]:g}]"
        lines = [f"data: {sizes} samples, {what}"]
        for name, modality in self.spec.modalities.items():
            present = {s: c[name] for s, c in self.present_counts.items()}
            gone = [f"{s} {present[s]} of {len(self.table(s))}" for s in SPLITS if present[s] < len(self.table(s))]
            told = f"; present in {', '.join(gone)}" if gone else ""
            rate = self.missing.get(name, 0.0)
            told += f" (simulated missing rate {rate:g})" if rate else ""
            told = ", padded to this length" * modality.padded + told
            told = f" of {modality.source}" * bool(modality.source) + told
            dominant = ", known to dominate" if name == self.spec.dominant else ""
            lines.append(f"  {name}: {modality.kind} {'x'.join(map(str, modality.shape))}{dominant}{told}")
        return "\n".join([*lines, *(f"  warning: {w}" for w in self.warnings)])

    @rank_zero_only
    def _print_summary(self) -> None:
        print(self.summary(), flush=True)

    # -- loaders ------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> ResumableLoader:
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> ResumableLoader:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> ResumableLoader:
        return self._loader("test", self.eval_batch_size)

    def survey_dataloader(self, split: Split) -> ResumableLoader:
        """Return a loader of every sample of a split (also of train) once, in order, without augmentation."""
        dataset = MultimodalDataset(self.table(split), self.seed, train=False)
        return ResumableLoader(dataset, self._batches(len(dataset), self.eval_batch_size, train=False))

    def _loader(self, split: Split, batch_size: int) -> ResumableLoader:
        self.setup()
        dataset = self._datasets[split]
        batches = self._batches(len(dataset), batch_size, train=split == "train")
        return ResumableLoader(dataset, batches, self.workers, pin_memory=torch.cuda.is_available())

    def _batches(self, n: int, batch_size: int, train: bool) -> EpochBatches:
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return EpochBatches(n, batch_size, self.seed, train, rank, world)

    def probe_batch(self, n: int) -> Batch:
        """Return a fixed held-out batch of min(n, len(val)) validation samples, classes as equal as val allows.

        It is the same for every seed, so that probe curves of different seeds are measured on the same samples.
        """
        if n < 1:
            raise UserError("callbacks.probe.holdout_size", str(n), "1 or more", "set callbacks.probe.holdout_size=256")
        chosen = _balanced(self.table("val").y, n)
        return self._datasets["val"].__getitems__([(int(i), 0) for i in chosen])


def _named(classes: list[str]) -> str:
    """Return the number of classes, and their names where these are few and more than their numbers."""
    named = len(classes) <= NAMED and classes != [str(i) for i in range(len(classes))]
    return f"{len(classes)} classes" + (f" ({', '.join(classes)})" if named else "")


def _balanced(y: np.ndarray, n: int) -> np.ndarray:
    """Return min(n, len(y)) positions in ascending order, classes as equal as y allows; always the same ones."""
    order = shuffled(len(y), 0, "probe")
    turn = np.empty(len(y), dtype=np.int64)  # how many of its class come before it
    for label in np.unique(y):
        mine = order[y[order] == label]
        turn[mine] = np.arange(len(mine))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:n])
