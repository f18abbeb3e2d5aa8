"""A target of a foreign kind is refused before anything is built, with what its place takes and what to type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Protocol, Self, get_args

import pytest

from callbacks.errors import UserError
from suite.config.check import Typed, check
from suite.config.compose import Composer
from suite.config.kinds import kind_of, misfit
from suite.config.signature import locate, parameters
from suite.config.wording import Built

FOREIGN = ("os.getcwd", "torch.nn.Linear", "datetime.date")
EXPERIMENTS = {
    "latentwire": ["experiment=pocket_smoke", "+callbacks.mine={_target_:callbacks.EpochLine}"],
    "asgml": ["experiment=features", "data.path=features.npz"],
    "feedback": ["experiment=surfaces"],
}
LORA = "+adaptation.pocket_llama={_target_:TARGET,rank:2}"
PARTS = [
    ("latentwire", "corpus._target_=TARGET", "latentwire.data.Corpus: split"),
    ("latentwire", "lms.pocket_llama._target_=TARGET", "latentwire.lm.FrozenLM"),
    ("latentwire", "encoder_lm={_target_:TARGET}", "latentwire.lm.FrozenLM"),
    ("latentwire", "encoder._target_=TARGET", "latentwire.encoders.Encoder"),
    ("latentwire", "encoder.pooling._target_=TARGET", "latentwire.encoders.pooling.Pooling"),
    ("latentwire", "adapter._target_=TARGET", "latentwire.adapters.Adapter"),
    ("latentwire", "injector._target_=TARGET", "latentwire.injectors.Injector"),
    ("latentwire", "codec._target_=TARGET", "latentwire.codec.Codec"),
    ("latentwire", "objectives.answer_ce._target_=TARGET", "latentwire.objectives.Objective"),
    ("latentwire", "objectives.answer_ce.weight._target_=TARGET", "latentwire.train.Schedule"),
    ("latentwire", "stages=[{_target_:TARGET}]", "latentwire.train.Period"),
    ("latentwire", LORA, "latentwire.lm.LoRA"),
    ("latentwire", "optimizer._target_=TARGET", "torch.optim.Optimizer"),
    ("latentwire", "lr_schedule._target_=TARGET", "callbacks.LRSchedule"),
    ("latentwire", "baselines.text._target_=TARGET", "latentwire.baselines.Baseline"),
    ("latentwire", "acceptance.evaluation.above_the_fair_budget._target_=TARGET", "latentwire.Rule"),
    ("latentwire", "trainer._target_=TARGET", "lightning.Trainer"),
    ("latentwire", "callbacks.epoch_line._target_=TARGET", "lightning.Callback"),
    ("latentwire", "+logger.mine={_target_:TARGET}", "lightning.pytorch.loggers.Logger"),
    ("latentwire", "+loader.scheduled_sampling={_target_:TARGET}", "latentwire.train.ScheduledSampling"),
    ("latentwire", "+loader.slot_dropout={_target_:TARGET}", "latentwire.train.SlotDropout"),
    ("latentwire", "+loader.text_warm_up={_target_:TARGET}", "latentwire.train.TextWarmUp"),
    ("latentwire", "+wire.nested={_target_:TARGET}", "latentwire.train.Nested"),
    ("latentwire", "+evaluation.decode={_target_:TARGET}", "latentwire.lm.Decoding"),
    ("latentwire", "+launcher={_target_:TARGET}", "suite.launchers.sweep.Launcher: judge, run"),
    ("asgml", "data._target_=TARGET", "asgml.data.Source: prepare, spec, tables"),
    ("asgml", "model._target_=TARGET", "asgml.model.MultimodalNet"),
    ("asgml", "model.fusion._target_=TARGET", "asgml.model.Fusion"),
    ("asgml", "optimizer._target_=TARGET", "torch.optim.Optimizer"),
    ("asgml", "lr_schedule._target_=TARGET", "callbacks.LRSchedule"),
    ("asgml", "+methods.mine={_target_:TARGET}", "asgml.methods.Method"),
    ("asgml", "asgml._target_=TARGET", "asgml.rhythm.Asgml"),
    ("asgml", "trainer._target_=TARGET", "lightning.Trainer"),
    ("asgml", "callbacks.gate._target_=TARGET", "lightning.Callback"),
    ("asgml", "+logger.mine={_target_:TARGET}", "lightning.pytorch.loggers.Logger"),
    ("feedback", "data._target_=TARGET", "asgml.feedback.data.sources.SurfaceSource: labelled, splits"),
    ("feedback", "clip._target_=TARGET", "asgml.feedback.model.FrozenCLIP"),
    ("feedback", "optimizer._target_=TARGET", "torch.optim.Optimizer"),
    ("feedback", "trainer._target_=TARGET", "lightning.Trainer"),
    ("feedback", "callbacks.gate._target_=TARGET", "lightning.Callback"),
    ("feedback", "+logger.mine={_target_:TARGET}", "lightning.pytorch.loggers.Logger"),
]


@cache
def schema(program: str) -> type:
    found: type = locate(f"{'asgml.feedback' if program == 'feedback' else program}.run.Tree")
    return found


@cache
def composer(program: str) -> Composer:
    return Composer(program)


def checked(program: str, *line: str) -> None:
    check(composer(program).compose([*EXPERIMENTS[program], *line]), schema(program))


@pytest.mark.parametrize(("program", "line", "kind"), PARTS, ids=[f"{p} {line}" for p, line, _ in PARTS])
def test_a_part_of_a_foreign_kind_is_refused_with_what_its_place_takes(program: str, line: str, kind: str) -> None:
    target = FOREIGN[PARTS.index((program, line, kind)) % len(FOREIGN)]
    with pytest.raises(UserError) as told:
        checked(program, line.replace("TARGET", target))
    assert f"_target_={target}" in told.value.where
    assert kind in told.value.expected
    assert "another kind" in told.value.found or "does not declare" in told.value.found
    assert "no parameter" not in told.value.found, "what it is called with is beside the point"
    word, _, typed = told.value.remedy.partition(" ")
    assert word in ("set", "leave")
    instead = line.replace("TARGET", typed.rpartition("=")[2]) if "_target_" in typed else typed
    checked(program, *[instead] * (word == "set"))  # as typed, or without the line


def annotations(kind: type) -> Iterator[Any]:
    for annotation in parameters(kind).annotations.values():
        yield from _noted(annotation)


def _noted(annotation: Any) -> Iterator[Any]:
    for inner in get_args(annotation):
        if isinstance(inner, Built):
            yield inner
        elif dataclasses.is_dataclass(inner) and isinstance(inner, type):
            yield from annotations(inner)
        else:
            yield from _noted(inner)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        yield from annotations(annotation)


@pytest.mark.parametrize("program", EXPERIMENTS)
def test_every_part_of_a_program_says_what_it_is(program: str) -> None:
    parts = list(annotations(schema(program)))
    assert issubclass(schema(program), Typed)
    assert len(parts) > 5
    assert all(part.kind is not None and isinstance(locate(part.kind), type) for part in parts)


class Speaks(Protocol):
    def speak(self) -> str: ...


class Animal:
    @classmethod
    def born(cls) -> Self:
        return cls()


class Dog(Animal):
    def speak(self) -> str:
        return "woof"


def a_dog() -> Dog | None: ...


def a_string() -> str: ...


def anything() -> Any: ...


def for_checkers() -> NotThereAtRunTime: ...  # type: ignore[name-defined]  # noqa: F821


def undeclared():  # type: ignore[no-untyped-def]
    ...


@pytest.mark.parametrize(
    ("target", "wanted", "told"),
    [
        (Dog, Animal, None),
        (Animal, Dog, "another kind"),
        (Dog, Speaks, None),
        (Animal, Speaks, "another kind"),
        (a_dog, Animal, None),
        (a_dog, Speaks, None),
        (a_string, Animal, "a function that returns str"),
        (anything, Animal, "does not declare"),
        (undeclared, Animal, "does not declare"),
        (for_checkers, Animal, None),
        (Dog.born, Animal, None),
        (Animal.born, Dog, "returns"),
    ],
)
def test_a_class_is_itself_and_a_function_what_it_declares(
    target: Callable[..., Any], wanted: type, told: str | None
) -> None:
    found = misfit(target, (wanted,))
    assert found == told or (told is not None and found is not None and told in found)


def test_what_takes_plain_values_as_well_takes_any_node() -> None:
    assert kind_of(int | Animal) is None
    assert kind_of(dict[str, int]) is None
    assert kind_of(Annotated[Any, Built()]) is None
    for annotation in (Animal, Animal | None, Callable[..., Animal]):
        found = kind_of(annotation)
        assert found is not None
        assert found.classes == (Animal,)
