"""The one place that says in which order the stages of a step run."""

from __future__ import annotations

from collections.abc import Sequence

from callbacks.errors import UserError

# forward, losses and one backward come before; the optimiser's step and the commit after.
ORDER: tuple[str, ...] = (
    "rhythm",  # decides before the forward pass; reads norms and losses at the commit
    "diagnostics",  # sees the fresh, unmodified gradients
    "modulation",  # methods that change gradients
    "staleness",  # push, pop, compensate
    "frequency",  # mask or scale what is not due
    "clip",  # per group, on what will be applied
    "gate",  # the verdict: the step's one host read
    "lr",  # at the commit: schedulers
    "probe",  # after the commit
)


def check_order(names: Sequence[str], where: str = "StepPipeline(stages)") -> None:
    """Refuses stages that are unknown, repeated, or out of `ORDER`.

    Raises:
        UserError: naming the first two stages that stand the wrong way round, and the declared order.
    """
    for name in names:
        if name not in ORDER:
            raise UserError(
                where, f"stage '{name}'", f"one of {', '.join(ORDER)}", "declare the stage in callbacks/step/phases.py"
            )
    for before, after in zip(names, list(names)[1:], strict=False):
        if ORDER.index(before) >= ORDER.index(after):
            raise UserError(
                where,
                f"'{before}' before '{after}'" if before != after else f"'{before}' twice",
                " → ".join(ORDER),
                "list the stages in this order (leave out those not needed)",
            )


def describe(names: Sequence[str]) -> str:
    """The start-up line: the whole step in order."""
    before = [n for n in names if n == "rhythm"]
    first = [n for n in names if n in ORDER[1:7]]
    last = [n for n in names if n in ORDER[7:]]
    return " → ".join([*before, "forward", "losses", "backward", "unscaled", *first, "optimiser", "commit", *last])
