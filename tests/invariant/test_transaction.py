"""Specification A2.14: a veto leaves no trace, and a commit moves everything once."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import pytest
import torch
from foreign_toys import Foreign, foreign_batches
from toys import ADAMW, MOMENTUM, ToyConv, asgml, differences, fit, same, toy_batches, toy_spec, train

from asgml.methods.base import Method
from asgml.methods.ogm_ge import OGMGE
from asgml.methods.uniform import Uniform
from callbacks.run.averaging import EMAWeights, SWAWeights
from callbacks.stages.clip import GroupClip
from callbacks.stages.frequency import FrequencyMask
from callbacks.stages.gate import StepGate, TooManySkips
from callbacks.stages.lr import LRSchedule
from callbacks.stages.probe import ProbeEMA
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.pipeline import StepPipeline

SHAPE = (1, 4, 4)
BAD = (3, 8, 9)


@dataclass
class Spoil(Method):
    """Makes the gradient infinite in the given optimiser steps, after all other methods, for the applied norms."""

    at: tuple[int, ...] = ()
    calls: int = field(default=0, repr=False)

    def on_gradients(self, step, groups) -> set[str]:
        self.calls += 1
        if self.calls - 1 in self.at:
            for p in groups["fusion"]:
                p.grad.mul_(float("inf"))
            return {"fusion"}
        return set()


MODES = {
    "sync": asgml(),
    "staleness": asgml("staleness", tau=2),
    "fresh": asgml("staleness", tau=2, warmup="fresh", delayed="all"),
    "delay_compensated": asgml("staleness", tau=2, compensation="delay_compensated"),
    "hard": asgml("frequency", k=2, masking="hard", delayed="all"),
    "soft": asgml("frequency", k=3, masking="soft"),
    "accumulate": asgml("frequency", k=3, masking="accumulate"),
    "fusion_preserving": asgml("frequency", k=3, masking="fusion_preserving"),
    "adaptive_staleness": asgml(
        "adaptive", adaptive={"tau_base": 1, "update_every": 2, "window": 2, "threshold_delta": 0.0, "gap_full": 0.1}
    ),
    "adaptive_frequency": asgml(
        "adaptive",
        masking="accumulate",
        adaptive={"kind": "frequency", "signal": "speed", "tau_base": 1, "update_every": 2, "window": 2},
    ),
    "boost": asgml("boost", boost={"threshold_delta": 0.0, "gap_full": 0.1}),
    "random_skip": asgml("frequency", k=2, masking="hard", control="random_skip"),
    "lr_matched": asgml("frequency", k=3, control="lr_matched"),
}


class Average(L.Callback):
    """Keeps the averaged model from after the newest batch, because Lightning drops it at the end of the fit."""

    def __init__(self, averaging: EMAWeights | SWAWeights):
        self.averaging = averaging

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.state = {k: v.clone() for k, v in self.averaging._average_model.state_dict().items()}


def everything(run, average: Average) -> dict[str, Any]:
    """Return all that influences the next step: weights, buffers, optimiser, schedulers, stages, probes, averages."""
    state = run.pipeline.state_dict()
    stages = {name: dict(stage) for name, stage in state["stages"].items()}
    assert stages.pop("gate")["skipped"] == state["vetoed"]
    return {
        "t": state["t"],
        "stages": stages,
        "weights": run.final,
        "optimizer": run.trainer.optimizers[0].state_dict(),
        "scheduler": run.trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "average": average.state,
        "updates": run.pipeline.stage("rhythm").counters(),
    }


def without(items: list[Any], gone: tuple[int, ...]) -> list[Any]:
    return [item for i, item in enumerate(items) if i not in gone]


def run_with(mode: str, batches: list[Any], spoiled: tuple[int, ...] = (), optimizer=MOMENTUM, average=None):
    probe = ProbeEMA(3, every=2, holdout_size=3)
    average = Average(average or EMAWeights(decay=0.7))
    run = train(
        MODES[mode],
        batches,
        spec=toy_spec(2, SHAPE),
        methods={"uniform": Uniform(), "ogm_ge": OGMGE(alpha=0.3), "spoil": Spoil(spoiled)},
        encoder=ToyConv,
        optimizer=optimizer,
        probe=probe,
        extra=[GroupClip(2.0)],
        callbacks=[average.averaging, average],
        schedule=LRSchedule(warmup_steps=9),
    )
    return run, everything(run, average)


@pytest.mark.parametrize("check", ["fresh", "applied"])
@pytest.mark.parametrize("mode", MODES)
def test_a_vetoed_step_is_as_if_it_had_not_been(mode, check):
    """With OGM-GE noise, clipping, probes, EMA and a schedule: the run is that of the other batches, bit by bit."""
    good = toy_batches(14, toy_spec(2, SHAPE))
    poisoned = toy_batches(14, toy_spec(2, SHAPE), poison=BAD if check == "fresh" else ())
    reference, expected = run_with(mode, without(good, BAD))
    run, found = run_with(mode, poisoned, BAD if check == "applied" else ())
    assert run.pipeline.vetoed == len(BAD)
    assert run.pipeline.counters()["skip_reasons"] == {f"{check} gradient not finite": len(BAD)}
    assert not differences(reference.trace.states, without(run.trace.states, BAD))
    assert not differences(expected, found)


@pytest.mark.parametrize("optimizer", [MOMENTUM, ADAMW], ids=["momentum", "adamw"])
def test_during_a_veto_nothing_moves_and_step_is_still_called(optimizer):
    calls: list[int] = []

    class Count(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            calls.append(trainer.global_step)

    grads: list[bool] = []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            grads.append(all(p.grad is None for p in pl_module.parameters()))

    average, spec = Average(EMAWeights(decay=0.5)), toy_spec()
    batches = toy_batches(5, spec, poison=[2])
    probe = ProbeEMA(3, every=1, holdout="half")
    run = train(
        None, batches, optimizer=optimizer, callbacks=[Count(), Look(), average.averaging, average], probe=probe
    )
    assert not differences(run.trace.states[1], run.trace.states[2])  # BatchNorm buffers included
    assert len(calls) == run.trainer.global_step == 5  # Lightning counts the step, the AMP scaler would be updated
    assert (run.pipeline.t, run.pipeline.vetoed) == (4, 1)
    assert grads == [False, False, True, False, False]
    assert [row[0] for row in probe.history if row[1] == "audio"] == [1, 2, 3, 4]
    assert int(average.state["n_averaged"]) == 4
    assert run.trainer.lr_scheduler_configs[0].scheduler.last_epoch == 4
    assert [a for a in run.actions("audio")] == ["update", "update", "veto", "update", "update"]
    assert [t for t, m, *_ in run.timeline if m == "audio"] == [0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    "make",
    [
        lambda: EMAWeights(0.6, every=2, start=2),
        lambda: SWAWeights(start=2, every=3, swa_lr=0.01, cycle=2.0, statistics="averaged"),
    ],
)
def test_averages_count_committed_steps_only(make):
    spec, poison = toy_spec(2, SHAPE), (0, 5)
    _, expected = run_with("sync", without(toy_batches(9, spec), poison), average=make())
    _, found = run_with("sync", toy_batches(9, spec, poison=poison), average=make())
    assert not differences(expected["average"], found["average"])


def test_the_finite_check_looks_at_gradients_that_would_not_be_applied():
    """A NaN in an encoder that is held back vetoes the step: the check comes before mask and buffer."""
    spec = toy_spec()
    config = asgml("staleness", tau=3)

    @dataclass
    class Poison(Method):
        trains_heads = True

        def loss(self, step):
            return {"audio": step.features["audio"].sum() * float("nan")} if step.t == 1 else {}

    gate = StepGate(max_consecutive_skips=3, bad_loss="skip")
    with pytest.raises(TooManySkips, match="step 1, batch 1 of epoch 0"):
        train(config, toy_batches(6, spec), methods={"uniform": Uniform(), "poison": Poison()}, gate=gate)
    assert gate.reasons == {"fresh gradient not finite": 3}


def test_a_batch_without_a_modality_pushes_an_empty_stamp_and_makes_no_update():
    """And the other modalities, the fusion and t go on."""
    spec = toy_spec()
    run = train(asgml("staleness", tau=1), toy_batches(8, spec, missing={3: ["audio"]}))
    assert run.actions("audio") == ["hold", "update", "update", "missing", "hold", "update", "update", "update"]
    assert run.actions("visual") == ["update"] * 8
    assert run.pipeline.t == 8
    stamps = run.pipeline.stage("staleness").stamps["audio"]
    assert (stamps.applied, stamps.held, stamps.missing) == (5, 2, 1)


@pytest.mark.parametrize("modalities", [1, 2, 3, 7])
@pytest.mark.parametrize("mode", ["sync", "staleness", "hard", "accumulate", "adaptive_staleness"])
def test_any_number_of_modalities(modalities, mode):
    """Every encoder learns, half of the modalities missing in half of the rows, one batch poisoned."""
    spec = toy_spec(modalities)
    names = list(spec.modalities)
    some = {i: names[1::2] for i in range(0, 8, 2)}
    whole = {3: names[-1:]} if modalities > 1 else {}
    config = MODES[mode] if mode != "hard" or modalities > 1 else asgml("frequency", k=2, masking="hard")
    probe = ProbeEMA(3, every=2, holdout="half")
    batches = toy_batches(8, spec, partly=some, missing=whole, poison=[5])
    run = train(config, batches, spec=spec, probe=probe)
    assert (run.pipeline.t, run.pipeline.vetoed) == (7, 1)
    for m in names:
        assert not same(run.trace.start, run.final, f"net.encoders.{m}.layers.1")
    assert set(run.pipeline.counters()["updates"]) == set(names)
    assert len(run.timeline) == 8 * modalities


@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
def test_a_foreign_module_gets_the_same_transaction(automatic):
    stages = [
        StalenessBuffer({"a": 1}),
        FrequencyMask({"b": 3, "head": 1}, masking="accumulate"),
        GroupClip(1.0),
        StepGate(),
    ]
    good, bad = foreign_batches(9), foreign_batches(9, poison=[4])
    ends = []
    for batches in (without(good, (4,)), bad):
        module, pipeline = Foreign(automatic), StepPipeline(deepcopy(stages), announce=False)
        trace = fit(module, batches, [pipeline])
        state = pipeline.state_dict()
        gate = state["stages"].pop("gate")
        ends.append((trace.states[-1], module.optimizers().optimizer.state_dict(), state["stages"], state["t"]))
    assert gate["skipped"] == 1
    assert not differences(ends[0], ends[1])


def test_after_a_veto_an_exploded_loss_does_not_reach_any_state():
    """EMAs of the schedule, Fisher traces and delays are those of committed steps (no NaN anywhere in the state)."""

    def numbers(state: Any):
        if isinstance(state, dict):
            for value in state.values():
                yield from numbers(value)
        elif isinstance(state, list | tuple):
            for value in state:
                yield from numbers(value)
        elif isinstance(state, torch.Tensor):
            yield bool(torch.isfinite(state.double()).all())
        elif isinstance(state, float):
            yield state == state

    run, found = run_with("adaptive_staleness", toy_batches(9, toy_spec(2, SHAPE), poison=[0, 4, 8]))
    found["stages"]["staleness"].pop("gradients")  # the slot of a vetoed step is overwritten before anybody reads it
    assert run.pipeline.vetoed == 3
    assert all(numbers(found))
