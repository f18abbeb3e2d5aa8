"""Collapse: a generator says the same whatever it is told. It is measured on outputs, first tokens and latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import Count, NonNegative, Share, Steps
from callbacks.run.history_logger import find_history
from callbacks.run.spectrum import entropy_rank, singular_values
from callbacks.step.stage import find_pipeline


@dataclass
class CollapseSample:
    """What one validation produced.

    Attributes:
        outputs: the n generated texts.
        references: the n right ones; as many different outputs are expected as there are different references.
        margin: the best minus the second-best log-probability of the first token, (n,) in nats.
        entropy: the entropy of the first token's distribution, (n,) in nats.
        top5: whether the right first token is among the five best, (n,).
        latents: the latents (m, d), one row per text.
    """

    outputs: list[str]
    references: list[str]
    margin: Tensor
    entropy: Tensor
    top5: Tensor
    latents: Tensor


def distinct_rate(outputs: Sequence[str], references: Sequence[str]) -> float:
    """Return the number of different outputs over that of different references.

    It is near 0 where everything is answered alike, and 1 where all differ as they should; more than 1 is possible,
    because nonsense is diverse too.
    """
    return len(set(outputs)) / max(1, len(set(references)))


def most_common_share(outputs: Sequence[str]) -> float:
    """Return the share of the commonest output, 0 without any output."""
    return max(outputs.count(o) for o in set(outputs)) / len(outputs) if outputs else 0.0


def effective_rank(x: Tensor) -> float:
    """Return the effective rank of rows (n, d) (Roy and Vetterli, 2007), from 1 to min(n, d).

    It is `entropy_rank` of the centred rows; 0 where all rows are the same, so that nothing is sent.
    """
    centred = x.double() - x.double().mean(0)
    values = singular_values(centred)
    return entropy_rank(values) if values.sum() > 1e-9 * max(1.0, float(x.double().norm())) else 0.0


class Collapsed(RuntimeError):
    """Reports that the outputs do not depend on the inputs any more, and which indicators tell."""


class CollapseMonitor(L.Callback):
    """Measures collapse after every validation, and warns or stops the run.

    The indicators are distinct rate, commonest output, top-5, margin, entropy and effective rank, logged as
    `collapse/<indicator>`. Entropy alone is no alarm: a bonus keeps the distribution flat while its arg-max stays
    "the". So the alarm needs the outputs (distinct rate below `min_distinct`) or the latents (effective rank below
    `min_rank`), in `patience` validations in a row, from `grace` committed steps on.

    The module offers `sample`, a `CollapseSample` or None, set in its `on_validation_epoch_end`.

    Example::

        callbacks:
          collapse: {_target_: callbacks.CollapseMonitor, min_distinct: 0.1, action: stop}

    Limits: it sees one rank's sample. A task with one right answer for everything has no collapse to see.

    Args:
        min_distinct: the smallest acceptable distinct rate.
        min_rank: the smallest acceptable effective rank of the latents.
        patience: the number of validations in a row below a bound that raise the alarm.
        grace: the number of committed steps before the first alarm.
        action: what the alarm does, `warn` (once) or `stop` (raises `Collapsed`).
    """

    def __init__(
        self,
        min_distinct: Share = 0.1,
        min_rank: NonNegative = 1.5,
        patience: Count = 3,
        grace: Steps = 200,
        action: Literal["warn", "stop"] = "warn",
    ):
        if action not in ("warn", "stop"):
            raise UserError("CollapseMonitor.action", str(action), "warn or stop", "set action=warn")
        if patience < 1:
            raise UserError("CollapseMonitor.patience", str(patience), "1 or more validations", "set patience=3")
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
        """Return all indicators of a sample by name."""
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
