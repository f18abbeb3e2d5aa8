"""The result of an evaluation, and the paired tests in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from callbacks.files.atomic import write_text
from latentwire.report.stored import PREDICTIONS
from latentwire.scoring.metrics import Row
from suite.statistics import Bootstrap, hierarchical_bootstrap, mcnemar


@dataclass
class Evaluation:
    """Holds everything measured.

    Attributes:
        methods: numbers by name (see `summarise`), with `M`, `model`, `kind`, `remark`, `track` (is the language model
            frozen or adapted), `learned` (has the method seen training passages), `fair`, and for a wire
            `effective_rank` and `encode_ms`. With one model a name is that of the wire or baseline, with several
            `<name>/<model>`; a wire's controls are `<wire>:shuffled`, `<wire>:mean`, `<wire>:random`.
        rows: rows of `predictions.jsonl`, one per question and method.
        kinds: f1, em and n by name and kind of question.
        tests: comparisons of each wire with each other method of its model, see `paired_tests`.
        sizes: bytes per passage as UTF-8, zstd, token ids, KV, and tokens and entropy, by model.
        notes: what a reader must know.
    """

    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    kinds: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    tests: list[dict[str, Any]] = field(default_factory=list)
    sizes: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def result(self) -> dict[str, Any]:
        """Return what `result.json` takes; `M` and `ratio` (tokens per latent) are those of the first model."""
        model, sizes = next(iter(self.sizes.items()))
        slots = next(m["M"] for m in self.methods.values() if m["model"] == model)
        return {
            "M": slots,
            "ratio": sizes["tokens"] / slots,
            "methods": self.methods,
            "kinds": self.kinds,
            "tests": self.tests,
            "sizes": self.sizes,
            "evaluation_notes": self.notes,
        }

    def write(self, folder: Path) -> Path:
        """Write `predictions.jsonl`, one row per question and method; return its path."""
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in self.rows]
        return write_text(folder / PREDICTIONS, "\n".join(lines) + "\n")


def paired_tests(rows: Sequence[Row], wires: Collection[str], n_boot: int, seed: int) -> list[dict[str, Any]]:
    """Compare each wire with each other method of its model, paired by question.

    Returns what `Evaluation.tests` holds: differences of F1 and NLL with intervals, McNemar's test for EM.
    """
    by_method: dict[tuple[str, str], list[Row]] = {}
    for r in rows:
        by_method.setdefault((r["method"], r["model"]), []).append(r)
    found = []
    for (name, model), mine in by_method.items():
        for (other, where), theirs in by_method.items():
            if name not in wires or where != model or other == name:
                continue
            exact = mcnemar([r["em"] == 1 for r in mine], [r["em"] == 1 for r in theirs])
            delta, surprise = (_difference(mine, theirs, key, n_boot, seed) for key in ("f1", "nll"))
            assert delta is not None  # every method has an F1; one without a distribution has no NLL
            found.append(
                {
                    "wire": name,
                    "against": other,
                    "model": model,
                    "f1_difference": delta.estimate,
                    "low": delta.low,
                    "high": delta.high,
                    "nll_difference": None if surprise is None else surprise.estimate,
                    "nll_low": None if surprise is None else surprise.low,
                    "nll_high": None if surprise is None else surprise.high,
                    "em_only_wire": exact.only_a,
                    "em_only_other": exact.only_b,
                    "p_mcnemar": exact.p,
                }
            )
    return found


def _difference(mine: Sequence[Row], theirs: Sequence[Row], key: str, n_boot: int, seed: int) -> Bootstrap | None:
    """Return the mean difference of one number, passages drawn together; None where a method does not have it."""
    if any(r.get(key) is None for r in (*mine, *theirs)):
        return None
    a, b = ([float(r[key]) for r in rows] for rows in (mine, theirs))
    groups = [r["group"] for r in mine]
    return hierarchical_bootstrap({0: a}, {0: b}, groups=groups, n_boot=n_boot, seed=seed)
