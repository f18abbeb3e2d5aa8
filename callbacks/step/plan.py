"""StepPlan: what every parameter group may do in one step, decided before the forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace


@dataclass
class GroupPlan:
    """What one parameter group may do in a step.

    Attributes:
        graph: whether the forward pass through its modules builds a graph.
        head_detached: whether a head on its output reads that output detached.
        idle: whether nothing of it moves: no gradient is applied, normalisation statistics go back.
        absent: whether no row of the global batch concerns it (known once the batch has been read).
        delay: the age, in committed steps, of the gradient that it applies; 0 is fresh.
        reason: why it does not update with a fresh gradient; empty where it does.
    """

    graph: bool = True
    head_detached: bool = False
    idle: bool = False
    absent: bool = False
    delay: int = 0
    reason: str = ""


@dataclass
class StepPlan:
    """The plans of all groups of one step; a group that no stage has spoken about updates freely.

    Stages write it in `before_forward`, the module's forward pass and the later stages read it, and the pipeline holds
    every group that is planned idle.
    """

    groups: dict[str, GroupPlan] = field(default_factory=dict)

    def __getitem__(self, group: str) -> GroupPlan:
        return self.groups.setdefault(group, GroupPlan())

    def hold(self, group: str, reason: str, graph: bool = True) -> None:
        """Plan that nothing of a group moves; with `graph=False` its forward pass need not build a graph either."""
        plan = self[group]
        plan.idle, plan.reason = True, reason
        plan.graph = plan.graph and graph

    def mark_absent(self, groups: Iterable[str]) -> None:
        """Note the groups that no row of the global batch concerns."""
        for group in groups:
            self[group].absent = True

    @property
    def idle(self) -> set[str]:
        """The groups of which nothing moves in this step."""
        return {name for name, plan in self.groups.items() if plan.idle}

    @property
    def absent(self) -> set[str]:
        """The groups that no row of the global batch concerns."""
        return {name for name, plan in self.groups.items() if plan.absent}

    @property
    def without_gradient(self) -> set[str]:
        """The groups that rightly get no gradient in this step."""
        return {name for name, plan in self.groups.items() if plan.idle or plan.absent or not plan.graph}

    def copy(self) -> StepPlan:
        """Return an independent copy."""
        return StepPlan({name: replace(plan) for name, plan in self.groups.items()})
