"""`python -m asgml.study settle --data FOLDER`: every row tuned equally and evaluated, data set after data set.

    python -m asgml.study settle [--data FOLDER] [sets=[…]] [rows=[…]] [trials=8] [seeds=[…]] [overrides of asgml.run]

All rows of the first data set are tuned, then evaluated seed by seed, and its tables written; then comes the next. It
may be stopped at any time: the same command goes on with the run that was cut off and repeats none that has finished.
Rows, data sets and budget are those of `conf/asgml/settle.yaml`. The runs of a data set lie in
`<paths.runs>/settle_<set>`, beside `tuned.json`, `tuning.md` and the tables of `asgml.compare`. What they say of the
study's questions, finished or not: `python -m asgml.tune.page <paths.runs>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from asgml.tune.command import asked, compare, report
from asgml.tune.options import DataSet, SettleTree
from asgml.tune.trees import Trees
from asgml.tune.tuner import Tuner
from callbacks.errors import UserError
from suite.config.compose import Composer, nearest
from suite.runs.command import command
from suite.runs.identity import runs_root
from suite.runs.study import Program

STUDY = "settle"


def settle(program: Program, argv: Sequence[str]) -> int:
    """Run the study, and return the exit code: 0, 1 where a run or a row failed, or that of a UserError."""

    @command
    def run(argv: Sequence[str] | None = None) -> int:
        wanted = asked("asgml/settle", with_folder(argv or ()), SettleTree)
        options = wanted.options
        found: dict[str, Trees] = {}
        for name in options.data_sets if options.sets is None else options.sets:
            line = _line(wanted.composer, name, options.data_sets, wanted.line)
            found[name] = Trees(program, wanted.composer, line, options.lr)
        for trees in found.values():
            trees.modalities()  # data that are not there are told before anything runs
        tuners = []
        for trees in found.values():
            tuners.append(Tuner(trees, options))
            tuners[-1].tune()
            tuners[-1].evaluate()
            compare(tuners[-1])
        return report(tuners)

    return run(argv)


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


def _line(composer: Composer, name: str, sets: Mapping[str, DataSet], more: Sequence[str]) -> list[str]:
    """Return the overrides of every run on a data set."""
    if name not in sets:
        near = nearest(name, sets) or list(sets)
        raise UserError("sets", f"no data set {name!r}", f"one of {', '.join(sets)}", f"did you mean {near[0]}?")
    (first, *rest), noise = sets[name].use, sets[name].noise
    line = [first, f"name={STUDY}_{name}", *rest, *more]
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
        raise UserError(f"data_sets.{name}", f"no file {source}", "the features of this data set", "add --data FOLDER")
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
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    part.replace(path)
    return path
