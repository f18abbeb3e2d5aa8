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
        phase: when the stage runs.
        acts: False leaves the stage out (say, clipping without a bound).
    """

    name: str = "stage"
    phase: ClassVar[Phase | None] = None

    @property
    def acts(self) -> bool:
        return True

    def prepare(self, ctx: StepContext) -> None:
        """Set up once per fit, when groups and device are known (a loaded state is already there, on the CPU)."""

    def before_forward(self, ctx: StepContext) -> None:
        """Plan the step before the forward pass of a batch: see `ctx.plan`."""

    def on_gradients(self, ctx: StepContext) -> None:
        """Change unscaled and reduced gradients after backward."""

    def decide(self, ctx: StepContext) -> str | None:
        """Return a reason to veto the step, or None."""
        return None

    def on_commit(self, ctx: StepContext) -> None:
        """Commit what was staged: the optimiser has moved; `ctx.t` still counts the steps before this one."""

    def on_veto(self, ctx: StepContext) -> None:
        """Drop what was staged: nothing was applied."""

    def after_commit(self, ctx: StepContext) -> None:
        """Act after all stages have committed and `ctx.t` has advanced."""

    def end_epoch(self, ctx: StepContext) -> None:
        """Act at the end of a training epoch, before checkpoints."""

    def drain(self) -> list[tuple[int, str, str, int, float]]:
        """Return the rows `(t, group, action, age, scale)` for the run's timeline since the last call."""
        return []

    def counters(self) -> dict[str, Any]:
        """Return counts that belong into the run's result."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return what the stage must remember over a restart: plain dicts, lists, numbers and tensors."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore `state`; called before `prepare`, with tensors on the CPU."""
