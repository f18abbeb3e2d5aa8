"""Costs of a step: of the suite, its monitors and staleness, and what a skipped encoder saves."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch.nn import functional as F

from asgml.bench.runs import SHAPES, RandomRuns
from asgml.bench.timer import EpochTimes, StepTimer
from suite.config.instantiate import build_node

CYCLE = 4  # steps: the period of k = 4
VALIDATION = 256  # rows
BARE, SILENT, JOINT = "bare loop", "joint, monitors off", "joint"
STALENESS, HARD = "staleness tau=2", "frequency hard k=4"
MONITORS = (
    "callbacks.probe=null",
    "callbacks.diagnostics=null",
    "callbacks.stability=null",
    "callbacks.alarm=null",
    "cosine_every=0",
)
GUARDED = ["method=joint", "asgml.mode=staleness", "asgml.tau=2"]
GUARDED_AT, GUARDED_EVERY = 20, 500  # `first` and `every` of StabilityGuard
CONFIGS: dict[str, list[str]] = {
    SILENT: ["method=joint", *MONITORS],
    JOINT: ["method=joint"],
    STALENESS: ["method=joint", "asgml.mode=staleness", "asgml.tau=2", "callbacks.stability=null"],
    HARD: ["method=joint", "asgml.mode=frequency", "asgml.k=4", "asgml.masking=hard"],
}
MLP_BATCH, MLP_STEPS = 64, 100

Times = Mapping[str, Sequence[EpochTimes]]


def bare_loop(runs: RandomRuns, epochs: int) -> list[EpochTimes]:
    """Return the times of the same joint step without Lightning, callbacks, logs and checkpoints: the lower bound.

    It has the same loader, network, losses and optimiser.
    """
    overrides = ["method=joint"]
    parts = runs.parts(overrides, epochs)
    net, loader = parts.module.net, parts.data.train_dataloader()
    optimizer = build_node(runs.config(overrides).optimizer)(net.parameters())
    out = []
    for epoch in range(epochs):
        loader.batches.set_epoch(epoch)
        times, start = EpochTimes(), time.perf_counter()
        for batch in loader:
            optimizer.zero_grad(set_to_none=True)
            f = {m: net.encode(m, x) for m, x in batch["x"].items()}
            heads = [F.cross_entropy(net.heads[m](f[m].detach()), batch["y"]) for m in f]
            (F.cross_entropy(net.fusion(f, None), batch["y"]) + torch.stack(heads).sum()).backward()
            optimizer.step()
            now = time.perf_counter()
            times.steps.append(now - start)
            start = now
        out.append(times)
    return out


def measured_run(runs: RandomRuns, overrides: Sequence[str], epochs: int) -> list[EpochTimes]:
    """Return the times of a run's epochs."""
    timer, parts = StepTimer(), runs.parts(overrides, epochs)
    parts.trainer.callbacks.insert(0, timer)  # type: ignore[attr-defined]
    parts.trainer.fit(parts.module, datamodule=parts.data)
    return timer.epochs


