"""The plan of a comparison: its rows, their runs, and the hours that they take on this device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from omegaconf import DictConfig

from suite.report.tables import ABSENT, Cell, Table, columns, number, texts

HOUR = 3600.0


@dataclass
class PlannedRow:
    """The runs of one row.

    Attributes:
        runs: how many there are, trials and evaluation together.
        cost: the time of one over that of a joint run, as far as it is known before.
        done: the runs that are done, by hash, with their seconds; None for those that were not measured on this device.
    """

    runs: int
    cost: float = 1.0
    done: dict[str, float | None] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """The number of runs that are still to be done."""
        return max(0, self.runs - len(self.done))

    @property
    def measured(self) -> float | None:
        """The mean seconds of the runs that were measured on this device."""
        found = [seconds for seconds in self.done.values() if seconds is not None]
        return sum(found) / len(found) if found else None


class Plan:
    """Counts the runs of a comparison and estimates the hours of those that are left.

    A run of a row takes what the row's measured runs took; before the first, its `cost` times what the measured rows
    took for each unit of theirs; before any, its `cost` times the stated seconds of a joint run.

    Args:
        name: the comparison.
        rows: its rows by name.
        steps: the steps of a run, None where they are not known.
        stated: the stated seconds of a joint run, None for no statement.
        device: what the seconds are measured on.
    """

    def __init__(self, name: str, rows: Mapping[str, PlannedRow], steps: int | None, stated: float | None, device: str):
        self.name, self.rows, self.steps, self.stated, self.device = name, dict(rows), steps, stated, device

    def done(self, row: str, run: str, seconds: float | None) -> None:
        """Book a run, by its hash, as done; the seconds are None where they say nothing of a whole run here."""
        known = self.rows[row].done
        if known.get(run) is None:
            known[run] = seconds

    @property
    def joint_seconds(self) -> float | None:
        """The measured seconds of a run that costs as much as a joint one, None before the first measured run."""
        found = [row.measured / row.cost for row in self.rows.values() if row.measured is not None]
        return sum(found) / len(found) if found else None

    def seconds(self, row: str, pace: float = 1.0) -> float | None:
        """Return the expected seconds of a run of a row, None where nothing is known.

        Args:
            row: the row.
            pace: what the stated seconds are multiplied by (see `pace`).
        """
        asked = self.rows[row]
        if asked.measured is not None:
            return asked.measured
        joint = self.joint_seconds
        if joint is None and self.stated is not None:
            joint = self.stated * pace
        return None if joint is None else joint * asked.cost

    def hours_left(self, pace: float = 1.0) -> float | None:
        """Return the expected hours of the runs that are left, None where nothing is known of one of them."""
        each = [(row.left, self.seconds(name, pace)) for name, row in self.rows.items() if row.left]
        known = [left * seconds for left, seconds in each if seconds is not None]
        return sum(known) / HOUR if len(known) == len(each) else None

    def table(self, pace: float = 1.0) -> Table:
        """Return the table of rows, runs and hours, the sum in the last line."""
        cells = []
        for name, row in self.rows.items():
            seconds = self.seconds(name, pace)
            per_step = None if seconds is None or not self.steps else seconds / self.steps
            shown = number(per_step, 3)
            if per_step is not None and row.measured is None:
                shown = Cell(f"≈ {shown.text}", per_step)
            hours = None if seconds is None else row.left * seconds / HOUR
            cells.append([*texts(name, row.runs, len(row.done)), shown, number(hours, 1)])
        sums = [sum(row.runs for row in self.rows.values()), sum(len(row.done) for row in self.rows.values())]
        cells.append([*texts("all", *sums), Cell(ABSENT), number(self.hours_left(pace), 1)])
        head = columns("row", numbers=["runs", "done", "s / step", "hours left"])
        return Table(f"Plan of {self.name}", head, cells, self.notes(pace), strong={len(cells) - 1})

    def notes(self, pace: float = 1.0) -> list[str]:
        """Say where the hours come from."""
        steps = "a run" if self.steps is None else f"a run of {self.steps} steps"
        if self.joint_seconds is not None:
            where = f"Measured on this device ({self.device}); ≈: rows without a finished run, by their relative cost."
        elif self.stated is None:
            where = f"No hours: nothing states how long {steps} takes; the first finished run tells."
        elif pace != 1.0:
            where = f"Estimated from runs of the same study on this device ({self.device}), {steps}."
        else:
            where = (
                f"Estimated for {steps}, not measured: {self.stated / (self.steps or 1):.3g} s a joint step, as "
                f"declared for one RTX 3090. This device is {self.device}; the first finished run corrects it."
            )
        return [where]


def pace(plans: Iterable[Plan]) -> float:
    """Return how much longer joint runs take on this device than is stated, 1 where no plan has both numbers."""
    found = [plan.joint_seconds / plan.stated for plan in plans if plan.joint_seconds and plan.stated]
    return sum(found) / len(found) if found else 1.0


def told(plans: Sequence[Plan], name: str) -> str:
    """Return in words how long the comparison `name`, and all of them, still take; "" where that is not known."""
    at = pace(plans)
    hours = {plan.name: plan.hours_left(at) for plan in plans}
    own, known = hours[name], [h for h in hours.values() if h is not None]
    if own is None:
        return ""
    whole = f", {sum(known):.1f} h in all" if len(plans) > 1 and len(known) == len(plans) else ""
    return f"; about {own:.1f} h left{whole}"


def device_of(cfg: DictConfig) -> str:
    """Return the device that a run would use, as `result.json` names it."""
    import torch

    cuda = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return str(torch.cuda.get_device_name()) if cuda else "cpu"


def steps_of(cfg: DictConfig, samples: int | None) -> int | None:
    """Return the training steps of a run on so many training samples, None where the samples are not known."""
    if samples is None:
        return None
    kept = samples if cfg.loader.limit is None else min(samples, int(cfg.loader.limit))
    batches = max(1, kept // int(cfg.loader.batch_size))  # the last partial batch is dropped
    limit = cfg.trainer.get("limit_train_batches", 1.0)
    batches = min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
    steps = batches * int(cfg.trainer.max_epochs) if cfg.trainer.max_epochs > 0 else None
    if cfg.trainer.max_steps > 0:
        return min(steps or cfg.trainer.max_steps, int(cfg.trainer.max_steps))
    return steps
