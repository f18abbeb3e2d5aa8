"""A loss that is no number any more: what it is told as, with step, batch, groups and a smaller learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import lightning as L
import torch

from callbacks.errors import UserError
from callbacks.step.context import StepContext
from callbacks.step.groups import Group, named_groups

LOSSES = ("loss/", "term/")  # how the names of losses begin among the values that a step brings to the host


class Diverged(UserError):
    """Reports a loss that is NaN or infinite."""


def not_finite(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values that are NaN or infinite."""
    return {name: value for name, value in values.items() if not math.isfinite(value)}


def diverged_step(ctx: StepContext, losses: Mapping[str, float]) -> Diverged:
    """Return the error of a training step whose losses are not finite.

    Args:
        ctx: the step.
        losses: the losses that are not finite, by name.
    """
    bad = _bad_weights(ctx.groups)
    where = f"training loss, {moment_of(ctx)}"
    return Diverged(where, _found(losses, bad), "finite losses", _remedy(ctx.trainer, ctx.groups, bad))


def moment_of(ctx: StepContext) -> str:
    """Return which step is in progress, and which batch it learns from."""
    return f"step {ctx.t}, batch {ctx.trainer.fit_loop.batch_idx} of epoch {ctx.trainer.current_epoch}"


def bad_weights(ctx: StepContext) -> str:
    """Return the groups that hold weights which are not finite, in words."""
    return _told(_bad_weights(ctx.groups))


def smaller_rate(ctx: StepContext, groups: list[str]) -> str:
    """Return what to set for a tenth of the learning rate of groups: those with bad weights, else these."""
    return _remedy(ctx.trainer, ctx.groups, _bad_weights(ctx.groups) or groups)


def refuse_divergence(trainer: L.Trainer, split: str, t: int, metrics: Mapping[str, float]) -> None:
    """Refuse losses of an evaluation that are not finite.

    Args:
        trainer: the trainer.
        split: what is evaluated.
        t: the number of committed steps.
        metrics: the metrics of the split; `loss` and `loss/…` are read.

    Raises:
        Diverged: one of them is NaN or infinite.
    """
    losses = {name: value for name, value in metrics.items() if name == "loss" or name.startswith(LOSSES)}
    refuse_not_finite(trainer, f"{split} loss after step {t}", "finite losses", losses)


def refuse_not_finite(trainer: L.Trainer, where: str, expected: str, values: Mapping[str, float]) -> None:
    """Refuse what an evaluation has found if any of it is not finite.

    Args:
        trainer: the trainer.
        where: what was found, and when, for the error.
        expected: what it should have been.
        values: the numbers by name.

    Raises:
        Diverged: one of them is NaN or infinite.
    """
    if found := not_finite(values):
        groups = named_groups(trainer.optimizers[0]) if trainer.optimizers else {}
        bad = _bad_weights(groups)
        raise Diverged(where, _found(found, bad), expected, _remedy(trainer, groups, bad))


def _bad_weights(groups: Mapping[str, Group]) -> list[str]:
    return [name for name, group in groups.items() if not all(bool(torch.isfinite(p).all()) for p in group.params)]


def _found(losses: Mapping[str, float], bad: list[str]) -> str:
    told = ", ".join(f"{name.removeprefix('loss/')} {value}" for name, value in losses.items())
    return f"{told}; {_told(bad)}"


def _told(bad: list[str]) -> str:
    return f"weights that are not finite: {', '.join(bad) or 'none'}"


def _remedy(trainer: L.Trainer, groups: Mapping[str, Group], bad: list[str]) -> str:
    """Return a tenth of the learning rate at fault: of `group_lr` where a group with bad weights has one of its own.

    A module whose rates have other keys says so in `learning_rates(groups)`, which returns rates by key: those of the
    groups, or of all that move where none is named.
    """
    if not trainer.optimizers:
        return "train anew with a smaller learning rate"
    own_keys = getattr(trainer.lightning_module, "learning_rates", None)
    if own_keys is not None:
        rates = own_keys(bad)
    else:
        base = float(trainer.optimizers[0].defaults["lr"])
        own = {f"++group_lr.{name}": float(groups[name].options.get("initial_lr", base)) for name in bad}
        rates = {key: rate for key, rate in own.items() if rate != base} or {"optimizer.lr": base}
    return "set " + " ".join(f"{key}={rate / 10:g}" for key, rate in rates.items())
