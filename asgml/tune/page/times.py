"""How long a modality takes to be learned, as its probe tells it, and how far a row stretches that against another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from asgml.report.multimodal import weaker
from asgml.report.naming import modalities
from asgml.tune.page.evidence import JOINT, Evidence
from asgml.tune.rows import ALONE
from suite.report.data import RunRecord
from suite.statistics import mean_interval


def time_to_half(run: RunRecord, modality: str, ceiling: float, chance: float) -> float | None:
    """Return the steps until the probe of a modality is half way from chance to its ceiling; None where it never is."""
    probe = run.series.get(f"probe/accuracy/{modality}")
    if probe is None:
        return None
    there = np.flatnonzero(probe.value >= chance + (ceiling - chance) / 2)
    return float(probe.step[there[0]]) if there.size else None


def times(data: Evidence, row: str, modality: str) -> dict[int, float]:
    """Return a row's steps to half of the modality's own accuracy, by seed."""
    alone = data.runs(ALONE.format(modality))
    out = {}
    for seed, run in data.runs(row).items():
        ceiling = alone[seed].metric("val_best", "accuracy") if seed in alone else None
        classes = len(run.result.get("classes") or ())
        if ceiling is not None and classes:
            found = time_to_half(run, modality, ceiling, 1 / classes)
            if found is not None:
                out[seed] = found
    return out


@dataclass(frozen=True)
class Stretch:
    """How much longer one row takes than another: geometric mean over common seeds, with its 95 % interval."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        ends = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.mean:.2f}{ends} ({self.n} seeds)"


def stretch(mine: Mapping[int, float], theirs: Mapping[int, float]) -> Stretch | None:
    """Return the ratio of two rows' times over common seeds, None without any."""
    logs = [math.log(mine[s] / theirs[s]) for s in sorted(set(mine) & set(theirs)) if theirs[s] > 0 and mine[s] > 0]
    if not logs:
        return None
    got = mean_interval(logs)
    low, high = (None if v is None else math.exp(v) for v in (got.low, got.high))
    return Stretch(math.exp(got.mean), low, high, len(logs))


def dominant(data: Evidence) -> str | None:
    """Return the modality that is not the weaker one, of two; None where that cannot be said."""
    assert data.frames is not None
    weak, _ = weaker(data.frames)
    others = [m for m in modalities(data.frames) if m != weak]
    return others[0] if weak is not None and len(others) == 1 else None


def load(runs: Mapping[int, RunRecord]) -> float | None:
    """Return the largest load that `StabilityGuard` measured in each run, the median over seeds; None without any."""
    found = []
    for run in runs.values():
        worst = ((run.result.get("counters") or {}).get("stability") or {}).get("worst") or {}
        loads = [entry["load"] for entry in worst.values()]
        found += [max(loads)] if loads else []
    return float(np.median(found)) if found else None


def plain_sgd(data: Evidence) -> bool:
    """Return whether a data set's rows train with SGD without momentum, of which the law's special cases speak."""
    node = data.rows[JOINT].runs[0].config["optimizer"]
    return bool(node["_target_"] == "torch.optim.SGD" and not node.get("momentum"))
