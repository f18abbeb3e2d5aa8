"""What a study has left on disk: per data set the rows at their chosen points, and what is still missing of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import OmegaConf

from asgml.report.measured import measured_on
from asgml.report.tuned import TunedRow, read_tuned
from asgml.rhythm.config import Asgml
from asgml.tune.options import StudyTree
from callbacks.errors import UserError
from suite.config.instantiate import build_node
from suite.report.data import RunRecord, read_runs
from suite.report.frames import Configuration, RunFrames
from suite.report.grouping import split_by
from suite.report.summary import FEWEST

STUDY = "settle"
JOINT, UNIFORM = "joint", "uniform"
HELD = ("frequency", "staleness", "adaptive")  # the modes that hold an encoder back


@dataclass(frozen=True)
class Evidence:
    """What there is of one data set.

    Attributes:
        name: the data set.
        state: what is there, in words: `finished`, or how far it has come.
        finished: whether every row of the study has run with every seed.
        tuned: the rows that have been tuned, by label, in the study's order.
        frames: their runs, None where none has been evaluated.
    """

    name: str
    state: str
    finished: bool = False
    tuned: Mapping[str, TunedRow] = field(default_factory=dict)
    frames: RunFrames | None = None

    @property
    def rows(self) -> dict[str, Configuration]:
        """The rows that have at least one finished run, by label, in the study's order."""
        found = {c.label: c for c in self.frames.configurations if c.finished} if self.frames else {}
        return {name: found[name] for name in self.tuned if name in found}

    @property
    def counts(self) -> bool:
        """Whether it can be compared: `FEWEST` seeds that `joint` and `uniform` have in common, none of them lost."""
        rows = self.rows
        return (
            not {JOINT, UNIFORM} & set(self.lost)
            and JOINT in rows
            and UNIFORM in rows
            and len(seeds(rows[JOINT]) & seeds(rows[UNIFORM])) >= FEWEST
        )

    @property
    def lost(self) -> dict[str, list[int]]:
        """The seeds that ended without a result, by row: a comparison of the others would be one of survivors."""
        found = {c.label: [run.seed for run in c.runs if run.status == "failed"] for c in self._configurations}
        return {label: sorted(ended) for label, ended in found.items() if ended}

    @property
    def _configurations(self) -> Sequence[Configuration]:
        return self.frames.configurations if self.frames else ()

    def holding(self) -> list[Configuration]:
        """Return the rows that hold an encoder back, are no control of another and have lost no seed."""
        own = [c for name, c in self.rows.items() if not self.tuned[name].of and name not in self.lost]
        return [c for c in own if rhythm(c.runs[0]).mode in HELD]

    def idle(self) -> list[str]:
        """Return the adaptive rows that held nobody back at any step, with any seed; unknown without timelines."""
        adaptive = [c for c in self.holding() if rhythm(c.runs[0]).mode == "adaptive"]
        return [c.label for c in adaptive if all(_held_nobody(run) for run in c.finished)]

    def controls(self) -> list[tuple[Configuration, Configuration]]:
        """Return every row that holds an encoder back with each of its controls."""
        rows, own = self.rows, {c.label for c in self.holding()}
        own -= {self.tuned[name].of for name in self.lost}  # to be above every control takes all of them
        return [(rows[row.of], rows[name]) for name, row in self.tuned.items() if name in rows and row.of in own]

    def runs(self, label: str) -> dict[int, RunRecord]:
        """Return the finished runs of a row by seed, {} for a row that is not there."""
        row = self.rows.get(label)
        return {} if row is None else {run.seed: run for run in row.finished}


def _held_nobody(run: RunRecord) -> bool:
    timeline = run.timeline
    return timeline is not None and bool((timeline["action"] == "update").all() and (timeline["age"] == 0).all())


def seeds(c: Configuration) -> set[int]:
    """Return the seeds of the finished runs."""
    return {run.seed for run in c.finished}


