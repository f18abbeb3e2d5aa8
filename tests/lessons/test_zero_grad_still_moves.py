"""After `grad.zero_()`, momentum and weight decay go on moving a held encoder. Nothing means `grad = None`."""

from __future__ import annotations

import pytest
import torch
from foreign_toys import Foreign, foreign_batches
from toys import ADAMW, MOMENTUM, differences, fit

from callbacks.stages.frequency import FrequencyMask
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage


class Zeroed(Stage):
    """Makes the mistake: fills group a's gradient with zeros from the third step on."""

    name = "frequency"
    phase = Phase.MASK

    def on_gradients(self, ctx) -> None:
        if ctx.t >= 2:
            for g in ctx.groups["a"].gradients():
                g.zero_()


def tower(state: dict) -> dict:
    return {k: v for k, v in state.items() if k.startswith("a.") and "num_batches" not in k and "running" not in k}


@pytest.mark.parametrize("optimizer", [MOMENTUM, ADAMW], ids=["momentum", "adamw"])
def test_zeros_move_the_weights_and_a_held_group_does_not(optimizer):
    batches = foreign_batches(4)
    wrong = fit(Foreign(True, optimizer), batches, [Zeroed()]).states
    assert differences(tower(wrong[1]), tower(wrong[2]))
    mask = FrequencyMask({"a": 9, "b": 1}, masking="hard", phases={"a": 1, "b": 0})
    right = fit(Foreign(True, optimizer), batches, [mask]).states
    assert not differences(tower(right[1]), tower(right[2]))
    assert not differences(tower(right[1]), tower(right[3]))


def test_a_held_group_has_no_gradient_at_all():
    seen = []

    class Look(torch.optim.SGD):
        def step(self, closure=None):
            loss = closure() if closure is not None else None
            seen.append([p.grad is None for p in self.param_groups[0]["params"]])
            return super().step() if loss is None else (super().step(), loss)[1]

    mask = FrequencyMask({"a": 2, "b": 1}, masking="hard")
    fit(Foreign(True, lambda groups: Look(groups, lr=0.1)), foreign_batches(4), [mask])
    assert [all(row) for row in seen] == [False, True, False, True]
