"""Specification A2.6: c(tau) = 1 / (1 + lambda tau) on the gradient under SGD, on the learning rate under Adam."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from foreign_toys import Foreign, Quadratic, foreign_batches, quadratic_batches, quadratic_form
from toys import ADAMW, MOMENTUM, SGD, asgml, fit
from toys import train as run_asgml

from callbacks.errors import UserError
from callbacks.stages.probe import ProbeEMA
from callbacks.stages.staleness import StalenessBuffer, compensation, delay_compensate_
from callbacks.step.groups import LINEAR, SCALE_INVARIANT, acts_on
from callbacks.step.pipeline import StepPipeline


@pytest.mark.parametrize(
    ("tau", "lambda_comp", "expected"),
    [(0, 0.1, 1.0), (2, 0.1, 0.8333333), (4, 0.1, 0.7142857), (3, 0.0, 1.0), (1, 1.0, 0.5)],
)
def test_the_formula(tau, lambda_comp, expected):
    assert compensation(tau, lambda_comp) == pytest.approx(expected, abs=1e-7)


def test_a_negative_lambda_is_refused():
    with pytest.raises(UserError, match="lambda_comp"):
        StalenessBuffer({"a": 1}, lambda_comp=-0.1)
    with pytest.raises(UserError, match="lambda_comp"):
        asgml("staleness", lambda_comp=-0.1)


@pytest.mark.parametrize(
    ("options", "scale"),
    [({}, 0.8333333), ({"lambda_comp": 0.5}, 0.5), ({"compensation": "none"}, 1.0), ({"lambda_comp": 0.0}, 1.0)],
)
def test_the_factor_is_for_this_group_and_this_step_only(options, scale):
    run = run_asgml(asgml("staleness", tau=2, **options))
    assert run.scales("audio")[2:] == pytest.approx([scale] * 6)
    assert run.scales("visual") == [1.0] * 8
    assert all(g["lr"] == 0.05 for g in run.trainer.optimizers[0].param_groups)


def test_delay_compensated_is_dc_asgd():
    """g + mu g*g*(theta_t - theta_(t-tau)), against the recursion written out."""
    mu, tau, steps = 0.3, 2, 25
    buffer = StalenessBuffer({"a": tau}, compensation="delay_compensated", mu=mu)
    trace = fit(Quadratic(SGD), quadratic_batches(steps), [StepPipeline([buffer], announce=False)])
    form = quadratic_form()
    theta = torch.tensor([1.0, -2.0, 0.5, -1.0, 1.5], dtype=torch.float64)
    past: list[torch.Tensor] = []
    gradients: list[torch.Tensor] = []
    size = 0.0
    for t, b in enumerate(quadratic_batches(steps)):
        past.append(theta)
        gradients.append(form @ theta - b)
        new = theta - 0.05 * gradients[t]
        new[:3] = theta[:3]
        if t >= tau:
            g, drift = gradients[t - tau][:3], (theta - past[t - tau])[:3]
            new[:3] = theta[:3] - 0.05 * (g + mu * g * g * drift)
            size = max(size, float((mu * g * g * drift).abs().max()))
        theta = new
        assert (torch.cat([trace.states[t]["a"], trace.states[t]["b"]]) - theta).abs().max() <= 1e-12
    assert size > 0.01  # the correction is not a rounding error


def test_delay_compensation_handles_several_tensors_and_is_exact_without_drift():
    g = [torch.tensor([2.0, -1.0]), torch.tensor([[3.0]])]
    now = [torch.tensor([1.0, 1.0]), torch.tensor([[0.5]])]
    then = [torch.tensor([0.5, 1.0]), torch.tensor([[1.5]])]
    delay_compensate_(g, now, then, mu=0.1)
    torch.testing.assert_close(g[0], torch.tensor([2.0 + 0.1 * 4 * 0.5, -1.0]))
    torch.testing.assert_close(g[1], torch.tensor([[3.0 - 0.1 * 9 * 1.0]]))


def test_a_constant_factor_on_the_gradient_cancels_in_adam_and_the_user_is_told_once():
    """It cancels in m / sqrt(v) up to eps. `auto` takes the learning rate."""
    batches, adam = quadratic_batches(15), partial(torch.optim.AdamW, lr=0.01, weight_decay=0.0)

    def run(stage):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trace = fit(Quadratic(adam), batches, [StepPipeline([stage], announce=False)])
        return trace.states[-1]["a"], sum("has no effect" in str(w.message) for w in caught)

    plain, silent = run(StalenessBuffer({"a": 2}, compensation="none"))
    gradient, told = run(StalenessBuffer({"a": 2}, lambda_comp=2.0, through="gradient"))
    rate, quiet = run(StalenessBuffer({"a": 2}, lambda_comp=2.0, through="lr"))
    chosen, quiet_too = run(StalenessBuffer({"a": 2}, lambda_comp=2.0))
    assert (silent, told, quiet, quiet_too) == (0, 1, 0, 0)
    assert (plain - rate).abs().max() > 1e-3
    assert (plain - gradient).abs().max() <= 1e-6
    assert torch.equal(rate, chosen)


@pytest.mark.parametrize("optimizer", [SGD, MOMENTUM], ids=["sgd", "momentum"])
def test_auto_is_the_gradient_under_sgd(optimizer):
    batches = quadratic_batches(15)
    gradient, chosen, rate = (
        fit(
            Quadratic(optimizer),
            batches,
            [StepPipeline([StalenessBuffer({"a": 2}, lambda_comp=2.0, through=t)], announce=False)],
        ).states[-1]["a"]
        for t in ("gradient", "auto", "lr")
    )
    assert torch.equal(gradient, chosen)
    assert bool((gradient - rate).abs().max() > 1e-4) == (optimizer is MOMENTUM)  # whose weight decay `lr` scales too


@pytest.mark.parametrize(("base", "place"), [(torch.optim.SGD, "gradient"), (torch.optim.Adam, "lr")])
def test_auto_knows_the_optimisers_that_are_derived_from_others(base, place):
    class Mine(base):
        pass

    p = torch.nn.Parameter(torch.ones(1))
    assert acts_on(Mine([p]), "auto") == place


def test_auto_is_the_learning_rate_under_an_optimiser_that_nobody_knows():
    class Sign(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

    optimizer = Sign([torch.nn.Parameter(torch.ones(1))])
    assert [acts_on(optimizer, t) for t in ("auto", "lr", "gradient")] == ["lr", "lr", "gradient"]


def test_under_momentum_a_constant_factor_is_the_same_on_gradient_and_learning_rate():
    momentum, batches = partial(torch.optim.SGD, lr=0.05, momentum=0.9), quadratic_batches(25)
    ends = [
        fit(
            Quadratic(momentum),
            batches,
            [StepPipeline([StalenessBuffer({"a": 1}, lambda_comp=1.0, through=t)], announce=False)],
        ).states[-1]["a"]
        for t in ("lr", "gradient")
    ]
    assert (ends[0] - ends[1]).abs().max() <= 1e-12


def test_a_factor_on_the_gradient_does_act_under_sgd():
    batches = quadratic_batches(15)
    ends = [
        fit(
            Quadratic(SGD),
            batches,
            [StepPipeline([StalenessBuffer({"a": 2}, lambda_comp=2.0, through=t)], announce=False)],
        )
        for t in ("lr", "gradient")
    ]
    assert (ends[0].states[-1]["a"] - ends[1].states[-1]["a"]).abs().max() <= 1e-12  # plain SGD: the same thing


@pytest.mark.parametrize(
    "config",
    [
        asgml("staleness", tau=2, through="gradient"),
        asgml("staleness", tau=2, through="gradient", control="scale_only"),
        asgml("frequency", k=2, through="gradient", control="lr_matched"),
    ],
    ids=["staleness", "scale_only", "lr_matched"],
)
def test_every_constant_factor_on_gradients_warns_under_adam(config):
    with pytest.warns(UserWarning, match="has no effect"):
        run_asgml(config, optimizer=ADAMW)


def test_a_boost_through_the_gradient_warns_under_adam():
    with pytest.warns(UserWarning, match="has no effect"):
        run_asgml(asgml("boost", boost={"through": "gradient"}), optimizer=ADAMW, probe=ProbeEMA(3, holdout="half"))


@pytest.mark.parametrize(
    "config",
    [asgml("frequency", k=2), asgml("staleness", tau=2), asgml("frequency", k=2, control="lr_matched")],
    ids=["soft", "staleness", "lr_matched"],
)
def test_by_default_nothing_is_to_be_warned_of_under_adam(config):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*has no effect.*")
        run_asgml(config, optimizer=ADAMW)


@pytest.mark.parametrize("optimizer", LINEAR, ids=lambda o: o.__name__)
def test_the_list_of_linear_optimisers_is_right(optimizer):
    """Three times the gradient, three times the way, from step to step."""
    steps = []
    for factor in (1.0, 3.0):
        p = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
        o = optimizer([p], lambd=0.0) if optimizer is torch.optim.ASGD else optimizer([p], momentum=0.9)
        for i in range(5):
            p.grad = factor * (i + 1) * torch.linspace(-3, 5, 4, dtype=torch.float64)
            o.step()
        steps.append(p.detach() / factor)
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("optimizer", SCALE_INVARIANT, ids=lambda o: o.__name__)
def test_the_list_of_scale_invariant_optimisers_is_right(optimizer):
    """100 times the gradient, the same steps (up to eps; RAdam's first five, which are not adaptive, left out)."""
    steps = []
    for factor in (1.0, 100.0):
        p = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.float64))
        o = optimizer([p])
        for i in range(9):
            if i == 6:
                start = p.detach().clone()
            p.grad = factor * (i + 1) * torch.linspace(-3, 5, 16, dtype=torch.float64).view(4, 4)
            o.step()
        steps.append(p.detach() - start)
    torch.testing.assert_close(steps[0], steps[1], rtol=2e-3, atol=1e-9)


def test_a_learning_rate_scheduler_and_the_scaling_do_not_disturb_each_other():
    """The factor is for one step: the scheduler multiplies the base rate and not the scaled one."""

    class Scheduled(Foreign):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)}

    module = Scheduled(automatic=True)
    fit(
        module,
        foreign_batches(4),
        [StepPipeline([StalenessBuffer({"a": 1}, lambda_comp=3.0)], announce=False)],
        epochs=2,
    )
    assert [g["lr"] for g in module.optimizers().param_groups] == [0.05 * 0.25] * 3
