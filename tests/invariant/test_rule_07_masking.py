"""Specification A2.7: what each masking applies on the steps between two updates."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from foreign_toys import Quadratic, Textbook, quadratic_batches, quadratic_form
from toys import OPTIMIZERS, SGD, Capture, asgml, differences, fit, same, toy_batches, toy_spec, train

from asgml.methods.joint import Joint
from asgml.methods.uniform import Uniform
from asgml.model.net import FUSION
from callbacks.errors import UserError
from callbacks.run.history import ACTIONS, COUNTERS
from callbacks.stages.frequency import FrequencyMask
from callbacks.step.pipeline import StepPipeline

STEPS = 24


def unrolled(kind: str, masking: str, k: int) -> list[torch.Tensor]:
    """Return theta after each step: group a is masked where t is no multiple of k, group b updates in every step."""
    form, theta = quadratic_form(), torch.tensor([1.0, -2.0, 0.5, -1.0, 1.5], dtype=torch.float64)
    textbooks, since, out = {"a": Textbook(kind), "b": Textbook(kind)}, [], []
    for t, b in enumerate(quadratic_batches(STEPS)):
        gradient = form @ theta - b
        g, first = gradient[:3], theta[:3]
        since.append(g)
        if t % k == 0:
            applied = torch.stack(since).mean(0) if masking == "accumulate" else g
            first, since = textbooks["a"].step(first, applied), []
        elif masking == "soft":
            first = textbooks["a"].step(first, 0.1 * g)
        theta = torch.cat([first, textbooks["b"].step(theta[3:], gradient[3:])])
        out.append(theta)
    return out


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("masking", ["soft", "hard", "accumulate"])
def test_soft_hard_and_accumulate_match_the_recursion_written_out(masking, kind):
    mask = FrequencyMask({"a": 3, "b": 1}, masking=masking)
    trace = fit(Quadratic(OPTIMIZERS[kind]), quadratic_batches(STEPS), [StepPipeline([mask], announce=False)])
    for t, expected in enumerate(unrolled(kind, masking, 3)):
        found = torch.cat([trace.states[t]["a"], trace.states[t]["b"]])
        assert (expected - found).abs().max() <= 1e-12, f"step {t}"


class Pulses(Quadratic):
    """Has the gradient that its batch says, whatever the weights are."""

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(batch @ torch.cat([self.a, self.b]))
        optimizer.step()


def response(step: int, momentum: float, mask: FrequencyMask, steps: int = 6, lr: float = 0.05) -> float:
    """Return the total movement of group a that a unit gradient in one step causes, what is still to come included."""
    batches = torch.zeros(steps, 5, dtype=torch.float64)
    batches[step, 0] = 1.0
    module = Pulses(partial(torch.optim.SGD, lr=lr, momentum=momentum))
    start = module.a.detach().clone()
    fit(module, list(batches), [StepPipeline([mask], announce=False)])
    optimizer = module.optimizers().optimizer
    velocity = optimizer.state[module.a].get("momentum_buffer") if momentum else None
    coasting = 0.0 if velocity is None else float(velocity[0]) * momentum / (1 - momentum)
    return float((start - module.a.detach())[0]) / lr + coasting


@pytest.mark.parametrize("soft_scale", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("k", [2, 3])
def test_a_masked_gradient_moves_soft_scale_of_what_a_due_one_moves_whatever_the_momentum(momentum, soft_scale, k):
    """On the learning rate the factor would leave 0.917 of it at momentum 0.9 and k 2: momentum applies it later."""
    due, masked = (response(t, momentum, FrequencyMask({"a": k, "b": 1}, soft_scale=soft_scale)) for t in (0, 1))
    assert due == pytest.approx(1 / (1 - momentum), rel=1e-9)
    assert masked / due == pytest.approx(soft_scale, abs=1e-6)


def test_soft_scale_0_still_coasts_on_its_momentum_and_hard_freezes_it():
    masked = {}
    for masking in ("soft", "hard"):
        mask = FrequencyMask({"a": 2, "b": 1}, masking=masking, soft_scale=0.0)
        trace = fit(Quadratic(OPTIMIZERS["momentum"]), quadratic_batches(2), [StepPipeline([mask], announce=False)])
        masked[masking] = not torch.equal(trace.states[0]["a"], trace.states[1]["a"])
    assert masked == {"soft": True, "hard": False}


def test_accumulate_applies_the_mean_since_the_last_update_over_the_batches_that_had_the_modality():
    spec, capture = toy_spec(), Capture()
    config = asgml("frequency", k=4, masking="accumulate")
    batches = toy_batches(9, spec, missing={2: ["audio"]})
    run = train(config, batches, optimizer=SGD, extra=[capture])
    names = [n for n, _ in run.module.named_parameters() if n.startswith("net.encoders.audio")]
    states = [run.trace.start, *run.trace.states]
    for t, since in {0: [0], 4: [1, 3, 4], 8: [5, 6, 7, 8]}.items():
        for i, name in enumerate(names):
            mean = torch.stack([capture.gradients[s]["audio"][i] for s in since]).mean(0)
            torch.testing.assert_close(states[t + 1][name] - states[t][name], -0.05 * mean, rtol=1e-9, atol=1e-14)


class Reference:
    """Differentiates the parts of the same graph before the run's own backward pass."""

    def __init__(self) -> None:
        self.fused: list[dict[str, list[torch.Tensor]]] = []
        self.backwards = 0

    def install(self, module, pipeline) -> None:
        backward = module.manual_backward

        def spy(total, *args, **kwargs):
            self.backwards += 1
            losses = module.step.losses
            encoders = {m: list(module.net.encoders[m].parameters()) for m in module.modalities}
            grad = torch.autograd.grad
            fused = {m: grad(losses[FUSION], p, retain_graph=True) for m, p in encoders.items()}
            self.fused.append({m: list(g) for m, g in fused.items()})
            backward(total, *args, **kwargs)

        module.manual_backward = spy


