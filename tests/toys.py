"""Small nets, batches and trainers in memory: what the tests of the step, the stages and the methods stand on.

Nothing here reads a file. `train` builds what `asgml.build` builds, without Hydra; `Foreign` and `Quadratic` are
Lightning modules that know nothing of this project.
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
    """N modalities named after `NAMES`; `shape` is a vector's or an image's."""
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
    """Batches as `MultimodalDataset` makes them, float64.

    Args:
        missing: batch -> modalities that no row of it has.
        partly: batch -> modalities that only the even rows of it have.
        poison: batches whose first modality holds a NaN.
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
    return DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]


# -- network
class ToyEncoder(nn.Module):
    """Linear, BatchNorm, ReLU, linear on the flattened input."""

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
    """One convolution, BatchNorm, mean over the map, linear: something for OGM-GE to modulate."""

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
    """Keeps, after every batch, a copy of all weights and buffers (`states`) and the timeline rows (`rows`)."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.rows: list[tuple[int, str, str, int, float]] = []

    def on_train_start(self, trainer, pl_module) -> None:
        self.start = snapshot(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.states.append(snapshot(pl_module))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


@dataclass
class Trained:
    """What `train` leaves behind."""

    module: MultimodalModule
    pipeline: StepPipeline
    trainer: L.Trainer
    trace: Trace
    timeline: list[tuple[int, str, str, int, float]]

    @property
    def final(self) -> dict[str, Tensor]:
        return self.trace.states[-1]

    def actions(self, modality: str) -> list[str]:
        """What the modality did in each step."""
        return [action for _, m, action, _, _ in self.timeline if m == modality]

    def ages(self, modality: str) -> list[int]:
        return [age for _, m, _, age, _ in self.timeline if m == modality]

    def scales(self, modality: str) -> list[float]:
        return [scale for _, m, _, _, scale in self.timeline if m == modality]


def quiet_trainer(callbacks: Sequence[L.Callback], epochs: int = 1, **options: Any) -> L.Trainer:
    """A CPU trainer that writes nothing."""
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
    """An `asgml` node; `adaptive` and `boost` may be dicts."""
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
    """One run of ASGML on batches in memory, every stage in the declared order (seconds / 20).

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
    own = [Modulation(methods), gate or StepGate(), LRStep(), probe, *extra]
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


# -- modules that know nothing of this project
class Foreign(L.LightningModule):
    """Two towers with BatchNorm and a head; groups `a`, `b` and `head`; batches (x, y) of (n, 4) and (n,)."""

    def __init__(self, automatic: bool, optimizer: Callable[..., Any] = MOMENTUM, seed: int = 0):
        super().__init__()
        self.automatic_optimization = automatic
        self._optimizer = optimizer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.a = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU())
            self.b = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU())
            self.head = nn.Linear(10, CLASSES)
        self.double()

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        self.features = {"a": self.a(x), "b": self.b(x)}
        self.labels = y
        return nn.functional.cross_entropy(self.head(torch.cat(list(self.features.values()), 1)), y)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:
        loss = self.loss(batch)
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def configure_optimizers(self) -> Any:
        return self._optimizer([{"params": list(getattr(self, g).parameters()), "name": g} for g in ("a", "b", "head")])

    def probe_input(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {m: (f, self.labels) for m, f in self.features.items()}

    def probe_encode(self, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        return {m: (getattr(self, m)(batch[0]), batch[1]) for m in ("a", "b")}


def foreign_batches(count: int, size: int = 6, seed: int = 0, poison: Iterable[int] = ()) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    out = []
    for i in range(count):
        y = torch.randint(CLASSES, (size,), generator=generator)
        x = torch.randn(size, 4, generator=generator, dtype=torch.float64) + y[:, None]
        out.append((x if i not in set(poison) else x * float("nan"), y))
    return out


class Quadratic(L.LightningModule):
    """`1/2 θᵀ A θ − b_tᵀ θ` over θ = (a, b) with a dense, fixed A: every gradient depends on both groups.

    A batch is b_t, of length 5: three entries for group `a`, two for group `b`. A batch whose first entry is inf
    gives a non-finite gradient.
    """

    def __init__(self, optimizer: Callable[..., Any] = SGD):
        super().__init__()
        self.automatic_optimization = False
        self._optimizer = optimizer
        self.a = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([-1.0, 1.5], dtype=torch.float64))
        self.A = quadratic_form()

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        theta = torch.cat([self.a, self.b])
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(0.5 * theta @ self.A @ theta - batch @ theta)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return self._optimizer([{"params": [self.a], "name": "a"}, {"params": [self.b], "name": "b"}])


def quadratic_form() -> Tensor:
    root = torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return root @ root.T / 5 + torch.eye(5, dtype=torch.float64)


def quadratic_batches(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(count)]


def fit(module: L.LightningModule, batches: Sequence[Any], callbacks: Sequence[L.Callback], **options: Any) -> Trace:
    """Fits any module on a list of batches; the trace of its weights."""
    trace = Trace()
    quiet_trainer([*callbacks, trace], **options).fit(module, loader(batches))
    return trace


# -- comparisons
def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], prefix: str = "") -> bool:
    """Bit-identical tensors under all keys that begin with `prefix`."""
    keys = [k for k in a if k.startswith(prefix)]
    assert keys, f"nothing begins with {prefix}"
    return all(torch.equal(a[k], b[k]) for k in keys)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths at which two states (nested dicts, lists, tensors, numbers) differ in any bit."""
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


# -- optimisers by the book, for hand-unrolled recursions
class Book:
    """SGD with momentum and weight decay, or AdamW, on one tensor, written out as in their definitions."""

    def __init__(self, kind: str):
        self.kind, self.steps = kind, 0
        self.buffer: Tensor | None = None
        self.first: Tensor | float = 0.0
        self.second: Tensor | float = 0.0

    def step(self, theta: Tensor, gradient: Tensor, scale: float = 1.0) -> Tensor:
        """The new theta; `scale` multiplies the learning rate. Not called, nothing moves."""
        self.steps += 1
        if self.kind == "adamw":
            lr, decay = 0.01 * scale, 0.1
            theta = theta * (1 - lr * decay)
            self.first = 0.9 * self.first + 0.1 * gradient
            self.second = 0.999 * self.second + 0.001 * gradient * gradient
            mean, spread = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
            return theta - lr * mean / (spread.sqrt() + 1e-8)
        if self.kind == "momentum":
            gradient = gradient + 0.01 * theta
            self.buffer = gradient if self.buffer is None else 0.9 * self.buffer + gradient
            gradient = self.buffer
        return theta - 0.05 * scale * gradient
