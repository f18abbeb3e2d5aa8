"""Thresholds that a run was meant to reach, judged at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from callbacks.errors import UserError
from callbacks.ranges import Finite

EVALUATION = "evaluation"  # the stage of the rules that are judged on the result
METHODS = "methods."
CONTINUATION = "continuation"  # a kind of question that has no right answer, so that F1 says nothing


@dataclass(frozen=True)
class Rule:
    """Demands that value(metric), over value(over) or minus value(minus), lies between `min` and `max`.

    A difference must lie strictly between them, so that `min: 0` with `minus` asks for more and not for as much; the
    metrics for a claim are the ends of two intervals (`f1_low` minus `f1_high`), which then lie apart. A ratio over
    zero does not pass.

    Args:
        metric: dotted path in what is judged: `methods.wire.f1`, or in a period of the curriculum the name of an
            observed metric (`val/f1`, `first_token_top1`, `grad_norm`).
        min: smallest value that passes; None: no such bound. At least one bound is needed.
        max: largest value that passes; None: no such bound.
        over: another metric to divide by.
        minus: another metric to subtract.
    """

    metric: str
    min: Finite | None = None
    max: Finite | None = None
    over: str | None = None
    minus: str | None = None

    def __post_init__(self) -> None:
        if (self.min is None and self.max is None) or (self.over is not None and self.minus is not None):
            raise UserError(
                f"acceptance.<stage>.<rule> of {self.metric}",
                f"min {self.min}, max {self.max}, over {self.over}, minus {self.minus}",
                "min or max, and at most one of over and minus",
                "set acceptance.<stage>.<rule>.min=0.0, or acceptance.<stage>.<rule>.minus=null",
            )

    @property
    def strict(self) -> bool:
        """Whether a value that equals a bound fails."""
        return self.minus is not None

    @property
    def paths(self) -> list[str]:
        """The metrics that it reads."""
        return [path for path in (self.metric, self.over, self.minus) if path is not None]

    @property
    def methods(self) -> list[str]:
        """The names of the rows that it reads, `wire` of `methods.wire.f1`."""
        return [p.removeprefix(METHODS).rpartition(".")[0] for p in self.paths if p.startswith(METHODS)]

    def judge(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return `{what, value, min, max, strict, passed}`; a metric that is missing or not finite does not pass."""
        value = lookup(values, self.metric)
        if self.over is not None:
            other = lookup(values, self.over)
            value = value / other if other else math.nan
        if self.minus is not None:
            value -= lookup(values, self.minus)
        passed = math.isfinite(value) and self._above(value) and self._below(value)
        said = self.metric + (f" / {self.over}" if self.over else "") + (f" - {self.minus}" if self.minus else "")
        bounds = {"min": self.min, "max": self.max, "strict": self.strict}
        return {"what": said, "value": value, **bounds, "passed": passed}

    def _above(self, value: float) -> bool:
        return self.min is None or value > self.min or (value == self.min and not self.strict)

    def _below(self, value: float) -> bool:
        return self.max is None or value < self.max or (value == self.max and not self.strict)

    def on(self, model: str, methods: Mapping[str, Any]) -> Rule:
        """Return the rule for one of several models: `methods.wire.f1` is then `methods.wire/<model>.f1`."""

        def of(path: str | None) -> str | None:
            if path is None or not path.startswith(METHODS):
                return path
            name, _, number = path.removeprefix(METHODS).rpartition(".")
            return path if name in methods else f"{METHODS}{name}/{model}.{number}"

        return replace(self, metric=str(of(self.metric)), over=of(self.over), minus=of(self.minus))


def lookup(values: Mapping[str, Any], path: str) -> float:
    """Return the number at a dotted path, NaN where there is none. A whole name wins over a path."""
    if path in values and isinstance(values[path], int | float):
        return float(values[path])
    head, _, rest = path.partition(".")
    inner = values.get(head)
    return lookup(inner, rest) if rest and isinstance(inner, Mapping) else math.nan


def dead_wires(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the wires that answer nothing where the same model answers from the text, each with what was found.

    Texts that are continued have no right answer, so nothing is said about them.
    """
    methods, kinds, found = result.get("methods") or {}, result.get("kinds") or {}, {}
    for name, row in methods.items():
        if row.get("kind") != "wire" or row["f1"] != 0 or set(kinds.get(name) or ()) == {CONTINUATION}:
            continue
        texts = [m["f1"] for k, m in methods.items() if m.get("model") == row["model"] and _is_text(k)]
        if max(texts, default=0.0) > 0:
            found[name] = f"{name} is dead: F1 0, the text has {max(texts):.3g}"
    return found


def _is_text(name: str) -> bool:
    return name.partition("/")[0] in ("text", "text:frozen")


def judge(
    rules: Mapping[str, Mapping[str, Rule]], stages: Mapping[str, Mapping[str, float]], result: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return verdicts `{stage, rule, what, value, min, max, strict, passed, remark}`.

    With several models, a rule on `methods.wire` is judged for each of them, under `<rule>/<model>`. Nothing that is
    said of a dead wire (`dead_wires`) passes.

    Args:
        rules: rules by stage and by a name of their own; the stage `evaluation` is judged on the result.
        stages: last observed metrics by period of the curriculum.
        result: the run's result.
    """
    methods, dead = result.get("methods") or {}, dead_wires(result)
    found = []
    for stage, named in rules.items():
        for name, rule in named.items():
            if stage != EVALUATION:
                found.append({"stage": stage, "rule": name, **rule.judge(stages.get(stage, {})), "remark": ""})
                continue
            for label, each in _per_model(name, rule, methods).items():
                verdict = {"stage": stage, "rule": label, **each.judge(result), "remark": ""}
                named_wires = [n for n in each.methods if methods.get(n, {}).get("kind") == "wire"]
                whole = [n for n in dead if "prefix_of" not in methods[n]]
                said = next((dead[n] for n in named_wires or whole if n in dead), None)
                found.append(verdict if said is None else {**verdict, "passed": False, "remark": said})
    return found


def _per_model(name: str, rule: Rule, methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Rule]:
    """Return the rule, or one for every model that has all its rows where these are told apart by model."""
    if all(n in methods for n in rule.methods):
        return {name: rule}
    models = dict.fromkeys(str(m.get("model")) for m in methods.values())
    able = [m for m in models if all(n in methods or f"{n}/{m}" in methods for n in rule.methods)]
    return {f"{name}/{model}": rule.on(model, methods) for model in able} or {name: rule}
