"""The trees of a comparison on one data set: a row at a point with a seed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from asgml.data.spec import modality_names
from asgml.sweep import not_applicable
from asgml.tune.rows import Row
from asgml.tune.space import Point, Range, ends
from callbacks.errors import UserError
from suite.config.check import check, check_effective
from suite.config.compose import Composer
from suite.config.instantiate import build_node
from suite.launchers.sweep import launcher_node
from suite.runs.study import Program

TRIALS = "trials"  # below `paths.runs`, where no table of results looks
OWN = ("seed", "label", "method")  # what the rows and the program set


class Trees:
    """Composes the rows of a comparison on one data set, each once, and sets points and seeds in copies.

    Args:
        program: the program whose runs they are.
        composer: the composer of its trees.
        line: the overrides of every run: experiment, data, name.
        lr: the key of the learning rate.

    Raises:
        UserError: overrides of what the rows set, a launcher, or data that do not compose.
    """

    def __init__(self, program: Program, composer: Composer, line: Sequence[str], lr: str):
        self.program, self.composer, self.line, self.lr = program, composer, list(line), lr
        for override in OverridesParser.create().parse_overrides(self.line):
            if override.key_or_group in OWN:
                found, expected = str(override.input_line), "seeds and methods as the rows have them"
                raise UserError(found, "set by the comparison itself", expected, f"leave {found} out")
        self.plain = composer.compose(self.line)
        check(self.plain, program.schema)
        if launcher_node(self.plain) is not None:
            words = [w for w in self.line if w.lstrip("+").partition("=")[0].partition(".")[0] == "launcher"]
            found = "runs of a comparison go one after the other, in this process"
            expected = "no launcher: a row's choice waits for its trials, and its controls and pupils for that choice"
            remedy = f"leave {' and '.join(words)} out" if words else "set launcher=null"
            raise UserError("launcher", found, expected, remedy)
        self._rows: dict[str, DictConfig] = {}

    @property
    def own_lr(self) -> float:
        """The experiment's own learning rate."""
        value = OmegaConf.select(self.plain, self.lr)
        if not isinstance(value, float | int) or value <= 0:
            raise UserError("lr", f"{self.lr} is {value}", "the key of a learning rate above 0", "set lr=optimizer.lr")
        return float(value)

    def modalities(self) -> list[str]:
        """Return the modalities of the data."""
        return modality_names(build_node(self.plain.data))

    def base(self, row: Row) -> DictConfig:
        """Return the tree of a row at its default point, checked.

        Raises:
            UserError: a row that does not compose, or a knob that is not there or has no effect on it.
        """
        if row.name not in self._rows:
            overrides = [*self.line[:1], *row.use, *self.line[1:], f"label='{row.name}'"]
            cfg = self.composer.compose(overrides)
            check(cfg, self.program.schema)
            check_effective(cfg, overrides, self.program.dead, self.composer.compose)
            idle = self.program.dead(cfg)
            for key in row.knobs:
                if OmegaConf.select(cfg, key, default=idle) is idle or key in idle:
                    found = f"knob {key}, {idle.get(key, 'which this row does not have')}"
                    raise UserError(f"space.{row.name}.knobs", found, "a key that this row reads", "leave it out")
            if self.program.judge is not None:
                self.program.judge(cfg)
            self._rows[row.name] = cfg
        return self._rows[row.name]

    def refuse_ends(self, row: Row, lr: Range) -> None:
        """Refuse what trials would set to a value that the row's tree does not take: both ends are tried.

        Args:
            row: the row.
            lr: the range of the learning rate.

        Raises:
            UserError: an end, or a choice, outside of what its key takes.
        """
        for point in ends({self.lr: lr, **row.knobs}):
            try:
                check(self.tree(row, point, 0), self.program.schema)
            except UserError as error:
                where = "lr_factors" if error.where == self.lr else f"space.{row.name}.knobs"
                found = f"{error.where} = {error.found} at an end of its range"
                raise UserError(where, found, error.expected, f"edit {where}") from error

    def applies(self, row: Row, modalities: Sequence[str]) -> str:
        """Return why a row cannot run on data with these modalities, "" if it can."""
        return not_applicable(self.base(row).methods, modalities)

    def values(self, row: Row, point: Point) -> Point:
        """Return the values of the learning rate and the knobs at a point, set or default."""
        base = self.base(row)
        return {key: point.get(key, OmegaConf.select(base, key)) for key in (self.lr, *row.knobs)}

    def tree(
        self, row: Row, point: Point, seed: int, *, trial: bool = False, teachers: Mapping[str, Path] | None = None
    ) -> DictConfig:
        """Return the tree of one run.

        Args:
            row: the row.
            point: what the run sets.
            seed: its seed.
            trial: whether it is a trial, whose place is apart.
            teachers: the directories of the runs that it learns from, by modality.
        """
        cfg = copy.deepcopy(self.base(row))
        for key, value in {**point, "seed": seed}.items():
            OmegaConf.update(cfg, key, value, merge=False)
        if trial:
            cfg.paths.runs = str(Path(str(cfg.paths.runs)) / TRIALS)
            _name_trial(cfg, [row.name, *(f"{key.rpartition('.')[2]}={value}" for key, value in point.items())])
        if teachers:
            files = {m: str(folder / "checkpoints" / "best.ckpt") for m, folder in teachers.items()}
            with open_dict(cfg):
                OmegaConf.update(cfg, row.teachers, files, merge=False)
        return cfg


def _name_trial(cfg: DictConfig, parts: Sequence[str]) -> None:
    """Have trackers file a run under the job type `tune`, and call it by its row and its point unless it has a name."""
    for node in cfg.logger.values():
        if node is not None and "job_type" in node:
            node.job_type = "tune"
            node.name = node.name or f"{' '.join(parts)} seed={cfg.seed}"
