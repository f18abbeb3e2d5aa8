"""With one interval and no phases every encoder skips the same steps, in which only the fusion trains."""

from __future__ import annotations

import pytest
from toys import asgml, toy_batches, toy_spec, train

from callbacks.errors import UserError


@pytest.mark.parametrize("modalities", [2, 3])
def test_equal_intervals_take_turns(modalities):
    spec = toy_spec(modalities)
    config = asgml("frequency", k=modalities, delayed="all", masking="hard")
    run = train(config, toy_batches(12, spec), spec=spec)
    for t in range(12):
        assert sum(action == "update" for step, _, action, _, _ in run.timeline if step == t) == 1


def test_intervals_that_cannot_take_turns_are_refused_before_anything_runs():
    with pytest.raises(UserError, match="no phases that leave no step idle"):
        train(asgml("frequency", k=3, delayed="all"))


def test_the_adaptive_schedule_with_delays_for_all_leaves_no_step_idle():
    adaptive = {"kind": "frequency", "signal": "speed", "tau_min": 2, "tau_max": 4, "tau_base": 2}
    run = train(asgml("adaptive", masking="hard", adaptive=adaptive), toy_batches(20, toy_spec()))
    turns = [{run.actions("audio")[t], run.actions("visual")[t]} for t in range(20)]
    assert all("update" in both for both in turns)
    assert run.pipeline.counters()["forced_updates"] > 0
