"""What `conf/asgml/tune.yaml`, and the declarations of studies beside it, hold, typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from asgml.rhythm.config import Control
from asgml.tune.space import MAX_KNOBS, Range
from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, Positive, Seed
from suite.config.check import Typed, check
from suite.config.compose import Composer, shorten

Seeds = Annotated[list[Seed], NOT_EMPTY]


@dataclass(frozen=True)
class RowOptions:
    """Defines one row of a comparison.

    Attributes:
        use: the overrides that make it.
        knobs: its own knobs by dotted key, or the word none.
        controls: the values of `asgml.control` of which each is a control of this row: a row of its own, named
            `<row>/<control>`, at the point that this row has been given.
        per_modality: the key that names a modality; the row is then one row for each modality of the data.
        teachers: the key that gets the checkpoints of the rows `unimodal_<modality>` with the same seed.
        cost: the time of its step over that of joint training, for the estimate of hours before the row is measured.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    use: tuple[str, ...]
    knobs: Literal["none"] | Annotated[dict[str, Range], Field(min_length=1, max_length=MAX_KNOBS)]
    controls: tuple[Control, ...] = ()
    per_modality: str | None = None
    teachers: str | None = None
    cost: Positive = 1.0

    @property
    def ranges(self) -> dict[str, Range]:
        """The knobs, {} for none."""
        return {} if self.knobs == "none" else dict(self.knobs)


@dataclass
class TuneTree(Typed):
    """Types the configuration of `python -m asgml.tune`.

    Attributes:
        plan: whether to print rows, runs and hours, and to run nothing.
        trials: the number of trials of every row, the default point included; 1 tunes nothing.
        tune_seeds: the seeds of every trial, disjoint from `seeds`.
        seeds: the seeds of the evaluation at the chosen point.
        draw_seed: the seed of the points.
        lr: the key of the learning rate.
        lr_factors: the range of the learning rate, as factors on the experiment's own.
        rows: the rows of the comparison, in order, by their names in `space`; null is all of them.
        controls: whether every row brings its controls along.
        lean: whether finished runs give up their `report.html`, the library beside it
            and `last.ckpt`, which can be made again.
        space: every row that there is, by name: a `RowOptions` each.
    """

    plan: bool
    trials: Count
    tune_seeds: Seeds
    seeds: Seeds
    draw_seed: Seed
    lr: str
    lr_factors: tuple[Positive, Positive]
    rows: list[str] | None
    controls: bool
    lean: bool
    space: dict[str, Any]

    def names(self) -> list[str]:
        """Return the rows in order, `<row>/<control>` for a control; a row for each modality stands there once."""
        found: list[str] = []
        for name in self.space if self.rows is None else self.rows:
            found.append(name)
            if self.controls and name in self.space:
                found += [f"{name}/{control}" for control in self.space[name].controls]
        return found


