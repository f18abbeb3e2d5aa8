"""Every fault of earlier code does exactly what is said of it: literal transcriptions on tiny tensors."""

from __future__ import annotations

from itertools import pairwise

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from toys import asgml, differences, fit, same, toy_batches, toy_spec, train

from asgml.faults import (
    AllGroupsGate,
    AmpScaledBuffer,
    ClampedDescentTracker,
    InPhaseMask,
    InvertedCompensationBuffer,
    OffByOneBuffer,
    ZeroedGradientsMask,
    ZeroStartProbe,
    ZeroStartTracker,
)
from asgml.rhythm import RhythmParts
from callbacks.errors import UserError
from callbacks.stages.probe import CorrectedEMA
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.pipeline import StepPipeline

STEPS = 12


class Ramp(L.LightningModule):
    """Gives `p` the gradient t + 1 at step t, whatever p is: how far p moved says what was applied."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def training_step(self, batch, batch_idx):
        return self.p * (batch_idx + 1)

    def configure_optimizers(self):
        return torch.optim.SGD([{"params": [self.p], "name": "p"}], lr=1.0)


def applied(buffer: StalenessBuffer) -> list[float]:
    """Return what `p` applied in every step under a buffer."""
    trace = fit(Ramp(), [torch.zeros(1)] * STEPS, [StepPipeline([buffer], announce=False)])
    values = [0.0, *(float(s["p"]) for s in trace.states)]
    return [before - after for before, after in pairwise(values)]


@pytest.mark.parametrize("tau", [1, 2, 4])
@pytest.mark.parametrize("compensation", ["none", "inverse"])
def test_off_by_one_applies_the_gradient_of_one_step_less_with_the_factor_of_tau(tau, compensation):
    c = 1 / (1 + 0.1 * tau) if compensation == "inverse" else 1.0
    expected = [0.0] * (tau - 1) + [c * (t - tau + 1 + 1) for t in range(tau - 1, STEPS)]
    assert applied(OffByOneBuffer({"p": tau}, compensation=compensation)) == pytest.approx(expected, abs=1e-12)


def test_inverted_compensation_amplifies_what_is_stale():
    expected = [0.0] * 2 + [(1 + 0.25 * 2) * (t - 2 + 1) for t in range(2, STEPS)]
    assert applied(InvertedCompensationBuffer({"p": 2}, lambda_comp=0.25)) == pytest.approx(expected, abs=1e-12)


def grad_scaler_scales(growth_interval: int, overflow_after: int) -> list[float]:
    """Return the scale of torch's own scaler in every committed step, where the doubled one overflows after a while."""
    p = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([p], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=growth_interval)
    scales, doubled = list[float](), 0
    while len(scales) < STEPS:
        scale = scaler.get_scale()
        overflow = scale > 1024.0 and doubled == overflow_after
        p.grad = None
        scaler.scale(p * (float("inf") if overflow else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        if not overflow:
            scales.append(scale)
        doubled = doubled + 1 if scale > 1024.0 and not overflow else 0
    return scales


@pytest.mark.parametrize(("growth", "overflow"), [(3, 1), (3, 2), (5, 3)])
def test_a_gradient_is_stored_with_the_loss_scale_of_then_and_unscaled_with_that_of_now(growth, overflow):
    scales, tau = grad_scaler_scales(growth, overflow), 2
    assert len(set(scales)) == 2
    stored = [scales[t] * (t + 1) for t in range(STEPS)]
    expected = [0.0] * tau + [stored[t - tau] / scales[t] for t in range(tau, STEPS)]
    buffer = AmpScaledBuffer({"p": tau}, compensation="none", growth_interval=growth, overflow_after=overflow)
    assert applied(buffer) == pytest.approx(expected, abs=1e-12)


def test_a_scale_that_would_double_twice_is_refused():
    with pytest.raises(UserError, match="overflow_after"):
        AmpScaledBuffer({"p": 1}, growth_interval=4, overflow_after=4)


def parts(name: str, made: type) -> RhythmParts:
    return RhythmParts(**{name: made})  # type: ignore[arg-type]


def encoder(state: dict[str, torch.Tensor], m: str) -> dict[str, torch.Tensor]:
    return {k: v for k, v in state.items() if k.startswith(f"net.encoders.{m}")}


def test_in_phase_everybody_but_the_fusion_stands_still_in_the_same_steps():
    run = train(asgml("frequency", k=2, delayed="all", masking="hard", parts=parts("mask", InPhaseMask)))
    for m in ("audio", "visual"):
        assert run.actions(m) == ["update", "hold"] * 4
    for before, after in list(pairwise([run.trace.start, *run.trace.states]))[1::2]:
        assert same(before, after, "net.encoders")
        assert not same(before, after, "net.fusion")


def test_zeroed_gradients_leave_momentum_and_weight_decay_at_work():
    run = train(asgml("frequency", k=2, masking="hard", parts=parts("mask", ZeroedGradientsMask)))
    start, first, second = (encoder(s, "audio") for s in (run.trace.start, *run.trace.states[:2]))
    lr, beta, decay = 0.05, 0.9, 0.01
    assert run.actions("audio")[:2] == ["update", "hold"]
    for key, theta in first.items():
        if "running" in key or "num_batches" in key:
            assert torch.equal(second[key], theta)
            continue
        velocity = beta * (start[key] - theta) / lr + (0.0 + decay * theta)  # the gradient is 0
        torch.testing.assert_close(second[key], theta - lr * velocity, rtol=0, atol=1e-12)
        assert not torch.equal(second[key], theta)


def test_all_groups_gate_skips_a_step_for_one_empty_group():
    missing = {i: ["audio"] for i in (1, 4, 5)}
    run = train(asgml(), toy_batches(8, toy_spec(), missing=missing), gate=AllGroupsGate())
    assert (run.pipeline.t, run.pipeline.vetoed) == (5, 3)
    assert run.pipeline.counters()["skip_reasons"] == {"no gradient in every group": 3}


def test_all_groups_gate_never_leaves_the_first_step_in_which_an_encoder_is_held():
    run = train(asgml("frequency", k=2, masking="hard"), gate=AllGroupsGate())
    assert (run.pipeline.t, run.pipeline.vetoed) == (1, 7)
    assert not differences(run.trace.states[0], run.final)


def feed(tracker, norms, losses) -> None:
    for i in range(len(losses["a"])):
        tracker.observe({m: v[i] for m, v in norms.items()}, {m: v[i] for m, v in losses.items()})


def test_clamped_descent_is_the_slope_of_the_least_squares_line_cut_at_0():
    rng = np.random.default_rng(0)
    losses = {"a": list(2 - 0.1 * np.arange(6) + 0.01 * rng.normal(size=6)), "b": list(1 + 0.05 * np.arange(6))}
    tracker = ClampedDescentTracker({"a": 4, "b": 9}, window=5)
    feed(tracker, {m: [1.0] * 6 for m in losses}, losses)
    descent = {m: max(0.0, -np.polyfit(np.arange(5), v[-5:], 1)[0]) for m, v in losses.items()}
    assert descent["b"] == 0.0
    mean = sum(descent.values()) / 2
    assert tracker.descent() == pytest.approx({m: d / mean for m, d in descent.items()})


def test_where_every_loss_rises_clamped_descent_says_nothing():
    losses = {"a": [1.0, 1.5, 2.0], "b": [1.0, 1.1, 1.2]}
    tracker = ClampedDescentTracker({"a": 1, "b": 1}, window=3)
    feed(tracker, {m: [1.0] * 3 for m in losses}, losses)
    assert tracker.descent() == {"a": 1.0, "b": 1.0}


def test_gradient_norms_are_averaged_from_0_without_correction():
    norms = {"a": [1.0, 3.0, 2.0, 5.0], "b": [0.0, 0.0, 4.0, 1.0]}  # b is held twice, and keeps its average
    tracker = ZeroStartTracker({"a": 4, "b": 9}, ema=0.2)
    feed(tracker, norms, {m: [1.0] * 4 for m in norms})
    average = {"a": 0.0, "b": 0.0}
    for m, root in (("a", 2.0), ("b", 3.0)):
        for norm in filter(None, norms[m]):
            average[m] = 0.8 * average[m] + 0.2 * norm / root
    mean = sum(average.values()) / 2
    assert tracker.gradient() == pytest.approx({m: v / mean for m, v in average.items()})


def test_probes_are_averaged_from_0_without_correction():
    probe = ZeroStartProbe(3, ema=0.1)
    probe.scores = {"a": CorrectedEMA(0.1), "late": CorrectedEMA(0.1)}
    for _ in range(10):
        probe.scores["a"].update(0.8)
    probe.scores["late"].update(0.8)
    assert probe.utilisation == pytest.approx({"a": 0.8 * (1 - 0.9**10), "late": 0.08})
    assert (probe.dominant, probe.weakest) == ("a", "late")
    assert probe.gap == pytest.approx(0.8 * (1 - 0.9**10) - 0.08)
