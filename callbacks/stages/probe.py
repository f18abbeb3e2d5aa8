"""ProbeEMA: how much can be read out of each modality's features at this moment (specification A4)."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.errors import UserError
from callbacks.run.rng import capture, restore
from callbacks.step.context import StepContext, host_read
from callbacks.step.modes import evaluating
from callbacks.step.phases import Phase
from callbacks.step.ranks import sum_over_ranks, world_size
from callbacks.step.stage import Stage

ProbeInput = dict[str, tuple[Tensor, Tensor]]  # modality -> features (n, d), labels (n,)


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

    The module under training has two methods, which return features (n, d) and labels (n,) by modality::

        def probe_input(self) -> dict[str, tuple[Tensor, Tensor]]: ...  # of the current batch
        def probe_encode(self, batch) -> dict[str, tuple[Tensor, Tensor]]: ...  # of a held-out batch

    Probes train after every committed step, with an Adam of their own; no gradient reaches an encoder, no global random
    number is drawn, and the module's weights are bit-identical with and without probes. Accuracies are read as moving
    averages with bias correction: `utilisation`, `dominant`, `weakest` and `gap`.

    Example::

        callbacks:
          probe: {_target_: callbacks.ProbeEMA, classes: 6, every: 10, holdout: validation, holdout_size: 256}

    Limits: a scoring step encodes the held-out batch anew and reads one vector from the device. `validation` takes
    `datamodule.probe_batch(n)` where it exists, else the first validation batch, and thus lets validation data steer
    training decisions (say so when reporting). `half` and `buffer` do not, but hold out within a step only: over epochs
    every sample is trained on.

    Args:
        classes: the number of classes.
        every: the number of committed steps between two scores.
        holdout: the samples that are scored: a `validation` batch; `half` of the current batch (every second row); or a
            `buffer` of the last `buffer_batches` held-out batches (every second batch, which no probe is trained on).
        holdout_size: the number of samples of the held-out validation batch.
        buffer_batches: the number of batches in the buffer.
        hidden: the width of the probes' hidden layer; 0 makes them linear.
        lr: the learning rate of the probes' Adam.
        ema: the weight of a new accuracy in its moving average.
        seed: the seed of the probes' initial weights.

    Attributes:
        scores: the moving average of the accuracy, by modality.
        history: the single scores as lists of committed step, modality and accuracy.
        holdout_rows: the number of rows behind the newest score (of the modality with the fewest); 0 before the first.

    Raises:
        UserError: the module lacks one of the two methods, or there is no validation data to hold out.
    """

    name = "probe"
    phase = Phase.AFTER

    def __init__(
        self,
        classes: int,
        every: int = 10,
        holdout: Literal["validation", "half", "buffer"] = "validation",
        holdout_size: int = 256,
        buffer_batches: int = 8,
        hidden: int = 0,
        lr: float = 1e-3,
        ema: float = 0.1,
        seed: int = 0,
    ):
        self.classes, self.every, self.holdout, self.holdout_size = classes, every, holdout, holdout_size
        self.buffer_batches, self.hidden, self.lr, self.ema, self.seed = buffer_batches, hidden, lr, ema, seed
        self.scores: dict[str, CorrectedEMA] = {}
        self.history: list[list[Any]] = []
        self.holdout_rows = 0
        self._probes: dict[str, nn.Module] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._buffer: deque[ProbeInput] = deque(maxlen=buffer_batches)
        self._loaded: dict[str, Any] | None = None
        self._held_out: Any = None

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
            self._held_out = self._fetch(ctx)

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
                    "set callbacks.probe.holdout=half or callbacks.probe.holdout=buffer",
                )
            drawn = capture()  # an iterator over a loader draws a seed for its workers
            batch = next(iter(loaders))
            restore(drawn)
        return ctx.trainer.strategy.batch_to_device(batch)

    def _build(self, sizes: dict[str, int], device: torch.device) -> None:
        """Build the probes of modalities that have none yet, from their feature sizes, and an Adam for all."""
        for m, size in sizes.items():
            if m in self._probes:
                continue
            generator = torch.Generator().manual_seed(self.seed)
            layers = (
                [
                    nn.Linear(size, self.hidden, dtype=torch.float32),
                    nn.ReLU(),
                    nn.Linear(self.hidden, self.classes, dtype=torch.float32),
                ]
                if self.hidden
                else [nn.Linear(size, self.classes, dtype=torch.float32)]
            )
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                probe = nn.Sequential(*layers)
                for p in probe.parameters():
                    bound = size**-0.5
                    p.copy_((torch.rand(p.shape, generator=generator, dtype=p.dtype) * 2 - 1) * bound)
            self._probes[m] = probe.to(device)
            self.scores.setdefault(m, CorrectedEMA(self.ema))
        self._optimizer = torch.optim.Adam(
            [p for probe in self._probes.values() for p in probe.parameters()], lr=self.lr
        )

    def _restore(self, device: torch.device) -> None:
        """Build the probes of a loaded state and give them their weights, optimiser and buffer."""
        saved, self._loaded = self._loaded, None
        if saved is None or not saved["sizes"]:
            return
        with torch.random.fork_rng(devices=[]):
            self._build(dict(saved["sizes"]), device)
        for m, probe in self._probes.items():
            probe.load_state_dict(saved["weights"][m])
        assert self._optimizer is not None
        self._optimizer.load_state_dict(saved["optimizer"])
        for batch in saved["buffer"]:
            self._buffer.append({m: (f.to(device), y.to(device)) for m, (f, y) in batch.items()})

    def after_commit(self, ctx: StepContext) -> None:
        batch = {m: (f.detach().float(), y) for m, (f, y) in ctx.module.probe_input().items()}  # type: ignore[operator]
        if not batch:
            return
        device = next(iter(batch.values()))[0].device
        if self._loaded is not None:
            self._restore(device)
        if any(m not in self._probes for m in batch):
            with torch.random.fork_rng(devices=[]):
                self._build({m: f.shape[1] for m, (f, _) in batch.items()}, device)
        held: ProbeInput | None = None
        if self.holdout == "half":
            held = {m: (f[1::2], y[1::2]) for m, (f, y) in batch.items()}
            batch = {m: (f[::2], y[::2]) for m, (f, y) in batch.items()}
        elif self.holdout == "buffer" and ctx.t % 2 == 0:
            self._buffer.append({m: (f.clone(), y.clone()) for m, (f, y) in batch.items()})
            batch = {}
        with torch.autocast(device.type, enabled=False):
            if batch:
                self._train(batch)
            if ctx.t % self.every == 0:
                self._score(ctx, held)

    def _train(self, batch: ProbeInput) -> None:
        """Move the probes by one Adam step on the mean cross-entropy over the rows of all ranks."""
        assert self._optimizer is not None
        self._optimizer.zero_grad(set_to_none=True)
        counts = None
        if world_size() > 1:
            device = next(iter(batch.values()))[1].device
            counts = sum_over_ranks(torch.tensor([float(y.shape[0]) for _, y in batch.values()], device=device))
        with torch.enable_grad():
            for i, (m, (f, y)) in enumerate(batch.items()):
                total = counts[i].clamp(min=1) if counts is not None else max(1, y.shape[0])
                (F.cross_entropy(self._probes[m](f), y, reduction="sum") / total).backward()
        if counts is not None:
            for probe in self._probes.values():
                for p in probe.parameters():
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                    dist.all_reduce(p.grad)
        self._optimizer.step()

    @torch.no_grad()
    def _score(self, ctx: StepContext, held: ProbeInput | None) -> None:
        """Score the probes on the held-out rows of all ranks; `held` has them under `half`."""
        if self.holdout == "validation":
            with evaluating(ctx.module):
                held = {m: (f.float(), y) for m, (f, y) in ctx.module.probe_encode(self._held_out).items()}  # type: ignore[operator]
        elif self.holdout == "buffer":
            if not self._buffer:
                return
            held = {
                m: (
                    torch.cat([b[m][0] for b in self._buffer if m in b]),
                    torch.cat([b[m][1] for b in self._buffer if m in b]),
                )
                for m in self._probes
            }
        assert held is not None
        right = torch.stack([(self._probes[m](f).argmax(1) == y).sum().float() for m, (f, y) in held.items()])
        seen = torch.tensor([float(y.shape[0]) for _, y in held.values()], device=right.device)
        values = host_read(sum_over_ranks(torch.cat([right, seen])))  # reduced, so that all ranks read the same
        for i, m in enumerate(held):
            if not values[len(held) + i]:
                continue
            accuracy = values[i] / values[len(held) + i]
            ctx.metrics[f"probe/accuracy/{m}"] = self.scores[m].update(accuracy)
            self.history.append([ctx.t, m, accuracy])
        self.holdout_rows = min((int(n) for n in values[len(held) :] if n), default=self.holdout_rows)
        ctx.metrics["probe/gap"] = self.gap
        ctx.report = True

    def counters(self) -> dict[str, Any]:
        return {"probe_utilisation": self.utilisation}

    def state(self) -> dict[str, Any]:
        if self._loaded is not None:
            return self._loaded
        return {
            "scores": {m: [s.sum, s.count] for m, s in self.scores.items()},
            "history": [list(row) for row in self.history],
            "rows": self.holdout_rows,
            "sizes": {m: p[0].in_features for m, p in self._probes.items()},  # type: ignore[index]
            "weights": {
                m: {k: v.detach().cpu().clone() for k, v in p.state_dict().items()} for m, p in self._probes.items()
            },
            "optimizer": self._optimizer.state_dict() if self._optimizer else {},
            "buffer": [{m: [f.cpu(), y.cpu()] for m, (f, y) in b.items()} for b in self._buffer],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._loaded = state
        self.history = [list(row) for row in state["history"]]
        self.holdout_rows = state["rows"]
        for m, (total, count) in state["scores"].items():
            self.scores[m] = CorrectedEMA(self.ema)
            self.scores[m].sum, self.scores[m].count = total, count
