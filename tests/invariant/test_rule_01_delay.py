"""Specification A2.1: tau 0 and k 1 are sync, bit for bit; tau is exactly a delay of tau steps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from foreign_toys import Foreign, Quadratic, Textbook, foreign_batches, quadratic_batches, quadratic_form
from toys import OPTIMIZERS, SGD, Capture, asgml, differences, fit, same, train

from callbacks.stages.gate import StepGate
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.pipeline import StepPipeline

STEPS = 30


def optimizer_state(trainer) -> dict:
    return trainer.optimizers[0].state_dict()["state"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(
    "config",
    [
        asgml("staleness", tau=0),
        asgml("staleness", tau=0, delayed="all", warmup="fresh", compensation="delay_compensated"),
        *(asgml("frequency", k=1, masking=m) for m in ("soft", "hard", "fusion_preserving", "accumulate")),
    ],
    ids=["tau0", "tau0-all", "k1-soft", "k1-hard", "k1-fusion_preserving", "k1-accumulate"],
)
def test_tau_0_and_k_1_follow_sync_bit_by_bit(config, optimizer):
    reference, run = train(asgml("sync"), optimizer=optimizer), train(config, optimizer=optimizer)
    for expected, found in zip(reference.trace.states, run.trace.states, strict=True):
        assert not differences(expected, found)
    assert not differences(optimizer_state(reference.trainer), optimizer_state(run.trainer))


@pytest.mark.parametrize("compensation", ["none", "inverse", "delay_compensated"])
def test_a_buffer_with_room_for_delays_but_delay_0_changes_no_bit(compensation):
    batches = foreign_batches(8)
    reference = fit(Foreign(automatic=False), batches, [])
    buffer = StalenessBuffer({"a": 0, "b": 0}, compensation=compensation, max_delay=3)
    run = fit(Foreign(automatic=False), batches, [StepPipeline([buffer, StepGate()], announce=False)])
    assert not differences(reference.states, run.states)
    assert buffer.stamps["a"].applied == 8


def unrolled(kind: str, delays: dict[str, int], through: str, warmup: str, steps: int) -> list[torch.Tensor]:
    """Return theta after each step of the recursion: a group applies c(tau) g(t - tau) or stands still."""
    form = quadratic_form()
    theta = {
        "a": torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64),
        "b": torch.tensor([-1.0, 1.5], dtype=torch.float64),
    }
    textbooks = {g: Textbook(kind) for g in theta}
    history: list[dict[str, torch.Tensor]] = []
    last = dict.fromkeys(theta, -1)
    out = []
    for t, b in enumerate(quadratic_batches(steps)):
        gradient = form @ torch.cat([theta["a"], theta["b"]]) - b
        history.append({"a": gradient[:3], "b": gradient[3:]})
        for g in theta:
            tau = delays[g]
            stamp = t - tau if t >= tau else (t if warmup == "fresh" else None)
            if stamp is None or stamp <= last[g]:
                continue
            last[g] = stamp
            c = 1 / (1 + 0.1 * (t - stamp))
            applied = history[stamp][g] * (c if through == "gradient" else 1.0)
            theta[g] = textbooks[g].step(theta[g], applied, c if through == "lr" else 1.0)
        out.append(torch.cat([theta["a"], theta["b"]]))
    return out


def delayed_run(kind: str, delays: dict[str, int], through: str, warmup: str, steps: int) -> list[torch.Tensor]:
    stage = StalenessBuffer(delays, warmup=warmup, compensation="inverse", lambda_comp=0.1, through=through)
    trace = fit(Quadratic(OPTIMIZERS[kind]), quadratic_batches(steps), [StepPipeline([stage], announce=False)])
    return [torch.cat([s["a"], s["b"]]) for s in trace.states]


@pytest.mark.filterwarnings("ignore:StalenessBuffer. 'through. gradient'")
@pytest.mark.parametrize("through", ["lr", "gradient"])
@pytest.mark.parametrize("tau", [1, 2, 3])
@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_the_delayed_recursion_is_matched_to_1e_12(kind, tau, through):
    delays = {"a": tau, "b": 0}
    expected = unrolled(kind, delays, through, "skip", STEPS)
    found = delayed_run(kind, delays, through, "skip", STEPS)
    assert expected[-1].norm() < 20  # a stable step size: errors would otherwise be hidden or blown up
    for t in range(STEPS):
        assert (expected[t] - found[t]).abs().max() <= 1e-12, f"step {t}"


@pytest.mark.parametrize("warmup", ["skip", "fresh"])
def test_every_group_with_its_own_delay(warmup):
    delays = {"a": 3, "b": 1}
    expected, found = (f("momentum", delays, "lr", warmup, STEPS) for f in (unrolled, delayed_run))
    assert max((e - f).abs().max() for e, f in zip(expected, found, strict=True)) <= 1e-12


def test_the_oracle_can_tell_one_step_of_delay_from_the_next():
    """The comparison above would see an off-by-one: neighbouring delays differ by far more than 1e-12."""
    runs = [unrolled("momentum", {"a": tau, "b": 0}, "lr", "skip", STEPS)[-1] for tau in (0, 1, 2, 3)]
    assert min((x - y).abs().max() for x, y in pairwise(runs)) > 1e-3


def test_tau_1_applies_the_gradient_of_one_step_ago_in_asgml():
    """Plain SGD, no compensation: the weights move at step t by -lr times the gradient of step t - 1."""
    capture = Capture()
    config = asgml("staleness", tau=1, compensation="none")
    run = train(config, optimizer=SGD, extra=[capture])
    names = [n for n, _ in run.module.named_parameters() if n.startswith("net.encoders.audio")]
    assert same(run.trace.start, run.trace.states[0], "net.encoders.audio.layers.1")
    for t in range(1, len(run.trace.states)):
        before, after = run.trace.states[t - 1], run.trace.states[t]
        for name, g in zip(names, capture.gradients[t - 1]["audio"], strict=True):
            torch.testing.assert_close(after[name] - before[name], -0.05 * g, rtol=1e-9, atol=1e-14)
