"""Baselines that learn: what they share, and where what they have learned is kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from callbacks.errors import UserError, quoted
from callbacks.ranges import PositiveShare
from latentwire.baselines.base import Baseline
from latentwire.baselines.training import Amount, TrainingBudget, load_state, state
from latentwire.lm.frozen import FrozenLM
from suite.tensors import read_tensors, write_tensors

N = TypeVar("N", bound=nn.Module)


class LearnedBaseline(Baseline, Generic[N]):
    """Learns from the wire's own training stream, and keeps what it has learned per model and M.

    What was learned lies in `<folder>/<name>-<key>.safetensors`. The key is the hash of all that determines it: class
    and settings, weights and tokenizer of the model, M, and the budget. A file that is there is read, not fitted anew.

    Args:
        share: share of the wire's training that it gets; below 1 its row says so.
    """

    track = "trained"

    def __init__(self, share: PositiveShare = 1.0):
        self.share = share
        self._learned: dict[tuple[str, int], N] = {}
        self._amounts: dict[tuple[str, int], Amount] = {}

    def make(self, lm: FrozenLM, budget: TrainingBudget, slots: int) -> N:
        """Return what learns, untrained and equal each time."""
        raise NotImplementedError

    def learn(self, net: N, lm: FrozenLM, budget: TrainingBudget, amount: Amount, slots: int) -> None:
        """Train it on `amount` of the budget."""
        raise NotImplementedError

    def fit(self, lm: FrozenLM, budget: TrainingBudget | None, slots: int, folder: Path | None = None) -> None:
        if budget is None or not len(budget.train) or not len(budget.val):
            raise UserError(
                f"baselines.{self.name}",
                "no training passages or no validation passages",
                "passages of both splits",
                f"set corpus.train=2000 and loader.eval_passages=32, or leave out ~baselines.{self.name}",
            )
        amount = budget.amount.share(self.share)
        net = self.make(lm, budget, slots)
        path = None if folder is None else folder / f"{self.name}-{self.key(lm, budget, slots)}.safetensors"
        if path is not None and path.is_file():
            _read(net, path)
        else:
            self.learn(net, lm, budget, amount, slots)
            if path is not None:
                _write(net, path)
        self._learned[lm.name, slots] = net.requires_grad_(False).eval()
        self._amounts[lm.name, slots] = amount

    def key(self, lm: FrozenLM, budget: TrainingBudget, slots: int) -> str:
        """Return 16 hexadecimal digits that name what `fit` learns."""
        told = {
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "settings": {k: v for k, v in sorted(vars(self).items()) if not k.startswith("_")},
            "model": [lm.fingerprint(), lm.style.fingerprint(), str(lm.dtype)],
            "slots": slots,
            "budget": budget.identity(),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def learned(self, lm: FrozenLM, slots: int) -> N:
        """Return what `fit` has learned. Raises UserError where it has not been called for this model and M."""
        if (lm.name, slots) not in self._learned:
            expected = f"fit for {lm.name} at M={slots}"
            raise UserError(f"baselines.{self.name}", "not fitted", expected, "call fit first")
        return self._learned[lm.name, slots]

    def told(self, lm: FrozenLM, slots: int) -> dict[str, Any]:
        asked = self._amounts[lm.name, slots].asked
        return {"questions_seen": asked, "budget_share": self.share}


def _write(net: nn.Module, path: Path) -> None:
    write_tensors(path, state(net))


def _read(net: nn.Module, path: Path) -> None:
    expected, remedy = "what this rival has learned", f"rm {quoted(path)}, it is fitted again"
    tensors, _ = read_tensors(path, expected, remedy)
    try:
        load_state(net, tensors)
    except ValueError as error:
        raise UserError(str(path), str(error).splitlines()[0], expected, remedy) from error
