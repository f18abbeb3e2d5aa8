"""Per-group clipping, learning rates by committed steps, averaged weights."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from foreign_toys import Foreign, Quadratic, foreign_batches, quadratic_batches
from toys import SGD, Capture, asgml, differences, fit, toy_batches, toy_spec, train

from callbacks.errors import UserError
from callbacks.run.averaging import EMAWeights, SWAWeights
from callbacks.stages.clip import GroupClip
from callbacks.stages.gate import StepGate
from callbacks.stages.lr import LRSchedule, LRStep, lr_factor
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.pipeline import StepPipeline


# -- clipping
def moved(trace, t: int, group: str) -> torch.Tensor:
    before = trace.start if t == 0 else trace.states[t - 1]
    return trace.states[t][group] - before[group]


@pytest.mark.parametrize("delay", [0, 2])
def test_each_group_is_clipped_to_its_own_norm_and_only_when_above(delay):
    capture, clip = Capture(), GroupClip(max_norm=3.0, groups={"a": 0.3})
    buffer = StalenessBuffer({"a": delay}, compensation="none")
    pipeline = StepPipeline([capture, buffer, clip, StepGate()], announce=False)
    trace = fit(Quadratic(SGD), quadratic_batches(40), [pipeline])
    clipped = {"a": 0, "b": 0}
    for t in range(delay, 40):
        for group, bound, age in (("a", 0.3, delay), ("b", 3.0, 0)):
            g = capture.gradients[t - age][group][0]
            factor = min(1.0, bound / float(g.norm()))
            clipped[group] += factor < 1
            torch.testing.assert_close(moved(trace, t, group), -0.05 * factor * g, rtol=1e-10, atol=1e-14)
    assert clipped["a"] == 40 - delay  # a small bound always bites
    assert 0 < clipped["b"] < 40 - delay


def test_clipping_what_a_delayed_group_applies_leaves_the_buffer_as_it_was():
    """The clipped gradient is a copy: unclipped ones stay in the buffer."""
    buffer = StalenessBuffer({"a": 1}, compensation="none")
    pipeline = StepPipeline([buffer, GroupClip(1e-6), StepGate()], announce=False)
    capture = Capture()
    pipeline.stages.insert(0, capture)
    fit(Quadratic(SGD), quadratic_batches(4), [pipeline])
    kept = buffer.state()["gradients"]["a"]
    assert torch.equal(kept["flat"][3 % 2], capture.gradients[3]["a"][0])
    assert kept["has"] == [[False], [True]]  # what has been applied is gone


def test_without_a_bound_nothing_is_clipped():
    batches = quadratic_batches(6)
    free = fit(Quadratic(SGD), batches, [])
    only_a = fit(Quadratic(SGD), batches, [StepPipeline([GroupClip(None, {"a": 1e9})], announce=False)])
    assert not differences(free.states, only_a.states)


def test_clipping_lets_the_gate_see_what_is_not_finite():
    pipeline = StepPipeline([GroupClip(1.0), StepGate()], announce=False)
    trace = fit(Quadratic(SGD), [*quadratic_batches(2), torch.full((5,), float("inf")).double()], [pipeline])
    assert pipeline.vetoed == 1
    assert not differences(trace.states[1], trace.states[2])


def test_wrong_bounds_are_refused():
    with pytest.raises(UserError, match="norm above 0"):
        GroupClip(0.0)
    with pytest.raises(UserError, match="clip: a"):
        GroupClip(None, {"a": -1.0})
    with pytest.raises(UserError, match="groups are a, b"):
        fit(Quadratic(), quadratic_batches(1), [StepPipeline([GroupClip(1.0, {"audio": 1.0})], announce=False)])


# -- learning rates
def test_warm_up_rises_linearly_from_a_floor_of_ten_percent():
    factors = [lr_factor(t, 10, 10, "constant", warmup_steps=50) for t in range(52)]
    assert factors[:6] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1, 0.12])
    assert factors[49:] == pytest.approx([1.0, 1.0, 1.0])
    assert factors == sorted(factors)


def test_step_and_cosine_by_the_book():
    step = [lr_factor(t, 4, 100, "step", step_epochs=2, step_gamma=0.1) for t in (0, 7, 8, 15, 16)]
    assert step == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    cosine = [lr_factor(t, 4, 10, "cosine") for t in (0, 10, 20, 30, 40, 50)]
    assert cosine == pytest.approx([1, 0.8535534, 0.5, 0.1464466, 0, 0], abs=1e-7)


def test_unknown_schedules_are_refused():
    with pytest.raises(UserError, match="constant, step or cosine"):
        LRSchedule("linear")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="step_epochs"):
        LRSchedule("step", step_epochs=0)


class Rates(L.Callback):
    """Learning rate of every group that each optimiser step used, before it is taken."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.rates.append([g["lr"] for g in trainer.optimizers[0].param_groups])