def measure(runs: RandomRuns, names: Sequence[str], rounds: int, epochs: int) -> dict[str, list[EpochTimes]]:
    """Return the times of all epochs but the first of a run, by configuration; configurations take turns.

    Args:
        runs: the data and the encoders.
        names: the configurations, keys of `CONFIGS` or `BARE`.
        rounds: the number of runs of each.
        epochs: the number of measured epochs in a run; one more comes before them, in which memory is allocated.
    """
    times: dict[str, list[EpochTimes]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            with contextlib.redirect_stdout(io.StringIO()):  # what a run says at its start
                found = bare_loop(runs, epochs + 1) if name == BARE else measured_run(runs, CONFIGS[name], epochs + 1)
            times[name] += found[1:]
    return times


def mean_ms(epochs: Sequence[EpochTimes]) -> float:
    """Return the mean milliseconds of a step over whole epochs."""
    return 1e3 * statistics.fmean(e.mean for e in epochs)


def median_ms(epochs: Sequence[EpochTimes]) -> float:
    """Return the median over cycles of the mean milliseconds of a step."""
    return 1e3 * statistics.median(c for e in epochs for c in e.cycles(CYCLE))


def guard_steps(epochs: Sequence[EpochTimes]) -> float:
    """Return how many steps a measurement of `StabilityGuard` takes: the first of a run, beyond the step it is in.

    Args:
        epochs: the first epochs of runs with the guard.
    """
    usual = [statistics.median(e.steps) for e in epochs]
    return statistics.median(e.steps[GUARDED_AT] / step - 1 for e, step in zip(epochs, usual, strict=True))


@dataclass
class Target:
    """Holds what the suite promises about a cost.

    Attributes:
        what: the promise in words.
        value: what was measured.
        bound: the largest value that keeps the promise.
    """

    what: str
    value: float
    bound: float

    @property
    def met(self) -> bool:
        """Return whether the promise is kept."""
        return self.value <= self.bound


def targets(large: Times, guard: float, mlp: Times) -> list[Target]:
    """Return the promises: ratios of large encoders, milliseconds of small ones.

    Args:
        large: the times of the configurations and of the bare loop with large encoders.
        guard: how many of their steps a measurement of `StabilityGuard` takes.
        mlp: the times of joint training and of the bare loop with two MLPs.
    """
    mean = {name: mean_ms(epochs) for name, epochs in large.items()}
    median = {name: median_ms(epochs) for name, epochs in large.items()}
    return [
        Target("joint over the bare loop, mean", mean[JOINT] / mean[BARE], 1.05),
        Target("joint over the bare loop, median", median[JOINT] / median[BARE], 1.05),
        Target("joint over joint with monitors off, mean", mean[JOINT] / mean[SILENT], 1.03),
        Target("staleness tau=2 over joint, mean", mean[STALENESS] / mean[JOINT], 1.02),
        Target("staleness tau=2 over joint, median", median[STALENESS] / median[JOINT], 1.02),
        Target(f"StabilityGuard, share of {GUARDED_EVERY} steps", guard / GUARDED_EVERY, 0.02),
        Target("frequency hard k=4 over joint, mean", mean[HARD] / mean[JOINT], 0.78),
        Target("two MLPs, joint less the bare loop, mean ms", mean_ms(mlp[JOINT]) - mean_ms(mlp[BARE]), 2.0),
    ]


def cost_table(title: str, times: Times) -> Table:
    """Return the table of milliseconds and ratios to joint."""
    table = Table(title=title)
    for column in ("configuration", "mean ms", "median", "mean/joint", "median/joint", "val. s", "epochs"):
        table.add_column(column, justify="left" if column == "configuration" else "right", no_wrap=True)
    mean, median = mean_ms(times[JOINT]), median_ms(times[JOINT])
    for name, epochs in times.items():
        validation = statistics.fmean(e.validation for e in epochs)
        table.add_row(
            name,
            f"{mean_ms(epochs):.2f}",
            f"{median_ms(epochs):.2f}",
            f"{mean_ms(epochs) / mean:.3f}",
            f"{median_ms(epochs) / median:.3f}",
            "" if name == BARE else f"{validation:.2f}",
            str(len(epochs)),
        )
    return table


def target_table(found: Sequence[Target]) -> Table:
    """Return the table of the promises and whether they are kept."""
    table = Table(title="targets")
    for column in ("target", "measured", "at most", "met"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for target in found:
        table.add_row(target.what, f"{target.value:.3f}", f"{target.bound:.2f}", "yes" if target.met else "NO")
    return table


def tables(encoder: str, batch_size: int, rounds: int, steps: int, epochs: int, folder: Path) -> list[Table | str]:
    """Measure everything, and return both tables, what a measurement of `StabilityGuard` takes, and the targets.

    Args:
        encoder: the kind of the large encoders.
        batch_size: the number of samples in their batches.
        rounds: the number of runs of each configuration.
        steps: the number of steps in an epoch, above 20.
        epochs: the number of measured epochs in a run, after one that warms up.
        folder: where the runs go.
    """
    large = RandomRuns(encoder, folder / "large", batch_size, steps, VALIDATION)
    mlp = RandomRuns("mlp", folder / "mlp", MLP_BATCH, MLP_STEPS, VALIDATION)
    times = measure(large, [BARE, *CONFIGS], rounds, epochs)
    with contextlib.redirect_stdout(io.StringIO()):
        guarded = [measured_run(large, GUARDED, 1)[0] for _ in range(rounds)]
    small = measure(mlp, [BARE, SILENT, JOINT], 2 * rounds, 3)
    threads, shape = torch.get_num_threads(), "x".join(map(str, SHAPES[encoder]))
    about = f"{shape}, batch {batch_size}, {steps} steps an epoch"
    inputs = f"{SHAPES['mlp'][0]} inputs, batch {MLP_BATCH}, {MLP_STEPS} steps an epoch"
    guard = guard_steps(guarded)
    return [
        cost_table(f"a step of two {encoder}, {about}, {threads} threads", times),
        cost_table(f"a step of two MLPs, {inputs}, {threads} threads", small),
        f"a measurement of StabilityGuard takes {guard:.1f} of these steps",
        target_table(targets(times, guard, small)),
    ]
