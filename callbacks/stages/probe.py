"""ProbeEMA: how much can be read out of each modality's features at this moment (specification A4)."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import Bounds, Count, OpenShare, Positive, PositiveShare, Rate, Seed
from callbacks.run.rng import capture, restore
from callbacks.stages.holdout import FeatureBuffer, Features, held_out, held_positions
from callbacks.stages.probe_heads import ProbeHeads
from callbacks.step.context import StepContext, host_read
from callbacks.step.modes import evaluating
from callbacks.step.phases import Phase
from callbacks.step.ranks import sum_over_ranks, world_size
from callbacks.step.stage import Stage


class CorrectedEMA:
    """Averages a sequence exponentially with bias correction: it starts at the first value, not at a blend with 0.

    Args:
        alpha: the weight of a new value.
    """

    def __init__(self, alpha: float):
        self.alpha, self.sum, self.count = alpha, 0.0, 0

    def update(self, value: float) -> float:
        """Take in a value and return the new average."""
        self.sum = (1 - self.alpha) * self.sum + self.alpha * value
        self.count += 1
        return self.value

    @property
    def value(self) -> float:
        """Return the average, 0 before the first value."""
        return self.sum / (1 - (1 - self.alpha) ** self.count) if self.count else 0.0


class ProbeEMA(Stage):
    """Trains a probe per modality on detached fp32 features, and scores it on samples that it was not trained on.

    The module under training has two methods, which return features (n, d) and labels (n,) by modality, and may have a
    third that says which samples they are of::

        def probe_input(self) -> dict[str, tuple[Tensor, Tensor]]: ...  # of the current batch
        def probe_encode(self, batch) -> dict[str, tuple[Tensor, Tensor]]: ...  # of a held-out batch
        def probe_index(self) -> dict[str, Tensor]: ...  # sample numbers (n,) int64 of the rows of probe_input()

    After every committed step all probes take one Adam step together; no gradient reaches an encoder, no global random
    number is drawn, and the module's weights are bit-identical with and without probes. Accuracies are read as moving
    averages with bias correction: `utilisation`, `dominant`, `weakest` and `gap`.

    By default (`holdout: buffer`) everything is done on features that the step has computed anyway: a fixed
    `holdout_share` of the *data set*, chosen by the number of the sample, is never trained on by a probe, and its
    features in the last batches are what a score is taken of. The buffer holds as many batches as have `holdout_size`
    such rows, at most an epoch of them.

    Example::

        callbacks:
          probe: {_target_: callbacks.ProbeEMA, classes: 6, every: 10, holdout: buffer, holdout_size: 256}

    Limits: a scoring step reads one vector from the device. The rows of the buffer were encoded by the weights of their
    own step: a score is of an encoder half a buffer old on average (8 steps at batch 64), less than the moving average
    lags behind. They are training samples of the encoders (not of the probes), with their augmentation and in training
    mode. A data set with few samples has few held-out ones: see `holdout_rows`. Without `probe_index` every
    1/`holdout_share`-th row of the stream is held out, and over epochs every sample is trained on; the same holds for
    `half`. `validation` costs encoder work, bounded by `budget`, and lets validation labels steer training decisions
    (say so when reporting). The buffer is in the checkpoint: 2 MB per modality for 1024 rows of 512 features.

    Args:
        classes: the number of classes.
        every: the number of committed steps between two scores.
        holdout: the samples that are scored: those of a held-out share of the training data that are in a `buffer` of
            the last batches; `half` of the current batch (every second row); or a fixed `validation` batch
            (`datamodule.probe_batch(holdout_size)` where it exists, else the first of the validation loader), encoded
            anew.
        holdout_size: the number of held-out rows that a buffer should have, or of a validation batch.
        holdout_share: the share of the samples that a buffer holds out, in (0, 1).
        budget: the largest share of the encoders' work that `validation` may add, counted in rows, so that it is the
            same in every run: a row encoded again costs a third of a row trained on (forward and backward). After its
            first score a batch of H rows is scored every `H / (3 * budget * rows of a step)` steps, rounded up to
            a multiple of `every`; null scores it at every `every`-th step.
        hidden: the width of the probes' hidden layer; 0 makes them linear.
        lr: the learning rate of the probes' Adam.
        ema: the weight of a new accuracy in its moving average.
        seed: the seed of the probes' initial weights and of the choice of held-out samples.

    Attributes:
        scores: the moving average of the accuracy, by modality.
        history: the single scores as lists of committed step, modality and accuracy.
        holdout_rows: the number of rows behind the newest score (of the modality with the fewest); 0 before the first.

    Raises:
        UserError: a number out of its range; the module lacks one of the two methods, or there is no validation data to
            hold out.
    """

    name = "probe"
    phase = Phase.AFTER

    def __init__(
        self,
        classes: Count,
        every: Count = 10,
        holdout: Literal["buffer", "half", "validation"] = "buffer",
        holdout_size: Count = 256,
        holdout_share: OpenShare = 0.25,
        budget: Positive | None = 0.03,
        hidden: Annotated[int, Bounds("a width from 0 (linear) to 65536", ge=0, le=65536)] = 0,
        lr: Rate = 1e-3,
        ema: PositiveShare = 0.1,
        seed: Seed = 0,
    ):
        for key, value, fits, expected, default in (
            ("every", every, every >= 1, "1 or more", 10),
            ("holdout_size", holdout_size, holdout_size >= 1, "1 or more", 256),
            ("holdout_share", holdout_share, 0 < holdout_share < 1, "more than 0 and less than 1", 0.25),
            ("budget", budget, budget is None or budget > 0, "more than 0, or null for no bound", 0.03),
        ):
            if not fits:
                raise UserError(f"callbacks.probe.{key}", str(value), expected, f"set callbacks.probe.{key}={default}")
        self.classes, self.every, self.holdout, self.holdout_size = classes, every, holdout, holdout_size
        self.holdout_share, self.budget, self.ema, self.seed = holdout_share, budget, ema, seed
        self.scores: dict[str, CorrectedEMA] = {}
        self.history: list[list[Any]] = []
        self.holdout_rows = 0
        self._heads = ProbeHeads(classes, hidden, lr, seed)
        self._buffer = FeatureBuffer(1)
        self._batch_rows = 0  # of the first batch, on all ranks together; 0 before it
        self._interval = every  # of scores
        self._streamed = 0  # rows so far, where the module does not number its samples
        self._loaded: dict[str, Any] | None = None
        self._held_batch: Any = None

    # -- what consumers read
    @property
    def utilisation(self) -> dict[str, float]:
        """Return the moving average of the probe's accuracy by modality, in [0, 1]."""
        return {m: s.value for m, s in self.scores.items()}

    @property
    def dominant(self) -> str | None:
        """Return the modality with the highest utilisation, None before the first score."""
        return max(self.utilisation, key=self.utilisation.__getitem__, default=None)

    @property
    def weakest(self) -> str | None:
        """Return the modality with the lowest utilisation, None before the first score."""
        return min(self.utilisation, key=self.utilisation.__getitem__, default=None)

    @property
    def gap(self) -> float:
        """Return the utilisation of `dominant` less that of `weakest`, 0 before the first score."""
        strong, weak = self.dominant, self.weakest
        return 0.0 if strong is None or weak is None else self.utilisation[strong] - self.utilisation[weak]

    # -- stage
    def prepare(self, ctx: StepContext) -> None:
        for method, arguments in (("probe_input", "self"), ("probe_encode", "self, batch")):
            if not hasattr(ctx.module, method):
                raise UserError(
                    "ProbeEMA",
                    f"{type(ctx.module).__name__} has no {method}()",
                    "a module with probe_input() and probe_encode(batch)",
                    f"write def {method}({arguments}) in {type(ctx.module).__name__}: it returns "
                    "{modality: (features (n, d), labels (n,))}",
                )
        if self.holdout == "validation":
            self._held_batch = self._fetch(ctx)

    def _fetch(self, ctx: StepContext) -> Any:
        """Return the held-out validation batch, on the module's device."""
        datamodule = getattr(ctx.trainer, "datamodule", None)
        if datamodule is not None and hasattr(datamodule, "probe_batch"):
            batch = datamodule.probe_batch(self.holdout_size)
        else:
            loaders = ctx.trainer.val_dataloaders
            if loaders is None:
                raise UserError(
                    "ProbeEMA.holdout",
                    "no validation data",
                    "a validation loader or datamodule.probe_batch(n)",
                    "set callbacks.probe.holdout=buffer or callbacks.probe.holdout=half",
                )
            drawn = capture()  # an iterator over a loader draws a seed for its workers
            batch = next(iter(loaders))
            restore(drawn)
        return ctx.trainer.strategy.batch_to_device(batch)

    def _begin(self, ctx: StepContext, batch: dict[str, tuple[Tensor, Tensor]], device: torch.device) -> None:
        """Restore a loaded state, and build the probes and the buffer from the first batch."""
        saved, self._loaded = self._loaded, None
        if saved is not None and saved["heads"]["sizes"]:
            self._heads.load_state(saved["heads"], device)
            self._buffer = FeatureBuffer.of_state(saved["buffer"], device)
        if batch.keys() - self._heads.sizes.keys():
            self._heads.build(self._heads.sizes | {m: f.shape[1] for m, (f, _) in batch.items()}, device)
        for m in batch:
            self.scores.setdefault(m, CorrectedEMA(self.ema))
        if self._batch_rows:
            return
        rows = max(f.shape[0] for f, _ in batch.values())
        self._batch_rows = max(1, rows)
        if world_size() > 1:  # once in a run
            total = sum_over_ranks(torch.full((1,), float(rows), device=device))
            self._batch_rows = max(1, int(host_read(total)[0]))
        if self.holdout == "buffer":
            wanted = math.ceil(self.holdout_size / (self.holdout_share * self._batch_rows))
            self._buffer = FeatureBuffer(int(max(1, min(wanted, ctx.trainer.num_training_batches))))

    def after_commit(self, ctx: StepContext) -> None:
        batch = {m: (f.detach().float(), y) for m, (f, y) in ctx.module.probe_input().items()}  # type: ignore[operator]
        if not batch:
            return
        device = next(iter(batch.values()))[0].device
        if self._loaded is not None or batch.keys() - self._heads.sizes.keys():
            self._begin(ctx, batch, device)
        masks = self._masks(ctx, batch) if self.holdout != "validation" else {}
        with torch.autocast(device.type, enabled=False):
            self._heads.train({m: (f, y, self._weight(f, masks.get(m))) for m, (f, y) in batch.items()})
            held = {m: (f, y, masks[m]) for m, (f, y) in batch.items()} if masks else {}
            if self.holdout == "buffer":
                self._buffer.append(held)
            if ctx.t % self._interval == 0:
                self._score(ctx, held)

    @staticmethod
    def _weight(f: Tensor, held: Tensor | None) -> Tensor:
        """Return the weight (n,) of every row in the training of the probes: 0 where it is held out."""
        return f.new_ones(f.shape[0]) if held is None else (~held).float()

    def _masks(self, ctx: StepContext, batch: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Return which rows of the batch are held out, by modality."""
        if self.holdout == "half":
            return {m: torch.arange(y.shape[0], device=y.device) % 2 == 1 for m, (_, y) in batch.items()}
        if not hasattr(ctx.module, "probe_index"):
            first = self._streamed
            self._streamed += max(y.shape[0] for _, y in batch.values())
            return {m: held_positions(first, y.shape[0], self.holdout_share, y.device) for m, (_, y) in batch.items()}
        done: dict[int, Tensor] = {}  # modalities that nobody misses share one tensor of numbers
        masks = {}
        for m, index in ctx.module.probe_index().items():  # type: ignore[operator]
            if id(index) not in done:
                done[id(index)] = held_out(index, self.holdout_share, self.seed)
            masks[m] = done[id(index)]
        return masks

    @torch.no_grad()
    def _score(self, ctx: StepContext, held: Features) -> None:
        """Score the probes on the held-out rows of all ranks; `held` is the current batch with its masks."""
        if self.holdout == "buffer":
            held = {m: self._buffer.rows(m) for m in held}
        elif self.holdout == "validation":
            with evaluating(ctx.module):
                found = ctx.module.probe_encode(self._held_batch)  # type: ignore[operator]
            held = {m: (f.float(), y, torch.ones_like(y, dtype=torch.bool)) for m, (f, y) in found.items()}
            self._pace(max(y.shape[0] for _, y, _ in held.values()))
        right = [(((self._heads.logits(m, f).argmax(1) == y) & mask).sum()) for m, (f, y, mask) in held.items()]
        seen = [mask.sum() for _, _, mask in held.values()]
        values = host_read(sum_over_ranks(torch.stack([*right, *seen]).float()))  # reduced: all ranks read the same
        rows = []
        for i, m in enumerate(held):
            if not values[len(held) + i]:
                continue
            rows.append(int(values[len(held) + i]) // (world_size() if self.holdout == "validation" else 1))
            accuracy = values[i] / values[len(held) + i]
            ctx.metrics[f"probe/accuracy/{m}"] = self.scores[m].update(accuracy)
            self.history.append([ctx.t, m, accuracy])
        if not rows:
            return
        self.holdout_rows = min(rows)
        ctx.metrics["probe/gap"], ctx.metrics["probe/rows"] = self.gap, float(self.holdout_rows)
        ctx.report = True

    def _pace(self, rows: int) -> None:
        """Set the interval of scores so that encoding `rows` rows on every rank stays within the budget."""
        if self.budget is not None:
            steps = rows * world_size() / (3 * self.budget * self._batch_rows)
            self._interval = self.every * max(1, math.ceil(steps / self.every))

    def counters(self) -> dict[str, Any]:
        return {"probe_utilisation": self.utilisation, "probe_rows": self.holdout_rows}

    def state(self) -> dict[str, Any]:
        if self._loaded is not None:
            return self._loaded
        return {
            "scores": {m: [s.sum, s.count] for m, s in self.scores.items()},
            "history": [list(row) for row in self.history],
            "rows": self.holdout_rows,
            "batch_rows": self._batch_rows,
            "interval": self._interval,
            "streamed": self._streamed,
            "heads": self._heads.state(),
            "buffer": self._buffer.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._loaded = state
        self.history = [list(row) for row in state["history"]]
        self.holdout_rows, self._batch_rows = state["rows"], state["batch_rows"]
        self._interval, self._streamed = state["interval"], state["streamed"]
        for m, (total, count) in state["scores"].items():
            self.scores[m] = CorrectedEMA(self.ema)
            self.scores[m].sum, self.scores[m].count = total, count
