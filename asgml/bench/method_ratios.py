"""Times blocks of a run of every method, between blocks of joint training."""

from __future__ import annotations

import contextlib
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from rich.table import Table

from asgml.bench.runs import SHAPES, RandomRuns
from asgml.bench.timer import StepTimer
from asgml.build import Parts
from callbacks.errors import UserError
from suite.config.compose import Composer

BETWEEN = 4  # methods between two joint blocks
STEPS = {"resnet18": 12, "mlp": 64}  # of an epoch
BATCH = {"resnet18": 16, "mlp": 64}
NO_KERNELS = {"ogm_ge": ["methods.ogm_ge.kernels=all"]}  # where nothing is a convolution
PUPILS = ("g2d", "umt")  # methods with teachers
# What makes a method act in the second epoch, the one that is timed.
AWAKE = {
    "arl": ["methods.arl.begins=1"],
    "aug": ["methods.aug.every=1"],
    "greedy": ["methods.greedy.begins=1"],
    "opm": ["methods.opm.begins=1"],
    "remix": ["methods.remix.begins=1"],
    "valuation": ["methods.valuation.begins=1"],
    "mslr": ["methods.mslr.history=2"],
    "reconboost": ["methods.reconboost.stage_epochs=1"],
    "control_all_delayed": ["asgml.tau=1"],
}


@dataclass
class Bench:
    """Builds and times blocks of two epochs.

    Args:
        encoder: the kind of encoder, `resnet18` or `mlp`.
        folder: the folder of the random data, of a teacher and of the run directories.
    """

    encoder: str
    folder: Path

    def __post_init__(self) -> None:
        size = BATCH[self.encoder]
        self.runs = RandomRuns(self.encoder, self.folder, size, STEPS[self.encoder], held=size)
        self.teacher = self.folder / "teacher.ckpt"
        torch.save({"state_dict": self.parts("joint").module.state_dict()}, self.teacher)

    def parts(self, method: str) -> Parts:
        """Build a run of a method on the random data."""
        own = [*AWAKE.get(method, []), *(NO_KERNELS.get(method, []) if self.encoder == "mlp" else [])]
        if method in PUPILS:
            own = [f"methods.{method}.checkpoints='{self.teacher}'"]
        return self.runs.parts([f"method={method}", *own])

    def block(self, method: str) -> float:
        """Return the mean seconds of a method's step in the second epoch."""
        with contextlib.redirect_stdout(io.StringIO()):  # what a run says at its start
            parts, timer = self.parts(method), StepTimer()
            parts.trainer.callbacks.insert(0, timer)  # type: ignore[attr-defined]
            parts.trainer.fit(parts.module, datamodule=parts.data)
        return timer.epochs[-1].mean

    def ratios(self, methods: Sequence[str]) -> tuple[dict[str, float], list[float]]:
        """Return each method's step over joint's, and the seconds of joint's blocks."""
        out: dict[str, float] = {}
        joint = [self.block("joint")]
        for i in range(0, len(methods), BETWEEN):
            found = {m: self.block(m) for m in methods[i : i + BETWEEN]}
            joint.append(self.block("joint"))
            out.update({m: value / statistics.fmean(joint[-2:]) for m, value in found.items()})
        return out, joint


def registered() -> list[str]:
    """Return the methods that `conf/asgml/method` names and that need nothing else.

    `unimodal` needs a modality, and the yoked controls replay a finished run.
    """
    names = Composer("asgml").options("method")
    return sorted(n for n in names if n != "unimodal" and not n.startswith("control_yoked_"))


def chosen(names: str | None) -> list[str]:
    """Return the methods that a comma-separated list names; without one all that are registered, but joint.

    Raises:
        UserError: a name that is not registered.
    """
    known = registered()
    if names is None:
        return [m for m in known if m != "joint"]
    methods = names.split(",")
    for name in sorted(set(methods) - set(known)):
        near = get_close_matches(name, known, 1)
        remedy = f"--methods {near[0]}" if near else "leave --methods out, which takes all"
        raise UserError("--methods", name, f"some of {', '.join(known)}", remedy)
    return methods


def table(encoder: str, methods: Sequence[str], rounds: int, folder: Path) -> Table:
    """Return each method's step over joint's: median, lowest and highest over rounds."""
    bench = Bench(encoder, folder)
    found = [bench.ratios(methods) for _ in range(rounds)]
    step = 1e3 * statistics.median(s for _, joint in found for s in joint)
    shape = "x".join(map(str, SHAPES[encoder]))
    out = Table(
        title=f"step cost over joint ({step:.1f} ms): two {encoder} encoders, {shape}, "
        f"batch {BATCH[encoder]}, {torch.get_num_threads()} threads, {rounds} rounds"
    )
    for column in ("method", "median", "lowest", "highest"):
        out.add_column(column, justify="left" if column == "method" else "right")
    for m in methods:
        own = [ratios[m] for ratios, _ in found]
        out.add_row(m, *(f"{f(own):.2f}" for f in (statistics.median, min, max)))
    return out
