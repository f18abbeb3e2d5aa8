"""Where delayed gradients are stable: the map, the curvature, and the guard that places a run on the map."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from toys import MOMENTUM, SGD, asgml, differences, fit, toy_batches, toy_spec, train

from asgml.report.health import findings
from callbacks.errors import UserError
from callbacks.stages.curvature import curvature_along, sharpest_direction
from callbacks.stages.delay_stability import growth, stability_limit, stable_delay
from callbacks.stages.gate import StepGate
from callbacks.stages.stability_guard import StabilityGuard, heavy_ball
from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.pipeline import StepPipeline
from suite.report.data import RunRecord

CASES = [(beta, tau) for beta in (0.0, 0.5, 0.9) for tau in (0, 1, 2, 4)]


def rates(beta: float, tau: int, nesterov: bool, step_curvature: torch.Tensor, steps: int = 3000) -> torch.Tensor:
    """Return the mean log growth per step of delayed descent on quadratics, one per entry, step by literal step."""
    w = [torch.ones_like(step_curvature)] * (tau + 1)
    v = torch.zeros_like(step_curvature)
    sizes = []
    for _ in range(steps):
        g = step_curvature * w[-1 - tau]
        v = beta * v + g
        w.append(w[-1] - (g + beta * v if nesterov else v))
        del w[0]
        sizes.append(w[-1].abs())
    size = torch.stack(sizes)
    early, late = size[steps // 3 : steps // 2].amax(0), size[-steps // 6 :].amax(0)
    return (late / early).log() / (steps * (1 - 1 / 6) - steps / 3)


@pytest.mark.parametrize(("beta", "tau"), CASES)
@pytest.mark.parametrize("nesterov", [False, True])
def test_delayed_descent_on_a_quadratic_diverges_where_predicted_to_three_digits(beta, tau, nesterov):
    if nesterov and beta == 0:
        pytest.skip("there is no momentum to look ahead with")
    limit = stability_limit(beta, tau, nesterov)
    around = limit * torch.linspace(0.98, 1.02, 41, dtype=torch.float64)
    rate = rates(beta, tau, nesterov, around)
    first = int((rate > 0).nonzero()[0])
    below, above = rate[first - 1], rate[first]
    found = around[first - 1] + (around[first] - around[first - 1]) * (-below / (above - below))
    assert float(found) == pytest.approx(limit, rel=1e-3)


def test_the_map_has_its_closed_forms():
    for tau in range(6):
        assert stability_limit(0.0, tau) == pytest.approx(2 * math.sin(math.pi / (2 * (2 * tau + 1))), rel=1e-6)
    for beta in (0.0, 0.5, 0.9, 0.99):
        assert stability_limit(beta, 0) == pytest.approx(2 * (1 + beta), rel=1e-6)
    assert stability_limit(0.9, 2) == pytest.approx(0.05125, abs=5e-5)
    assert growth(0.0, 0.9, 3) == pytest.approx(1.0)
    assert stable_delay(0.5, 0.0, 4) == 2
    assert stable_delay(3.0, 0.0, 4) is None


def test_curvature_is_the_top_eigenvalue_also_as_adam_sees_it():
    torch.manual_seed(0)
    a = torch.randn(6, 6, dtype=torch.float64)
    hessian = a @ a.T
    w = torch.nn.Parameter(torch.randn(6, dtype=torch.float64))
    loss = lambda: 0.5 * w @ hessian @ w  # noqa: E731
    for scale in (None, torch.rand(6, dtype=torch.float64) + 0.1):
        s = torch.ones(6, dtype=torch.float64) if scale is None else scale
        scales = None if scale is None else [scale]
        direction = sharpest_direction(loss(), [w], 6, scales)
        found = curvature_along(loss(), [w], direction, scales)
        assert float(found) == pytest.approx(float(torch.linalg.eigvalsh(s[:, None] * hessian * s)[-1]), rel=1e-6)
    assert w.grad is None
    assert sharpest_direction(0.0 * w.sum(), [w], 3) is None


class Bowl(L.LightningModule):
    """Has the loss `h / 2 ‖w‖²` whatever the batch, in one group `a`."""

    def __init__(self, h: float, optimizer: Any):
        super().__init__()
        self.h, self.optimizer = h, optimizer
        self.w = torch.nn.Parameter(torch.tensor([1.0, -0.5], dtype=torch.float64))

    def configure_optimizers(self):
        return self.optimizer([{"params": [self.w], "name": "a"}])

    def curvature_loss(self, batch, rows, group):
        return 0.5 * self.h * self.w.square().sum()

    def training_step(self, batch, index):
        return self.curvature_loss(batch, 1, "a")


def guarded(h: float, optimizer: Any, tau: int = 2, steps: int = 60, **options: Any):
    guard = StabilityGuard(**{"first": 5, "confirm": 5, **options})
    stages = [StalenessBuffer({"a": tau}, compensation="none"), StepGate(), guard]
    module = Bowl(h, optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, [torch.zeros(1)] * steps, [StepPipeline(stages, announce=False)])
    return guard, module, [str(w.message) for w in caught if "StabilityGuard" in str(w.message)]


@pytest.mark.parametrize("optimizer", [SGD, MOMENTUM], ids=["plain", "momentum"])
def test_the_guard_measures_the_load_and_its_remedies_are_stable(optimizer):
    lr, beta, _ = heavy_ball({"dampening": 0, "nesterov": False, "momentum": 0.0, **optimizer.keywords})
    limit = stability_limit(beta, 2)
    calm, _, silence = guarded(0.5 * limit / lr, optimizer)
    assert calm.worst["a"]["load"] == pytest.approx(0.5, rel=1e-6)
    assert silence == []
    wild, module, said = guarded(5 * limit / lr, optimizer)
    assert wild.worst["a"]["load"] == pytest.approx(5, rel=1e-6)
    assert wild.confirmed == ["a"]
    assert float(module.w.detach().abs().max()) > 10
    (message,) = said
    assert "5.0 times the limit" in message
    for way in message.partition("Stable here: ")[2].split(", or "):
        given = dict(part.split("=") for part in way.split())
        keywords = dict(optimizer.keywords) | {k: float(v) for k, v in given.items() if k != "delay"}
        _, module, _ = guarded(5 * limit / lr, partial(torch.optim.SGD, **keywords), int(given.get("delay", 2)), 400)
        assert float(module.w.detach().abs().max()) < 1, way


def test_one_reading_above_the_margin_is_not_enough():
    class Calming(Bowl):
        def curvature_loss(self, batch, rows, group):
            return (0.02 if self.trainer.global_step > 6 else 1.0) * super().curvature_loss(batch, rows, group)

    guard = StabilityGuard(first=5, confirm=5)
    stages = [StalenessBuffer({"a": 2}, compensation="none"), StepGate(), guard]
    fit(Calming(80.0, SGD), [torch.zeros(1)] * 30, [StepPipeline(stages, announce=False)])
    assert guard.worst["a"]["load"] > guard.margin
    assert guard.confirmed == []


def test_the_guard_moves_no_bit():
    batches_of = asgml("staleness", tau=2, gamma=1.0)
    plain = train(batches_of, optimizer=MOMENTUM)
    watched = train(batches_of, optimizer=MOMENTUM, extra=[StabilityGuard(first=2, every=2, confirm=1)])
    assert watched.pipeline.stage("stability").worst["audio"]["load"] > 0
    for expected, found in zip(plain.trace.states, watched.trace.states, strict=True):
        assert not differences(expected, found)


def test_the_loss_that_is_measured_is_that_of_training_with_a_graph_to_one_group():
    module = train(asgml(gamma=2.0)).module.train()
    batch = toy_batches(1, toy_spec(), partly={0: ["visual"]})[0]
    step = module.forward_pass(batch, plan=None, measure=False, t=0, epoch=0, epochs=-1, rank=0)
    whole = step.losses["fusion"] + 2.0 * (step.losses["audio"] + step.losses["visual"])
    groups = {m: list(encoder.parameters()) for m, encoder in module.net.encoders.items()}
    for m, other in (("audio", "visual"), ("visual", "audio")):
        loss = module.curvature_loss(batch, 6, m)
        assert float(loss) == pytest.approx(float(whole), rel=1e-12)
        expected = torch.autograd.grad(whole, groups[m], retain_graph=True)
        found = torch.autograd.grad(loss, [*groups[m], *groups[other]], allow_unused=True)
        for a, b in zip(expected, found, strict=False):
            torch.testing.assert_close(a, b)
        assert all(g is None for g in found[len(expected) :])


def test_the_guard_says_where_it_cannot_measure():
    _, _, said = guarded(1.0, partial(torch.optim.RMSprop, lr=0.01))
    assert len(said) == 1
    assert "is off: the map of RMSprop is not known" in said[0]
    with pytest.raises(UserError, match="write margin"):
        StabilityGuard(margin=0.0)


def test_the_report_opens_with_what_the_monitors_found(tmp_path):
    worst = {"audio": {"load": 3.9, "curvature": 24.0, "tau": 2, "t": 80}}
    counters = {
        "committed": 100,
        "vetoed": 2,
        "stability": {"off": None, "confirmed": ["audio"], "worst": worst},
        "schedule_changes": {"audio": 0, "visual": 0},
        "schedule_decisions": 9,
        "applied": {"audio": 0, "visual": 100},
        "held": {"audio": 100, "visual": 0},
    }
    found = dict(findings(RunRecord(tmp_path, {"counters": counters}, {})))
    assert found == {
        "the delay of audio is unstable at this learning rate and momentum": "3.9 times the limit at step 80",
        "the schedule never changed a delay": "9 decisions",
        "the encoder of audio never moved": "held back in all 100 steps",
        "steps in which nothing was applied": "2 of 100",
    }
    assert findings(RunRecord(tmp_path, {"counters": {"committed": 9, "vetoed": 0}}, {})) == []
