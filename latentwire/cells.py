"""Cells of a study's table, each computed once: what is there is read, so that a study goes on where it was ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.files.sealed import read_json
from suite.runs.ledger import write_json
from suite.statistics import Bootstrap, hierarchical_bootstrap

N_BOOT = 2000


def cell(folder: Path, told: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return what `make` gives, kept under the hash of all that determines it.

    Args:
        folder: where cells lie.
        told: plain values that determine the cell.
        make: computes it, as plain values; called where no file is there.

    Raises:
        UserError: a file that is damaged.
    """
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{digest}.json"
    if not path.is_file():
        write_json(path, {"told": dict(told), "found": dict(make())})
        print(f"{path}: {', '.join(f'{key} {value}' for key, value in told.items() if key != 'reader')}", flush=True)
    return dict(read_json(path, "a cell of a study as it was written", f"rm {path}, it is computed again")["found"])


def tuned(
    rates: Sequence[float],
    seeds: Sequence[int],
    run: Callable[[float, int], Mapping[str, Any]],
    rank: Callable[[Mapping[str, Any]], tuple[float, ...]],
) -> dict[int, dict[str, Any]]:
    """Compute a row at every rate with the first seed, and with the other seeds at the rate that ranks first.

    Args:
        rates: learning rates; of equals the first.
        seeds: the row's seeds.
        run: computes a cell of a rate and a seed.
        rank: what validation says of a cell, the higher the better.

    Returns:
        cells by seed, each with its `lr`.
    """
    tried = {rate: run(rate, seeds[0]) for rate in rates}
    best = max(tried, key=lambda rate: rank(tried[rate]))
    found = {seeds[0]: tried[best]} | {seed: run(best, seed) for seed in seeds[1:]}
    return {seed: {**got, "lr": best} for seed, got in found.items()}


def at_an_end(cells: Mapping[int, Mapping[str, Any]], rates: Sequence[float]) -> bool:
    """Tell whether a row that `tuned` returned has the lowest or the highest of several rates."""
    return len(rates) > 1 and next(iter(cells.values())).get("lr") in (min(rates), max(rates))


def ends(rows: Mapping[str, Mapping[int, Mapping[str, Any]]], rates: Sequence[float]) -> list[str]:
    """Return a note of a table that names its rows with a rate at an end of the grid; [] without any."""
    found = [name for name, cells in rows.items() if at_an_end(cells, rates)]
    return [f"The rate is an end of its grid, and a better one may lie beyond: {', '.join(found)}."] if found else []


def f1(cells: Mapping[int, Mapping[str, Any]], groups: Sequence[str]) -> Bootstrap:
    """Return F1 of a row, its cells by seed, with its interval over seeds and passages."""
    return hierarchical_bootstrap({s: c["f1"] for s, c in cells.items()}, groups=groups, n_boot=N_BOOT)


def against(
    cells: Mapping[int, Mapping[str, Any]], others: Mapping[int, Mapping[str, Any]], groups: Sequence[str]
) -> Bootstrap:
    """Return F1 of a row minus that of another, paired by seed and question."""
    a, b = ({s: c["f1"] for s, c in row.items()} for row in (cells, others))
    return hierarchical_bootstrap(a, b, groups=groups, n_boot=N_BOOT)


def mean(cells: Mapping[int, Mapping[str, Any]], key: str) -> float:
    """Return the mean of a number over seeds, of a list's mean where a cell has one."""
    values = [c[key] if isinstance(c[key], float) else sum(c[key]) / len(c[key]) for c in cells.values()]
    return float(sum(values) / len(values))
