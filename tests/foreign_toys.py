"""Lightning modules that know nothing of this project, and optimisers written out, for the tests of the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from toys import CLASSES, MOMENTUM, SGD


class Foreign(L.LightningModule):
    """Trains two towers with BatchNorm and a head, which are the groups `a`, `b` and `head`.

    A batch is (x, y), of the shapes (n, 4) and (n,).
    """

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
        """Return the cross-entropy of a batch."""
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
    """Return batches for `Foreign`; those in `poison` hold NaN only."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for i in range(count):
        y = torch.randint(CLASSES, (size,), generator=generator)
        x = torch.randn(size, 4, generator=generator, dtype=torch.float64) + y[:, None]
        out.append((x if i not in set(poison) else x * float("nan"), y))
    return out


class Quadratic(L.LightningModule):
    """Minimises `1/2 θᵀ A θ − b_tᵀ θ` over θ = (a, b) with a dense, fixed A: every gradient depends on both groups.

    A batch is b_t, of length 5: three entries for group `a`, two for group `b`. A batch whose first entry is inf gives
    a gradient that is not finite.
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
    """Return the A of `Quadratic`, symmetric and positive definite."""
    root = torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return root @ root.T / 5 + torch.eye(5, dtype=torch.float64)


def quadratic_batches(count: int, seed: int = 0) -> list[Tensor]:
    """Return the vectors b_t of `Quadratic`."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(count)]


class Textbook:
    """Steps one tensor by SGD (`sgd`, `momentum`) or AdamW (`adamw`), written out as in their definitions.

    The settings are those of `toys.OPTIMIZERS`.
    """

    def __init__(self, kind: str):
        self.kind, self.steps = kind, 0
        self.buffer: Tensor | None = None
        self.first: Tensor | float = 0.0
        self.second: Tensor | float = 0.0

    def step(self, theta: Tensor, gradient: Tensor, scale: float = 1.0) -> Tensor:
        """Return the new theta; `scale` multiplies the learning rate. Where it is not called, nothing moves."""
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
