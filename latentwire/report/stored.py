"""What evaluations left on disk: the methods of a result, the rows of `predictions.jsonl`, F1 over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from callbacks.errors import UserError
from suite.report.data import RunRecord
from suite.report.frames import Configuration
from suite.report.summary import N_BOOT
from suite.runs.provenance import RESULT
from suite.statistics import hierarchical_bootstrap, mean_interval

EVALUATIONS = "evaluations"  # folder of a run: one folder for each evaluation, by its hash
ASKED = "asked.yaml"  # in it, what was asked


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """Read one evaluation; None where there is none. Raises UserError for a file that is no JSON object."""
    path, found = folder / RESULT, None
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        said = str(error)
    else:
        said = type(found).__name__
    if not isinstance(found, dict):
        raise UserError(str(path), said, "one JSON object", f"rm -r {folder}, then evaluate again")
    return found


def evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """Return all evaluations of a run, oldest first, each with what was asked, `asked`."""
    found = []
    for path in (run_dir / EVALUATIONS).glob(f"*/{RESULT}"):
        asked = yaml.safe_load((path.parent / ASKED).read_text(encoding="utf-8"))
        found.append({**(read_evaluation(path.parent) or {}), "asked": asked})
    return sorted(found, key=lambda e: (str(e["finished"]), str(e["evaluation"])))


def methods_of(run: RunRecord) -> dict[str, dict[str, Any]]:
    """Return `methods` of a run's result; empty while it has none."""
    found = run.result.get("methods")
    return found if isinstance(found, dict) else {}


@lru_cache(maxsize=32)
def _rows(path: Path, stamp: int) -> dict[tuple[str, str], list[dict[str, Any]]]:
    out: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with path.open(encoding="utf-8") as lines:
        for n, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                out.setdefault((row["method"], row["model"]), []).append(row)
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                expected = "one JSON row per question and method"
                raise UserError(f"{path}:{n}", f"{error}", expected, f"rm {path}") from error
    return out


def predictions(run: RunRecord) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return (method, model) -> rows of `predictions.jsonl`, empty where there is none."""
    named = run.result.get("evaluation")  # absent where a run has its only evaluation beside its result
    folder = run.path if named is None else run.path / EVALUATIONS / str(named)
    path = folder / "predictions.jsonl"
    return _rows(path, path.stat().st_mtime_ns) if path.is_file() else {}


def evaluated(c: Configuration) -> list[RunRecord]:
    """Return the finished runs with results of an evaluation."""
    return [run for run in c.finished if methods_of(run)]


def plain(key: str, method: Mapping[str, Any]) -> str:
    """Return the method's name without the model's."""
    return key.removesuffix(f"/{method['model']}")


@dataclass(frozen=True)
class Score:
    """A mean share over seeds.

    Attributes:
        mean: the mean.
        low, high: the ends of the 95 % interval, None where there is none.
        hint: the values per seed.
    """

    mean: float
    low: float | None
    high: float | None
    hint: str


def f1_of(runs: Sequence[RunRecord], key: str) -> Score | None:
    """Return F1 of a method with its interval over seeds and passages (bootstrap), for one seed over passages alone.

    Without the rows, or with different questions per seed, it is the t interval over seeds.
    """
    found = {run.seed: methods_of(run)[key] for run in runs if key in methods_of(run)}
    if not found:
        return None
    hint = ", ".join(f"seed {seed}: {100 * m['f1']:.2f}" for seed, m in found.items())
    first = next(iter(found.values()))
    if len(found) == 1:
        return Score(first["f1"], first.get("f1_low"), first.get("f1_high"), hint)
    name = plain(key, first), first["model"]
    rows = {run.seed: predictions(run).get(name) for run in runs if run.seed in found}
    known = {seed: r for seed, r in rows.items() if r}
    asked = {tuple(r["question"] for r in part) for part in known.values()}
    if len(known) < len(found) or len(asked) != 1:
        got = mean_interval([m["f1"] for m in found.values()])
        return Score(got.mean, got.low, got.high, hint)
    groups = [r["group"] for r in next(iter(known.values()))]
    drawn = hierarchical_bootstrap(
        {seed: [r["f1"] for r in part] for seed, part in known.items()}, groups=groups, n_boot=N_BOOT
    )
    return Score(drawn.estimate, drawn.low, drawn.high, hint)