@dataclass(frozen=True)
class DataSet:
    """One data set of a study, under one protocol.

    Attributes:
        use: the overrides that choose it.
        rows: of the study's rows and their controls (`<row>/<control>`) those that are made here; null is all of them.
        also: further overrides of single rows, and so of their controls, by the row's name in `space`.
        trials: the number of trials of every row here, in place of the study's.
        seeds: how many of the study's seeds are evaluated here, the first ones; null is all of them.
        noise: the standard deviation of the Gaussian noise that is added to features, by modality, before the study
            starts.
        noise_seed: the seed of the noise.
        train_samples: the number of training samples, for the estimate of hours while the lists are not there.
        step_seconds: the time of a joint step with all that comes with it, for the estimate of hours while no run has
            been measured on the device.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    use: tuple[str, ...]
    rows: Annotated[tuple[str, ...], NOT_EMPTY] | None = None
    also: dict[str, tuple[str, ...]] = field(default_factory=dict)
    trials: Count | None = None
    seeds: Count | None = None
    noise: dict[str, Positive] = field(default_factory=dict)
    noise_seed: Seed = 0
    train_samples: Count | None = None
    step_seconds: Positive | None = None

    def own(self, options: StudyTree) -> StudyTree:
        """Return the options of a study as they are on this data set.

        Raises:
            UserError: rows, or overrides of a row, that do not exist.
        """
        for name in self.also:
            if name not in options.space:
                where = f"data_sets.*.also.{name}"
                raise UserError(where, "no such row", f"one of {shorten(options.space)}", f"edit {where}")
        space = {name: replace(row, use=(*row.use, *self.also.get(name, ()))) for name, row in options.space.items()}
        trials, seeds = self.trials or options.trials, options.seeds[: self.seeds]
        own = replace(options, space=space, trials=trials, seeds=seeds)
        if self.rows is None:
            return own
        there = {name for row, given in space.items() for name in (row, *(f"{row}/{c}" for c in given.controls))}
        for name in self.rows:
            if name not in there:
                where = "data_sets.*.rows"
                raise UserError(where, f"no row {name!r}", f"one of {shorten(sorted(there))}", f"edit {where}")
        return replace(own, rows=[name for name in own.names() if name in self.rows], controls=False)


@dataclass
class StudyTree(TuneTree):
    """Types the declaration of a study: `conf/asgml/settle.yaml` and its like.

    Attributes:
        folder: the folder of the real data.
        sets: the data sets of the study, in order, by their names in `data_sets`; null is all of them.
        data_sets: every data set that there is, by name: a `DataSet` each.
    """

    folder: str
    sets: list[str] | None
    data_sets: dict[str, Any]


Options = TypeVar("Options", bound=TuneTree)
Kind = TypeVar("Kind", RowOptions, DataSet)


def read_options(composer: Composer, overrides: Sequence[str], schema: type[Options]) -> Options:
    """Compose and check the options of a command.

    Args:
        composer: the composer of its primary configuration.
        overrides: the overrides of its own keys.
        schema: the dataclass of the configuration.

    Raises:
        UserError: what does not compose, a wrong type or value, or tuning seeds that are evaluated too.
    """
    cfg: DictConfig = composer.compose(overrides)
    check(cfg, schema)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    options = schema(**plain)
    options.lr_factors = (options.lr_factors[0], options.lr_factors[1])
    options.space = {name: _typed(f"space.{name}", node, RowOptions) for name, node in options.space.items()}
    if isinstance(options, StudyTree):
        sets = options.data_sets.items()
        options.data_sets = {name: _typed(f"data_sets.{name}", node, DataSet) for name, node in sets}
    both = sorted(set(options.seeds) & set(options.tune_seeds))
    if both:
        free = max(options.seeds) + 1000
        found, expected = f"{both[0]} in seeds too", "seeds for tuning that are not evaluated"
        raise UserError("tune_seeds", found, expected, f"set tune_seeds=[{free}]")
    if options.lr_factors[0] >= options.lr_factors[1]:
        low, high = options.lr_factors
        raise UserError("lr_factors", f"[{low}, {high}]", "two ascending factors", "set lr_factors=[0.125,8]")
    return options


def _typed(where: str, node: Any, kind: type[Kind]) -> Kind:
    """Return a node as its dataclass; the error names the key at fault."""
    try:
        return TypeAdapter(kind).validate_python(node)
    except ValidationError as error:
        problems: list[Any] = list(error.errors())
        first: dict[str, Any] = max(problems, key=lambda p: len(p["loc"]))  # of a union, the branch that came farthest
        key = ".".join(map(str, (where, *(part for part in first["loc"] if part in _keys(node)))))
        raise UserError(key, first["msg"], "what conf/asgml/tune.yaml shows", f"edit {key}, or leave it out") from error


def _keys(node: Any) -> set[str]:
    """Return every key of nested mappings."""
    if not isinstance(node, dict):
        return set()
    return {str(key) for key in node} | {key for child in node.values() for key in _keys(child)}
