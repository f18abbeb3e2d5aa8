"""The table of `python -m asgml.bench.encoders`: default encoders and logistic regression on the same data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional as F

from asgml.bench.encoder_tasks import TASKS, Task
from asgml.model.encoders.base import Encoder
from asgml.model.encoders.norms import Norm
from callbacks.errors import UserError
from callbacks.files.atomic import write_text
from suite.config.compose import Composer
from suite.statistics import Estimate, mean_interval

LR, BATCH, EPOCHS = 0.1, 64, 30
PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
Factory = Callable[[tuple[int, ...]], nn.Module]


def accuracy(predict: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """Return the share of rows whose largest logit is that of the label."""
    with torch.no_grad():
        right = [predict(a).argmax(1).eq(b).sum() for a, b in zip(x.split(512), y.split(512))]
    return float(torch.stack(right).sum()) / len(y)


def logistic_regression(task: Task, penalties: Sequence[float] = PENALTIES) -> tuple[float, float]:
    """Return the test accuracy of multinomial logistic regression on flattened inputs, as chosen and at its highest.

    The loss is mean cross entropy + penalty / 2 * ||W||^2 (no penalty on the bias), minimised by L-BFGS. The first
    number is of the penalty with the best validation accuracy, the larger one where several have it; the second of the
    penalty that is best on test, which nobody could have chosen: it shows what the choice on validation leaves open.

    Args:
        task: the data.
        penalties: the penalties to choose from, from large to small: each fit starts at the last one's solution.
    """
    flat = {s: (x.flatten(1), y) for s, (x, y) in task.parts.items()}
    x, y = flat["train"]
    linear = nn.Linear(x.shape[1], task.classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    best, test, highest = -1.0, 0.0, 0.0
    for penalty in penalties:
        optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss(optimizer: torch.optim.LBFGS = optimizer, penalty: float = penalty) -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(linear(x), y) + penalty / 2 * linear.weight.square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        found, reached = (accuracy(linear, *flat[s]) for s in ("val", "test"))
        highest = max(highest, reached)
        if found > best:
            best, test = found, reached
    return test, highest


def train(
    task: Task, factory: Factory, seed: int, epochs: int = EPOCHS, lr: float = LR, momentum: float = 0.0
) -> float:
    """Return the test accuracy of an encoder and a linear head, of the epoch with the best validation accuracy.

    Args:
        task: the data.
        factory: makes the encoder of a shape.
        seed: the seed of weights and order.
        epochs: the passes over the training data.
        lr: the learning rate of SGD, constant.
        momentum: its momentum.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = factory(task.shape)
        net = nn.Sequential(encoder, nn.Linear(int(encoder.out_dim), task.classes))  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(net.parameters(), lr, momentum)
        x, y = task.parts["train"]
        best, test = -1.0, 0.0
        for _ in range(epochs):
            net.train()
            for rows in torch.randperm(len(y)).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
            net.eval()
            found = accuracy(net, *task.parts["val"])
            if found > best:
                best, test = found, accuracy(net, *task.parts["test"])
    return test


