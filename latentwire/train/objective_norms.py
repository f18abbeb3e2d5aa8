"""How hard each objective pulls: the norm of its gradient, every n steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import Count
from callbacks.step.context import StepContext
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage

NORM = "objective_norm/"


class ObjectiveNorms(Stage):
    """Logs the norm of each term's gradient, `objective_norm/<objective>`, and of that by group.

    A term is weight * loss, as in `share/<objective>`: a share of the loss says who is large, the norm says who moves
    the weights (GradNorm, Chen et al., ICML 2018, measures the same of a shared layer). Logged are the first step and
    then every `every`-th committed step, by one further backward pass per objective before the step's own; by group the
    names are `objective_norm/<objective>/<group>`, of groups that the term reaches. Gradients of the step are not
    touched and no random number is drawn: weights are the same bit by bit with it and without it. It has no state.

    Limits: with several ranks it is the mean of the ranks' norms, not the norm of their mean. Under mixed precision
    with a scaled loss small gradients can be lost that the step itself keeps.

    Args:
        every: the number of committed steps between two logged steps.

    Raises:
        UserError: a batch in parts, of which no term has a graph as a whole.
    """

    name = "objective_norms"
    phase = Phase.MEASURE

    def __init__(self, every: Count = 50):
        self.every = every

    def due(self, t: int) -> bool:
        """Tell whether step t, counted from 0 in committed steps, is measured."""
        return t == 0 or (t + 1) % self.every == 0

    def measure(
        self, terms: Mapping[str, Tensor], groups: Mapping[str, Sequence[Tensor]], parts: int
    ) -> dict[str, Tensor]:
        """Return norms by name, 0-d tensors; the graph is kept.

        Args:
            terms: terms of the loss by objective, () each; those without a gradient are left out.
            groups: parameters by group.
            parts: number of parts that the batch is read in.
        """
        if parts > 1:
            found, expected = f"{parts} parts of a batch, each with a backward pass of its own", "1"
            raise UserError("callbacks.objective_norms with loader.accumulate", found, expected, "set callbacks=wire")
        found_norms: dict[str, Tensor] = {}
        params = [p for group in groups.values() for p in group]
        for name, term in terms.items():
            if not term.requires_grad:
                continue
            left = iter(torch.autograd.grad(term, params, retain_graph=True, allow_unused=True))
            squares = {}
            for group, own in groups.items():
                there = [g for g in (next(left) for _ in own) if g is not None]
                if there:
                    squares[group] = torch.stack([g.float().pow(2).sum().to(term.device) for g in there]).sum()
            found_norms[f"{NORM}{name}"] = torch.stack([*squares.values(), term.new_zeros(())]).sum().sqrt()
            found_norms |= {f"{NORM}{name}/{group}": square.sqrt() for group, square in squares.items()}
        return found_norms

    def on_commit(self, ctx: StepContext) -> None:
        found = {k: v for k, v in ctx.host.items() if k.startswith(NORM)}
        if found:
            ctx.report = True
            ctx.metrics.update(found)
