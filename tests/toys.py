"""Small networks, batches and trainers in memory, for the tests of the step, the stages and the methods.

Nothing here reads a file. `train` builds what `asgml.build` builds, without Hydra.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from asgml.data.spec import DataSpec, ModalitySpec
from asgml.methods.base import Method
from asgml.methods.uniform import Uniform
from asgml.model.fusion.concat import Concat
from asgml.model.net import MultimodalNet
from asgml.rhythm.config import Adaptive, Asgml, Boost
from asgml.rhythm.stages import rhythm_stages
from asgml.train.modulation import Modulation
from asgml.train.module import MultimodalModule
from callbacks.stages.gate import StepGate
from callbacks.stages.lr import LRSchedule, LRStep
from callbacks.stages.probe import ProbeEMA
from callbacks.step.phases import Phase
from callbacks.step.pipeline import StepPipeline
from callbacks.step.stage import Stage

warnings.filterwarnings("ignore", ".*does not have many workers.*")
warnings.filterwarnings("ignore", ".*number of training batches.*smaller than the logging interval.*")

NAMES = ("audio", "visual", "text", "depth", "flow", "thermal", "tactile")
CLASSES = 3
WIDTH = 5  # of a modality's input vector

SGD = partial(torch.optim.SGD, lr=0.05)
MOMENTUM = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)
ADAMW = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
OPTIMIZERS = {"sgd": SGD, "momentum": MOMENTUM, "adamw": ADAMW}


# -- data
def toy_spec(modalities: int = 2, shape: tuple[int, ...] = (WIDTH,), dominant: str | None = "audio") -> DataSpec:
    """Return the specification of N modalities named after `NAMES`; `shape` is that of a vector or an image."""
    kind: Any = {1: "vector", 3: "image"}[len(shape)]
    return DataSpec(
        {m: ModalitySpec(m, kind, shape) for m in NAMES[:modalities]},
        [f"class{i}" for i in range(CLASSES)],
        dominant,
    )


def toy_batches(
    count: int,
    spec: DataSpec,
    size: int = 6,
    seed: int = 0,
    missing: Mapping[int, Iterable[str]] | None = None,
    partly: Mapping[int, Iterable[str]] | None = None,
    poison: Iterable[int] = (),
) -> list[dict[str, Any]]:
    """Return batches in float64, in the form in which `MultimodalDataset` makes them.

    Args:
        count: the number of batches.
        spec: the modalities.
        size: the number of rows of a batch.
        seed: the seed of the values and labels.
        missing: by batch, the modalities that none of its rows has.
        partly: by batch, the modalities that only its even rows have.
        poison: the batches whose first modality holds a NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    out = []
    for i in range(count):
        y = torch.randint(CLASSES, (size,), generator=generator)
        x: dict[str, Tensor] = {}
        rows: dict[str, Tensor | None] = {}
        for m, modality in spec.modalities.items():
            values = torch.randn(size, *modality.shape, generator=generator, dtype=torch.float64)
            values = values + y.double().view(-1, *[1] * len(modality.shape)) - 1
            here = None
            if m in (missing or {}).get(i, ()):
                here = torch.arange(0)
            elif m in (partly or {}).get(i, ()):
                here = torch.arange(0, size, 2)
            rows[m], x[m] = here, values if here is None else values[here]
        if i in set(poison):
            x[next(iter(x))].view(-1)[0] = float("nan")
        out.append({"x": x, "rows": rows, "y": y, "index": torch.arange(size) + i * size})
    return out


def loader(batches: Sequence[Any]) -> DataLoader:
    """Return a loader that hands out ready batches."""
    return DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]


# -- network
class ToyEncoder(nn.Module):
    """Applies linear, BatchNorm, ReLU and linear to the flattened input."""

    def __init__(self, shape: tuple[int, ...], out_dim: int = 4, norm: bool = True):
        super().__init__()
        self.out_dim = out_dim
        size = int(torch.tensor(shape).prod())
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(size, 6),
            nn.BatchNorm1d(6) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Linear(6, out_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ToyConv(nn.Module):
    """Applies a convolution, which OGM-GE modulates, BatchNorm, a mean over the map and a linear layer."""

    def __init__(self, shape: tuple[int, ...], out_dim: int = 4):
        super().__init__()
        self.out_dim = out_dim
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], 3, 3, padding=1, bias=False),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(3, out_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


# -- ASGML without Hydra
class Trace(L.Callback):
    """Keeps a copy of all weights and buffers from the start (`start`) and from after every batch (`states`)."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer, pl_module) -> None:
        self.start = snapshot(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.states.append(snapshot(pl_module))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all weights and buffers."""
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


@dataclass
class Trained:
    """Holds a finished run of `train`."""

    module: MultimodalModule
    pipeline: StepPipeline
    trainer: L.Trainer
    trace: Trace
    timeline: list[tuple[int, str, str, int, float]]

    @property
    def final(self) -> dict[str, Tensor]:
        """Return the weights and buffers after the last batch."""
        return self.trace.states[-1]

    def actions(self, modality: str) -> list[str]:
        """Return what the modality did in each step."""
        return [action for _, m, action, _, _ in self.timeline if m == modality]

    def ages(self, modality: str) -> list[int]:
        """Return the age of the gradient that the modality applied in each step, -1 for none."""
        return [age for _, m, _, age, _ in self.timeline if m == modality]

    def scales(self, modality: str) -> list[float]:
        """Return the factor on the modality's learning rate in each step."""
        return [scale for _, m, _, _, scale in self.timeline if m == modality]


def quiet_trainer(callbacks: Sequence[L.Callback], epochs: int = 1, **options: Any) -> L.Trainer:
    """Build a CPU trainer that writes nothing."""
    return L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=options.pop("logger", False),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **options,
    )


