"""Stages and objectives that do not fit each other, refused on one screen before any model is loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from callbacks.errors import UserError
from latentwire.encoders.base import Encoder
from latentwire.objectives.base import Objective
from latentwire.train.curriculum import KINDS, Constant, Period, Schedule
from latentwire.train.nested import Nested
from suite.config.compose import merge_errors, nearest

SAID_BY = {"depth": "set encoder.halting=true", "anchor": "set encoder=interlingua"}
VALIDATED = ("loss", "f1", "em", "nll", "first_token_top1", "first_token_top5")  # see `validation.Scores.metrics`


@dataclass(frozen=True)
class StagesCheck:
    """Looks for names in stages that mean nothing in this run, and for stages that cannot do what they are there for.

    Args:
        periods: the periods, in order.
        objectives: the objectives by name.
        models: the names of the models that read.
        nested: law of the number of slots that a step reads; None: all.
        slots: the number of slots of a message, where the configuration says it.
        private: number of slots that only one model reads, by model.
    """

    periods: Sequence[Period]
    objectives: Mapping[str, Objective]
    models: Collection[str]
    nested: Nested | None = None
    slots: int | None = None
    private: Mapping[str, int] = field(default_factory=dict)

    def refuse(self) -> None:
        """Raise one UserError with all that is wrong, if anything is."""
        problems = [*self._objectives(), *(p for n in range(len(self.periods)) for p in self._stage(n))]
        problems += self._nested()
        if problems:
            raise merge_errors(problems, "stages")

    # -- objectives
    def _objectives(self) -> Iterator[UserError]:
        for name, objective in self.objectives.items():
            yield from self._metrics(f"objectives.{name}.weight.metric", objective.weight.metrics())
            if all(period.weights is not None and name not in period.weights for period in self.periods):
                yield UserError(
                    f"objectives.{name}",
                    "named in the weights of no stage",
                    "a stage in which it counts",
                    f"add ~objectives.{name}, or set +stages.{len(self.periods) - 1}.weights.{name}=1.0",
                )

    def observable(self) -> set[str]:
        """Return the names of all metrics that can be observed in a run."""
        several = self.models if len(self.models) > 1 else ()
        losses = {f"loss/{name}" for name in self.objectives}
        val = {f"val/{name}" for name in VALIDATED}
        each = {f"{name}/{lm}" for name in losses | val for lm in several}
        return (
            losses
            | val
            | each
            | {"loss/codec", "grad_norm"}
            | {m for o in self.objectives.values() for m in o.observes}
        )

    def _metrics(self, key: str, names: Collection[str]) -> Iterator[UserError]:
        for name in names:
            if name not in self.observable():
                near = nearest(name, self.observable(), 1)
                remedy = (
                    f"set {key}={near[0]}" if near else f"set {key}=grad_norm, or add the objective that observes it"
                )
                yield UserError(key, f"{name}, which nobody observes", ", ".join(sorted(self.observable())), remedy)

    # -- nested budgets
    def _nested(self) -> Iterator[UserError]:
        """Yield what cannot be together with prefixes of a message."""
        if self.nested is None:
            return
        if sum(self.private.values()):
            found = f"{dict(self.private)}, which stand behind the shared slots: every prefix would lose them first"
            yield UserError("wire.private with wire.nested", found, "slots that all models read", "set wire.private={}")
        for n, period in enumerate(self.periods):
            if period.ratio is not None:
                found = f"{period.ratio:g}, which makes messages of other slots than wire.nested draws prefixes of"
                remedy = f"set stages.{n}.ratio=null, or curriculum=nested, whose prefixes are the ratios"
                yield UserError(f"stages.{n}.ratio with wire.nested", found, "null", remedy)
        for name, objective in self.objectives.items():
            if objective.places and not self.nested.apart:
                found = "which holds every slot to a place of the text, whereas a prefix stands for the whole text"
                remedy = f"add ~objectives.{name}, or ~wire.nested"
                yield UserError(f"objectives.{name} with wire.nested", found, "objectives on what is read", remedy)
        if self.slots is not None:
            try:
                self.nested.shares(self.slots)
            except UserError as error:
                yield error

    # -- one stage
    def _stage(self, n: int) -> Iterator[UserError]:
        period, key = self.periods[n], f"stages.{n}"
        yield from self._weights(period, key)
        for names, groups in (("trains", period.trains or []), ("group_lr", period.group_lr or {})):
            yield from unknown_groups(f"{key}.{names}", groups, self.models, self.objectives)
        if period.lr_schedule is not None and period.lr_schedule.kind == "step":
            remedy = f"set {key}.lr_schedule.kind=cosine"
            yield UserError(f"{key}.lr_schedule.kind", "step, which counts epochs", "constant or cosine", remedy)
        least = 2 if any("wrong" in o.needs.kinds for o in self.objectives.values()) else 1
        if period.batch_size is not None and period.batch_size < least:
            expected = f"{least} or more" + (", for mismatched latents" if least > 1 else "")
            yield UserError(f"{key}.batch_size", str(period.batch_size), expected, f"set {key}.batch_size={least}")
        for name, asked in (("advance", period.advance), ("require", period.require)):
            if asked is not None:
                yield from self._metrics(f"{key}.{name}.metric", [asked.metric])
        if period.advance is not None and n == len(self.periods) - 1:
            yield UserError(f"{key}.advance", "the last stage", "a stage after it", f"set {key}.advance=null")

    def _weights(self, period: Period, key: str) -> Iterator[UserError]:
        own = dict.fromkeys(self.objectives, 1.0) if period.weights is None else period.weights
        for name, weight in own.items():
            where = f"{key}.weights.{name}"
            if name not in self.objectives:
                near = nearest(name, self.objectives, 1)
                chosen = ",".join([*self.objectives, name])
                remedy = f"write {near[0]} in its place" if near else f"set objective=[{chosen}], or add ~{where}"
                yield UserError(where, "no such objective", ", ".join(self.objectives), remedy)
            if isinstance(weight, Schedule):
                yield from self._metrics(f"{where}.metric", weight.metrics())
            elif isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                yield UserError(where, repr(weight), "a number from 0 on, or a schedule", f"set {where}=1.0")
        active = [name for name in own if name in self.objectives and not _is_zero(own[name])]
        if not active:
            remedy = f"set +{key}.weights.{next(iter(self.objectives))}=1.0"
            yield UserError(f"{key}.weights", "nothing above 0", "an objective that the stage learns from", remedy)
        elif period.trains is not None:
            reached = {kind for name in active for kind in self.objectives[name].reaches} | {"head"}
            if not reached & {group.partition(":")[0] for group in period.trains}:
                yield UserError(
                    f"{key}.trains",
                    f"{', '.join(period.trains) or 'nothing'}, out of reach of {', '.join(active)}",
                    f"one of {', '.join(sorted(reached))}",
                    f"set {key}.trains=null, which trains all that they reach",
                )


def unknown_groups(
    key: str, names: Collection[str], models: Collection[str], objectives: Collection[str]
) -> Iterator[UserError]:
    """Yield names that no group of parameters can have, neither its kind nor exactly.

    Args:
        key: where the names stand.
        names: the names.
        models: the names of the models that read.
        objectives: the names of the objectives.
    """
    read = {f"{kind}:{lm}" for kind in ("adapter", "injector", "lora") for lm in models}
    known = [*KINDS, *sorted(read), *(f"head:{name}" for name in objectives)]
    for name in names:
        if name not in known:
            near = nearest(name, known, 1)
            remedy = f"write {near[0]} in its place" if near else f"write one of {', '.join(KINDS)} in its place"
            yield UserError(f"{key}: {name}", "no such group of parameters", ", ".join(known), remedy)


def let_hear(objectives: Mapping[str, Objective], encoder: Encoder) -> None:
    """Tell objectives what the encoder says, and refuse those on what it does not say. Raises UserError."""
    says = encoder.says()
    for name, objective in objectives.items():
        missing = [what for what in objective.hears if what not in says]
        if missing:
            found = f"{type(encoder).__name__}, which does not say its {missing[0]}"
            remedy = f"{SAID_BY[missing[0]]}, or add ~objectives.{name}"
            raise UserError(f"objectives.{name}", found, "an encoder that does", remedy)
        if objective.hears:
            objective.hear(says)


def refuse_partly(periods: Sequence[Period], objectives: Mapping[str, Objective]) -> None:
    """Refuse stages in which a kind of groups that moves is reached in part alone (`Objective.partly`).

    Raises:
        UserError: it names the stage and the objective.
    """
    for n, period in enumerate(periods):
        weights = dict.fromkeys(objectives, 1.0) if period.weights is None else period.weights
        active = {name: objectives[name] for name in weights if name in objectives and not _is_zero(weights[name])}
        for name, objective in active.items():
            for kind in objective.partly:
                whole = any(kind in o.reaches - o.partly for o in active.values())
                held = period.trains is not None and not any(g.partition(":")[0] == kind for g in period.trains)
                if not whole and not held:
                    raise UserError(
                        f"stages.{n}.weights ({period.name})",
                        f"{name}, which reaches a part of each {kind}, and no objective that reaches all of it",
                        f"an objective beside it that trains the rest of the {kind}",
                        f"set objective=[{','.join(dict.fromkeys(['answer_ce', *objectives]))}]"
                        + ("" if period.weights is None else f" and +stages.{n}.weights.answer_ce=1.0"),
                    )


def refuse_untrained(periods: Sequence[Period], objectives: Mapping[str, Objective], groups: Collection[str]) -> None:
    """Refuse groups that some stage is to train, while none of its objectives reaches them in any.

    A group that all stages hold by `trains` is held on purpose.

    Raises:
        UserError: it names the groups.
    """
    meant = [group for group in groups if any(p.moves(group) for p in periods)]
    never = [g for g in meant if not any(p.moves(g) and _reached(p, objectives, g) for p in periods)]
    if never:
        kinds = sorted({group.partition(":")[0] for group in groups} - {g.partition(":")[0] for g in never})
        more = ",".join([*objectives, "text_reconstruction"])
        raise UserError(
            "objectives, stages",
            f"{', '.join(never)} in reach of no objective in any stage ({', '.join(objectives)})",
            "every trained group in reach of an objective",
            f"add an objective that reads through the model, objective=[{more}], or hold the group in every stage: set "
            f"stages.<n>.trains=[{','.join(kinds)}]",
        )


def refuse_all_frozen(
    periods: Sequence[Period], objectives: Mapping[str, Objective], groups: Collection[str], frozen: Sequence[str]
) -> None:
    """Refuse a stage in which `freeze` leaves nothing that its objectives reach.

    Args:
        periods: the periods, in order.
        objectives: the objectives by name.
        groups: the groups that are left.
        frozen: the parts that are frozen.

    Raises:
        UserError: it names the stage.
    """
    for n, period in enumerate(periods):
        if frozen and not any(period.moves(group) and _reached(period, objectives, group) for group in groups):
            left = ", ".join(groups) or "nothing"
            found = f"all that it trains, or that its objectives reach; left is {left}"
            expected = "a part that the stage can train"
            fewer = ",".join(part for part in frozen if part.partition(".")[0] != "adapter")
            raise UserError(f"freeze in stages.{n} ({period.name})", found, expected, f"set freeze=[{fewer}]")


def _reached(period: Period, objectives: Mapping[str, Objective], group: str) -> bool:
    kind, _, owner = group.partition(":")
    weights = dict.fromkeys(objectives, 1.0) if period.weights is None else period.weights
    active = [name for name in weights if name in objectives and not _is_zero(weights[name])]
    return owner in active if kind == "head" else any(kind in objectives[name].reaches for name in active)


def _is_zero(weight: object) -> bool:
    """Tell whether a weight is always 0."""
    return weight == 0 or (isinstance(weight, Constant) and weight.value == 0)
