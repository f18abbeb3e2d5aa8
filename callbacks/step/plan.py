"""StepPlan: what every parameter group may do in one step, decided before the forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace


@dataclass
class GroupPlan:
    """Holds what one parameter group may do in a step.

    Attributes:
        graph: whether the forward pass through the group's modules builds a graph.
        head_detached: whether a head on the group's output reads that output detached.
        idle: whether nothing of the group moves: no gradient is applied, normalisation statistics are restored.
        absent: whether no row of the global batch concerns the group (known once the batch has been read).
        delay: the age, in committed steps, of the gradient that the group is to apply; 0 is fresh.
        factor: the constant factor on what the group applies because of that age.
        reason: the reason why the group does not apply a fresh gradient in full; empty where it does.
    """

    graph: bool = True
    head_detached: bool = False
    idle: bool = False
    absent: bool = False
    delay: int = 0
    factor: float = 1.0
    reason: str = ""


@dataclass
class StepPlan:
    """Holds the plans of all groups of one step; a group that no stage has mentioned updates freely.

    Stages write it in `before_forward`; the module's forward pass and the later stages read it, and the pipeline holds
    every group that is planned idle.

    Attributes:
        groups: the plans by group, as far as any stage has asked for them.
        part: the name of what is trained on in this step (the losses that count), where that changes over a run: what
            one part has reached may be out of reach in the next.
    """

    groups: dict[str, GroupPlan] = field(default_factory=dict)
    part: str = ""

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
        """Return the groups of which nothing moves in this step."""
        return {name for name, plan in self.groups.items() if plan.idle}

    @property
    def absent(self) -> set[str]:
        """Return the groups that no row of the global batch concerns."""
        return {name for name, plan in self.groups.items() if plan.absent}

    @property
    def without_gradient(self) -> set[str]:
        """Return the groups that rightly get no gradient in this step."""
        return {name for name, plan in self.groups.items() if plan.idle or plan.absent or not plan.graph}

    @property
    def reasons(self) -> dict[str, str]:
        """Return why groups do not apply a fresh gradient in full, by group; the others are left out."""
        return {name: plan.reason for name, plan in self.groups.items() if plan.reason}

    def copy(self) -> StepPlan:
        """Return an independent copy."""
        return StepPlan({name: replace(plan) for name, plan in self.groups.items()}, self.part)