def default_encoder(kind: str, norm: Norm) -> Factory:
    """Return what `model=small`, the default of `conf/asgml`, makes for a kind of modality."""
    cfg = Composer("asgml").compose(["experiment=features", "data.path=unused", "data.dominant=unused"])
    factory = instantiate(cfg.model.encoder, norm=norm)
    return lambda shape: factory(shape=shape, kind=kind)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        task: the data.
        encoder: the name of the encoder's class.
        parameters: the number of its parameters.
        linear: the test accuracy of logistic regression.
        linear_highest: that of the penalty that is best on test.
        accuracies: the encoder's, over seeds, by normalisation.
    """

    task: Task
    encoder: str
    parameters: int
    linear: float
    linear_highest: float
    accuracies: dict[Norm, Estimate]

    @property
    def verdict(self) -> str:
        """Return what the comparison says: `reached`, `within the interval`, or `below` with its normalisations."""
        short = {n: e for n, e in self.accuracies.items() if e.mean < self.linear - 1e-9}
        below = [n for n, e in short.items() if e.high is None or e.high < self.linear]
        if below:
            return f"**below** ({', '.join(below)})"
        return f"within the interval ({', '.join(short)})" if short else "reached"


def measure(task: Task, norms: Sequence[Norm], seeds: int, epochs: int) -> Row:
    """Train the default encoder of a task and fit logistic regression to it."""
    accuracies = {
        norm: mean_interval([train(task, default_encoder(task.kind, norm), s, epochs) for s in range(seeds)])
        for norm in norms
    }
    encoder = default_encoder(task.kind, norms[0])(task.shape)
    assert isinstance(encoder, Encoder)
    parameters = sum(p.numel() for p in encoder.parameters())
    return Row(task, type(encoder).__name__, parameters, *logistic_regression(task), accuracies)


def _percent(estimate: Estimate) -> str:
    half = "" if estimate.high is None else f" ± {100 * (estimate.high - estimate.mean):.1f}"
    return f"{100 * estimate.mean:.1f}{half}"


def _cells(row: Row, norms: Sequence[Norm]) -> list[str]:
    sizes = " / ".join(str(len(row.task.parts[s][1])) for s in ("train", "val", "test"))
    return [
        row.task.name,
        f"{row.task.kind} {'×'.join(map(str, row.task.shape))}",
        sizes,
        f"`{row.encoder}`",
        f"{row.parameters:,}".replace(",", " "),
        f"{100 * row.linear:.1f} ({100 * row.linear_highest:.1f})",
        *(_percent(row.accuracies[n]) for n in norms),
        row.verdict,
    ]


def document(rows: Sequence[Row], skipped: Sequence[str], norms: Sequence[Norm], seeds: int, epochs: int) -> str:
    """Return the page in Markdown."""
    columns = ["data", "kind", "train / val / test", "encoder", "parameters", "logistic regression %"]
    columns += [*(f"`norm: {n}` %" for n in norms), "verdict"]
    right = {"train / val / test", "parameters", *columns[5:-1]}
    text = f"""# The default encoders against logistic regression

Regenerated by `make encoders DATA=…` (GRID digits, FSDD and MNIST below `DATA`). Test accuracy of what `model=small`
makes for each kind of input, with a linear head: {epochs} epochs of SGD without momentum at {LR:g}, batches of {BATCH},
no augmentation, the epoch with the best validation accuracy; mean over {seeds} seeds ± half of the 95 % t interval.
Logistic regression is fitted to the same standardised arrays, its L2 penalty ({", ".join(f"{p:g}" for p in PENALTIES)})
chosen on validation; in brackets the penalty that is best on test. Nothing is tuned per row.

| {" | ".join(columns)} |
|{"|".join("---:" if c in right else ":---" for c in columns)}|
"""
    text += "".join(f"| {' | '.join(_cells(row, norms))} |\n" for row in rows)
    text += """
- Verdict: *reached*: the mean of every normalisation is at least that of logistic regression; *within the interval*:
  the mean is lower, but the interval over seeds contains it; **below** otherwise. The interval is over training noise
  alone, not over other test sets: that of FSDD's other speakers is one speaker, validation another, and what is best
  on the one need not be on the other.
- FSDD: log-mel spectrograms of `experiment=avdigits`, as an image of one channel and as a sequence of mel vectors.
  MNIST: its 10 000 test images, cut by index 4 : 1 : 1. Features of handwriting: 49 zone means, 56 profiles and 76
  Fourier magnitudes of these images. Audio statistics: mean and standard deviation over time of each mel band.
"""
    return text + "".join(f"- Skipped: {s}.\n" for s in skipped)


def write(data: Path, out: Path, norms: Sequence[Norm], seeds: int, epochs: int) -> None:
    """Measure every task whose data are there, and write the page.

    Args:
        data: the folder of the data sets.
        out: the page.
        norms: the normalisations of the encoders.
        seeds: the number of runs of each.
        epochs: the passes over the training data.

    Raises:
        UserError: none of the data sets is there.
    """
    rows, skipped = [], []
    for name, kind, folders, load in TASKS:
        absent = [f for f in folders if not (data / f).is_dir()]
        if absent:
            skipped.append(f"{name} ({kind}), for want of {' and '.join(f'{f}/' for f in absent)} below `DATA`")
            print(f"skipped: {name}: no folder {data / absent[0]}", file=sys.stderr)
            continue
        rows.append(measure(Task(name, kind, load(data)), norms, seeds, epochs))
        print(" | ".join(_cells(rows[-1], norms)), flush=True)
    if not rows:
        known = sorted({f for _, _, folders, _ in TASKS for f in folders})
        raise UserError(
            f"--data {data}",
            "none of the data sets",
            f"a folder that holds some of {', '.join(known)}",
            "set --data (make encoders DATA=…) to the folder that holds grid_digit/, fsdd/ and mnist/",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, document(rows, skipped, norms, seeds, epochs))
    print(f"written: {out}")
