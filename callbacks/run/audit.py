"""TrainableAudit: every trainable parameter is in exactly one group and gets a gradient, or the run stops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import Count
from callbacks.step.plan import StepPlan
from callbacks.step.stage import find_pipeline

SHOWN = 8


class AuditFailure(UserError):
    """Reports parameters that are meant to be trained and are not, by name."""


class TrainableAudit(L.Callback):
    """Stops a run in which a trainable parameter is in no group or in two, or never gets a gradient.

    At the start, the optimisers' groups and the module's trainable parameters must be the same set, each parameter in
    exactly one group. After `within` backward passes each must have had a gradient with a value other than zero.
    Adapters that nobody gave to the optimiser, adapters used in one loss of five, parameters in two groups: each of
    these goes unseen for weeks. Steps in which the `StepPlan` gives a group no gradient on purpose (the head of an
    objective that has not begun) do not count for that group. Where the plan names parts (`StepPlan.part`: other
    losses), the same holds within each of them: what one loss has reached does not speak for the next one.

    Example::

        callbacks:
          audit: {_target_: callbacks.TrainableAudit, within: 20, ignore: [net.unused.weight]}

    Limits: gradients are looked at where backward left them, before any stage of a `StepPipeline` changes them; in the
    first steps that costs one reduction per parameter that has not been seen yet, and one host read at the end. With
    gradient accumulation a backward pass counts, not a step.

    Args:
        within: the number of backward passes after which every parameter must have been seen.
        ignore: the names of parameters that need no gradient.

    Raises:
        AuditFailure: a parameter that is in no group, in two, or without a gradient.
    """

    def __init__(self, within: Count = 20, ignore: list[str] | None = None):
        if within < 1:
            raise UserError("TrainableAudit.within", str(within), "1 or more passes", "set within=20")
        self.within, self.ignore = within, set(ignore or [])
        self._ledgers: dict[str, _Ledger] = {}  # by part; "": of the whole run
        self._group: dict[str, str] = {}

    @property
    def passed(self) -> bool:
        """Whether every parameter has had a gradient."""
        return "" in self._ledgers and self._ledgers[""].passed

    @property
    def state_key(self) -> str:
        return "TrainableAudit"

    def state_dict(self) -> dict[str, Any]:
        return {"parts": {part: ledger.state() for part, ledger in self._ledgers.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ledgers = {part: _Ledger.of(state) for part, state in state_dict["parts"].items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        names = {id(p): name for name, p in pl_module.named_parameters() if p.requires_grad}
        owner: dict[int, str] = {}
        for optimizer in trainer.optimizers:
            for number, group in enumerate(optimizer.param_groups):
                label = str(group.get("name", f"group{number}"))
                for p in (p for p in group["params"] if p.requires_grad):
                    name = names.get(id(p))
                    if id(p) in owner:
                        raise self._failure(
                            f"{name or tuple(p.shape)} is in '{owner[id(p)]}' and in '{label}'",
                            "every trainable parameter in exactly one group",
                            f"leave it out of '{label}' in configure_optimizers(): it would move twice per step",
                        )
                    if name is None:
                        raise self._failure(
                            f"a tensor {tuple(p.shape)} of group '{label}' is no parameter of the module",
                            "only the module's own parameters",
                            "make it an nn.Parameter attribute of the module: as it is, no checkpoint would hold it",
                        )
                    owner[id(p)] = label
        absent = [name for key, name in names.items() if key not in owner]
        if absent:
            raise self._failure(
                f"in no group of the optimiser: {_listed(absent)}",
                "every trainable parameter in exactly one group",
                "add it in configure_optimizers(), or freeze it with requires_grad_(False)",
            )
        self._group = {names[key]: label for key, label in owner.items()}

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pipeline = find_pipeline(trainer)
        plan = StepPlan() if pipeline is None or pipeline.ctx is None else pipeline.ctx.plan
        for part in dict.fromkeys(["", plan.part]):
            ledger = self._ledgers.setdefault(part, _Ledger())
            if not ledger.passed:
                self._look(ledger, part, plan, pl_module)

    def _look(self, ledger: _Ledger, part: str, plan: StepPlan, pl_module: L.LightningModule) -> None:
        for group in set(self._group.values()) - plan.without_gradient:
            ledger.passes[group] = ledger.passes.get(group, 0) + 1
        open_ = [(n, p) for n, p in pl_module.named_parameters() if n in self._group and n not in ledger.known]
        for name, p in open_:
            if p.grad is not None:
                moved = (p.grad != 0).any()
                ledger.seen[name] = moved | ledger.seen[name] if name in ledger.seen else moved
        if max(ledger.passes.values(), default=0) >= self.within:
            self._judge(ledger, part, [name for name, _ in open_])

    def _judge(self, ledger: _Ledger, part: str, open_: list[str]) -> None:
        ledger.read()
        without = [n for n in open_ if n not in ledger.known and n not in self.ignore]
        dead = [n for n in without if ledger.passes.get(self._group[n], 0) >= self.within]
        if dead:
            steps = f"{self.within} steps" + (f" with {part}" if part else "")
            raise self._failure(
                f"no gradient in {steps}: {_listed([f'{n} ({self._group[n]})' for n in dead])}",
                "a gradient other than zero for every trainable parameter",
                "freeze what no loss uses with requires_grad_(False), or list it in `ignore` of TrainableAudit",
            )
        ledger.passed = not without

    @staticmethod
    def _failure(found: str, expected: str, remedy: str) -> AuditFailure:
        return AuditFailure("trainable parameters", found, expected, remedy)


@dataclass
class _Ledger:
    """Holds what was seen so far.

    Attributes:
        passed: whether every parameter has had a gradient.
        passes: number of backward passes in which a gradient was due, by group.
        known: parameters that have had one.
        seen: whether the others have had one, by parameter, on the device.
    """

    passed: bool = False
    passes: dict[str, int] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    seen: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, state: dict[str, Any]) -> _Ledger:
        return cls(bool(state["passed"]), dict(state["passes"]), set(state["had"]))

    def state(self) -> dict[str, Any]:
        had = sorted(self.known | {name for name, flag in self.seen.items() if bool(flag)})
        return {"passed": self.passed, "passes": dict(self.passes), "had": had}

    def read(self) -> None:
        """Bring what was seen to the host."""
        if self.seen:
            flags = torch.stack([flag.cpu() for flag in self.seen.values()]).tolist()
            self.known |= {name for name, flag in zip(self.seen, flags, strict=True) if flag}
            self.seen = {name: flag for name, flag in self.seen.items() if name not in self.known}


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
