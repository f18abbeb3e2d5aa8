"""FrequencyMask: an encoder updates in every k-th step only (specification A2.3, A2.7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import Count, Seed, Share, Steps
from callbacks.run.history import ActionCounts
from callbacks.step.context import StepContext
from callbacks.step.groups import require_groups
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage

Masking = Literal["soft", "hard", "fusion_preserving", "accumulate"]


def _enough(every: Mapping[str, int]) -> bool:
    """Return whether there are as many updates as steps, without which no phases cover every step."""
    return sum(1 / k for k in every.values()) >= 1 - 1e-9


def covers(every: Mapping[str, int], phases: Mapping[str, int]) -> bool:
    """Return whether some encoder is due in every step, i.e. has `(t - phase) mod k == 0`."""
    if 1 in every.values():
        return True
    if not _enough(every):
        return False
    period = math.lcm(*every.values())
    return all(any((t - phases[m]) % k == 0 for m, k in every.items()) for t in range(period))


def covering_phases(every: Mapping[str, int]) -> dict[str, int] | None:
    """Return staggered phases under which no step is idle, or None where there are none (specification A2.3).

    All combinations of phases are searched, small k first, with the first phase at 0 (shifting all phases changes
    nothing); each encoder tries first the phases in which it meets the others least. A covering needs
    `sum_m 1 / k_m >= 1`, which rules out most combinations with all k >= 2 at once.

    Args:
        every: the interval k of each encoder, in steps.
    """
    if not _enough(every):
        return None
    names = sorted(every, key=every.__getitem__)
    period = 1 if 1 in every.values() else math.lcm(*every.values())

    def meetings(k: int, phase: int, phases: Mapping[str, int]) -> float:
        """Return the share of steps in which an encoder at `phase` updates together with one that has its phase."""
        others = [(every[m], p) for m, p in phases.items() if every[m] > 1]
        return sum(1 / math.lcm(k, j) for j, p in others if (phase - p) % math.gcd(k, j) == 0)

    def search(left: Sequence[str], idle: list[int], phases: dict[str, int]) -> dict[str, int] | None:
        """Return the phases completed by those of the encoders in `left`; `idle[t]` is 1 where nobody is due yet."""
        if not left:
            return None if any(idle) else phases
        if sum(max(sum(idle[p :: every[m]]) for p in range(every[m])) for m in left) < sum(idle):
            return None  # not even the best phase of each of the rest would do
        first, *rest = left
        k = every[first]
        for phase in sorted(range(k if phases else 1), key=lambda p: meetings(k, p, phases)):
            remaining = [0 if (t - phase) % k == 0 else n for t, n in enumerate(idle)]
            found = search(rest, remaining, {**phases, first: phase})
            if found:
                return found
        return None

    found = search(names, [1] * period, {})
    return None if found is None else {m: found[m] for m in every}


def check_phases(every: Mapping[str, int], phases: Mapping[str, int] | None, where: str) -> dict[str, int]:
    """Return the phases to use; a schedule that would idle every encoder in some step is refused.

    One encoder alone is exempt.

    Args:
        every: the interval k of each encoder, in steps.
        phases: the phase of each encoder, or None to have them found.
        where: the key or parameter that holds the intervals, for the error.

    Raises:
        UserError: a k below 1, phases for other encoders than those of `every`, or no phases that cover every step.
    """

    def updating_always(m: str) -> str:
        """Return the setting with which `m` updates in every step, quoted because a shell expands its braces."""
        return f"'{where}={{{','.join(f'{name}:{1 if name == m else max(1, k)}' for name, k in every.items())}}}'"

    for m, k in every.items():
        if k < 1:
            remedy = f"set {updating_always(m)}: k = 1 updates in every step"
            raise UserError(f"{where}: k of {m}", str(k), "an update every k >= 1 steps", remedy)
    if phases is not None and set(phases) != set(every):
        raise UserError(
            f"{where}: phases",
            f"phases for {sorted(phases)}",
            f"one for each of {sorted(every)}",
            "set phases: null (asgml.phases=null) to have them found",
        )
    if len(every) == 1:
        return dict(phases or dict.fromkeys(every, 0))
    found = dict(phases) if phases is not None else covering_phases(every)
    if found is None or not covers(every, found):
        share = sum(1 / k for k in every.values())
        raise UserError(
            where,
            f"k = {dict(every)}"
            + (f" with phases {dict(phases)}" if phases else f" (updates per step add up to {share:.2f})"),
            "some encoder due in every step: for these k there are no phases that leave no step idle"
            if phases is None
            else "phases that leave no step idle",
            f"set {updating_always(min(every, key=every.__getitem__))}, or intervals that cover every step (2 and 2; "
            "2, 4 and 4; 3, 3 and 3) without phases of your own",
        )
    return found


def mean_factor(masking: Masking, k: int, soft_scale: float) -> float:
    """Return the mean over k steps of the factor that a masking applies to a gradient, the 1 of the due step included.

    It is `(1 + (k - 1) * soft_scale) / k` for `soft` and `1 / k` for `hard`. For `accumulate` it is `1 / k` as well: of
    k gradients it applies the mean, once.

    Raises:
        ValueError: `fusion_preserving`, which scales one path of the gradient only.
    """
    if masking == "fusion_preserving":
        raise ValueError("no single factor on an encoder's gradient is that of fusion_preserving")
    return (1 + (k - 1) * soft_scale) / k if masking == "soft" else 1 / k


class Cadence:
    """Decides when each encoder is due, on the host and from committed steps alone.

    Args:
        every: the interval k of each encoder, in committed steps; 1 is an update in every step.
        rule: the rule by which an encoder is due: `fixed` where `(t - phase) mod k == 0`; `elapsed` at least k steps
            after its last update (for k that change); `random` with a probability of exactly 1/k, drawn from (seed, t)
            alone, for the control that skips at random at the same rate.
        phases: the phase of each encoder under `fixed`.
        seed: the seed of `random`.

    Attributes:
        last: the committed step of each encoder's last update.
        forced: the number of steps in which nobody was due and the most overdue encoder updated.
    """

    def __init__(
        self,
        every: dict[str, Count],
        rule: Literal["fixed", "elapsed", "random"],
        phases: dict[str, Steps],
        seed: Seed = 0,
    ):
        self.every, self.rule, self.phases, self.seed = dict(every), rule, dict(phases), seed
        self.last: dict[str, int] = dict.fromkeys(every, -(10**9))
        self.forced = 0

    def due(self, t: int) -> set[str]:
        """Return the encoders that update at step t; it is never empty, except where there is one encoder only."""
        chosen = self._chosen(t)
        return chosen if chosen or len(self.every) == 1 else {self._most_overdue(t)}

    def _chosen(self, t: int) -> set[str]:
        if self.rule == "fixed":
            return {m for m, k in self.every.items() if (t - self.phases[m]) % k == 0}
        if self.rule == "elapsed":
            return {m for m, k in self.every.items() if t - self.last[m] >= k}
        # Arcs of length 1/k, laid end to end around a circle, and one random point: every encoder has its exact
        # rate, and no step is idle where the rates add up to 1.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + t)
        point, start, chosen = float(torch.rand(2, generator=generator)[1]), 0.0, set()
        for m, k in self.every.items():
            if (point - start) % 1.0 < 1.0 / k:
                chosen.add(m)
            start += 1.0 / k
        return chosen

    def _most_overdue(self, t: int) -> str:
        return max(self.every, key=lambda m: (t - self.last[m]) / self.every[m])

    def commit(self, t: int, updated: set[str]) -> None:
        """Note which encoders have updated at committed step t."""
        if updated and not self._chosen(t):
            self.forced += 1
        for m in updated:
            self.last[m] = t


class FrequencyMask(Stage):
    """Holds encoders back between their updates (specification A2.7).

    In a step in which an encoder is not due, `soft` scales its gradient before it enters the momentum, `hard` applies
    nothing (and the owner of the forward pass may leave out the encoder's graph: `ctx.plan[group].graph`), `accumulate`
    applies nothing now and, at the next update, the mean of all gradients since the last one, and `fusion_preserving`
    changes nothing here: the unimodal head reads the detached feature in that step (`ctx.plan[group].head_detached`),
    so that only the gradient of the fusion path remains.

    The factor of `soft` alternates, so it acts on the gradient under every optimiser: all that a masked step's gradient
    ever moves is `soft_scale` of what a due step's does, whatever the momentum. With `soft_scale: 0` the weights still
    coast on their momentum and decay in masked steps; `hard` freezes both.

    Example::

        callbacks:
          frequency:
            _target_: callbacks.FrequencyMask
            every: {audio: 4, visual: 1}
            masking: accumulate

    Limits: `fusion_preserving` and the saved compute of `hard` need the module's help. Under DDP, `hard` without a
    graph needs `find_unused_parameters=True`. Under Adam-like optimisers the alternating factors of `soft` enter the
    second moment as well, so that an encoder moves by the mean of its factors over their root mean square (0.774 at k 2
    and a tenth) of what it moves unmasked, and not by the mean, 0.55.

    Args:
        every: the interval k of each group: an update every k committed steps.
        masking: what is applied between two updates: `soft`, `hard`, `fusion_preserving` or `accumulate`.
        soft_scale: the factor of `soft`.
        phases: the phase of each group under `fixed`; null finds staggered ones that leave no step idle.
        rule: the rule by which a group is due: `fixed`, `elapsed` (for intervals that `set_every` changes) or `random`.
        seed: the seed of `random`.

    Attributes:
        cadence: the rule that says which group is due.
        actions: what each group did in the newest step: `update`, `soft`, `fusion`, `hold`, `accumulate` or `missing`.
        done: the number of committed steps in which each group updated, moved in part, stood still or had no gradient.

    Raises:
        UserError: intervals or phases under which some step would idle every group, or an unknown group.
    """

    name = "frequency"
    phase = Phase.MASK

    def __init__(
        self,
        every: dict[str, Count],
        masking: Masking = "soft",
        soft_scale: Share = 0.1,
        phases: dict[str, Steps] | None = None,
        rule: Literal["fixed", "elapsed", "random"] = "fixed",
        seed: Seed = 0,
    ):
        found = check_phases(every, phases, "FrequencyMask.every") if rule == "fixed" else dict.fromkeys(every, 0)
        self.cadence = Cadence(every, rule, found, seed)
        self.masking, self.soft_scale = masking, soft_scale
        self.done = ActionCounts(every)
        self.actions: dict[str, str] = {}
        self._sums: dict[str, list[Tensor | None]] = {}
        self._counts: dict[str, int] = dict.fromkeys(every, 0)
        self._pending: dict[str, list[Tensor | None]] = {}
        self._loaded: dict[str, Any] | None = None

    def set_every(self, group: str, k: int) -> None:
        """Change a group's interval to k committed steps from the next step on (rule `elapsed`)."""
        self.cadence.every[group] = k

    def prepare(self, ctx: StepContext) -> None:
        require_groups(list(self.cadence.every), ctx.groups, "FrequencyMask.every")
        if self._loaded is not None:
            for name, tensors in self._loaded.items():
                params = ctx.groups[name].params
                self._sums[name] = [
                    s.to(p.device) if s is not None else None for s, p in zip(tensors, params, strict=True)
                ]
            self._loaded = None

    def before_forward(self, ctx: StepContext) -> None:
        for name in self.cadence.every.keys() - self.cadence.due(ctx.t):
            plan = ctx.plan[name]
            plan.reason = f"not due: updates every {self.cadence.every[name]} steps"
            plan.graph = plan.graph and self.masking != "hard"
            plan.head_detached = self.masking == "fusion_preserving"

    def on_gradients(self, ctx: StepContext) -> None:
        due = self.cadence.due(ctx.t)
        self._pending.clear()
        for name in self.cadence.every:
            group = ctx.groups[name]
            if not group.gradients() and not (name not in due and self.masking in ("hard", "accumulate")):
                self.actions[name] = "missing"
                ctx.hold(name)
            elif name in due:
                self.actions[name] = "update"
                if self._counts[name]:
                    self._add_sums(ctx, name)
            elif self.masking == "soft":
                self.actions[name] = "soft"
                # never on the learning rate: momentum would still take in the whole gradient, and apply it later
                ctx.rescale(name, self.soft_scale, "gradient")
            elif self.masking == "fusion_preserving":
                self.actions[name] = "fusion"
            else:
                self.actions[name] = "accumulate" if self.masking == "accumulate" else "hold"
                if self.masking == "accumulate" and ctx.writable(name):
                    self._pending[name] = [p.grad for p in group.params]
                ctx.hold(name)

    def _add_sums(self, ctx: StepContext, name: str) -> None:
        """Make `p.grad` the mean of the gradients since the last update, this one included."""
        ctx.writable(name)
        for p, s in zip(ctx.groups[name].params, self._sums[name], strict=True):
            if s is not None:
                p.grad = s.clone() if p.grad is None else p.grad.add_(s)
        torch._foreach_div_(ctx.groups[name].gradients(), float(self._counts[name] + 1))

    def on_commit(self, ctx: StepContext) -> None:
        for name, gradients in self._pending.items():
            sums = self._sums.get(name) if self._counts[name] else None
            if sums is None:
                self._sums[name] = list(gradients)
            else:
                self._sums[name] = [
                    g if s is None else s if g is None else s.add_(g) for s, g in zip(sums, gradients, strict=True)
                ]
            self._counts[name] += 1
        self._pending.clear()
        updated = {m for m, action in self.actions.items() if action == "update"}
        for m in updated:
            self._counts[m] = 0
        for m, action in self.actions.items():
            self.done.book(m, action)
        self.cadence.commit(ctx.t, updated)

    def on_veto(self, ctx: StepContext) -> None:
        self._pending.clear()

    def counters(self) -> dict[str, Any]:
        return {**self.done.table(), "forced_updates": self.cadence.forced}

    def state(self) -> dict[str, Any]:
        sums = {
            m: [s.detach().cpu().clone() if s is not None else None for s in tensors]
            for m, tensors in self._sums.items()
            if self._counts[m]
        }
        return {
            "every": dict(self.cadence.every),
            "last": dict(self.cadence.last),
            "forced": self.cadence.forced,
            "counts": dict(self._counts),
            "done": self.done.state(),
            "sums": sums,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.cadence.every, self.cadence.last = dict(state["every"]), dict(state["last"])
        self.cadence.forced = state["forced"]
        self._counts = dict(state["counts"])
        self.done.load_state(state["done"])
        self._loaded = state["sums"]
