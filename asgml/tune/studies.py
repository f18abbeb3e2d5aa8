"""Studies that YAML declares: every row tuned equally and evaluated, data set after data set.

    python -m asgml.study NAME [--data FOLDER] [plan=true] [sets=[…]] [rows=[…]] [trials=8]
                               [seeds=[…]] [overrides of asgml.run]

    python -m asgml.study settle --data FOLDER plan=true
    python -m asgml.study settle --data FOLDER sets=[avdigits] seeds=[0,1,2]

`conf/asgml/<NAME>.yaml` holds the rows, the data sets with their protocols, and the budget (`StudyTree`). With
`plan=true` the rows, their runs and the expected hours are printed and nothing runs; without it they are printed too,
and every finished run tells the hours that are left. All rows of the first data set are tuned, then evaluated seed by
seed, and its tables written; then comes the next. It may be stopped at any time: the same command goes on with the run
that was cut off and repeats none that has finished. The runs of a data set lie in `<paths.runs>/<NAME>_<set>`, beside
`tuned.json`, `tuning.md` and the tables of `asgml.compare`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from asgml.data.decoded import DecodedSource
from asgml.tune.command import asked, compare, report
from asgml.tune.options import DataSet, StudyTree
from asgml.tune.plan import pace, steps_of
from asgml.tune.trees import Trees
from asgml.tune.tuner import Tuner
from callbacks.errors import UserError
from callbacks.files.atomic import in_one_piece
from suite.config.compose import Composer, nearest
from suite.config.instantiate import build_node
from suite.report.tables import terminal
from suite.runs.command import command, helped
from suite.runs.identity import runs_root
from suite.runs.study import Program


@dataclass
class Part:
    """One data set of a study.

    Attributes:
        data_set: its declaration.
        trees: the trees of its rows.
        options: the options of the study as they are here.
    """

    data_set: DataSet
    trees: Trees
    options: StudyTree

    def prepare(self) -> None:
        """Have the data ready.

        Raises:
            UserError: data that are not there; it tells what to fetch, the layout and the command that prepares them.
        """
        self.trees.modalities()
        build_node(self.trees.plain.data).prepare(min(8, os.cpu_count() or 1))

    def tuner(self) -> Tuner:
        """Return the tuner, with the seconds that its declaration states for a joint run."""
        steps = steps_of(self.trees.plain, self.samples())
        each = self.data_set.step_seconds
        return Tuner(self.trees, self.options, steps, None if steps is None or each is None else steps * each)

    def samples(self) -> int | None:
        """Return the number of training samples: of the lists where they are there, else as declared."""
        source = build_node(self.trees.plain.data)
        if isinstance(source, DecodedSource) and self.absent() is None and source.list_files:
            return source.sizes()["train"]
        return self.data_set.train_samples

    def absent(self) -> str | None:
        """Return the first list of a media data set that is not there, None where nothing is missing."""
        source = build_node(self.trees.plain.data)
        files = source.list_files.values() if isinstance(source, DecodedSource) else ()
        return next((str(path) for path in files if not path.is_file()), None)


@dataclass(frozen=True)
class Declared:
    """The study that `conf/asgml/<name>.yaml` declares."""

    name: str
    schema: ClassVar[type] = StudyTree

    def __call__(self, program: Program, argv: Sequence[str]) -> int:
        """Run the study; return the exit code: 0, 1 where a run or a row failed, or that of a UserError."""
        if helped(argv, __doc__):
            return 0

        @command
        def run(argv: Sequence[str] | None = None) -> int:
            return _run(program, self.name, argv or ())

        return run(argv)


def _run(program: Program, name: str, argv: Sequence[str]) -> int:
    wanted = asked(f"asgml/{name}", with_folder(argv), StudyTree)
    options, parts = wanted.options, list[Part]()
    for chosen in options.data_sets if options.sets is None else options.sets:
        line = _line(wanted.composer, name, chosen, options.data_sets, wanted.line)
        data_set: DataSet = options.data_sets[chosen]
        parts.append(Part(data_set, Trees(program, wanted.composer, line, options.lr), data_set.own(options)))
    if not options.plan:
        for part in parts:
            part.prepare()  # data that are not there are told before anything runs
    tuners = [part.tuner() for part in parts]
    plans = [tuner.plan for tuner in tuners]
    for tuner in tuners:
        tuner.study = plans
    shown = Console()
    shown.print(terminal([plan.table(pace(plans)) for plan in plans], shown.width))
    if options.plan:
        for missing in dict.fromkeys(part.absent() for part in parts):
            if missing:
                told = f"data: no {missing} yet; the same command without plan=true says what to fetch"
                shown.print(told, soft_wrap=True, highlight=False, markup=False)
        return 0
    for tuner in tuners:
        tuner.tune()
        tuner.evaluate()
        compare(tuner)
    return report(tuners)


def with_folder(argv: Sequence[str]) -> list[str]:
    """Return a command line with `--data FOLDER` (or `--data=FOLDER`) as the override that it stands for.

    Raises:
        UserError: the flag stands last, without a folder.
    """
    rest, left = list[str](), list(argv)
    while left:
        flag, equals, value = left.pop(0).partition("=")
        if flag != "--data":
            rest.append(flag + equals + value)
            continue
        if not equals and not left:
            raise UserError(flag, "nothing after it", "the folder of the real data", f"{flag} FOLDER")
        folder = Path(value if equals else left.pop(0)).expanduser().absolute()
        rest.append(f"folder='{folder}'")
    return rest


def _line(composer: Composer, study: str, name: str, sets: Mapping[str, DataSet], more: Sequence[str]) -> list[str]:
    """Return the overrides of every run on a data set."""
    if name not in sets:
        near = nearest(name, sets) or list(sets)
        raise UserError("sets", f"no data set {name!r}", f"one of {', '.join(sets)}", f"did you mean {near[0]}?")
    (first, *rest), noise = sets[name].use, sets[name].noise
    line = [first, f"name={study}_{name}", *rest, *more]
    if noise:
        line.append(f"data.path='{noisy_copy(composer.compose(line), name, sets[name])}'")
    return line


def noisy_copy(cfg: DictConfig, name: str, given: DataSet) -> Path:
    """Return the copy of a feature set with Gaussian noise on its features, `<paths.runs>/data/<name>.npz`.

    It is written once: the same seed gives the same bytes, and runs on it are known by its content.

    Raises:
        UserError: no such file, or no such modality in it.
    """
    path, source = runs_root(cfg) / "data" / f"{name}.npz", Path(str(cfg.data.path)).expanduser()
    if not source.is_file():
        remedy = f"--data FOLDER, where FOLDER has {source.parent.name}/{source.name}"
        raise UserError(f"data_sets.{name}", f"no file {source}", "the features of this data set", remedy)
    if path.is_file() and path.stat().st_mtime_ns >= source.stat().st_mtime_ns:
        return path
    with np.load(source, allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    rng = np.random.default_rng(given.noise_seed)
    for modality, sigma in sorted(given.noise.items()):
        key = f"x_{modality}"
        if key not in arrays:
            there = [k.removeprefix("x_") for k in arrays if k.startswith("x_")]
            where = f"data_sets.{name}.noise"
            raise UserError(where, f"modality {modality!r}", f"one of {', '.join(there)}", f"edit {where}")
        arrays[key] = (arrays[key] + sigma * rng.standard_normal(arrays[key].shape)).astype(np.float32)
    with in_one_piece(path) as file:
        np.savez(file, **arrays)
    return path
