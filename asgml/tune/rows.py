"""The rows of a comparison on given data: one for each modality where the row says so, controls below their row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from asgml.tune.options import RowOptions
from asgml.tune.space import Range
from callbacks.errors import UserError
from suite.config.compose import nearest, shorten

UNIMODAL = "unimodal"
ALONE = "unimodal_{}"  # the row of one modality
CONTROL = "asgml.control"


@dataclass(frozen=True)
class Row:
    """One row of a comparison.

    Attributes:
        name: what tables call it.
        use: the overrides that make it.
        knobs: the ranges of its own knobs, by dotted key.
        of: the row that it is a control of, whose point it takes; "" for a row that is tuned itself.
        teachers: the key that gets the checkpoints of `pupils_of`, "" for none.
        pupil_of: the rows whose runs with the same seed it learns from, by modality.
        cost: the time of its step over that of joint training, as far as it is known before.
    """

    name: str
    use: tuple[str, ...]
    knobs: Mapping[str, Range] = field(default_factory=dict)
    of: str = ""
    teachers: str = ""
    pupil_of: Mapping[str, str] = field(default_factory=dict)
    cost: float = 1.0


def rows_of(
    names: Sequence[str] | None, controls: bool, space: Mapping[str, RowOptions], modalities: Sequence[str]
) -> list[Row]:
    """Return the rows that a comparison has on data with these modalities.

    Args:
        names: the rows, by their names in `space`, or `<row>/<control>`; None is all of `space`.
        controls: whether every row brings its controls along.
        space: every row that there is.
        modalities: the modalities of the data.

    Raises:
        UserError: a name that is not there, a row named twice, a control without its row before it, or a pupil without
            its teachers before it.
    """
    rows: list[Row] = []
    for name in space if names is None else names:
        treated, _, control = name.partition("/")
        _known(treated, space)
        if control:
            _known(name, (f"{treated}/{c}" for c in space[treated].controls))
            rows.append(_control(treated, space[treated], control))
            continue
        rows += _expanded(name, space[name], modalities)
        rows += [_control(name, space[name], c) for c in space[name].controls] if controls else []
    found: set[str] = set()
    for row in rows:
        if row.name in found:
            raise UserError("rows", f"{row.name} twice", "every row once", f"leave one {row.name} out of rows")
        for needed in (*([row.of] if row.of else []), *row.pupil_of.values()):
            if needed not in found:
                stem = UNIMODAL if row.pupil_of else needed
                why = "whose point it takes" if row.of else "which teaches it"
                raise UserError("rows", f"{row.name} without {needed} before it", f"first {needed}, {why}", _add(stem))
        found.add(row.name)
    return rows


def _add(name: str) -> str:
    return f"put {name} before it in rows"


def _expanded(name: str, options: RowOptions, modalities: Sequence[str]) -> list[Row]:
    if options.per_modality is None:
        pupil_of = {m: ALONE.format(m) for m in modalities} if options.teachers else {}
        teachers = options.teachers or ""
        return [Row(name, options.use, options.ranges, teachers=teachers, pupil_of=pupil_of, cost=options.cost)]
    key = options.per_modality
    return [Row(f"{name}_{m}", (*options.use, f"{key}={m}"), options.ranges, cost=options.cost) for m in modalities]


def _control(treated: str, options: RowOptions, control: str) -> Row:
    use = (*options.use, f"{CONTROL}={control}")
    return Row(f"{treated}/{control}", use, options.ranges, of=treated, cost=options.cost)


def _known(name: str, there: Iterable[str]) -> None:
    names = list(there)
    if name not in names:
        near = nearest(name, names)
        remedy = f"did you mean {' or '.join(near)}?" if near else "leave it out of rows, or define it in space"
        raise UserError("rows", f"no row {name!r}", f"one of {shorten(names, 60) or 'no control at all'}", remedy)
