"""Specification A2.2: an encoder that is held back stands still in every respect, and its output does not show it."""

from __future__ import annotations

from copy import deepcopy

import lightning as L
import pytest
import torch
from foreign_toys import Foreign, foreign_batches
from torch import nn
from toys import OPTIMIZERS, asgml, differences, fit, toy_batches, toy_spec, train

from callbacks.stages.frequency import FrequencyMask
from callbacks.stages.gate import StepGate
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.pipeline import StepPipeline

AUDIO = "net.encoders.audio"


class OptimizerTrace(L.Callback):
    """Keeps a copy of one group's optimiser state from after every batch."""

    def __init__(self, group: str):
        self.group, self.states = group, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        optimizer = trainer.optimizers[0]
        options = next(g for g in optimizer.param_groups if g["name"] == self.group)
        self.states.append([deepcopy(optimizer.state.get(p, {})) for p in options["params"]])


def of(state: dict, prefix: str) -> dict:
    return {k: v for k, v in state.items() if k.startswith(prefix)}


HOLDING = {
    "hard": asgml("frequency", k=3, masking="hard"),
    "accumulate": asgml("frequency", k=3, masking="accumulate"),
    "staleness": asgml("staleness", tau=3),
    "fresh": asgml("staleness", tau=2, warmup="fresh"),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("mode", HOLDING)
def test_on_a_held_step_weights_statistics_and_optimiser_state_stay(mode, optimizer):
    spy = OptimizerTrace("audio")
    run = train(HOLDING[mode], optimizer=optimizer, callbacks=[spy])
    states, actions = [run.trace.start, *run.trace.states], run.actions("audio")
    slots = [[{}] * len(spy.states[0]), *spy.states]
    assert {"update"} < set(actions)
    for t, action in enumerate(actions):
        before, after = of(states[t], AUDIO), of(states[t + 1], AUDIO)
        changed = differences(before, after)
        if action == "update":
            # every parameter and buffer (a bias in front of BatchNorm may have a gradient of exactly 0)
            assert len(changed) >= len(before) - 1
            assert f"/{AUDIO}.layers.2.num_batches_tracked" in changed
        else:
            assert not changed, f"step {t} ({action}): {changed}"
            assert not differences(slots[t], slots[t + 1]), f"step {t} ({action}): the optimiser's state moved"
    updates = actions.count("update")
    assert run.final[f"{AUDIO}.layers.2.num_batches_tracked"] == updates
    assert run.final["net.encoders.visual.layers.2.num_batches_tracked"] == len(actions)


@pytest.mark.parametrize("masking", ["hard", "accumulate"])
def test_the_output_of_a_held_encoder_is_that_of_an_unheld_forward(masking):
    outputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watch(module, pipeline):
        plain = module.net.encode

        def encode(m, x, *lengths):
            if m != "audio" or not module.training:
                return plain(m, x, *lengths)
            twin = deepcopy(module.net.encoders[m])
            out = plain(m, x, *lengths)
            outputs.append((out, twin(x)))
            return out

        module.net.encode = encode

    run = train(asgml("frequency", k=2, masking=masking), before=watch)
    assert run.actions("audio").count("update") == 4
    assert all(torch.equal(held, free) for held, free in outputs)


def test_statistics_of_layers_without_trainable_parameters_are_held_too():
    """Such a layer belongs to the encoder around it."""

    class Encoder(nn.Module):
        def __init__(self, shape, out_dim=4):
            super().__init__()
            self.out_dim = out_dim
            frozen = nn.BatchNorm1d(6)
            frozen.requires_grad_(False)
            self.layers = nn.Sequential(
                nn.BatchNorm1d(shape[0], affine=False), nn.Linear(shape[0], 6), frozen, nn.ReLU(), nn.Linear(6, out_dim)
            )

        def forward(self, x):
            return self.layers(x)

    run = train(asgml("frequency", k=2, masking="hard"), encoder=Encoder)
    for layer in ("layers.0", "layers.2"):
        assert run.final[f"{AUDIO}.{layer}.num_batches_tracked"] == run.actions("audio").count("update")


def test_the_other_groups_move_on_every_step():
    run = train(asgml("frequency", k=4, masking="hard"))
    for before, after in zip(run.trace.states, run.trace.states[1:], strict=False):
        for prefix in ("net.encoders.visual", "net.fusion", "net.heads"):
            assert len(differences(of(before, prefix), of(after, prefix))) == len(of(before, prefix))


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("mode", ["sync", "staleness", "frequency"])
def test_a_modality_that_nobody_has_does_not_move(mode, optimizer):
    """Momentum and weight decay included: its gradient is None, not 0."""
    spec = toy_spec()
    batches = toy_batches(8, spec, missing={3: ["audio"], 4: ["audio"]})
    run = train(asgml(mode, tau=1, k=1), batches, optimizer=optimizer)
    assert run.actions("audio")[3:5] == ["missing", "missing"]
    for t in (3, 4):
        assert not differences(of(run.trace.states[t - 1], AUDIO), of(run.trace.states[t], AUDIO))


@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
@pytest.mark.parametrize(
    "stage",
    [StalenessBuffer({"a": 4}), FrequencyMask({"a": 4, "b": 1}, masking="hard", phases={"a": 3, "b": 0})],
    ids=["StalenessBuffer", "FrequencyMask"],
)
def test_held_groups_of_a_foreign_module_stand_still(stage, automatic):
    module = Foreign(automatic)
    pipeline = StepPipeline([deepcopy(stage), StepGate()], announce=False)
    trace = fit(module, foreign_batches(4), [pipeline])
    assert not differences(of(trace.start, "a."), of(trace.states[2], "a."))
    assert len(differences(of(trace.start, "b."), of(trace.states[2], "b."))) == len(of(trace.start, "b."))
