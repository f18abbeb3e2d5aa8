"""`make bench`: what a staleness step costs, and what a skipped encoder saves, as ratios measured in one run."""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from asgml.bench.timer import StepTimer
from asgml.data.spec import DataSpec, ModalitySpec
from asgml.methods.joint import Joint
from asgml.model.encoders.resnet import ResNet18
from asgml.model.encoders.small import SmallCNN
from asgml.model.fusion.concat import Concat
from asgml.model.net import MultimodalNet
from asgml.rhythm.config import Asgml
from asgml.rhythm.stages import rhythm_stages
from asgml.train.modulation import Modulation
from asgml.train.module import MultimodalModule
from callbacks.stages.diagnostics import GradientNorms
from callbacks.stages.gate import StepGate
from callbacks.stages.lr import LRSchedule, LRStep
from callbacks.step.pipeline import StepPipeline
from suite.shell import quiet_lightning

SHAPE, CLASSES = (3, 64, 64), 6
CONFIGS: dict[str, Asgml] = {
    "joint": Asgml(mode="sync"),
    "staleness tau=2": Asgml(mode="staleness", tau=2),
    "frequency hard k=4": Asgml(mode="frequency", k=4, masking="hard"),
}


def batches(count: int, size: int) -> list[dict[str, Any]]:
    """Return `count` batches of `size` random pictures of two modalities each."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "x": {m: torch.randn(size, *SHAPE, generator=generator) for m in ("audio", "visual")},
            "rows": {"audio": None, "visual": None},
            "y": torch.randint(0, CLASSES, (size,), generator=generator),
            "index": torch.arange(size),
        }
        for _ in range(count)
    ]


def network(encoder: str) -> MultimodalNet:
    """Build a network of two equal encoders, `resnet18` or `small`, whose features are concatenated."""
    spec = DataSpec(
        {m: ModalitySpec(m, "image", SHAPE) for m in ("audio", "visual")}, [str(c) for c in range(CLASSES)], "audio"
    )
    factory = ResNet18 if encoder == "resnet18" else lambda shape: SmallCNN(shape, dim=64, channels=[32, 64, 128])
    return MultimodalNet(spec, factory, {}, Concat)


def contender(config: Asgml, encoder: str, steps: int) -> tuple[MultimodalModule, L.Trainer, StepTimer]:
    """Build a module, a trainer that runs `steps` steps of one configuration, and the timer in it."""
    rhythm, stages = rhythm_stages(config, ["audio", "visual"], "audio", None, 0)
    module = MultimodalModule(
        network(encoder),
        {"joint": Joint()},
        rhythm,
        lambda g: torch.optim.SGD(g, 0.01, 0.9),
        LRSchedule(),
        may_miss=False,
    )
    own = [GradientNorms(10, announce=False), Modulation({}), StepGate(), LRStep()]
    timer = StepTimer()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[timer, StepPipeline.ordered([*stages, *own], announce=False)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return module, trainer, timer


def bare_loop(encoder: str, data: list[dict[str, Any]]) -> list[float]:
    """Return the milliseconds of the same joint step without Lightning and without the suite, the lower bound."""
    net = network(encoder)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9)
    ms = []
    for batch in data:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        f = {m: net.encode(m, x) for m, x in batch["x"].items()}
        heads = [F.cross_entropy(net.heads[m](f[m].detach()), batch["y"]) for m in f]
        (F.cross_entropy(net.fusion(f, None), batch["y"]) + torch.stack(heads).sum()).backward()
        optimizer.step()
        ms.append((time.perf_counter() - start) * 1e3)
    return ms


def measure(encoder: str, batch_size: int, rounds: int, steps: int) -> dict[str, list[float]]:
    """Return, per configuration, the mean milliseconds of every four consecutive steps (one cycle of k = 4).

    Configurations take turns in blocks, so that a slow minute of the machine hits all of them.

    Args:
        encoder: the kind of encoder, `resnet18` or `small`.
        batch_size: the number of samples in a batch.
        rounds: the number of blocks of each configuration.
        steps: the number of steps in a block.
    """
    data = batches(steps, batch_size)
    times: dict[str, list[float]] = {name: [] for name in ["bare loop", *CONFIGS]}
    for _ in range(rounds):
        blocks = {"bare loop": bare_loop(encoder, data)}
        for name, config in CONFIGS.items():
            module, trainer, timer = contender(config, encoder, steps)
            trainer.fit(module, train_dataloaders=torch.utils.data.DataLoader(data, batch_size=None))  # type: ignore[arg-type]
            blocks[name] = [1e3 * s for s in timer.seconds]
        for name, ms in blocks.items():
            warm = ms[4:]  # the first cycle allocates
            times[name] += [statistics.fmean(warm[i : i + 4]) for i in range(0, len(warm) - 3, 4)]
    return times


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", choices=("resnet18", "small"), default="resnet18")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    quiet_lightning()
    warnings.filterwarnings("ignore")
    times = measure(options.encoder, options.batch_size, options.rounds, options.steps)
    medians = {name: statistics.median(values) for name, values in times.items()}
    size = f"{SHAPE[1]}x{SHAPE[2]}, batch {options.batch_size}, {torch.get_num_threads()} threads"
    title = f"step cost, two {options.encoder}, {size}"
    table = Table(title=title)
    for column in ("configuration", "ms per step (median)", "over joint", "cycles"):
        table.add_column(column, justify="left" if column == "configuration" else "right")
    for name, value in medians.items():
        table.add_row(name, f"{value:.1f}", f"{value / medians['joint']:.3f}", str(len(times[name])))
    Console().print(table)


if __name__ == "__main__":
    main()
