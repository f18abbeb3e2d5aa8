"""Yoked controls: what an adaptive run did, replayed without its asynchrony (specification A7.5).

A control that decided anew from its own signals would decide otherwise, because its training goes another way. A yoked
one reads what the treated run of the same configuration and seed did, and keeps exactly one side effect of it.
"""

from __future__ import annotations

import copy
import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig

from asgml.rhythm.config import Asgml
from asgml.rhythm.schedule import change_event, read_change_event
from asgml.rhythm.stage import Rhythm
from callbacks.errors import UserError
from callbacks.run.history import ACTIONS, EVENTS, TIMELINE
from callbacks.stages.frequency import Cadence, FrequencyMask
from callbacks.stages.probe import ProbeEMA
from callbacks.stages.staleness import StalenessBuffer, compensation
from callbacks.step.context import StepContext
from suite.runs.identity import run_dir
from suite.runs.provenance import read_result

T = TypeVar("T")


@dataclass(frozen=True)
class Treated:
    """Holds what an adaptive run did in each of its committed steps.

    Attributes:
        actions: per modality, the action of each step.
        ages: per modality, the age of the gradient applied in each step, -1 for none.
        delays: per modality, the delay (or the interval less 1) that it had in each step.
    """

    actions: dict[str, list[str]]
    ages: dict[str, list[int]]
    delays: dict[str, list[int]]


# -- the treated run
def treated_run(cfg: DictConfig) -> Path:
    """Return the directory of the finished run of this very configuration and seed with `asgml.control=none`.

    Raises:
        UserError: there is no such run, or it has not finished.
    """
    tree = copy.deepcopy(cfg)
    tree.asgml.control = "none"
    folder = run_dir(tree)
    if read_result(folder).get("status") != "finished" or not (folder / TIMELINE.name).exists():
        raise UserError(
            f"asgml.control={cfg.asgml.control}",
            f"no finished treated run ({folder})",
            "the finished run of the same configuration and seed without the control, which this one replays",
            "run the same command first with asgml.control=none",
        )
    return folder


def read_treated(folder: Path, config: Asgml, modalities: Sequence[str]) -> Treated:
    """Return what the run in a directory did.

    Args:
        folder: the run's directory.
        config: its `asgml` node, the control left aside.
        modalities: the encoders that are trained.

    Raises:
        UserError: the timeline lacks a modality or a step.
    """
    done: dict[str, dict[int, tuple[str, int]]] = {m: {} for m in modalities}
    for row in _rows(folder / TIMELINE.name):
        if row["modality"] in done and row["action"] != "veto":  # a vetoed step is done again under its number
            done[row["modality"]][int(row["step"])] = row["action"], int(row["age"])
    steps = max((len(rows) for rows in done.values()), default=0)
    if not steps or any(sorted(rows) != list(range(steps)) for rows in done.values()):
        raise UserError(
            str(folder / TIMELINE.name),
            f"{', '.join(f'{len(rows)} steps of {m}' for m, rows in done.items())}",
            "every step of every modality, from the first on",
            "run the treated run again: the same command with asgml.control=none resume=never",
        )
    changes: dict[str, dict[int, int]] = {m: {} for m in modalities}
    for row in _rows(folder / EVENTS.name):
        if row["kind"] == "schedule":
            m, tau, t = read_change_event(row["detail"])
            changes[m][t] = tau
    return Treated(
        {m: [rows[t][0] for t in range(steps)] for m, rows in done.items()},
        {m: [rows[t][1] for t in range(steps)] for m, rows in done.items()},
        {m: piecewise(changes[m], config.adaptive.tau_min, steps) for m in modalities},
    )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# -- what is kept of it
def piecewise(changes: Mapping[int, int], first: int, steps: int) -> list[int]:
    """Return the value of each step, which is `first` until the first change and then that of the newest."""
    out, value = [], first
    for t in range(steps):
        value = changes.get(t, value)
        out.append(value)
    return out


def share(action: str, age: int, config: Asgml) -> float | None:
    """Return the factor on an encoder's update in a step; 0 where it stood still, None where its modality was missing.

    It is `c(age)` under `compensation: inverse`, `soft_scale` for a soft step and 1 for every other update.
    """
    if action == "missing":
        return None
    if not ACTIONS[action].moves:
        return 0.0
    if action == "soft":
        return config.soft_scale
    return compensation(age, config.lambda_comp) if config.compensation == "inverse" else 1.0


def window_means(shares: Sequence[float | None], window: int) -> list[float]:
    """Return for each step the mean over its window of so many steps, None left out; 1 where there is nothing else."""
    out: list[float] = []
    for begin in range(0, len(shares), window):
        part = shares[begin : begin + window]
        known = [s for s in part if s is not None]
        out += [sum(known) / len(known) if known else 1.0] * len(part)
    return out


