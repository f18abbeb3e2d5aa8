"""Mechanisms that act together, and the controls that tell asynchrony from its side effects."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from foreign_toys import Quadratic, quadratic_batches, quadratic_form
from toys import (
    MOMENTUM,
    OPTIMIZERS,
    SGD,
    Capture,
    FixedProbe,
    ToyConv,
    asgml,
    differences,
    fit,
    toy_batches,
    toy_spec,
    train,
)

from asgml.methods.ogm_ge import OGMGE
from asgml.methods.uniform import Uniform
from callbacks.errors import UserError
from callbacks.stages.frequency import FrequencyMask, mean_factor
from callbacks.stages.gate import StepGate
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.pipeline import StepPipeline

GAP = {"audio": 0.8, "visual": 0.55}  # 0.25 ahead: 0.15 beyond the threshold, half of gap_full
BOOST = 1 + 0.5 * 0.5


def weights(run) -> dict[str, torch.Tensor]:
    return {k: v for k, v in run.final.items() if k.startswith("net.")}


def with_rates(**rates: float):
    """Do a plain run with learning rates of its own for some groups."""
    return train(asgml(), module_options={"group_lr": rates})


def test_a_learning_rate_for_an_unknown_group_is_refused_with_the_nearest_one():
    with pytest.raises(UserError, match=r"set \+group_lr\.visual=0\.1 in its place"):
        with_rates(visul=0.1)


def test_the_boost_is_a_learning_rate_for_the_weak_encoder_and_nothing_else():
    run = train(asgml("boost", boost={"through": "lr"}), probe=FixedProbe(GAP))
    assert run.scales("visual") == pytest.approx([BOOST] * 8, abs=1e-12)
    assert run.scales("audio") == [1.0] * 8
    expected = with_rates(visual=0.05 * BOOST)
    for k, v in weights(run).items():
        torch.testing.assert_close(v, weights(expected)[k], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tau", [0, 3])
def test_the_boost_is_of_the_step_in_which_the_gradient_is_applied(tau):
    """Not of the one in which it was stored: under plain SGD, gradient and learning rate are one thing."""

    class Rising(FixedProbe):
        @property
        def utilisation(self) -> dict[str, float]:
            self.asked = getattr(self, "asked", 0) + 1
            return {"audio": min(0.95, 0.5 + 0.01 * self.asked), "visual": 0.3}

    ends = []
    for through in ("gradient", "lr", "auto"):
        config = asgml("staleness", tau=tau, delayed=["visual"], boost={"enabled": True, "through": through})
        ends.append(weights(train(config, probe=Rising({}), optimizer=SGD)))
    assert not differences(ends[0], ends[2])
    for k, v in ends[0].items():
        torch.testing.assert_close(v, ends[1][k], rtol=1e-10, atol=1e-13)


def test_the_boost_is_gated_and_capped():
    within = train(asgml("boost"), probe=FixedProbe({"audio": 0.60, "visual": 0.51}))
    assert not differences(within.trace.states, train(asgml()).trace.states)
    config = asgml("boost", boost={"alpha": 5.0, "cap": 2.0})
    assert train(config, probe=FixedProbe({"audio": 1.0, "visual": 0.1})).scales("visual") == pytest.approx([2.0] * 8)


@pytest.mark.parametrize("mode", ["staleness", "frequency"])
def test_throttling_the_strong_and_boosting_the_weak_compose(mode):
    run = train(asgml(mode, tau=2, k=2, boost={"enabled": True}), probe=FixedProbe(GAP))
    assert run.scales("visual") == pytest.approx([BOOST] * 8)
    if mode == "staleness":
        assert run.scales("audio") == pytest.approx([0, 0] + [1 / 1.2] * 6)
    else:
        assert run.scales("audio") == pytest.approx([1.0, 0.1] * 4)


def test_boost_and_compensation_multiply_on_the_same_encoder():
    run = train(asgml("staleness", tau=2, delayed=["visual"], boost={"enabled": True}), probe=FixedProbe(GAP))
    assert run.scales("visual") == pytest.approx([0, 0] + [BOOST / 1.2] * 6)


def test_ogm_ge_and_staleness_apply_the_modulated_gradient_of_tau_steps_ago():
    """Order of the step: modulation, then buffer. Plain OGM, so that the factor can be computed by hand."""
    spec, shape, tau = toy_spec(2, (1, 4, 4)), "layers.0.weight", 2

    def factors(module) -> dict[str, float]:
        step = module.step
        p = {m: torch.softmax(step.slices(m), 1)[range(len(step.y)), step.y].sum() for m in ("audio", "visual")}
        rho = {"audio": p["audio"] / p["visual"], "visual": p["visual"] / p["audio"]}
        return {m: float(1 - torch.tanh(0.5 * r)) if r > 1 else 1.0 for m, r in rho.items()}

    capture = Capture(factors)
    run = train(
        asgml("staleness", tau=tau, delayed="all"),
        toy_batches(10, spec),
        spec=spec,
        encoder=ToyConv,
        methods={"uniform": Uniform(), "ogm": OGMGE(alpha=0.5, noise=False)},
        optimizer=SGD,
        extra=[capture],
    )
    modulated = 0
    for m in ("audio", "visual"):
        key = f"net.encoders.{m}.{shape}"
        for t in range(tau, 10):
            moved = run.trace.states[t][key] - run.trace.states[t - 1][key]
            factor = capture.seen[t - tau][m]
            modulated += factor < 1
            expected = -0.05 / 1.2 * factor * capture.gradients[t - tau][m][0]
            torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-13)
    assert modulated == 8  # one of the two is ahead in every step


# -- controls
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(("masking", "factor"), [("soft", (1 + 3 * 0.2) / 4), ("hard", 1 / 4), ("accumulate", 1 / 4)])
def test_lr_matched_is_a_plain_run_with_the_learning_rate_times_the_mean_factor(optimizer, masking, factor):
    config = asgml("frequency", k=4, masking=masking, soft_scale=0.2, through="lr", control="lr_matched")
    run = train(config, optimizer=optimizer)
    lr = run.trainer.optimizers[0].param_groups[0]["lr"]
    expected = train(asgml(), optimizer=optimizer, module_options={"group_lr": {"audio": lr * factor}})
    assert not differences(weights(expected), weights(run))
    assert run.actions("audio") == ["update"] * 8
    assert run.scales("audio") == [factor] * 8


@pytest.mark.parametrize("masking", ["soft", "hard", "accumulate"])
@pytest.mark.parametrize(("k", "soft_scale"), [(2, 0.1), (4, 0.3), (5, 0.0)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_matched_factor_is_the_one_that_the_mask_really_applies(masking, k, soft_scale, momentum):
    """A gradient that never changes moves an encoder, over whole cycles, as far as its matched control.

    What still coasts counts, too; the unmasked group moves by one learning rate per unit.
    """

    class Constant(Quadratic):
        def training_step(self, batch, batch_idx) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.a.sum() + self.b.sum())
            optimizer.step()

    steps, lr = 3 * k, 0.05
    module = Constant(partial(torch.optim.SGD, lr=lr, momentum=momentum))
    start = module.a.detach().clone()
    mask = FrequencyMask({"a": k, "b": 1}, masking=masking, soft_scale=soft_scale, phases={"a": k - 1, "b": 0})
    fit(module, quadratic_batches(steps), [StepPipeline([mask], announce=False)])
    moved = (start - module.a.detach()) / lr
    if momentum:
        moved = moved + module.optimizers().optimizer.state[module.a]["momentum_buffer"] * momentum / (1 - momentum)
    expected = torch.full_like(moved, steps * mean_factor(masking, k, soft_scale) / (1 - momentum))
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=0.0)


def test_lr_matched_follows_an_interval_that_changes():
    adaptive = {"kind": "frequency", "signal": "utilisation", "update_every": 3, "kappa": 9.0, "tau_max": 4}
    config = asgml("adaptive", adaptive=adaptive, control="lr_matched")
    run = train(config, toy_batches(6, toy_spec()), probe=FixedProbe({"audio": 0.9, "visual": 0.6}))
    assert run.scales("audio") == pytest.approx([(1 + 3 * 0.1) / 4] * 6)  # k = 4 from the first decision on
    assert run.scales("visual") == [1.0] * 6


def test_what_no_learning_rate_matches_is_refused():
    for options in ({}, {"adaptive": {"kind": "frequency"}}):
        mode = "adaptive" if options else "frequency"
        with pytest.raises(UserError, match="fusion_preserving"):
            asgml(mode, masking="fusion_preserving", control="lr_matched", **options)
    with pytest.raises(UserError, match="fusion_preserving"):
        asgml("adaptive", masking="fusion_preserving", control="yoked_lr", adaptive={"kind": "frequency"})


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_scale_only_is_a_plain_run_with_the_learning_rate_times_c(optimizer):
    config = asgml("staleness", tau=4, lambda_comp=0.25, through="lr", control="scale_only")
    run = train(config, optimizer=optimizer)
    lr = run.trainer.optimizers[0].param_groups[0]["lr"]
    expected = train(asgml(), optimizer=optimizer, module_options={"group_lr": {"audio": lr * 0.5}})
    assert not differences(weights(expected), weights(run))
    assert run.ages("audio") == [0] * 8


@pytest.mark.parametrize("compensation", ["none", "delay_compensated"])
def test_scale_only_without_a_factor_is_the_plain_run(compensation):
    run = train(asgml("staleness", tau=4, compensation=compensation, control="scale_only"))
    assert not differences(weights(train(asgml())), weights(run))
    assert differences(weights(train(asgml())), weights(train(asgml("staleness", tau=4, compensation=compensation))))


def test_random_skip_has_the_rate_of_the_mask_it_controls_and_another_draw_per_seed():
    spec, steps = toy_spec(), 60
    batches = toy_batches(steps, spec)
    runs = [train(asgml("frequency", k=3, masking="hard", control="random_skip"), batches, seed=s) for s in (0, 1)]
    for run in runs:
        rate = run.actions("audio").count("update") / steps
        assert abs(rate - 1 / 3) < 4 * math.sqrt(2 / 9 / steps)
        assert set(run.actions("audio")) == {"update", "hold"}
        assert run.actions("visual") == ["update"] * steps
    assert runs[0].actions("audio") != runs[1].actions("audio")
    assert runs[0].actions("audio") != ["update", "hold", "hold"] * (steps // 3)


@pytest.mark.parametrize("tau", [2, {"audio": 2}])
def test_all_delayed_delays_every_modality_alike(tau):
    run = train(asgml("staleness", tau=tau, control="all_delayed"))
    assert run.ages("audio") == run.ages("visual") == [-1, -1] + [2] * 6
    masked = train(asgml("frequency", k=2 if tau == 2 else {"visual": 2}, masking="hard", control="all_delayed"))
    assert masked.actions("audio").count("hold") == masked.actions("visual").count("hold") == 4


def test_all_delayed_under_the_schedule_gives_everybody_the_largest_delay():
    adaptive = {"signal": "utilisation", "update_every": 2}
    probe = FixedProbe({"audio": 0.9, "visual": 0.4})
    free = train(asgml("adaptive", adaptive=adaptive), probe=probe)
    tied = train(asgml("adaptive", adaptive=adaptive, control="all_delayed"), probe=probe)
    assert (free.ages("audio")[-1], free.ages("visual")[-1]) == (2, 0)
    assert tied.ages("audio") == tied.ages("visual")
    assert tied.ages("audio")[-1] == 2


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("sync", {"control": "lr_matched"}),
        ("staleness", {"control": "random_skip"}),
        ("frequency", {"control": "scale_only"}),
        ("staleness", {"control": "lr_matched"}),
        ("adaptive", {"control": "yoked_scale", "compensation": "none"}),
        ("adaptive", {"control": "random_skip"}),
        ("adaptive", {"control": "scale_only", "adaptive": {"kind": "frequency"}}),
    ],
)
def test_a_control_without_anything_to_control_is_refused(mode, options):
    with pytest.raises(UserError, match=r"asgml\.control"):
        asgml(mode, **options)


# -- the schedule in a run
def test_the_schedule_holds_the_strong_encoder_back_and_says_so():
    events = []

    class Log(Capture):
        def before_forward(self, ctx) -> None:
            pass

        def on_commit(self, ctx) -> None:
            events.extend(ctx.events)

    probe = FixedProbe({"audio": 0.9, "visual": 0.6})
    config = asgml("adaptive", adaptive={"signal": "utilisation", "update_every": 3, "tau_max": 4, "kappa": 5.0})
    run = train(config, toy_batches(12, toy_spec()), probe=probe, extra=[Log()], optimizer=MOMENTUM)
    # excess (0.3 - 0.1) / 0.3 of 4 steps, rounded: 3
    assert run.ages("audio") == [-1, -1, -1] + [3] * 9
    assert run.ages("visual") == [0] * 12
    assert events == [("schedule", "audio tau 0->3 from step 0 because S 1.00, U 0.900 (weakest 0.600, noise 0.000)")]
    counters = run.pipeline.counters()
    assert counters["schedule_decisions"] == 4
    assert counters["schedule_changes"] == {"audio": 1, "visual": 0}


@pytest.mark.parametrize("masking", ["fusion_preserving", "soft"])
def test_the_gradient_signal_leaves_out_steps_of_the_fusion_path_alone(masking):
    """Their norm is smaller because a path is missing; soft steps are measured before they are scaled."""
    adaptive = {"kind": "frequency", "signal": "utilisation", "update_every": 2, "kappa": 9.0, "ema": 0.3}
    capture = Capture()
    run = train(
        asgml("adaptive", adaptive=adaptive, masking=masking),
        toy_batches(12, toy_spec()),
        probe=FixedProbe({"audio": 0.9, "visual": 0.6}),
        extra=[capture],
    )
    tracker, actions = run.module.rhythm.tracker, run.actions("audio")
    assert {"update", "fusion" if masking == "fusion_preserving" else "soft"} == set(actions)
    averages = {}
    for m in ("audio", "visual"):
        norms = [
            float(torch.cat([g.flatten() for g in row[m]]).norm())
            for row, action in zip(capture.gradients, run.actions(m), strict=True)
            if action != "fusion"
        ]
        weights = [0.3 * 0.7**i for i in range(len(norms))][::-1]
        averages[m] = sum(w * v for w, v in zip(weights, norms, strict=True)) / sum(weights) / tracker.roots[m]
    mean = sum(averages.values()) / 2
    assert tracker.gradient() == pytest.approx({m: v / mean for m, v in averages.items()}, rel=1e-6)


def test_a_gap_within_its_noise_delays_nobody():
    """0.9 against 0.6 on 15 held-out rows may be chance; on 500 it is not."""
    config = asgml("adaptive", adaptive={"signal": "utilisation", "update_every": 3})
    values = {"audio": 0.9, "visual": 0.6}
    assert train(config, probe=FixedProbe(values, rows=15)).ages("audio") == [0] * 8
    assert train(config, probe=FixedProbe(values, rows=500)).ages("audio")[-1] > 0


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ({}, 2),
        ({"tau_max": 4, "kappa": 5.0}, 4),
        ({"signal": "speed"}, 1),
        ({"signal": "speed", "tau_base": 1, "tau_max": 5}, 3),
    ],
)
def test_rings_hold_what_the_constraints_allow_and_no_more(options, slots):
    """With two modalities no speed score exceeds 2."""
    run = train(asgml("adaptive", adaptive={"signal": "utilisation", **options}), probe=FixedProbe(GAP))
    buffer = run.pipeline.stage("staleness")
    assert isinstance(buffer, StalenessBuffer)
    assert buffer.capacity == {"audio": slots + 1, "visual": slots + 1}


def test_a_schedule_that_waits_for_its_probes_says_nothing_and_delays_nobody():
    run = train(asgml("adaptive", adaptive={"signal": "utilisation"}), probe=FixedProbe({"audio": 0.9}))
    assert run.ages("audio") == [0] * 8


def test_ceilings_make_an_intrinsically_weaker_modality_count_as_trained():
    """Without ceilings it would hold the other back for ever."""
    probe = FixedProbe({"audio": 0.9, "visual": 0.5})
    adaptive = {"signal": "utilisation", "update_every": 2}
    assert train(asgml("adaptive", adaptive=adaptive), probe=probe).ages("audio")[-1] > 0
    adaptive["ceilings"] = {"audio": 0.95, "visual": 0.52}
    assert train(asgml("adaptive", adaptive=adaptive), probe=probe).ages("audio")[-1] == 0


def test_one_group_may_stand_in_the_buffer_and_in_the_mask():
    """What accumulates is then the stale gradients. A vetoed step in between leaves no trace in either of the two."""
    tau, k, bad, steps = 2, 3, (4, 7), 22  # step 6, on which the group is due, is vetoed once
    buffer = StalenessBuffer({"a": tau}, compensation="none")
    mask = FrequencyMask({"a": k, "b": 1}, masking="accumulate")
    batches = quadratic_batches(steps)
    for i in bad:
        batches.insert(i, torch.full((5,), float("nan"), dtype=torch.float64))
    pipeline = StepPipeline([buffer, mask, StepGate()], announce=False)
    trace = fit(Quadratic(SGD), batches, [pipeline])
    form, theta = quadratic_form(), torch.tensor([1.0, -2.0, 0.5, -1.0, 1.5], dtype=torch.float64)
    gradients, since = [], []
    for t, b in enumerate(quadratic_batches(steps)):
        gradients.append(form @ theta - b)
        new = theta - 0.05 * gradients[t]
        new[:3] = theta[:3]
        if t >= tau:
            since.append(gradients[t - tau][:3])
            if t % k == 0:
                new[:3] = theta[:3] - 0.05 * torch.stack(since).mean(0)
                since = []
        theta = new
    found = torch.cat([trace.states[-1]["a"], trace.states[-1]["b"]])
    assert (pipeline.t, pipeline.vetoed) == (steps, len(bad))
    assert (found - theta).abs().max() <= 1e-12
