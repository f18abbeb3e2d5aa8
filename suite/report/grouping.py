"""Runs grouped over seeds, under the labels that their program's rules give them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from callbacks.errors import UserError
from suite.report.data import RunRecord
from suite.report.frames import Configuration, RunFrames
from suite.report.labels import Labels, labels
from suite.report.registry import report_of


@dataclass
class Part:
    """Runs that were measured on the same data.

    Attributes:
        runs: the runs.
        facts: what they were measured on, by dotted key.
        name: the facts in which they differ from the experiment's other runs, "" where there are none.
        notes: what a reader must know about the choice of the runs.
    """

    runs: list[RunRecord]
    facts: dict[str, Any]
    name: str = ""
    notes: list[str] = field(default_factory=list)


def group_runs(runs: Sequence[RunRecord], baseline: str | None = None, everything: bool = False) -> list[RunFrames]:
    """Group runs into one RunFrames per (program, experiment, data), and over seeds under a label of what differs.

    Runs that are no results (`ProgramReport.aside`) are left out, and counted, wherever there is any other run.

    Args:
        runs: the runs, in any order.
        baseline: the label of the baseline row; without it, the first one in which nothing acts.
        everything: whether runs that are no results count like any other.

    Raises:
        UserError: a baseline that no comparison has.
    """
    known_runs = {run.hash: f"<{run.label}>" for run in runs if run.label}
    out = []
    for part in _parts(runs, everything):
        members = part.runs
        program, experiment = members[0].program, members[0].experiment
        report = report_of(program)
        hidden = [*part.facts, *_following_seeds(members)]
        configs = [
            by_label(_without(run.config, hidden), known_runs) | ({"label": run.label} if run.label else {})
            for run in members
        ]
        named = labels(configs, report.labels)
        frames = RunFrames(program, experiment, [], report.score, notes=part.notes, part=part.name)
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


def _parts(runs: Sequence[RunRecord], everything: bool) -> list[Part]:
    """Return the runs that are compared with each other, with a note of those that were left out."""
    reasons = [aside(run) if not everything and (aside := report_of(run.program).aside) else "" for run in runs]
    alone = all(reasons)
    out: list[Part] = []
    for program, experiment in dict.fromkeys((run.program, run.experiment) for run in runs):
        same = [(r, why) for r, why in zip(runs, reasons) if (r.program, r.experiment) == (program, experiment)]
        here = [run for run, why in same if alone or not why]
        left = [why for _, why in same if why and not alone]
        measured_on = report_of(program).measured_on
        for part in split_by(here, [measured_on(run) if measured_on else {} for run in here]):
            if left:
                told = f"{len(left)} run{'s' * (len(left) > 1)} with {', '.join(sorted(set(left)))}"
                part.notes.append(f"Left out of this experiment: {told}.")
            out.append(part)
    return out


def split_by(runs: Sequence[RunRecord], facts: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Split runs by what they were measured on; `facts` has it for each run, by dotted key of its tree.

    A run that has not finished may not have recorded all: it belongs to the others with which it agrees as far as it
    goes, if these agree among themselves, and is a part of its own otherwise.
    """
    kinds: list[Mapping[str, Any]] = []
    for mine in facts:
        if mine not in kinds:
            kinds.append(mine)
    fullest = [a for a in kinds if not any(a is not b and _within(a, b) for b in kinds)]
    parts: dict[int, Part] = {}
    for run, mine in zip(runs, facts):
        known = [] if run.finished else [whole for whole in fullest if _within(mine, whole)]
        place = known[0] if len(known) == 1 else mine
        number = next(i for i, kind in enumerate(kinds) if kind == place)
        parts.setdefault(number, Part([], dict(place))).runs.append(run)
    if len(parts) > 1:
        for part, name in zip(parts.values(), labels([part.facts for part in parts.values()], Labels())):
            part.name = name
    return list(parts.values())


def _within(some: Mapping[str, Any], whole: Mapping[str, Any]) -> bool:
    return all(key in whole and whole[key] == value for key, value in some.items())


def _without(config: Any, keys: Iterable[str]) -> Any:
    """Return a tree without these dotted keys of it."""
    here: dict[str, list[str]] = {}
    for key in keys:
        head, _, rest = key.partition(".")
        here.setdefault(head, []).append(rest)
    if not isinstance(config, dict):
        return config
    return {k: _without(v, here[k]) if k in here else v for k, v in config.items() if "" not in here.get(k, [])}


def _following_seeds(runs: Sequence[RunRecord]) -> list[str]:
    """Return the keys of seeds of parts, `baselines.gist.seed`, that are the run's own in every run that has them."""
    found: dict[str, bool] = {}
    for run in runs:
        for key, value in _seeds(run.config):
            found[key] = found.get(key, True) and value == run.config.get("seed")
    return [key for key, follows in found.items() if follows]


def _seeds(config: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, dict):
            yield from _seeds(value, f"{above}{key}.")
        elif key == "seed" and above:
            yield f"{above}{key}", value


def by_label(config: Any, known: Mapping[str, str]) -> Any:
    """Replace the directories of labelled runs, and of files in them, by their labels (`known`: hash -> label).

    Seeds that each go on from the run of their own seed, or learn from it, are then one configuration.
    """
    if isinstance(config, dict):
        return {key: by_label(value, known) for key, value in config.items()}
    if isinstance(config, list):
        return [by_label(value, known) for value in config]
    if not isinstance(config, str):
        return config
    parts = PurePath(config).parts
    runs = [i for i, part in enumerate(parts) if part in known]
    return str(PurePath(known[parts[runs[-1]]], *parts[runs[-1] + 1 :])) if runs else config


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