def moved(due: Mapping[str, Sequence[bool]], window: int, seed: int) -> dict[str, list[bool]]:
    """Return the steps in another order within each window, the same order for all encoders, drawn from `seed` alone.

    Every encoder so keeps the number of its updates in every window, and no step idles more encoders than one did.
    """
    draw, steps = random.Random(seed), len(next(iter(due.values())))
    order: list[int] = []
    for begin in range(0, steps, window):
        part = list(range(begin, min(begin + window, steps)))
        draw.shuffle(part)
        order += part
    return {m: [row[t] for t in order] for m, row in due.items()}


def rotated(delays: Mapping[str, T]) -> dict[str, T]:
    """Give every modality what the one before it has, and the first what the last has; two of them swap."""
    names = list(delays)
    return {m: delays[names[i - 1]] for i, m in enumerate(names)}


# -- the stages that replay it
class ReplayedCadence(Cadence):
    """Says that encoders are due at the steps of a list, and at every step after its end.

    Args:
        every: the interval of each encoder at the start, for messages.
        steps: per encoder, whether it is due in each committed step.
    """

    def __init__(self, every: dict[str, int], steps: Mapping[str, Sequence[bool]]):
        super().__init__(every, "fixed", dict.fromkeys(every, 0))
        self.steps = steps

    def _chosen(self, t: int) -> set[str]:
        return {m for m, row in self.steps.items() if t >= len(row) or row[t]}


class YokedRhythm(Rhythm):
    """Replays one side effect of an adaptive run, and decides nothing.

    `yoked_scale` applies the fresh gradient with the factor `c(age)` of the treated step, and stands still where that
    stood still. `yoked_skip` has the treated updates at other steps (see `moved`). `yoked_lr` never skips or delays:
    its learning rate in every window between two decisions has the mean factor of the treated window (see
    `window_means`). `yoked_swap` gives each modality the delays, or intervals, of the one before it (see `rotated`).
    After the treated run's last step its last value goes on.

    Example (built by `asgml.rhythm.stages` from the `asgml` node)::

        asgml: {mode: adaptive, control: yoked_scale}

    Limits: needs the finished treated run. What differs between the two runs in other ways (a vetoed step, other ranks)
    is not made up for.

    Args:
        config: the `asgml` node.
        delay: tau of every encoder at the start, in committed steps.
        interval: k of every encoder at the start, in committed steps.
        treated: what the treated run did.
        buffer: the delaying stage of `yoked_swap`, where the treated run has one.
        mask: the skipping stage of `yoked_skip` and `yoked_swap`, where the treated run has one.
        probe: the probes, for the record only.
        seed: the seed of `yoked_skip`.

    Attributes:
        factors: per modality, the factor of each step, where the control has factors.
    """

    def __init__(
        self,
        config: Asgml,
        delay: Mapping[str, int],
        interval: Mapping[str, int],
        treated: Treated,
        buffer: StalenessBuffer | None = None,
        mask: FrequencyMask | None = None,
        probe: ProbeEMA | None = None,
        seed: int = 0,
    ):
        super().__init__(config, delay, interval, buffer, mask, probe)
        window = config.adaptive.update_every
        self.factors: dict[str, list[float]] = {}
        self._delays: dict[str, list[int]] = {}
        self._sources = rotated({m: m for m in self.modalities})
        for m in self.modalities:
            shares = [share(*done, config) for done in zip(treated.actions[m], treated.ages[m], strict=True)]
            if config.control == "yoked_scale":
                self.factors[m] = [1.0 if s is None else s for s in shares]
            elif config.control == "yoked_lr":
                self.factors[m] = window_means(shares, window)
        if config.control == "yoked_swap":
            self._delays = rotated(treated.delays)
            if mask is not None:  # who updates where nobody is due is settled by order: that of whom each stands for
                every = mask.cadence.every
                mask.cadence.every = {
                    m: every[m] for m in sorted(every, key=lambda m: list(every).index(self._sources[m]))
                }
        if config.control == "yoked_skip" and mask is not None:
            due = {m: [a in ("update", "missing") for a in row] for m, row in treated.actions.items()}
            mask.cadence = ReplayedCadence(dict(interval), moved(due, window, seed))

    def before_forward(self, ctx: StepContext) -> None:
        for m, row in self._delays.items():
            tau = row[min(ctx.t, len(row) - 1)]
            before = self.interval[m] - 1 if self.config.kind == "frequency" else self.delay[m]
            if tau != before:
                why = f"the treated run gave it to {self._sources[m]}"
                ctx.events.append(("schedule", change_event(m, before, tau, ctx.t, why)))
                self.changes[m] += 1
                self._set(m, tau)
        if self.config.control == "yoked_scale":
            for m in self.modalities:
                if self._factor(m, ctx.t) == 0:
                    ctx.plan.hold(m, "the treated run held it in this step")

    def _factor(self, m: str, t: int) -> float:
        return self.factors[m][min(t, len(self.factors[m]) - 1)]

    def scale(self, ctx: StepContext) -> None:
        for m in self.factors:
            if not ctx.plan[m].idle:
                through = "lr" if self.config.control == "yoked_lr" else self.config.through
                ctx.rescale(m, self._factor(m, ctx.t), through)
