"""Every stage alone in a Lightning module that is not ours, and what a pipeline refuses."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from foreign_toys import Foreign, foreign_batches
from toys import CLASSES, differences, fit, loader, quiet_trainer, toy_batches, toy_spec, train

from callbacks.errors import UserError
from callbacks.run.averaging import EMAWeights
from callbacks.stages.clip import GroupClip
from callbacks.stages.diagnostics import GradientNorms
from callbacks.stages.frequency import FrequencyMask
from callbacks.stages.gate import StepGate, TooManySkips
from callbacks.stages.lr import LRStep
from callbacks.stages.probe import ProbeEMA
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.phases import Phase, describe
from callbacks.step.pipeline import StepPipeline
from callbacks.step.stage import Stage, find_pipeline

STAGES = {
    "StalenessBuffer": StalenessBuffer({"a": 2, "b": 1}),
    "FrequencyMask": FrequencyMask({"a": 2, "b": 2}, masking="accumulate"),
    "GroupClip": GroupClip(0.05),
    "StepGate": StepGate(),
    "GradientNorms": GradientNorms(every=1, announce=False),
    "ProbeEMA": ProbeEMA(CLASSES, every=2, holdout_size=4),
}
NEUTRAL = ("StepGate", "GradientNorms", "ProbeEMA")


@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
@pytest.mark.parametrize("name", STAGES)
def test_alone_a_stage_does_what_it_does_in_a_pipeline_of_one(name, automatic):
    batches = foreign_batches(8)
    alone, listed = deepcopy(STAGES[name]), deepcopy(STAGES[name])
    one = fit(Foreign(automatic), batches, [alone])
    two = fit(Foreign(automatic), batches, [StepPipeline([listed], announce=False)])
    without = fit(Foreign(automatic), batches, [])
    assert not differences(one.states, two.states)
    assert bool(differences(one.states, without.states)) == (name not in NEUTRAL)
    assert not differences(alone.state(), listed.state())
    assert alone.counters() == listed.counters()


@pytest.mark.parametrize("name", STAGES)
def test_automatic_and_manual_optimisation_are_the_same_to_a_stage(name):
    batches = foreign_batches(8)
    ends = [fit(Foreign(automatic), batches, [deepcopy(STAGES[name])]).states for automatic in (True, False)]
    assert not differences(*ends)


@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
def test_a_gate_alone_skips_what_is_not_finite(automatic):
    gate = StepGate()
    trace = fit(Foreign(automatic), foreign_batches(5, poison=[2]), [gate])
    assert not differences(trace.states[1], trace.states[2])
    assert all(torch.isfinite(v).all() for v in trace.states[-1].values())
    assert gate.counters() == {"skipped": 1, "skip_reasons": {"fresh gradient not finite": 1}}


def test_averages_and_schedulers_follow_a_gate_that_stands_alone():
    class Scheduled(Foreign):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    trainer = quiet_trainer([LRStep(), EMAWeights(decay=0.5)])
    module = Scheduled(automatic=False)
    trainer.fit(module, loader(foreign_batches(3)))
    assert module.optimizers().param_groups[0]["lr"] == 0.05 / 8
    pipeline = find_pipeline(trainer)
    assert pipeline is not None
    assert pipeline.t == 3
    assert find_pipeline(quiet_trainer([])) is None


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_alone_is_in_the_checkpoint_and_goes_on(name, tmp_path):
    batches = foreign_batches(6)
    whole, first, second = (deepcopy(STAGES[name]) for _ in range(3))
    expected = fit(Foreign(automatic=False), [*batches, *batches], [whole])
    trainer = quiet_trainer([first])
    trainer.fit(Foreign(automatic=False), loader(batches))
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    module = Foreign(automatic=False)
    quiet_trainer([second], epochs=2).fit(module, loader(batches), ckpt_path=tmp_path / "c.ckpt", weights_only=True)
    assert not differences(expected.states[-1], dict(module.state_dict()))
    assert not differences(whole.state(), second.state())


# -- what is refused
def test_two_stages_beside_each_other_are_refused():
    with pytest.raises(UserError, match="one StepPipeline that lists all stages") as refused:
        fit(Foreign(automatic=True), foreign_batches(1), [StepGate(), GroupClip(1.0)])
    assert "callbacks=[StepPipeline" in refused.value.remedy
    with pytest.raises(UserError, match="beside another stage or a StepPipeline"):
        fit(Foreign(automatic=True), foreign_batches(1), [StepPipeline([StepGate()]), GroupClip(1.0)])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([StepGate(), StalenessBuffer({})], "'gate' \\(VERDICT\\) before 'staleness' \\(DELAY\\)"),
        ([FrequencyMask({"a": 1}), StalenessBuffer({})], "'frequency' \\(MASK\\) before 'staleness'"),
        ([StepGate(), StepGate()], "two stages named 'gate'"),
        ([LRStep(), GradientNorms()], "'lr' \\(COMMIT\\) before 'diagnostics'"),
    ],
)
def test_a_wrong_order_is_refused_with_the_right_one(stages, message):
    with pytest.raises(UserError, match=message) as refused:
        StepPipeline(stages)
    if "two" not in message:
        assert refused.value.expected == " → ".join(phase.name for phase in Phase)


def test_the_start_up_line_is_the_step_in_order():
    stages = [GradientNorms(), StalenessBuffer({}), FrequencyMask({"a": 1}), GroupClip(1.0), StepGate(), LRStep()]
    line = (
        "forward → losses → backward → unscaled → diagnostics → staleness → frequency → clip → gate → optimiser → "
        "commit → lr"
    )
    assert describe(stages) == line
    assert describe(StepPipeline.ordered(reversed(stages)).stages) == line


class Stranger(Stage):
    """Notes the steps it has seen; this project does not know it."""

    def __init__(self, phase: Phase | None):
        self.name, self.phase = f"stranger_{phase}", phase  # type: ignore[misc]
        self.seen: list[int] = []

    def on_gradients(self, ctx) -> None:
        self.seen.append(ctx.t)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_foreign_stage_takes_its_place_by_its_phase(phase):
    stranger, own = Stranger(phase), [GradientNorms(announce=False), StepGate(), LRStep()]
    pipeline = StepPipeline.ordered([*own, stranger], announce=False)
    assert [s.phase for s in pipeline.stages] == sorted(s.phase for s in pipeline.stages)
    fit(Foreign(automatic=False), foreign_batches(3), [pipeline])
    assert stranger.seen == [0, 1, 2]
    assert stranger.name in describe(pipeline.stages)


def test_within_a_phase_the_listed_order_counts():
    first, second = Stranger(Phase.MODULATE), Stranger(Phase.MODULATE)
    first.name = "first"
    assert [s.name for s in StepPipeline.ordered([first, second]).stages] == ["first", second.name]
    assert [s.name for s in StepPipeline.ordered([second, first]).stages] == [second.name, "first"]


def test_a_stage_without_a_phase_is_refused_with_the_line_to_write():
    with pytest.raises(UserError, match="no phase") as refused:
        StepPipeline.ordered([StepGate(), Stranger(None)])
    assert refused.value.remedy == "declare it in Stranger: phase = Phase.MODULATE"


def test_a_clip_without_a_bound_takes_no_part():
    assert StepPipeline.ordered([GroupClip(None), StepGate()]).stage("clip") is None
    assert StepPipeline.ordered([GroupClip(None, {"a": 1.0})]).stage("clip") is not None


@pytest.mark.parametrize(
    "stage",
    [StalenessBuffer({"audio": 1}), FrequencyMask({"audio": 2, "a": 1}), GroupClip(None, {"audio": 1.0})],
    ids=lambda s: s.name,
)
def test_an_unknown_group_is_refused_and_the_known_ones_named(stage):
    with pytest.raises(UserError, match="group 'audio'") as refused:
        fit(Foreign(automatic=True), foreign_batches(1), [deepcopy(stage)])
    assert refused.value.found == "the optimiser's groups are a, b, head"


class Odd(Foreign):
    """Returns optimisers with which a step cannot be a transaction."""

    def __init__(self, kind: str):
        super().__init__(automatic=False)
        self.kind = kind

    def configure_optimizers(self):
        a, b = list(self.a.parameters()), list(self.b.parameters())
        sgd = torch.optim.SGD
        if self.kind == "two":
            return [sgd(a, lr=0.1), sgd(b, lr=0.1)]
        if self.kind == "lbfgs":
            return torch.optim.LBFGS(a)
        if self.kind == "twins":
            return sgd([{"params": a, "name": "a"}, {"params": b, "name": "a"}], lr=0.1)
        optimizer = sgd([{"params": a, "name": "a"}, {"params": b, "name": "b"}], lr=0.1)
        optimizer.param_groups[1]["params"].append(a[0])  # torch itself checks only at construction
        return optimizer


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("two", "2 optimisers"),
        ("lbfgs", "LBFGS"),
        ("twins", "two parameter groups named 'a'"),
        ("shared", r"in 'a' and in 'b'"),
    ],
)
def test_optimisers_that_cannot_be_a_transaction_are_refused(kind, message):
    with pytest.raises(UserError, match=message):
        fit(Odd(kind), foreign_batches(1), [StepGate()])


def test_groups_without_a_name_are_numbered():
    class Plain(Foreign):
        def configure_optimizers(self):
            return torch.optim.SGD([{"params": self.a.parameters()}, {"params": self.b.parameters()}], lr=0.1)

    buffer = StalenessBuffer({"group1": 1})
    fit(Plain(automatic=True), foreign_batches(3), [buffer])
    assert buffer.counters()["applied"] == {"group1": 2}


def test_an_asgml_module_without_its_pipeline_is_refused():
    batches = toy_batches(1, toy_spec())
    run = train(None, batches)
    with pytest.raises(UserError, match="no StepPipeline"):
        quiet_trainer([]).fit(run.module, loader(batches))


def test_after_a_fit_and_after_a_failure_the_optimiser_has_no_hook_left():
    module = Foreign(automatic=False)
    fit(module, foreign_batches(2), [StepGate()])
    assert not module.optimizers().optimizer._optimizer_step_post_hooks
    failing = Foreign(automatic=False)
    with pytest.raises(TooManySkips, match="2 optimiser steps in a row"):
        fit(failing, foreign_batches(2, poison=[0, 1]), [StepGate(max_consecutive_skips=2)])
    assert not failing.trainer.optimizers[0]._optimizer_step_post_hooks
