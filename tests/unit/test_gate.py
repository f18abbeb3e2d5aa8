"""The step gate, and the alarm for a validation loss that does not move (specification A5)."""

from __future__ import annotations

import pytest
import torch
from foreign_toys import Foreign, Quadratic, foreign_batches, quadratic_batches
from toys import asgml, fit, loader, quiet_trainer, toy_batches, toy_spec, train

from callbacks.run.alarms import NothingLearned, NothingLearnedAlarm
from callbacks.stages.gate import StepGate, TooManySkips, veto_reason
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.pipeline import StepPipeline

GROUPS = ("a", "b", "head")
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("alone", GROUPS)
@pytest.mark.parametrize("size", [1.0, 1e-30])
def test_any_single_group_with_a_signal_is_enough(alone, size):
    norms = {g: size if g == alone else 0.0 for g in GROUPS}
    assert veto_reason(norms, norms) is None


def test_no_signal_at_all_is_a_reason():
    zero = dict.fromkeys(GROUPS, 0.0)
    assert veto_reason(zero, zero) == "total gradient norm is 0"
    assert veto_reason(dict.fromkeys(GROUPS, 1.0), zero) == "total gradient norm is 0"


def test_standing_still_on_purpose_is_not_the_lack_of_a_signal():
    fresh, nothing = {"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.0}
    assert veto_reason(fresh, nothing, held={"a"}) is None
    assert veto_reason(fresh, nothing, held={"b"}) == "total gradient norm is 0"


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("group", GROUPS)
def test_anything_not_finite_is_a_reason_that_names_the_group(group, bad):
    fine = dict.fromkeys(GROUPS, 1.0)
    broken = {**fine, group: bad}
    assert veto_reason(broken, fine) == f"fresh gradient not finite: {group} ({bad})"
    assert veto_reason(fine, broken) == f"applied gradient not finite: {group} ({bad})"


class OneGroup(Foreign):
    """Gives a gradient to the named group only; those of the others are None, or 0."""

    def __init__(self, group: str, zeros: bool):
        super().__init__(automatic=False)
        self.group, self.zeros = group, zeros

    def loss(self, batch):
        x, y = batch
        out = getattr(self, self.group)(x if self.group != "head" else torch.cat([x, x, x[:, :2]], 1))
        rest = sum(p.sum() * 0 for p in self.parameters()) if self.zeros else 0
        return (out * y[:, None]).mean() + rest


@pytest.mark.parametrize("zeros", [False, True], ids=["None", "zeros"])
@pytest.mark.parametrize("group", GROUPS)
def test_in_a_run_one_group_with_a_gradient_trains(group, zeros):
    pipeline = StepPipeline([StepGate()], announce=False)
    fit(OneGroup(group, zeros), foreign_batches(3), [pipeline])
    assert (pipeline.t, pipeline.vetoed) == (3, 0)


def test_delayed_groups_alone_do_not_wait_for_ever():
    """With every group delayed nothing is applied at first; the steps count, or no stamp would ever age."""
    pipeline = StepPipeline([StalenessBuffer({"a": 2, "b": 1}), StepGate()], announce=False)
    trace = fit(Quadratic(), quadratic_batches(6), [pipeline])
    assert pipeline.t == 6
    assert pipeline.counters()["applied"] == {"a": 4, "b": 5}
    assert torch.equal(trace.states[0]["a"], trace.start["a"])


def test_a_loss_without_gradient_is_skipped_counted_and_named():
    class Flat(Quadratic):
        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward((self.a.sum() + self.b.sum()) * (0.0 if batch_idx == 1 else 1.0))
            optimizer.step()

    gate = StepGate()
    pipeline = StepPipeline([gate], announce=False)
    trace = fit(Flat(), quadratic_batches(4), [pipeline])
    assert torch.equal(trace.states[0]["a"], trace.states[1]["a"])
    assert (pipeline.t, pipeline.vetoed) == (3, 1)
    assert gate.counters() == {"skipped": 1, "skip_reasons": {"total gradient norm is 0": 1}}


def test_a_run_of_skips_fails_loudly_and_says_why():
    spec = toy_spec()
    gate = StepGate(max_consecutive_skips=3, bad_loss="skip")
    with pytest.raises(
        TooManySkips, match=r"fresh gradient not finite: .*audio.*3 optimiser steps in a row.*up to step 2, batch 5"
    ) as error:
        train(asgml(), toy_batches(9, spec, poison=[1, 3, 4, 5]), gate=gate)
    assert error.value.where == "gradients, step 2, batch 3 of epoch 0"
    assert gate.skipped == 4  # the lonely one before did not count towards the run


def test_a_run_of_skips_names_who_waits_and_why():
    gate = StepGate(max_consecutive_skips=2, bad_loss="skip")
    batches = toy_batches(4, toy_spec(), poison=[2, 3])
    with pytest.raises(TooManySkips, match=r"held or delayed: audio \(applies the gradient of 2 steps ago\); "):
        train(asgml("staleness", tau=2), batches, gate=gate)


def test_where_a_row_of_skips_began_outlives_a_checkpoint():
    gate, after = StepGate(bad_loss="skip"), StepGate(bad_loss="skip")
    train(asgml(), toy_batches(6, toy_spec(), poison=[4, 5]), gate=gate)
    after.load_state(gate.state())
    assert after.since == gate.since != ("", "")
    assert after.since[0] == "step 4, batch 4 of epoch 0"


def test_skips_with_steps_between_do_not_add_up():
    gate = StepGate(max_consecutive_skips=2, bad_loss="skip")
    run = train(asgml(), toy_batches(9, toy_spec(), poison=[0, 2, 4, 6, 8]), gate=gate)
    assert (run.pipeline.t, gate.skipped, gate.consecutive) == (4, 5, 1)


class Validated(Foreign):
    """Logs the given validation losses, one per epoch."""

    def __init__(self, losses: list[float]):
        super().__init__(automatic=False)
        self.losses = losses

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", torch.tensor(self.losses[self.current_epoch], dtype=torch.float64))


def validated(losses: list[float], alarm: NothingLearnedAlarm) -> None:
    trainer = quiet_trainer([alarm], epochs=len(losses))
    trainer.fit(Validated(losses), loader(foreign_batches(1)), loader(foreign_batches(1)))


@pytest.mark.parametrize(("second", "alarms"), [(1.2345678, 1), (1.2345681, 1), (1.234569, 0), (1.3, 0)])
def test_a_validation_loss_identical_to_six_decimals_raises_the_alarm(second, alarms, recwarn):
    alarm = NothingLearnedAlarm()
    validated([1.2345678, second], alarm)
    assert alarm.alarms == alarms
    told = [str(w.message) for w in recwarn if "nothing is being learned" in str(w.message)]
    assert len(told) == alarms


def test_the_alarm_is_about_consecutive_evaluations():
    alarm = NothingLearnedAlarm()
    validated([1.0, 2.0, 1.0, 2.0], alarm)
    assert alarm.alarms == 0


def test_the_alarm_can_stop_the_run():
    with pytest.raises(NothingLearned, match=r"val/loss is 1\.000000 in two consecutive evaluations"):
        validated([1.0, 1.0, 0.5], NothingLearnedAlarm(action="stop"))
