"""The phases of an optimiser step: the one place that states what runs when."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

from callbacks.errors import UserError


class Phase(IntEnum):
    """Orders the stages of a step: every hook goes through them in the order of their phases.

    The forward pass, the losses and one backward pass lie between `DECIDE` and `MEASURE`; the optimiser moves between
    `VERDICT` and `COMMIT`. Within a phase the listed order counts.
    """

    DECIDE = 0  # plan what every group may do, before the forward pass
    MEASURE = 1  # measure fresh, unchanged gradients
    MODULATE = 2  # let methods change gradients
    DELAY = 3  # store gradients, replace them by stale ones, compensate
    MASK = 4  # scale or remove what is not due
    CLIP = 5  # bound what will be applied
    VERDICT = 6  # decide whether the optimiser moves; the step's one host read
    COMMIT = 7  # advance schedulers and records, after the optimiser has moved
    AFTER = 8  # act on a committed step


class Phased(Protocol):
    """Describes anything that has the name and the phase of a stage."""

    @property
    def name(self) -> str: ...

    @property
    def phase(self) -> Phase | None: ...


def check_order(stages: Sequence[Phased], where: str = "StepPipeline(stages)") -> None:
    """Refuse stages without a phase, repeated names, and phases in the wrong order.

    Args:
        stages: the stages as they are listed.
        where: the argument that lists them, for the error.

    Raises:
        UserError: it names the stage, or the first two that stand the wrong way round, and the order of the phases.
    """
    order = " → ".join(p.name for p in Phase)
    seen: set[str] = set()
    before: Phased | None = None
    for stage in stages:
        if stage.phase is None:
            raise UserError(
                f"{where}: stage '{stage.name}'",
                "no phase",
                f"one of {order}",
                f"declare it in {type(stage).__name__}: phase = Phase.MODULATE",
            )
        if stage.name in seen:
            raise UserError(
                where,
                f"two stages named '{stage.name}'",
                "one stage of each name",
                f"list '{stage.name}' once, or give your own stage another name",
            )
        seen.add(stage.name)
        if before is not None and before.phase is not None and before.phase > stage.phase:
            raise UserError(
                where,
                f"'{before.name}' ({before.phase.name}) before '{stage.name}' ({stage.phase.name})",
                order,
                f"list '{stage.name}' before '{before.name}'",
            )
        before = stage


def describe(stages: Sequence[Phased]) -> str:
    """Return the start-up line, which lists the whole step in order."""
    line: list[str] = []
    landmarks = {
        Phase.MEASURE: ["forward", "losses", "backward", "unscaled"],
        Phase.COMMIT: ["optimiser", "commit"],
    }
    for phase in Phase:
        line += landmarks.get(phase, [])
        line += [stage.name for stage in stages if stage.phase is phase]
    return " → ".join(line)
