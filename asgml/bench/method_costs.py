"""`make bench`: what a step of every method costs relative to joint, with ResNet18 encoders and with MLPs on features.

Configurations are those of `conf/asgml/method`, built as `asgml.run` builds them. A joint block stands before and after
every few methods, and a ratio is taken to these two only: a slow minute of the machine hits all of them. What a method
does once per epoch (a survey of the training data, a re-initialisation) is not in a step's time; the run times of
`python -m asgml.compare` include it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from asgml.bench.timer import StepTimer
from asgml.build import Parts, build
from callbacks.errors import UserError
from suite.config.compose import Composer
from suite.runs.identity import config_hash
from suite.runs.job import Run, seed_everything
from suite.shell import quiet_lightning

CLASSES, BETWEEN = 6, 4  # BETWEEN: methods between two joint blocks
STEPS = {"resnet18": 12, "mlp": 64}  # of an epoch
SHAPES = {"resnet18": (3, 64, 64), "mlp": (128,)}
BATCH = {"resnet18": 16, "mlp": 64}
ENCODER = {"resnet18": ["model=resnet18"], "mlp": []}
NO_KERNELS = {"ogm_ge": ["methods.ogm_ge.kernels=all"]}  # where nothing is a convolution
# What makes a method act in the second epoch, the one that is timed.
AWAKE = {
    "arl": ["methods.arl.begins=1"],
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
        self.composer, self.done = Composer("asgml"), 0
        shape, size = SHAPES[self.encoder], BATCH[self.encoder]
        rng, n = np.random.default_rng(0), size * STEPS[self.encoder]
        arrays: dict[str, Any] = {
            f"x_{m}": rng.standard_normal((n + 2 * size, *shape), np.float32) for m in ("audio", "visual")
        }
        split = np.repeat([0, 1, 2], [n, size, size])
        np.savez(self.folder / "data.npz", y=np.arange(n + 2 * size) % CLASSES, split=split, **arrays)
        self.teacher = self.folder / "teacher.ckpt"
        torch.save({"state_dict": self.parts("joint").module.state_dict()}, self.teacher)

    def parts(self, method: str) -> Parts:
        """Build a run of a method on the random data."""
        own = [*AWAKE.get(method, []), *(NO_KERNELS.get(method, []) if self.encoder == "mlp" else [])]
        if method == "umt":
            own = [f"methods.umt.checkpoints={{audio:'{self.teacher}',visual:'{self.teacher}'}}"]
        cfg = self.composer.compose(
            [
                "experiment=features", *ENCODER[self.encoder], f"method={method}", f"data.path={self.folder}/data.npz",
                "data.dominant=audio", f"paths.runs={self.folder}/runs", f"loader.batch_size={BATCH[self.encoder]}",
                "trainer.accelerator=cpu", "trainer.max_epochs=2", "trainer.enable_progress_bar=false",
                "callbacks.progress=null", *own,
            ],
        )  # fmt: skip
        seed_everything(0)
        self.done += 1
        folder = self.folder / "runs" / str(self.done)
        folder.mkdir(parents=True)
        return build(cfg, Run(folder, config_hash(cfg), "bench", 0, None, True))

    def block(self, method: str) -> float:
        """Return the mean seconds of a method's step in the second epoch."""
        with contextlib.redirect_stdout(io.StringIO()):  # what a run says at its start
            parts, timer = self.parts(method), StepTimer()
            parts.trainer.callbacks.append(timer)  # type: ignore[attr-defined]
            parts.trainer.fit(parts.module, datamodule=parts.data)
        return statistics.fmean(timer.seconds)

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m asgml.bench.method_costs", description=__doc__)
    parser.add_argument("--encoder", choices=tuple(SHAPES), default="resnet18")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", help="comma-separated; all without it")
    options = parser.parse_args()
    methods, known = [m for m in registered() if m != "joint"], registered()
    if options.methods:
        methods = options.methods.split(",")
        for name in sorted(set(methods) - set(known)):
            near = get_close_matches(name, known, 1)
            remedy = f"--methods {near[0]}" if near else "leave --methods out, which takes all"
            print(UserError("--methods", name, f"some of {', '.join(known)}", remedy), file=sys.stderr)
            raise SystemExit(UserError.EXIT_CODE)
    quiet_lightning()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.encoder, Path(folder))
        rounds = [bench.ratios(methods) for _ in range(options.rounds)]
    step = 1e3 * statistics.median(s for _, joint in rounds for s in joint)
    shape = "x".join(map(str, SHAPES[options.encoder]))
    table = Table(
        title=f"step cost over joint ({step:.1f} ms): two {options.encoder} encoders, {shape}, "
        f"batch {BATCH[options.encoder]}, {torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    for column in ("method", "median", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for m in methods:
        found = [ratios[m] for ratios, _ in rounds]
        table.add_row(m, *(f"{f(found):.2f}" for f in (statistics.median, min, max)))
    Console().print(table)


if __name__ == "__main__":
    main()
