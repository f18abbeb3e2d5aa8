"""Runs grouped over seeds, under the labels that their program's rules give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from callbacks.errors import UserError
from suite.report.data import RunRecord
from suite.report.frames import Configuration, RunFrames
from suite.report.labels import labels
from suite.report.registry import report_of


def group_runs(runs: Sequence[RunRecord], baseline: str | None = None) -> list[RunFrames]:
    """Group runs into one RunFrames per (program, experiment), and over seeds under a label that says what differs.

    Args:
        runs: the runs, in any order.
        baseline: the label of the baseline row; without it, the first one in which nothing acts.

    Raises:
        UserError: a baseline that no comparison has.
    """
    keys = dict.fromkeys((run.program, run.experiment) for run in runs)
    known_runs = {run.hash: f"<{run.label}>" for run in runs if run.label}
    out = []
    for program, experiment in keys:
        members = [run for run in runs if (run.program, run.experiment) == (program, experiment)]
        report = report_of(program)
        configs = [by_label(run.config, known_runs) | ({"label": run.label} if run.label else {}) for run in members]
        named = labels(configs, report.labels)
        frames = RunFrames(program, experiment, [], report.score)
        for label in dict.fromkeys(named):
            frames.configurations.append(
                _configuration(label, [r for r, text in zip(members, named) if text == label], frames.notes)
            )
        known = [c.label for c in frames.configurations]
        natural = next(filter(report.labels.is_baseline, known), None)
        frames.baseline = baseline if baseline in known else None if baseline else natural
        frames.configurations.sort(key=lambda c: (c.label != frames.baseline, _natural(c.label)))
        out.append(frames)
    if baseline and all(frames.baseline is None for frames in out):
        known = [c.label for frames in out for c in frames.configurations]
        raise UserError("--baseline", baseline, " | ".join(known[:20]), f"--baseline '{known[0]}'")
    return out


def by_label(config: Any, known: Mapping[str, str]) -> Any:
    """Replace the directories of labelled runs by their labels (`known`: hash -> label).

    Seeds that each go on from the run of their own seed are then one configuration.
    """
    if isinstance(config, dict):
        return {key: by_label(value, known) for key, value in config.items()}
    if isinstance(config, list):
        return [by_label(value, known) for value in config]
    return known.get(PurePath(config).name, config) if isinstance(config, str) else config


def _configuration(label: str, runs: list[RunRecord], notes: list[str]) -> Configuration:
    """Choose one run per seed: the finished one, then the newest."""
    by_seed: dict[int, list[RunRecord]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, []).append(run)
    chosen = [max(same, key=lambda r: (r.finished, str(r.result.get("started") or ""))) for same in by_seed.values()]
    repeated = sorted(seed for seed, same in by_seed.items() if len(same) > 1)
    if repeated:
        notes.append(f"{label}: several runs of seed {', '.join(map(str, repeated))}; the newest finished one counts")
    return Configuration(label, sorted(chosen, key=lambda r: r.seed))


def _natural(text: str) -> list[tuple[int, float, str]]:
    """Return a sort key that puts size=2 before size=10."""
    out: list[tuple[int, float, str]] = []
    for part in text.replace("=", " ").split():
        try:
            out.append((0, float(part), ""))
        except ValueError:
            out.append((1, 0.0, part))
    return out
