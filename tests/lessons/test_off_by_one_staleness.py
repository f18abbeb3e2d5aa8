"""A buffer that stores the gradient before it looks for the stale one turns "tau 1" into no delay at all."""

from __future__ import annotations

from itertools import pairwise

import lightning as L
import pytest
import torch
from torch import nn
from toys import fit

from callbacks.stages.staleness import StalenessBuffer
from callbacks.step.pipeline import StepPipeline


class Counter(L.LightningModule):
    """Gives `p` the gradient t + 1 at step t, whatever p is: how far p moved says which gradient it was."""

    def __init__(self, automatic: bool):
        super().__init__()
        self.automatic_optimization = automatic
        self.p = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def training_step(self, batch, batch_idx):
        loss = self.p * (batch_idx + 1)
        if self.automatic_optimization:
            return loss
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return None

    def configure_optimizers(self):
        return torch.optim.SGD([{"params": [self.p], "name": "p"}], lr=1.0)


@pytest.mark.parametrize("automatic", [True, False], ids=["automatic", "manual"])
@pytest.mark.parametrize("tau", [0, 1, 2, 5])
def test_at_step_t_the_gradient_of_step_t_minus_tau_is_applied(tau, automatic):
    buffer = StalenessBuffer({"p": tau}, compensation="none")
    trace = fit(Counter(automatic), [torch.zeros(1)] * 12, [StepPipeline([buffer], announce=False)])
    values = [0.0, *(float(s["p"]) for s in trace.states)]
    applied = [round(before - after) for before, after in pairwise(values)]
    assert applied == [0] * tau + list(range(1, 13 - tau))
