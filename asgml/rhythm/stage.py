"""Rhythm: the stage that decides, before every forward pass, what each encoder may do in this step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from asgml.rhythm.config import Asgml
from asgml.rhythm.dynamics import DynamicsTracker
from asgml.rhythm.schedule import boost_scale, decide
from callbacks.stages.frequency import FrequencyMask
from callbacks.stages.probe import CorrectedEMA, ProbeEMA
from callbacks.stages.staleness import StalenessBuffer, compensation
from callbacks.step.stage import Stage, StepContext, warn_if_scale_invariant


class Rhythm(Stage):
    """Sets delays and update intervals of the buffer and the mask, the boost, and the controls; keeps the books
    per modality.

    Example (built by `asgml.build` from the `asgml` node)::

        asgml: {mode: adaptive, adaptive: {kind: staleness, signal: hybrid, tau_max: 4, update_every: 10}}

    Limits: needs the gate in the same pipeline (its host read brings norms and losses) and, for utilisation
        signals and the boost, a `ProbeEMA`. Decisions are made from reduced values and are the same on every
        rank.

    Args:
        config: the `asgml` node.
        modalities: parameter groups that are encoders, in order.
        dominant: the modality that `delayed: dominant` means.
        buffer: the delaying stage, where the mode has one.
        mask: the skipping stage, where the mode has one.
        probe: the probes, where a decision reads them.
    """

    name = "rhythm"

    def __init__(
        self,
        config: Asgml,
        modalities: list[str],
        dominant: str | None,
        buffer: StalenessBuffer | None,
        mask: FrequencyMask | None,
        probe: ProbeEMA | None,
    ):
        self.config, self.modalities, self.dominant = config, list(modalities), dominant
        self.buffer, self.mask, self.probe = buffer, mask, probe
        self.no_graph: set[str] = set()  # encoders that run without a graph in this step
        self.detached_head: set[str] = set()  # modalities whose unimodal head reads the detached feature in this step
        self.delay: dict[str, int] = dict.fromkeys(modalities, 0)
        self.changes: dict[str, int] = dict.fromkeys(modalities, 0)
        self.decisions = 0
        self.boosts = {m: CorrectedEMA(config.boost.ema) for m in modalities}
        self.tracker: DynamicsTracker | None = None
        self.timeline: list[tuple[int, str, str, int, float]] = []
        self.updates: dict[str, int] = dict.fromkeys(modalities, 0)
        self._decided = -1
        self._staged_boost: dict[str, float] = {}
        self._loaded: dict[str, Any] | None = None
        if config.mode == "staleness":
            self.delay = config.taus(self.modalities, dominant)
        elif config.mode == "frequency":
            self.delay = {m: k - 1 for m, k in config.ks(self.modalities, dominant).items()}

    def prepare(self, ctx: StepContext) -> None:
        scales = self.config.boost.through if self.config.boosts else None
        if self.config.control == "scale_only":
            scales = self.config.through if scales != "gradient" else scales
        if scales == "gradient":
            warn_if_scale_invariant(ctx.optimizer, "Rhythm")
        if self.config.mode == "adaptive":
            a = self.config.adaptive
            self.tracker = DynamicsTracker({m: ctx.groups[m].numel for m in self.modalities}, a.window, a.ema)
        if self._loaded is not None and self.tracker is not None:
            self.tracker.load_state(self._loaded)
            self._loaded = None

    # -- before the forward pass
    def before_forward(self, ctx: StepContext) -> None:
        if self.config.mode == "adaptive" and ctx.t % self.config.adaptive.update_every == 0 and ctx.t != self._decided:
            self._decided = ctx.t
            self._decide(ctx)
        self.no_graph, self.detached_head = set(), set()
        if self.mask is not None:
            idle = set(self.modalities) - self.mask.due(ctx.t)
            if self.mask.masking == "hard":
                self.no_graph = idle
            elif self.mask.masking == "fusion_preserving":
                self.detached_head = idle

    def _decide(self, ctx: StepContext) -> None:
        assert self.tracker is not None
        a = self.config.adaptive
        used = dict(self.probe.utilisation) if self.probe is not None else {}
        for m in used:
            used[m] /= (a.ceilings or {}).get(m, 1.0)
        score = self.tracker.score(a.beta)
        ready = a.signal == "speed" or len(used) == len(self.modalities)
        delay = dict.fromkeys(self.modalities, a.tau_min)
        if ready:
            delay = decide(
                a.signal,
                score,
                used,
                ctx.t,
                a.tau_base,
                a.tau_min,
                a.tau_max,
                a.threshold_delta,
                a.gap_full,
                a.kappa,
                a.ramp_steps,
            )
        if self.config.control == "all_delayed":
            delay = dict.fromkeys(delay, max(delay.values()))
        self.decisions += 1
        for m, tau in delay.items():
            if tau != self.delay[m]:
                why = f"S {score[m]:.2f}" + (f", U {used[m]:.3f} (weakest {min(used.values()):.3f})" if used else "")
                ctx.events.append(("schedule", f"{m} tau {self.delay[m]}->{tau} because {why}"))
                self.changes[m] += 1
            self.delay[m] = tau
            if self.buffer is not None:
                self.buffer.set_delay(m, tau)
            if self.mask is not None:
                self.mask.set_every(m, tau + 1)

    # -- after backward
    def on_gradients(self, ctx: StepContext) -> None:
        for m in ctx.module.forward_pass.absent & ctx.groups.keys():  # type: ignore[operator,union-attr]
            ctx.groups[m].clear()  # the gradient of an absent modality is a 0 that only DDP needed
        for m in self.modalities:
            if self.config.control == "lr_matched":
                ctx.rescale(m, 1.0 / (1 + self.delay[m]), "lr")
            elif self.config.control == "scale_only" and self.config.compensation == "inverse":
                ctx.rescale(m, compensation(self.delay[m], self.config.lambda_comp), self.config.through)
        if self.config.boosts and self.probe is not None and len(self.probe.utilisation) == len(self.modalities):
            b = self.config.boost
            for m, scale in boost_scale(self.probe.utilisation, b.alpha, b.threshold_delta, b.gap_full, b.cap).items():
                ctx.rescale(m, self._boosted(m, scale), b.through)

    def _boosted(self, m: str, scale: float) -> float:
        """The smoothed factor of this step; committed only with the step.

        What is averaged is the part above 1: a closed gate then is a factor of exactly 1.
        """
        ema = self.boosts[m]
        self._staged_boost[m] = scale - 1.0
        total = (1 - ema.alpha) * ema.sum + ema.alpha * (scale - 1.0)
        return 1.0 + total / (1 - (1 - ema.alpha) ** (ema.count + 1))

    # -- the books
    def on_commit(self, ctx: StepContext) -> None:
        for m, excess in self._staged_boost.items():
            ctx.metrics[f"boost/{m}"] = 1.0 + self.boosts[m].update(excess)
        self._staged_boost = {}
        if self.tracker is not None:
            norms = {m: ctx.host[f"fresh/{m}"] for m in self.modalities}
            losses = {m: ctx.host[f"loss/{m}"] for m in self.modalities if f"loss/{m}" in ctx.host}
            self.tracker.observe(norms, losses)
            for name, values in (
                ("G", self.tracker.gradient()),
                ("D", self.tracker.descent()),
                ("S", self.tracker.score(self.config.adaptive.beta)),
            ):
                ctx.metrics.update({f"{name}/{m}": v for m, v in values.items()})
        if self.probe is not None:
            ctx.metrics.update({f"U/{m}": v for m, v in self.probe.utilisation.items()})
        ctx.metrics.update(loss_metrics(ctx.host, self.modalities, self.config.gamma))
        key, plus = ("k", 1) if self.mask is not None else ("tau", 0)
        ctx.metrics.update({f"{key}/{m}": float(tau + plus) for m, tau in self.delay.items()})
        for m in self.modalities:
            action, age = self._done(ctx, m)
            self.updates[m] += action in ("update", "soft", "fusion")
            self.timeline.append((ctx.t, m, action, age, ctx.scale.get(m, 1.0) if age >= 0 else 0.0))

    def _done(self, ctx: StepContext, m: str) -> tuple[str, int]:
        if self.mask is not None:
            action = self.mask.actions[m]
            return action, 0 if action in ("update", "soft", "fusion") else -1
        if self.buffer is not None and m in self.buffer.delays:
            return self.buffer.action(m), self.buffer.age(m, ctx.t)
        if m in ctx.held:
            return "hold", -1
        return ("update", 0) if ctx.groups[m].gradients() else ("missing", -1)

    def on_veto(self, ctx: StepContext) -> None:
        self._staged_boost = {}
        self.timeline.extend((ctx.t, m, "veto", -1, 0.0) for m in self.modalities)

    def drain(self) -> list[tuple[int, str, str, int, float]]:
        """Timeline rows `(t, modality, action, age, scale)` since the last call."""
        rows, self.timeline = self.timeline, []
        return rows

    def counters(self) -> dict[str, Any]:
        out: dict[str, Any] = {"updates": dict(self.updates)}
        if self.config.mode == "adaptive":
            out |= {"schedule_decisions": self.decisions, "schedule_changes": dict(self.changes)}
        return out

    def state(self) -> dict[str, Any]:
        return {
            "delay": dict(self.delay),
            "changes": dict(self.changes),
            "decisions": self.decisions,
            "decided": self._decided,
            "updates": dict(self.updates),
            "boosts": {m: [e.sum, e.count] for m, e in self.boosts.items()},
            "tracker": self.tracker.state() if self.tracker else {},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.delay, self.changes = dict(state["delay"]), dict(state["changes"])
        self.decisions, self._decided = state["decisions"], state["decided"]
        self.updates = dict(state["updates"])
        for m, (total, count) in state["boosts"].items():
            self.boosts[m].sum, self.boosts[m].count = total, count
        self._loaded = state["tracker"] or None


def loss_metrics(host: Mapping[str, float], modalities: list[str], gamma: float) -> dict[str, float]:
    """The logged losses and each trained term's share of their sum.

    `train/loss` is `L_fusion + gamma * sum L_m` whatever was masked, so that the curve does not jump.
    """
    losses = {k.removeprefix("loss/"): v for k, v in host.items() if k.startswith("loss/")}
    terms = {k.removeprefix("term/"): v for k, v in host.items() if k.startswith("term/")}
    out = {f"train/loss/{k}": v for k, v in losses.items()}
    out["train/loss"] = losses.get("fusion", 0.0) + gamma * sum(v for k, v in losses.items() if k in modalities)
    total = sum(terms.values())
    if total > 0:
        out |= {f"share/{k}": v / total for k, v in terms.items()}
    return out | {k: v for k, v in host.items() if k.startswith("cosine/")}


def build_stages(
    config: Asgml, modalities: list[str], dominant: str | None, probe: ProbeEMA | None, seed: int
) -> tuple[Rhythm, StalenessBuffer | None, FrequencyMask | None]:
    """The deciding stage and the stages it drives, for one `asgml` node."""
    buffer = mask = None
    adaptive = config.mode == "adaptive"
    timing = config.adaptive.kind if adaptive else config.mode
    passive = config.control in ("lr_matched", "scale_only")
    if timing == "staleness" and not passive:
        taus = dict.fromkeys(modalities, config.adaptive.tau_min) if adaptive else config.taus(modalities, dominant)
        delayed = taus if adaptive else {m: tau for m, tau in taus.items() if tau > 0}
        buffer = StalenessBuffer(
            delayed,
            config.warmup,
            config.compensation,
            config.lambda_comp,
            config.mu,
            config.through,
            config.adaptive.tau_max if adaptive else None,
            config.buffer_dtype,
            config.buffer_device,
        )
    if timing == "frequency" and not passive:
        every = dict.fromkeys(modalities, config.adaptive.tau_min + 1) if adaptive else config.ks(modalities, dominant)
        rule = "random" if config.control == "random_skip" else "elapsed" if adaptive else "fixed"
        mask = FrequencyMask(
            every, config.masking, config.soft_scale, config.through, config.phases, cast(Any, rule), seed
        )
    return Rhythm(config, modalities, dominant, buffer, mask, probe), buffer, mask