def rhythm(run: RunRecord) -> Asgml:
    """Return the rhythm of a run."""
    built: Asgml = build_node(OmegaConf.create(run.config["asgml"]))
    return built


def evidence(runs: Path, options: StudyTree, study: str = STUDY) -> list[Evidence]:
    """Read what there is of every data set of a study.

    Args:
        runs: the folder that the study had as `paths.runs`.
        options: the study.
        study: its name.

    Raises:
        UserError: no such folder, a damaged file, or runs of one data set that were made on different data.
    """
    if not runs.is_dir():
        remedy = f"python -m asgml.study {study} --data FOLDER"
        raise UserError(str(runs), "no such directory", "the folder that the study had as paths.runs", remedy)
    sets = options.sets or options.data_sets
    return [_of(runs / f"{study}_{name}", name, options.data_sets[name].own(options)) for name in sets]


def _of(folder: Path, name: str, options: StudyTree) -> Evidence:
    tuned = _ordered(read_tuned(folder))
    if not tuned:
        return Evidence(name, "not begun")
    expected = options.names()
    there = [row for row in expected if any(_is(label, row, options) for label in tuned)]
    done = f"{len(there)} of {len(expected)} rows tuned"
    if not any((folder / run).is_dir() for row in tuned.values() for run in row.runs.values()):
        return Evidence(name, f"{done}, none evaluated", tuned=tuned)
    frames = _frames(folder, tuned, options.seeds)
    whole = Evidence(name, "", tuned=tuned, frames=frames)
    rows = whole.rows
    mine = [label for label in tuned if any(_is(label, row, options) for row in expected)]
    full = [s for s in options.seeds if all(label in rows and s in seeds(rows[label]) for label in mine)]
    state = f"{done}; {len(full)} of {len(options.seeds)} seeds of all of these evaluated{_failed(frames)}"
    finished = len(there) == len(expected) and len(full) == len(options.seeds)
    return Evidence(name, "finished" if finished else state, finished, tuned, frames)


def _ordered(tuned: Mapping[str, TunedRow]) -> dict[str, TunedRow]:
    """Return rows with their controls right below them, also those that were added to a study later."""
    own = [name for name, row in tuned.items() if not row.of]
    below = {name: [control for control, row in tuned.items() if row.of == name] for name in own}
    return {name: tuned[name] for row in own for name in (row, *below[row])}


def _frames(folder: Path, tuned: Mapping[str, TunedRow], wanted: Sequence[int]) -> RunFrames:
    """Return the runs of the rows at their chosen points with the seeds of the study.

    They are found by their hashes: two rows that chose the same settings share their runs, which carry one label.
    """
    there = {run.hash: run for run in read_runs([folder])}
    rows = [
        Configuration(
            label, [_named(there[run], label) for s, run in sorted(row.runs.items()) if run in there and s in wanted]
        )
        for label, row in tuned.items()
    ]
    frames = RunFrames("asgml", folder.name, [c for c in rows if c.runs], baseline=JOINT)
    parts = split_by(frames.runs, [measured_on(run) for run in frames.runs])
    if len(parts) > 1:
        found = f"runs on different data ({'; '.join(part.name for part in parts)})"
        remedy = "move the runs that are not of this study to another folder"
        raise UserError(str(folder), found, "runs of one data set", remedy)
    return frames


def _named(run: RunRecord, label: str) -> RunRecord:
    return replace(run, result={**run.result, "label": label})


def _failed(frames: RunFrames) -> str:
    found = [f"{c.label} seed {run.seed}" for c in frames.configurations for run in c.runs if run.status == "failed"]
    return f"; failed: {', '.join(found)}" if found else ""


def _is(label: str, row: str, options: StudyTree) -> bool:
    """Return whether a label is that of a row, or of its part for one modality."""
    each = row in options.space and options.space[row].per_modality is not None
    return label.startswith(f"{row}_") if each else label == row
