"""ProbeEMA: how much can be read out of each modality's features right now?"""

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
    """Exponential moving average with bias correction: the first value is the first sample, not a blend with 0."""

    def __init__(self, alpha: float):
        self.alpha, self.sum, self.count = alpha, 0.0, 0

    def update(self, value: float) -> float:
        self.sum = (1 - self.alpha) * self.sum + self.alpha * value
        self.count += 1
        return self.value

    @property
    def value(self) -> float:
        return self.sum / (1 - (1 - self.alpha) ** self.count) if self.count else 0.0


class ProbeEMA(Stage):
    """A linear (or one-hidden-layer) probe per modality on detached fp32 features, scored on data it was not
    trained on.

    The module under training offers two methods::

        def probe_input(self) -> dict[str, tuple[Tensor, Tensor]]: ...        # features and labels of the current
        batch
        def probe_encode(self, batch) -> dict[str, tuple[Tensor, Tensor]]: ...  # the same for a held-out batch

    Probes train after every committed step, with their own Adam; no gradient reaches an encoder, no global
    random number is drawn, and the module's weights are bit-identical with and without probes. Accuracies are
    read as an EMA with bias correction: `utilisation`, `gap`, `dominant`, `weakest`.

    Example::

        callbacks:
          probe: {_target_: callbacks.ProbeEMA, classes: 6, every: 10, holdout: validation, holdout_size:
              256}

    Limits: a scoring step re-encodes the held-out batch and reads one vector from the device. `validation` takes
        `datamodule.probe_batch(n)` where it exists, else the first validation batch, and uses validation data in
        training decisions (say so when reporting; `half` and `buffer` do not, but hold out within a step only:
        over epochs every sample is trained on).

    Args:
        classes: number of classes.
        every: committed steps between scores.
        holdout: `validation`; `half` of the current batch; `buffer` of the last `buffer_batches` batches, every
            second of which is kept from the probes.
        holdout_size: samples of the held-out validation batch.
        buffer_batches: length of the buffer.
        hidden: width of a hidden layer, 0 for linear.
        lr: of the probes' Adam.
        ema: weight of a new accuracy.
        seed: of the probes' initialisation.
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
        self.history: list[list[Any]] = []  # [t, modality, accuracy]
        self._probes: dict[str, nn.Module] = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._buffer: deque[ProbeInput] = deque(maxlen=buffer_batches)
        self._loaded: dict[str, Any] | None = None
        self._held_out: Any = None

    # -- what consumers read
    @property
    def utilisation(self) -> dict[str, float]:
        """Bias-corrected EMA of the probe accuracy per modality, in [0, 1]."""
        return {m: s.value for m, s in self.scores.items()}

    @property
    def dominant(self) -> str | None:
        return max(self.utilisation, key=self.utilisation.__getitem__, default=None)

    @property
    def weakest(self) -> str | None:
        return min(self.utilisation, key=self.utilisation.__getitem__, default=None)

    @property
    def gap(self) -> float:
        values = self.utilisation.values()
        return max(values) - min(values) if values else 0.0

    # -- stage
    def prepare(self, ctx: StepContext) -> None:
        for method in ("probe_input", "probe_encode"):
            if not hasattr(ctx.module, method):
                raise UserError(
                    "ProbeEMA",
                    f"{type(ctx.module).__name__} has no {method}()",
                    "a module with probe_input() and probe_encode(batch)",
                    "see the docstring of ProbeEMA",
                )
        if self.holdout == "validation":
            self._held_out = self._fetch(ctx)

    def _fetch(self, ctx: StepContext) -> Any:
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
                    "use holdout: half or buffer",
                )
            drawn = capture()  # an iterator over a loader draws a seed for its workers
            batch = next(iter(loaders))
            restore(drawn)
        return ctx.trainer.strategy.batch_to_device(batch)

    def _build(self, sizes: dict[str, int], device: torch.device) -> None:
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
        for m, (total, count) in state["scores"].items():
            self.scores[m] = CorrectedEMA(self.ema)
            self.scores[m].sum, self.scores[m].count = total, count
