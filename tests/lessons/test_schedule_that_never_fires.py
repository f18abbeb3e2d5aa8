"""Scores divided by their mean stay near 1: unless changes are counted, nobody sees that "adaptive" is sync."""

from __future__ import annotations

from toys import asgml, differences, toy_batches, toy_spec, train


def test_decisions_and_changes_are_counted_so_that_a_silent_schedule_is_seen():
    adaptive = {"signal": "speed", "tau_base": 0, "update_every": 4}
    run = train(asgml("adaptive", adaptive=adaptive), toy_batches(20, toy_spec()))
    counters = run.pipeline.counters()
    assert counters["schedule_decisions"] == 5
    assert set(counters["schedule_changes"]) == {"audio", "visual"}
    assert sum(counters["schedule_changes"].values()) == 0
    assert not differences(run.trace.states, train(asgml(), toy_batches(20, toy_spec())).trace.states)
