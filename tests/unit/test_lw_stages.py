"""Stages step by step: what counts, when a stage ends early, when it ends the run, what it reads of a batch."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lw_toys import tiny_lm

from callbacks.errors import RunEnded, UserError
from callbacks.step.plan import StepPlan
from latentwire.data.biographies import Biographies
from latentwire.encoders.byte import ByteEncoder
from latentwire.encoders.pooling import ChunkMean
from latentwire.objectives.base import Needs
from latentwire.train.batches import Contexts, first
from latentwire.train.criterion import Criterion, StageFailed
from latentwire.train.curriculum import Constant, Curriculum, Delayed, Gated, Linear, Period
from latentwire.train.curriculum_stage import CurriculumStage


def stage_of(periods: list[Period], steps: int = 10, **schedules: Any) -> CurriculumStage:
    return CurriculumStage(Curriculum(periods, steps), schedules or {"a": Constant()}, smoothing=0.0)


def walk(stage: CurriculumStage, seen: list[dict[str, float]]) -> list[tuple[str, dict[str, float]]]:
    """Go through steps with what is observed in each; return period and weights of every step."""
    out = []
    trainer = SimpleNamespace(loggers=[], current_epoch=0, is_global_zero=True)
    for t, observed in enumerate(seen):
        ctx: Any = SimpleNamespace(t=t, plan=StepPlan(), groups={}, events=[], trainer=trainer)
        stage.before_forward(ctx)
        out.append((stage.period.name, dict(stage.weights)))
        for name, value in observed.items():
            stage.observe(name, value)
    return out


def names(stage: CurriculumStage, seen: list[dict[str, float]]) -> str:
    return "".join(name for name, _ in walk(stage, seen))


def test_a_stage_says_which_objectives_count_and_its_schedules_begin_with_it() -> None:
    stage = stage_of(
        [Period("x", 2.0, weights={"a": 1}), Period("y", 3.0, weights={"a": Linear(1.0, 0.0, 2), "b": 0.5})],
        5,
        a=Constant(2.0),
        b=Delayed(4, 3.0),
    )
    found = walk(stage, [{}] * 5)
    assert [name for name, _ in found] == list("xxyyy")
    assert [w["a"] for _, w in found] == [2.0, 2.0, 2.0, 1.0, 0.0], "a factor on the objective's own weight"
    assert [w["b"] for _, w in found] == [0.0, 0.0, 0.0, 0.0, 1.5]


def test_a_gate_may_halve_a_weight_and_closes_only_well_below_its_bound() -> None:
    halved = Gated(Constant(2.0), "cosine", above=0.70, closed=0.5)
    values = [None, 0.71, 0.69, 0.75]
    assert [halved.weight(t, {} if v is None else {"cosine": v}) for t, v in enumerate(values)] == [1.0, 2.0, 1.0, 2.0]
    rising = Gated(Linear(0.0, 1.0, 4), "cosine", above=0.70, closed=0.5)
    assert [rising.weight(t, {"cosine": 0.1}) for t in range(3)] == [0.0, 0.125, 0.25], "its steps go on meanwhile"
    slow = Gated(Constant(), "loss", below=1.0, hysteresis=0.2)
    assert [slow.weight(t, {"loss": v}) for t, v in enumerate([1.1, 0.9, 1.1, 1.19, 1.21, 1.1])] == [0, 1, 1, 1, 0, 0]


def test_a_stage_that_has_learnt_enough_hands_its_steps_to_the_later_ones() -> None:
    periods = [Period("a", 4.0, advance=Criterion("cosine", above=0.9, after=2)), Period("b", 2.0), Period("c", 4.0)]
    values = (0.95, 0.5, 0.91, *[0.1] * 7)
    stage = stage_of(periods)
    assert names(stage, [{"cosine": v} for v in values]) == "aaabbccccc"
    assert names(stage_of(periods), [{}] * 10) == "aaaabbcccc"


def test_what_was_observed_before_a_stage_does_not_end_it() -> None:
    periods = [Period("a", 1.0), Period("b", 1.0, advance=Criterion("f1", above=0.5)), Period("c", 1.0)]
    assert names(stage_of(periods, 9), [{"f1": 1.0}] * 3 + [{}] * 6) == "aaabbbccc"


def test_a_stage_that_misses_its_criterion_ends_the_run_and_says_what_was_asked() -> None:
    asked = Criterion("cosine", above=0.6, after=3)
    periods = [Period("r", 1.0, require=asked), Period("g", 1.0)]
    with pytest.raises(StageFailed) as error:
        walk(stage_of(periods), [{"cosine": 0.41}] * 4)
    assert "stages.0.require (r)" in str(error.value)
    assert "cosine = 0.41 after 3 steps" in error.value.found
    assert "cosine above 0.6 from step 3" in error.value.expected
    assert error.value.result["stage_failed"]["found"] == 0.41
    copied = copy.copy(error.value)  # as it crosses process borders: by its constructor
    assert isinstance(copied, RunEnded)
    assert (copied.result, str(copied)) == (error.value.result, str(error.value))
    seen = [{"cosine": 0.61}] * 5 + [{"cosine": 0.0}] * 5
    assert names(stage_of(periods), seen) == "rrrrrggggg", "the next stage does not ask"


def test_a_metric_that_is_never_observed_fulfils_nothing() -> None:
    stage = stage_of([Period("a", 1.0, require=Criterion("val/f1", above=0.1)), Period("b", 1.0)])
    with pytest.raises(StageFailed, match="val/f1 not observed after 5 steps"):
        walk(stage, [{}] * 10)


def test_a_criterion_that_would_never_be_asked_or_asks_nothing_is_refused() -> None:
    late = Criterion("x", above=0.0, after=6)
    for periods in ([Period("a", require=late), Period("b")], [Period("a"), Period("b", require=late)]):
        with pytest.raises(UserError, match="would never be asked"):
            Curriculum(periods, 10)
    for bounds in ({}, {"above": 1.0, "below": 0.5}):
        with pytest.raises(UserError):
            Criterion("x", **bounds)  # type: ignore[arg-type]


@pytest.mark.parametrize("whole", [False, True])
def test_the_first_passages_of_a_batch_are_the_batch_of_these_passages(whole: bool) -> None:
    encoder = ByteEncoder(4, ["shared"], pooling=lambda d, slices: ChunkMean(d, slices), width=8, heads=2)
    kinds: Any = ("answer", "wrong") if whole else ("answer", "wrong", "text", "continuation")
    needs = Needs(frozenset(kinds), "Repeat.", (0.4, 0.6), context=not whole, whole_prompt=whole)
    passages = Biographies(people=1, facts_per_person=2, train=6).split("train")[:6]
    data = Contexts(passages, encoder, {"lm": tiny_lm()}, 2, needs, seed=0)
    items = [(i, 0) for i in range(5)]
    part, alone = first(data.__getitems__(items), 3), data.__getitems__(items[:3])
    assert part.passages == alone.passages
    assert (part.asked, part.rows, part.continued) == (alone.asked, alone.rows, alone.continued)
    width = alone.tokens.ids.shape[1]
    for name in ("ids", "mask"):
        assert torch.equal(getattr(part.tokens, name)[:, :width], getattr(alone.tokens, name))
    assert not part.tokens.mask[:, width:].any()
    for name, pair in alone.context.items():
        assert all(torch.equal(a, b) for a, b in zip(part.context[name], pair, strict=True))
    assert first(part, 7) is part
