"""An average that starts at 0 shows a gap between modalities that is not there, for dozens of steps."""

from __future__ import annotations

import pytest
from toys import CLASSES, asgml, train

from asgml.rhythm.dynamics import DynamicsTracker
from callbacks.stages.diagnostics import GradientNorms
from callbacks.stages.probe import CorrectedEMA, ProbeEMA


def test_two_modalities_of_equal_accuracy_have_no_gap_whenever_they_are_first_scored():
    probe = ProbeEMA(CLASSES, ema=0.1)
    probe.scores = {"early": CorrectedEMA(0.1), "late": CorrectedEMA(0.1)}
    for step in range(50):
        probe.scores["early"].update(0.6)
        if step >= 40:  # e.g. missing until then
            probe.scores["late"].update(0.6)
            assert probe.gap == pytest.approx(0.0)


def test_a_gradient_norm_that_comes_late_is_not_small():
    tracker = DynamicsTracker({"early": 1, "late": 1}, ema=0.05)
    for step in range(30):
        tracker.observe({"early": 2.0, "late": 2.0 if step > 25 else 0.0}, {})
    assert tracker.gradient() == pytest.approx({"early": 1.0, "late": 1.0})


def test_the_boost_is_at_full_size_from_its_first_step():
    class Fixed(ProbeEMA):
        def prepare(self, ctx): ...
        def after_commit(self, ctx): ...

        @property
        def utilisation(self):
            return {"audio": 0.9, "visual": 0.2}

    run = train(asgml("boost", boost={"ema": 0.01}), probe=Fixed(CLASSES))
    assert run.scales("visual") == pytest.approx([1.5] * 8)


def test_the_fisher_trace_starts_at_its_first_value():
    stage = GradientNorms(fisher_ema=0.001, announce=False)
    run = train(asgml(), extra=[stage])
    assert run.pipeline.t == 8
    assert all(value > 0.05 * stage.fisher["fusion"] for value in stage.fisher.values())