def asgml(mode: str = "sync", **options: Any) -> Asgml:
    """Build an `asgml` node; `adaptive` and `boost` may be dicts."""
    nested = {"adaptive": Adaptive, "boost": Boost}
    made = {k: nested[k](**v) if k in nested and isinstance(v, dict) else v for k, v in options.items()}
    return Asgml(mode=mode, **made)  # type: ignore[arg-type]


def train(
    config: Asgml | None = None,
    batches: Sequence[Any] | None = None,
    *,
    spec: DataSpec | None = None,
    methods: Mapping[str, Method] | None = None,
    optimizer: Callable[..., Any] = MOMENTUM,
    encoder: Callable[..., nn.Module] = ToyEncoder,
    fusion: Callable[..., Any] = Concat,
    extra: Sequence[Stage] = (),
    callbacks: Sequence[L.Callback] = (),
    probe: ProbeEMA | None = None,
    schedule: LRSchedule | None = None,
    gate: StepGate | None = None,
    epochs: int = 1,
    seed: int = 0,
    val: Sequence[Any] | None = None,
    dtype: torch.dtype = torch.float64,
    before: Callable[[MultimodalModule, StepPipeline], None] | None = None,
    module_options: Mapping[str, Any] | None = None,
    frozen: Iterable[str] = (),
) -> Trained:
    """Run ASGML on batches in memory, with every stage in the declared order; this takes about 50 ms.

    A batch whose loss is NaN is skipped, unless a gate of the test's own says otherwise.
    `before(module, pipeline)` may change anything once all is built.
    """
    config = config or asgml()
    spec = spec or toy_spec()
    batches = toy_batches(8, spec) if batches is None else batches
    methods = {"uniform": Uniform()} if methods is None else methods
    net = MultimodalNet(spec, encoder, {}, fusion, seed).to(dtype)
    for m in frozen:
        net.encoders[m].requires_grad_(False)
    active = [m for m in net.modalities if m not in set(frozen)]
    for method in methods.values():
        active = [m for m in method.active(net.modalities) if m in active]
    rhythm, stages = rhythm_stages(config, active, spec.dominant, probe, seed)
    own = [Modulation(methods), gate or StepGate(bad_loss="skip"), LRStep(), probe, *extra]
    pipeline, trace = StepPipeline.ordered([*stages, *own], announce=False), Trace()
    rows: list[tuple[int, str, str, int, float]] = []
    record: Any = pipeline.stage("record")
    record.drain = lambda: (rows.extend(record.timeline), record.timeline.clear())[1] or []
    options = {"gamma": config.gamma, "seed": seed, **(module_options or {})}
    module = MultimodalModule(net, methods, rhythm, optimizer, schedule or LRSchedule(), **options)
    if before is not None:
        before(module, pipeline)
    trainer = quiet_trainer([pipeline, *callbacks, trace], epochs)
    trainer.fit(module, loader(batches), loader(val) if val is not None else None)
    return Trained(module, pipeline, trainer, trace, rows)


class FixedProbe(ProbeEMA):
    """Reports the same utilisation in every step or, as a function of the committed steps, one for each.

    It is measured on `rows` held-out rows, by default on so many that no gap is noise.
    """

    def __init__(self, values: Mapping[str, float] | Callable[[int], Mapping[str, float]], rows: int = 10**9):
        super().__init__(CLASSES)
        self.values, self.holdout_rows, self.t = values, rows, 0

    def prepare(self, ctx) -> None: ...

    def after_commit(self, ctx) -> None:
        self.t = ctx.t

    @property
    def utilisation(self) -> dict[str, float]:
        return dict(self.values(self.t) if callable(self.values) else self.values)


# -- any module
def fit(module: L.LightningModule, batches: Sequence[Any], callbacks: Sequence[L.Callback], **options: Any) -> Trace:
    """Fit any module on a list of batches, and return the trace of its weights."""
    trace = Trace()
    quiet_trainer([*callbacks, trace], **options).fit(module, loader(batches))
    return trace


# -- comparisons
def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], prefix: str = "") -> bool:
    """Return whether the tensors under all keys that begin with `prefix` are bit-identical."""
    keys = [k for k in a if k.startswith(prefix)]
    assert keys, f"nothing begins with {prefix}"
    return all(torch.equal(a[k], b[k]) for k in keys)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Return the paths at which two states (nested dicts, lists, tensors, numbers) differ in any bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if list(a) != list(b):
            return [f"{path}: keys {list(a)} and {list(b)}"]
        return [d for k in a for d in differences(a[k], b[k], f"{path}/{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{path}: {len(a)} and {len(b)} entries"]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{path}/{i}")]
    return [] if a == b else [f"{path}: {a} and {b}"]


class Capture(Stage):
    """Keeps a copy of every group's fresh gradients (None where there is none), step by step.

    `before(module)`, where given, is called at the same moment; what it returns is kept in `seen`.
    """

    name = "diagnostics"
    phase = Phase.MEASURE

    def __init__(self, before: Callable[[Any], Any] | None = None):
        self.gradients: list[dict[str, list[Tensor | None]]] = []
        self.seen: list[Any] = []
        self._before = before

    def on_gradients(self, ctx) -> None:
        self.gradients.append(
            {
                name: [None if p.grad is None else p.grad.clone() for p in group.params]
                for name, group in ctx.groups.items()
            }
        )
        if self._before is not None:
            self.seen.append(self._before(ctx.module))
