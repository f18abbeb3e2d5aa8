"""UniformBound: a loss that starts far above that of a uniform guess is a fault of labels or positions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.ranges import Count, NonNegative
from callbacks.run.history_logger import find_history
from callbacks.step.stage import find_pipeline
from latentwire.lm.sanity import excess, misaligned
from latentwire.train.curriculum_stage import LOSS
from latentwire.train.module import WireModule


class UniformBound(L.Callback):
    """Ends a run whose first losses are above ln(vocabulary) of a uniform guess plus a margin, in nats per token.

    Asserted are, for every model, each objective that is a mean negative log-probability of tokens
    (`Objective.likelihood`) in the first `steps` steps, and `val/nll` in the first validation. A trained reader that
    reads little is unsure and stays below: the pocket models start at 2.0 to 6.2 (ln V is 6.1 and 7.0), read one place
    off at 8.4 to 22. A validation above the bound later in training may be overfitting: it is an event
    (`above_uniform`) and a warning, once.

    Example::

        callbacks:
          uniform_bound: {_target_: latentwire.monitors.UniformBound, margin: 2.0, steps: 1}

    Limits: it catches gross faults only. An untrained reader is near ln V whatever its labels are, so nothing can be
    told there. Cost: it compares numbers that are on the host already.

    Args:
        margin: the number of nats per token above ln(vocabulary) that pass.
        steps: the number of first steps whose losses are held to the bound.

    Raises:
        UserError: a loss or NLL above the bound at the start of training.
    """

    def __init__(self, margin: NonNegative = 2.0, steps: Count = 1):
        self.margin, self.steps = margin, steps
        self.checked = 0  # steps
        self.validated = self.warned = False

    @property
    def state_key(self) -> str:
        return "UniformBound"

    def state_dict(self) -> dict[str, Any]:
        return {"checked": self.checked, "validated": self.validated, "warned": self.warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.checked = int(state_dict["checked"])
        self.validated, self.warned = bool(state_dict["validated"]), bool(state_dict["warned"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pipeline = find_pipeline(trainer)
        if self.checked >= self.steps or pipeline is None or pipeline.ctx is None:
            return
        assert isinstance(pl_module, WireModule)
        self.checked += 1
        for name, model, nll in _losses(pl_module, pipeline.ctx.host):
            vocab_size = pl_module.lms[model].vocab_size
            if excess(nll, vocab_size) > self.margin:
                raise misaligned(f"objectives.{name} on {model}", nll, vocab_size, self.margin)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        assert isinstance(pl_module, WireModule)
        first, self.validated = not self.validated, True
        for model, lm in pl_module.lms.items():
            found = pl_module.metrics["val"]
            nll = found.get(f"nll/{model}", found["nll"])  # one model alone has no row of its own
            if not excess(nll, lm.vocab_size) > self.margin:
                continue
            if first:
                raise misaligned(f"val/nll on {model}", nll, lm.vocab_size, self.margin)
            if self.warned:
                continue
            self.warned = True
            said = f"val/nll on {model} is {nll:.3f} nats per token, a uniform guess has {math.log(lm.vocab_size):.3f}"
            history, pipeline = find_history(trainer), find_pipeline(trainer)
            if history is not None:
                step = pipeline.t if pipeline else trainer.global_step
                history.event(step, trainer.current_epoch, "above_uniform", said)
            rank_zero_warn(f"{said}: the wire is certain of wrong answers; look at overfitting and learning rates")


def _losses(module: WireModule, host: dict[str, float]) -> Iterator[tuple[str, str, float]]:
    """Yield objective, model and loss for each likelihood that a step had."""
    for name, objective in module.objectives.items():
        for model in module.lms:
            key = f"{LOSS}{name}" if len(module.lms) == 1 else f"{LOSS}{name}/{model}"
            if getattr(objective, "likelihood", False) and key in host:
                yield name, model, host[key]
