"""Two linear paths in float64, trained by the suite's stages: the recursion of asgml.theory, and `signal: theory`."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from toys import asgml, fit

from asgml.rhythm.stages import rhythm_stages
from asgml.theory.mechanism import Mechanism
from asgml.theory.paths import Paths, redundant
from asgml.theory.simulation import Adam, Recursion, half_times
from asgml.theory.together import leave_together
from callbacks.errors import UserError
from callbacks.stages.gate import StepGate
from callbacks.step.pipeline import StepPipeline
from callbacks.step.plan import StepPlan

STEPS = 16
PLAIN = partial(torch.optim.SGD, lr=0.05)
HEAVY = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.02)


class TwoPaths(L.LightningModule):
    """Trains `yhat = a_A b_A x_A + a_B b_B x_B` and, with weight gamma, `a_m v_m x_m`, on the exact expectations.

    The groups are those of the suite: a and b in turn (an encoder each) and `fusion` (heads b and v); with `whole`, a
    path's heads are in its own group.
    """

    def __init__(self, paths: Paths, optimizer: Any, gamma: float, whole: bool, layers: int):
        super().__init__()
        self.paths, self.optimizer, self.gamma, self.whole = paths, optimizer, gamma, whole
        start = partial(torch.full, fill_value=paths.start, dtype=torch.float64)
        self.encoders = torch.nn.ParameterList([start((layers - 1,)) for _ in range(2)])
        self.heads = torch.nn.ParameterList([start((2,)) for _ in range(2)])
        self.automatic_optimization = False

    def training_step(self, batch, index):
        s, c = torch.tensor(self.paths.strengths), torch.tensor(self.paths.inputs)
        optimizer: Any = self.optimizers()
        plan: StepPlan = self.trainer.callbacks[0].ctx.plan  # type: ignore[attr-defined]
        features = [e.prod() for e in self.encoders]
        w = torch.stack([f * h[0] for f, h in zip(features, self.heads, strict=True)])
        loss = 0.5 * w @ c @ w - s @ w
        for i, (name, f) in enumerate(zip(("audio", "visual"), features, strict=True)):
            own = (f.detach() if plan[name].head_detached else f) * self.heads[i][1]
            loss = loss + self.gamma * (0.5 * c[i, i] * own**2 - s[i] * own)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self):
        own = [[e, h] if self.whole else [e] for e, h in zip(self.encoders, self.heads, strict=True)]
        groups = [{"params": p, "name": m} for m, p in zip(("audio", "visual"), own, strict=True)]
        if not self.whole:
            groups.append({"params": list(self.heads), "name": "fusion"})
        return self.optimizer(groups)


WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sync": (asgml(), {}),
    "tau 1": (asgml("staleness", tau=1, compensation="none"), {"tau": 1}),
    "tau 3, compensated": (asgml("staleness", tau=3), {"tau": 3, "factor": 1 / 1.3}),
    "hard": (asgml("frequency", k=3, masking="hard"), {"every": 3}),
    "soft": (asgml("frequency", k=2), {"every": 2, "masking": "soft"}),
    "fusion_preserving": (
        asgml("frequency", k=2, masking="fusion_preserving"),
        {"every": 2, "masking": "fusion_preserving"},
    ),
    "lr_matched": (asgml("frequency", k=2, masking="hard", control="lr_matched"), {"factor": 0.5}),
}


@pytest.mark.parametrize("whole", [True, False], ids=["path", "encoder"])
@pytest.mark.parametrize("optimizer", [PLAIN, HEAVY, ADAM], ids=["plain", "momentum", "adam"])
@pytest.mark.parametrize("way", WAYS)
def test_every_step_of_the_suite_is_that_of_the_recursion_to_1e_12(way, optimizer, whole):
    config, changes = WAYS[way]
    layers, gamma = (3, 0.0) if way == "hard" else (2, 0.7)
    paths = redundant((1.6, 1.0), 0.6, start=0.2, layers=layers)
    module = TwoPaths(paths, optimizer, gamma, whole, layers)
    _, stages = rhythm_stages(config, ["audio", "visual"], "audio", None, 0)
    trace = fit(module, [torch.zeros(1)] * STEPS, [StepPipeline.ordered([*stages, StepGate()], announce=False)])
    fixed = {
        "lr": optimizer.keywords["lr"],
        "momentum": optimizer.keywords.get("momentum", 0.0),
        "gamma": gamma,
        "held": "path" if whole else "encoder",
    }
    recursion = Recursion(
        [(paths, (Mechanism(**fixed, **changes), Mechanism(**fixed)))], Adam() if optimizer is ADAM else None
    )
    for t, state in enumerate(trace.states):
        recursion.step()
        found = np.stack([np.concatenate([state[f"encoders.{i}"], state[f"heads.{i}"]]) for i in range(2)])
        assert np.abs(found - recursion.layers[0]).max() < 1e-12, f"step {t}"
    assert np.abs(recursion.layers[0] - 0.2).max() > 0.01  # it has moved


def scheduled(rho: float, optimizer: Any, masking: str = "hard", steps: int = 150) -> tuple[TwoPaths, list, dict]:
    """Train two paths of the suite under `signal: theory`; return module, states and counters."""
    adaptive = {"kind": "frequency", "signal": "theory", "tau_max": 9, "kappa": 10.0, "update_every": 2, "window": 4}
    config = asgml("adaptive", masking=masking, adaptive=adaptive)
    module = TwoPaths(redundant((1.6, 1.0), rho), optimizer, 0.0, False, 2)
    rhythm, stages = rhythm_stages(config, ["audio", "visual"], "audio", None, 0)
    pipeline = StepPipeline.ordered([*stages, StepGate()], announce=False)
    trace = fit(module, [torch.zeros(1)] * steps, [pipeline])
    return module, trace.states, {"interval": dict(rhythm.interval), **pipeline.counters()}


@pytest.mark.parametrize("rho", [0.3, 0.9])
def test_signal_theory_finds_the_interval_at_which_both_leave_together(rho):
    slow = partial(torch.optim.SGD, lr=0.05)
    module, states, counters = scheduled(rho, slow)
    paths = module.paths
    law = float(leave_together(paths, 0.05, "encoder").interval[0])
    assert counters["interval"]["visual"] == 1
    assert abs(counters["interval"]["audio"] - law) < 1
    assert counters["schedule_changes"] == {"audio": 1, "visual": 0}  # decided once, when strengths are measured
    reached = {}
    for i, m in enumerate(("audio", "visual")):
        weights = [float(s[f"encoders.{i}"][0] * s[f"heads.{i}"][0]) for s in states]
        reached[m] = next(t for t, w in enumerate(weights) if w >= 0.5)
    joint = half_times([(paths, [Mechanism(0.05)] * 2)], 900)[0]
    assert max(reached.values()) / min(reached.values()) < 1.4 < joint[1] / joint[0]


def test_signal_theory_is_refused_where_strengths_do_not_count():
    with pytest.raises(UserError, match="under Adam"):
        scheduled(0.6, ADAM, steps=2)
