"""The page of `python -m asgml.theory.phases`: the times of real networks, and the verdicts on the predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asgml.theory.phase_predictions import predicted
from asgml.tune.page.evidence import Evidence
from asgml.tune.page.times import Stretch, load, stretch
from callbacks.errors import UserError
from suite.report.data import RunRecord
from suite.report.tables import ABSENT, Cell, Table, columns, markdown, number, texts

WINDOW = 5  # logged losses in a mean: a single batch is noise
HEAD = """# The law of linear paths, on real networks

Written by `python -m asgml.theory.phases RUNS` from the runs of `python -m asgml.study phases --data FOLDER`, none of
it by hand. Nothing is tuned: a row differs from the row that it is held against in its mechanism alone. The dominant
modality's encoder is held back; fusion and heads are updated at every step.

*Time*: the steps until the loss of a modality's own head on the training batches, a mean over {window} logged values,
has fallen to half of that of guessing, ln(classes) / 2. Encoder and head are the path of the law. (Under `joint` and
`ogm_ge` the head only reads the features and sends no gradient back.) A linear probe answers another question: it reads
much out of an encoder that is not trained at all. ×: time over that of the reference with the same seed, geometric mean
over seeds with 95 % t interval. Load: eta times curvature over the limit of stability, the largest that
`StabilityGuard` found, median over seeds.

{state}
"""
VERDICTS = """## Predictions of [docs/theory.md](../theory.md), section 4

*Held*: the interval lies within what was predicted; *refuted*: it lies outside; *undecided*: it does both; *unstable*:
the row is beyond the limit of its delay (load 1), of which the law says nothing. The
predictions were written down before the study, from linear networks without noise or normalisation.
"""


@dataclass(frozen=True)
class Reference:
    """A row, and the row that has all but its mechanism."""

    row: str
    of: str


REFERENCES = (
    Reference("hard_2", "gamma_1"),
    Reference("hard_2/lr_matched", "gamma_1"),
    Reference("hard_4", "gamma_1"),
    Reference("soft_2", "gamma_1"),
    Reference("delay_2", "gamma_1"),
    Reference("delay_2_factor", "gamma_1"),
    Reference("delay_2_factor/scale_only", "gamma_1"),
    Reference("joint_hard_2", "joint"),
    Reference("gamma_1", "joint"),
    Reference("ogm_ge", "joint"),
    Reference("gamma_4_hard_2", "gamma_4"),
    Reference("momentum_hard_2", "momentum"),
    Reference("momentum_hard_2/lr_matched", "momentum"),
    Reference("adam", "gamma_1"),
    Reference("adam_delay_2", "adam"),
)


def half_loss(run: RunRecord, modality: str) -> float | None:
    """Return the steps until the loss of a modality's head is half of that of guessing; None where it never is."""
    series, classes = run.series.get(f"train/loss/{modality}"), len(run.result.get("classes") or ())
    if series is None or classes < 2 or len(series.value) < WINDOW:
        return None
    means = np.convolve(series.value, np.full(WINDOW, 1 / WINDOW), "valid")
    there = np.flatnonzero(means <= math.log(classes) / 2)
    return float(series.step[there[0] + WINDOW // 2]) if there.size else None


def modalities(data: Evidence) -> tuple[str, str]:
    """Return the dominant modality of a data set, as its runs name it, and the other.

    Raises:
        UserError: it names none, or there are not two modalities.
    """
    assert data.frames is not None
    run = data.frames.runs[0]
    first = run.config["data"].get("dominant")
    names = sorted({k.removeprefix("train/loss/") for k in run.series if k.startswith("train/loss/")} - {"fusion"})
    if len(names) != 2 or (first is not None and first not in names):
        raise UserError(data.name, f"modalities {', '.join(names)}", "two, one of them data.dominant", "edit data_sets")
    dominant = first or ("audio" if "audio" in names else names[0])
    return dominant, next(m for m in names if m != dominant)


def halves(data: Evidence, row: str, modality: str) -> dict[int, float]:
    """Return a row's times by seed, without the runs that never got there."""
    found = {seed: half_loss(run, modality) for seed, run in data.runs(row).items()}
    return {seed: steps for seed, steps in found.items() if steps is not None}


def times_table(data: Evidence) -> Table:
    """Return the times of every row, and their ratios to the row's reference."""
    dominant, slow = modalities(data)
    of = {r.row: r.of for r in REFERENCES}
    rows = []
    for name in data.rows:
        cells = texts(name, of.get(name, ABSENT))
        for modality in (dominant, slow):
            own = halves(data, name, modality)
            cells += [_steps(own, len(data.runs(name))), *texts(_ratio(data, name, of.get(name), modality))]
        rows.append([*cells, number(load(data.runs(name)), 2)])
    head = columns("row", "against", numbers=[f"{dominant}: steps", "×", f"{slow}: steps", "×", "load"])
    read = [
        np.diff(run.series[f"train/loss/{dominant}"].step) for name in data.rows for run in data.runs(name).values()
    ]
    notes = [
        "Steps: median over seeds; (n of m): seeds that got there, where not all did.",
        f"Losses are logged every {np.median(np.concatenate(read)):.0f} steps; a time is known no better than that.",
    ]
    return Table("", head, rows, notes)


def _steps(found: Mapping[int, float], runs: int) -> Cell:
    if not found:
        return Cell(f"never (0 of {runs})")
    mid = float(np.median(list(found.values())))
    return Cell(f"{mid:.0f}" + ("" if len(found) == runs else f" ({len(found)} of {runs})"), mid)


def _ratio(data: Evidence, row: str, of: str | None, modality: str) -> Stretch | str:
    return (stretch(halves(data, row, modality), halves(data, of, modality)) if of else None) or ABSENT


def page(sets: Sequence[Evidence]) -> str:
    """Return the page as Markdown."""
    usable = [data for data in sets if data.frames is not None]
    state = " ".join(f"{data.name}: {data.state}." for data in sets)
    parts = [HEAD.format(window=WINDOW, state=state)]
    measured = []
    for data in usable:
        dominant, slow = modalities(data)
        found = {r: (halves(data, r, dominant), halves(data, r, slow)) for r in data.rows}
        measured.append((data.name, found, {r: load(data.runs(r)) for r in data.rows}))
    parts += [VERDICTS, markdown([predicted(measured)])]
    parts += [f"## {data.name}\n\n{markdown([times_table(data)])}" for data in usable]
    return "\n".join(part if part.endswith("\n") else f"{part}\n" for part in parts)