def test_the_schedule_moves_after_real_steps_only_and_keeps_the_groups_apart():
    rates, spec = Rates(), toy_spec()
    schedule = LRSchedule(warmup_steps=4)
    train(
        asgml("staleness", tau=2),
        toy_batches(7, spec, poison=[1, 2]),
        schedule=schedule,
        callbacks=[rates],
        module_options={"group_lr": {"audio": 0.4}},
    )
    expected = [0.25, 0.5, 0.5, 0.5, 0.75, 1.0, 1.0]
    assert [r[1] for r in rates.rates] == pytest.approx([0.05 * f for f in expected])
    assert [r[0] for r in rates.rates] == pytest.approx([0.4 * f for f in expected])


class Scheduled(Foreign):
    def __init__(self, interval: str, automatic: bool = False, plateau: bool = False):
        super().__init__(automatic)
        self.interval, self.plateau = interval, plateau

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        if self.plateau:
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": self.interval, "frequency": 2, "monitor": "x"},
        }


@pytest.mark.parametrize(("interval", "final"), [("step", 0.5**4), ("epoch", 0.5**1)])
def test_foreign_schedulers_step_by_interval_and_frequency(interval, final):
    """Three epochs of three committed steps each: the schedule moves at steps 2, 4, 6, 8, or after epoch 2."""
    module = Scheduled(interval)
    stages = StepPipeline([StepGate(), LRStep()], announce=False)
    fit(module, foreign_batches(4, poison=[1]), [stages], epochs=3)
    assert stages.t == 9
    assert module.optimizers().param_groups[0]["lr"] == pytest.approx(0.05 * final)


def test_an_epoch_without_a_real_step_does_not_move_the_schedule():
    module = Scheduled("epoch")
    stages = StepPipeline([StepGate(bad_loss="skip"), LRStep()], announce=False)
    fit(module, foreign_batches(2, poison=[0, 1]), [stages], epochs=2)
    assert module.optimizers().param_groups[0]["lr"] == 0.05


def test_schedulers_that_somebody_else_steps_are_refused():
    with pytest.raises(UserError, match="Lightning steps the schedulers itself"):
        fit(Scheduled("step", automatic=True), foreign_batches(1), [LRStep()])
    with pytest.raises(UserError, match="ReduceLROnPlateau"):
        fit(Scheduled("step", plateau=True), foreign_batches(1), [LRStep()])


# -- averages
def literal_average(states: list[dict], steps: list[int], decay: float | None) -> dict:
    """The average over weights and running statistics after the given steps; decay None: equal weights."""
    average: dict = {}
    for n, t in enumerate(steps):
        for k, v in states[t - 1].items():
            if n == 0 or not v.is_floating_point():
                average[k] = v
            elif decay is None:
                average[k] = average[k] + (v - average[k]) / (n + 1)
            else:
                average[k] = decay * average[k] + (1 - decay) * v
    return average


class Copy(L.Callback):
    def __init__(self, averaging):
        self.averaging = averaging

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.state = {k: v.clone() for k, v in self.averaging._average_model.module.state_dict().items()}


@pytest.mark.parametrize(
    ("averaging", "steps", "decay"),
    [
        (lambda: EMAWeights(decay=0.8), list(range(1, 8)), 0.8),
        (lambda: EMAWeights(decay=0.8, every=3, start=2), [3, 6], 0.8),
        (lambda: SWAWeights(start=4, every=1, statistics="averaged"), [4, 5, 6, 7], None),
        (lambda: SWAWeights(start=1, every=2, statistics="averaged"), [1, 3, 5, 7], None),
    ],
    ids=["ema", "ema-every-3", "swa", "swa-every-2"],
)
def test_averages_over_committed_steps_match_the_formula(averaging, steps, decay):
    batches, bad = foreign_batches(10, poison=[0, 4, 9]), (0, 4, 9)
    average = averaging()
    copy = Copy(average)
    pipeline = StepPipeline([StepGate()], announce=False)
    trace = fit(Foreign(automatic=False), batches, [pipeline, average, copy])
    committed = [s for i, s in enumerate(trace.states) if i not in bad]
    for k, v in literal_average(committed, steps, decay).items():
        torch.testing.assert_close(copy.state[k], v, rtol=1e-10, atol=1e-12)


def test_without_a_pipeline_every_optimiser_step_counts():
    average = EMAWeights(decay=0.5)
    copy = Copy(average)
    trace = fit(Foreign(automatic=True), foreign_batches(5), [average, copy])
    for k, v in literal_average(trace.states, [1, 2, 3, 4, 5], 0.5).items():
        torch.testing.assert_close(copy.state[k], v, rtol=1e-10, atol=1e-12)


def test_at_the_end_of_the_fit_the_module_has_the_average():
    average = SWAWeights(start=1, every=1, statistics="averaged")
    module = Foreign(automatic=False)
    trace = fit(module, foreign_batches(4), [StepPipeline([StepGate()], announce=False), average])
    mean = torch.stack([s["head.weight"] for s in trace.states]).mean(0)
    torch.testing.assert_close(module.head.weight.detach(), mean, rtol=1e-10, atol=1e-12)
