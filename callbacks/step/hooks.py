"""StepHooks: what a stage may do inside an optimiser step."""

from __future__ import annotations

from typing import Any, ClassVar

from callbacks.step.context import StepContext
from callbacks.step.phases import Phase


class StepHooks:
    """Declares the hooks of a stage; every one does nothing unless overridden.

    A stage changes gradients in `on_gradients` and keeps what it changed in its own state *staged* until `on_commit`;
    after `on_veto` its state is what it was before the step.

    Attributes:
        name: the name of the stage, unique in its pipeline: a key of the checkpoint.
        phase: the phase of the step in which the stage runs.
    """

    name: str = "stage"
    phase: ClassVar[Phase | None] = None

    @property
    def acts(self) -> bool:
        """Return whether the stage does anything; a pipeline leaves the others out (say, clipping without a bound)."""
        return True

    def prepare(self, ctx: StepContext) -> None:
        """Set up for a fit, once groups and device are known; a loaded state is there already, on the CPU."""

    def before_forward(self, ctx: StepContext) -> None:
        """Plan the step in `ctx.plan`, before the forward pass of a batch."""

    def on_gradients(self, ctx: StepContext) -> None:
        """Change gradients after backward; they are unscaled and reduced over ranks."""

    def decide(self, ctx: StepContext) -> str | None:
        """Return a reason to veto the step, or None."""
        return None

    def on_commit(self, ctx: StepContext) -> None:
        """Commit what was staged, after the optimiser has moved; `ctx.t` still counts the steps before this one."""

    def on_veto(self, ctx: StepContext) -> None:
        """Drop what was staged, because nothing was applied."""

    def after_commit(self, ctx: StepContext) -> None:
        """Act after all stages have committed and `ctx.t` has advanced."""

    def end_epoch(self, ctx: StepContext) -> None:
        """Act at the end of a training epoch, before checkpoints are written."""

    def drain(self) -> list[tuple[int, str, str, int, float]]:
        """Return the rows `(t, group, action, age, scale)` for the run's timeline since the last call."""
        return []

    def counters(self) -> dict[str, Any]:
        """Return the counts that belong in the run's result, by name."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return what the stage must keep over a restart, in plain dicts, lists, numbers and tensors."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned; called before `prepare`, with tensors on the CPU."""