@pytest.mark.parametrize("gamma", [1.0, 4.0])
def test_fusion_preserving_leaves_exactly_the_fusion_path(gamma):
    """On its idle steps an encoder gets the gradient of the loss without its unimodal term, to the last bit."""
    reference, capture = Reference(), Capture()
    config = asgml("frequency", k=3, masking="fusion_preserving", gamma=gamma)
    run = train(
        config,
        methods={"uniform": Uniform(gamma)},
        extra=[capture],
        before=reference.install,
        module_options={"cosine_every": 2},
    )
    assert reference.backwards == 8  # one backward per step
    actions = run.actions("audio")
    assert actions == ["update", "fusion", "fusion"] * 2 + ["update", "fusion"]
    for t, action in enumerate(actions):
        found, fused = capture.gradients[t]["audio"], reference.fused[t]["audio"]
        equal = all(torch.equal(f, g) for f, g in zip(found, fused, strict=True))
        assert equal == (action == "fusion"), f"step {t}"
        assert not all(
            torch.equal(f, g) for f, g in zip(capture.gradients[t]["visual"], reference.fused[t]["visual"], strict=True)
        )


def test_fusion_preserving_still_trains_the_head_and_logs_the_same_loss():
    """Masking concerns the encoder's gradient: its head learns, and the logged loss keeps its definition."""
    spec = toy_spec()
    batches = toy_batches(2, spec)
    seen = []

    class Losses(Capture):
        def after_commit(self, ctx) -> None:
            seen.append(ctx.metrics["train/loss"])

    ends = {}
    for masking in ("fusion_preserving", "hard", "soft", "accumulate"):
        ends[masking] = train(asgml("frequency", k=2, masking=masking), batches, extra=[Losses()])
    sync = train(asgml(), batches, extra=[Losses()])
    assert len(seen) == 10
    assert len({round(v, 9) for v in seen[1::2]}) == 1  # step 1, masked or not: same weights, same loss
    for masking, run in ends.items():
        first, last = run.trace.states[0], run.trace.states[1]
        assert differences(first["net.heads.audio.weight"], last["net.heads.audio.weight"]), masking
        assert same(last, sync.final, "net.heads"), masking
        assert same(last, sync.final, "net.fusion"), masking


def test_fusion_preserving_is_refused_where_no_unimodal_loss_reaches_the_encoders():
    with pytest.raises(UserError, match=r"asgml\.masking"):
        train(asgml("frequency", k=2, masking="fusion_preserving"), methods={"joint": Joint()})


def test_soft_is_the_default_at_a_tenth():
    run = train(asgml("frequency", k=2))
    assert run.actions("audio") == ["update", "soft"] * 4
    assert run.scales("audio") == [1.0, 0.1] * 4
    assert run.pipeline.counters()["applied"] == {"audio": 8, "visual": 8}


EVERYTHING = {  # of 9 steps: k = 3, and audio is missing in steps 2 and 3
    "soft": {"updates": 2, "soft": 5, "fusion": 0, "held": 0, "missing": 2, "applied": 7},
    "fusion_preserving": {"updates": 2, "soft": 0, "fusion": 5, "held": 0, "missing": 2, "applied": 7},
    "hard": {"updates": 2, "soft": 0, "fusion": 0, "held": 6, "missing": 1, "applied": 2},
    "accumulate": {"updates": 2, "soft": 0, "fusion": 0, "held": 6, "missing": 1, "applied": 2},
}


@pytest.mark.parametrize("masking", EVERYTHING)
def test_counters_tell_update_soft_fusion_and_hold_apart(masking):
    """A group that is held by `hard` or `accumulate` is held, whether its modality was there or not."""
    batches = toy_batches(9, toy_spec(), missing={2: ["audio"], 3: ["audio"]})
    run = train(asgml("frequency", k=3, masking=masking), batches)
    counters = run.pipeline.counters()
    assert {name: counters[name]["audio"] for name in EVERYTHING[masking]} == EVERYTHING[masking]
    assert sum(counters[name]["visual"] for name in COUNTERS) == counters["updates"]["visual"] == 9
    alone = run.module.rhythm.mask.counters()
    assert {k: v for k, v in counters.items() if k in alone} == alone


@pytest.mark.parametrize("mode", ["sync", "staleness", "frequency", "adaptive"])
def test_counters_add_up_the_timeline_in_every_mode(mode):
    adaptive = {"signal": "speed", "update_every": 2, "tau_base": 1}
    batches = toy_batches(14, toy_spec(), missing={5: ["audio"]}, poison=[4])
    run = train(asgml(mode, adaptive=adaptive), batches)
    counters = run.pipeline.counters()
    for m in ("audio", "visual"):
        actions = [ACTIONS[a].counter for a in run.actions(m)]
        assert {name: counters[name][m] for name in COUNTERS} == {name: actions.count(name) for name in COUNTERS}
        assert sum(counters[name][m] for name in COUNTERS) == counters["committed"] == 13
