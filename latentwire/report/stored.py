"""What evaluations left on disk: the methods of a result, the rows of `predictions.jsonl`, F1 over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from callbacks.errors import UserError, quoted
from callbacks.files.sealed import read_json, read_text
from suite.report.data import RunRecord
from suite.report.frames import Configuration
from suite.report.summary import N_BOOT
from suite.runs.fingerprint import digest_of
from suite.runs.finished import ASKED, EVALUATIONS
from suite.runs.provenance import RESULT
from suite.statistics import hierarchical_bootstrap, mean_interval

PREDICTIONS = "predictions.jsonl"  # in an evaluation's folder, one row per question and method
FILES = "files"  # in an evaluation's result: the SHA-256 of files beside it, by name


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """Read one evaluation; None where there is none. Raises UserError for a damaged one."""
    path = folder / RESULT
    return read_json(path, "one JSON object as it was written", _again(folder)) if path.is_file() else None


def evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """Return all evaluations of a run, oldest first, each with what was asked, `asked`."""
    found = []
    for path in (run_dir / EVALUATIONS).glob(f"*/{RESULT}"):
        place, expected, remedy = path.parent / ASKED, "what the evaluation was asked", _again(path.parent)
        if not place.is_file():
            raise UserError(str(place), "no such file", expected, remedy)
        asked = yaml.safe_load(read_text(place, expected, remedy))
        found.append({**(read_evaluation(path.parent) or {}), "asked": asked})
    return sorted(found, key=lambda e: (str(e["finished"]), str(e["evaluation"])))


def _again(folder: Path) -> str:
    return f"rm -r {quoted(folder)}, then evaluate again: python -m latentwire.evaluate {quoted(folder.parent.parent)}"


def methods_of(run: RunRecord) -> dict[str, dict[str, Any]]:
    """Return `methods` of a run's result; empty while it has none."""
    found = run.result.get("methods")
    return found if isinstance(found, dict) else {}


@lru_cache(maxsize=32)
def _rows(path: Path, stamp: int, told: str | None) -> dict[tuple[str, str], list[dict[str, Any]]]:
    if told is not None and (found := digest_of(path)) != told:
        expected = f"SHA-256 {told[:12]}…, as {RESULT} beside it says"
        raise UserError(str(path), f"damaged or edited: SHA-256 {found[:12]}…", expected, _again(path.parent))
    out: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with path.open(encoding="utf-8") as lines:
        for n, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                out.setdefault((row["method"], row["model"]), []).append(row)
            except (ValueError, KeyError, TypeError) as error:
                expected = "one JSON row per question and method"
                raise UserError(f"{path}:{n}", f"{error}", expected, f"rm {quoted(path)}") from error
    return out


def predictions(run: RunRecord) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return (method, model) -> rows of `predictions.jsonl`, empty where there is none."""
    named = run.result.get("evaluation")  # absent where a run has its only evaluation beside its result
    folder = run.path if named is None else run.path / EVALUATIONS / str(named)
    path = folder / PREDICTIONS
    if not path.is_file():
        return {}
    told = ((read_evaluation(folder) or {}).get(FILES) or {}).get(PREDICTIONS) if folder != run.path else None
    return _rows(path, path.stat().st_mtime_ns, told)


def evaluated(c: Configuration) -> list[RunRecord]:
    """Return the finished runs with results of an evaluation."""
    return [run for run in c.finished if methods_of(run)]


def plain(key: str, method: Mapping[str, Any]) -> str:
    """Return the method's name without the model's."""
    return key.removesuffix(f"/{method['model']}")


def series(key: str, method: Mapping[str, Any]) -> str:
    """Return the method's name without the model's and without the budget: all its prefixes have the same."""
    return plain(str(method.get("prefix_of") or key), method)


def ratio_of(run: RunRecord, method: Mapping[str, Any]) -> float | None:
    """Return the tokens per latent of a row: of a prefix, of as many slots as it has."""
    ratio = run.result.get("ratio")
    return ratio if ratio is None or "prefix_of" not in method else ratio * run.result["M"] / method["M"]


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
