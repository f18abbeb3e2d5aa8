"""Collapse: a generator that says the same whatever it is told. Measured on outputs, first tokens and latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.errors import UserError
from callbacks.run.history_logger import find_history
from callbacks.step.stage import find_pipeline


@dataclass
class CollapseSample:
    """What one validation produced.

    Attributes:
        outputs: n generated texts.
        references: n right ones; as many different outputs are expected as there are different references.
        margin: (n,) best minus second-best log-probability of the first token, nats.
        entropy: (n,) of the first token's distribution, nats.
        top5: (n,) whether the right first token is among the five best.
        latents: (m, d) one row per text.
    """

    outputs: list[str]
    references: list[str]
    margin: Tensor
    entropy: Tensor
    top5: Tensor
    latents: Tensor


def distinct_rate(outputs: Sequence[str], references: Sequence[str]) -> float:
    """Different outputs over different references; near 0 where everything is answered alike, 1 where all differ as
    they should (more than 1 is possible: nonsense is diverse, too).
    """
    return len(set(outputs)) / max(1, len(set(references)))


def most_common_share(outputs: Sequence[str]) -> float:
    """Share of the commonest output."""
    return max(outputs.count(o) for o in set(outputs)) / len(outputs) if outputs else 0.0


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred rows (Roy and Vetterli, 2007); 1 … min(n, d).

    0 where all rows are the same: nothing is sent.
    """
    centred = x.double() - x.double().mean(0)
    values = torch.linalg.svdvals(centred)
    total = values.sum()
    if not total > 1e-9 * max(1.0, float(x.double().norm())):
        return 0.0
    p = values / total
    p = p[p > 0]
    return float(torch.exp(-(p * p.log()).sum()))


class Collapsed(RuntimeError):
    """The outputs do not depend on the inputs any more; the message says which indicators tell."""


class CollapseMonitor(L.Callback):
    """After every validation: distinct rate, commonest output, top-5, margin, entropy, effective rank; can stop a run.

    Entropy alone is no alarm: a bonus keeps the distribution flat while its arg-max stays "the". So the alarm needs
    the outputs (distinct rate below `min_distinct`) or the latents (effective rank below `min_rank`), in `patience`
    validations in a row, from `grace` committed steps on. Logged as `collapse/<indicator>`.

    The module offers `sample`, a `CollapseSample` or None, set in its `on_validation_epoch_end`.

    Example::

        callbacks:
          collapse: {_target_: callbacks.CollapseMonitor, min_distinct: 0.1, action: stop}

    Limits: one rank's sample. A task with one right answer for everything has no collapse to see.

    Args:
        min_distinct: smallest acceptable distinct rate.
        min_rank: smallest acceptable effective rank of the latents.
        patience: validations in a row below a bound.
        grace: committed steps before the first alarm.
        action: `warn` (once per alarm) or `stop` (raises `Collapsed`).
    """

    def __init__(
        self,
        min_distinct: float = 0.1,
        min_rank: float = 1.5,
        patience: int = 3,
        grace: int = 200,
        action: Literal["warn", "stop"] = "warn",
    ):
        if action not in ("warn", "stop") or patience < 1:
            raise UserError(
                "CollapseMonitor", f"action {action}, patience {patience}", "warn or stop, 1 or more", "correct it"
            )
        self.min_distinct, self.min_rank = min_distinct, min_rank
        self.patience, self.grace, self.action = patience, grace, action
        self.below = 0
        self.latest: dict[str, float] = {}

    @property
    def state_key(self) -> str:
        return "CollapseMonitor"

    def state_dict(self) -> dict[str, Any]:
        return {"below": self.below, "latest": dict(self.latest)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.below, self.latest = int(state_dict["below"]), dict(state_dict["latest"])

    @staticmethod
    def indicators(sample: CollapseSample) -> dict[str, float]:
        """All indicators of a sample."""
        return {
            "distinct": distinct_rate(sample.outputs, sample.references),
            "commonest": most_common_share(sample.outputs),
            "top5": float(sample.top5.float().mean()),
            "margin": float(sample.margin.float().mean()),
            "entropy": float(sample.entropy.float().mean()),
            "effective_rank": effective_rank(sample.latents),
        }

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sample = getattr(pl_module, "sample", None)
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING or sample is None:
            return
        pipeline = find_pipeline(trainer)
        t = pipeline.t if pipeline else trainer.global_step
        self.latest = self.indicators(sample)
        values = {f"collapse/{name}": value for name, value in self.latest.items()}
        for logger in trainer.loggers:
            logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=t)
        low = [
            f"{name} {self.latest[name]:.3g} below {bound}"
            for name, bound in (("distinct", self.min_distinct), ("effective_rank", self.min_rank))
            if self.latest[name] < bound
        ]
        if not low or t < self.grace:
            self.below = 0
            return
        self.below += 1
        if self.below < self.patience:
            return
        commonest = max(set(sample.outputs), key=sample.outputs.count)
        message = (
            f"collapse at step {t}: {', '.join(low)} in {self.below} validations in a row; "
            f"{self.latest['commonest']:.0%} of the answers are {commonest!r}. Look at the loss shares, at the scale "
            "of what the model reads (gain) and at the swap gap; climb the ladder to find the rung that broke."
        )
        history = find_history(trainer)
        if history is not None:
            history.event(t, trainer.current_epoch, "collapse", message)
        if self.action == "stop":
            raise Collapsed(message)
        if self.below == self.patience:
            rank_zero_warn(message)
