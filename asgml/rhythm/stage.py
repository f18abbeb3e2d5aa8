"""Rhythm: the stage that decides, before every forward pass, how often and how late each encoder updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asgml.rhythm.config import PROBELESS, Asgml
from asgml.rhythm.dynamics import DynamicsTracker
from asgml.rhythm.schedule import boost_scale, change_event, decide, dominant_beyond_noise, gap_noise, speed_score
from callbacks.errors import UserError
from callbacks.stages.frequency import FrequencyMask, mean_factor
from callbacks.stages.probe import CorrectedEMA, ProbeEMA
from callbacks.stages.staleness import StalenessBuffer, compensation
from callbacks.step.console import rank_zero_print
from callbacks.step.context import StepContext
from callbacks.step.groups import SCALE_INVARIANT, warn_if_scale_invariant
from callbacks.step.phases import Phase
from callbacks.step.stage import Stage


class Rhythm(Stage):
    """Sets the delays of the buffer and the intervals of the mask, and the factors of the boost and of the controls.

    Example (built by `asgml.rhythm.stages` from the `asgml` node)::

        asgml: {mode: adaptive, adaptive: {kind: staleness, signal: hybrid, tau_max: 2, update_every: 10}}

    Limits: needs the gate in the same pipeline (its host read brings norms and losses) and a `ProbeEMA` for signals
    that read utilisation, for the boost and for a dominant modality that the data set does not name. That one is
    decided once, at the first step before which the gap between strongest and weakest exceeds its noise
    (`dominant_beyond_noise`): the strongest, whoever leads later. Decisions are made from reduced values and are the
    same on every rank. `signal: theory` is refused under Adam-like optimisers.

    Args:
        config: the `asgml` node.
        delay: tau of every encoder at the start, in committed steps.
        interval: k of every encoder at the start, in committed steps.
        buffer: the delaying stage, where the mode has one.
        mask: the skipping stage, where the mode has one.
        probe: the probes, where a decision reads them.
        later: the delay (or the interval less 1), in committed steps, that begins for the dominant modality once the
            probes have found it; None where nobody is waited for.

    Attributes:
        delay: tau of every encoder as it is now.
        interval: k of every encoder as it is now.
        decisions: the number of decisions that the adaptive schedule has made.
        changes: the number of changes of each encoder's delay or interval.
        boosts: the moving average of each encoder's boost, as its part above 1.
        dominant: the modality that the probes have found to dominate, None before that and where nobody is waited for.
        since: the committed step from which on it has been delayed.
        tracker: G_m and D_m of the adaptive schedule, None in other modes.
    """

    name = "rhythm"
    phase = Phase.DECIDE

    def __init__(
        self,
        config: Asgml,
        delay: Mapping[str, int],
        interval: Mapping[str, int],
        buffer: StalenessBuffer | None = None,
        mask: FrequencyMask | None = None,
        probe: ProbeEMA | None = None,
        later: int | None = None,
    ):
        self.config, self.buffer, self.mask, self.probe = config, buffer, mask, probe
        self.later = later
        self.dominant: str | None = None
        self.since: int | None = None
        self.delay, self.interval = dict(delay), dict(interval)
        self.modalities = list(self.delay)
        self.changes: dict[str, int] = dict.fromkeys(self.modalities, 0)
        self.decisions = 0
        self.boosts = {m: CorrectedEMA(config.boost.ema) for m in self.modalities}
        self.tracker: DynamicsTracker | None = None
        self._decided = -1
        self._staged_boost: dict[str, float] = {}
        self._loaded: dict[str, Any] | None = None

    def prepare(self, ctx: StepContext) -> None:
        boost, control = self.config.boost.through, self.config.through
        scaling = self.config.control in ("scale_only", "lr_matched")
        if (self.config.boosts and boost == "gradient") or (scaling and control == "gradient"):
            warn_if_scale_invariant(ctx.optimizer, "Rhythm")
        if self.config.mode == "adaptive":
            a = self.config.adaptive
            if a.signal == "theory" and isinstance(ctx.optimizer, SCALE_INVARIANT):
                raise UserError(
                    "asgml.adaptive.signal",
                    f"'theory' under {type(ctx.optimizer).__name__}, which divides strengths out of every step",
                    "SGD: under Adam-like optimisers paths leave the saddle together as it is (docs/theory.md)",
                    "set optimizer=sgd_plain or asgml.adaptive.signal=hybrid",
                )
            self.tracker = self.config.parts.tracker({m: ctx.groups[m].numel for m in self.modalities}, a.window, a.ema)
        if self._loaded is not None and self.tracker is not None:
            self.tracker.load_state(self._loaded)
            self._loaded = None
        if self.later is not None and self.dominant is None:
            rank_zero_print(
                f"delayed: dominant: the data set does not name it. No delay has begun yet; {self._setting} begins "
                "when the probes first see a gap beyond its noise"
            )

    @property
    def _setting(self) -> str:
        """Return what the dominant modality is waited for with, as the configuration writes it."""
        assert self.later is not None
        return f"k {self.later + 1}" if self.config.mode == "frequency" else f"tau {self.later}"

    # -- before the forward pass
    def before_forward(self, ctx: StepContext) -> None:
        if self.later is not None and self.dominant is None:
            self._find_dominant(ctx)
        if self.config.mode == "adaptive" and ctx.t % self.config.adaptive.update_every == 0 and ctx.t != self._decided:
            self._decided = ctx.t
            self._decide(ctx)

    def _utilisation(self) -> dict[str, float]:
        """Return the probes' accuracy of every modality that has a score."""
        found = self.probe.utilisation if self.probe is not None else {}
        return {m: found[m] for m in self.modalities if m in found}

    def _find_dominant(self, ctx: StepContext) -> None:
        """Begin the delay of the strongest modality where the gap exceeds its noise."""
        used = self._utilisation()
        if self.probe is None or len(used) < len(self.modalities):
            return
        rows = self.probe.holdout_rows
        self.dominant = dominant_beyond_noise(used, rows)
        if self.dominant is None:
            return
        assert self.later is not None
        self.since = ctx.t
        self._set(self.dominant, self.later)
        weakest, noise = min(used, key=used.__getitem__), gap_noise(used, rows)[self.dominant]
        why = (
            f"U {used[self.dominant]:.3f} against {used[weakest]:.3f} of {weakest} is a gap beyond its noise, "
            f"{noise:.3f} on {rows} held-out rows"
        )
        line = f"{self.dominant} dominates: {self._setting} from step {ctx.t} on, because {why}"
        ctx.events.append(("dominant", line))
        rank_zero_print(line)

    def _decide(self, ctx: StepContext) -> None:
        assert self.tracker is not None
        a = self.config.adaptive
        accuracy = self._utilisation()
        used = {m: u / a.tops.get(m, 1.0) for m, u in accuracy.items()}
        noise = gap_noise(accuracy, self.probe.holdout_rows, a.tops) if self.probe is not None and used else {}
        score = self.tracker.score(a.beta)
        strengths = self.tracker.strengths() if a.signal == "theory" else None
        decided = dict.fromkeys(self.modalities, a.tau_min)
        if a.signal in PROBELESS or len(used) == len(self.modalities):
            between = self.config.soft_scale if self.config.masking == "soft" else 0.0
            decided = decide(a, score, used, ctx.t, noise, strengths, between)
        if self.config.control == "all_delayed":
            decided = dict.fromkeys(decided, max(decided.values()))
        self.decisions += 1
        before = {m: k - 1 for m, k in self.interval.items()} if a.kind == "frequency" else dict(self.delay)
        for m, tau in decided.items():
            if tau != before[m]:
                why = f"S {score[m]:.2f}"
                if strengths is not None:
                    why = f"its strength is {strengths[m] / min(strengths.values()):.2f} times the weakest"
                elif m in used:
                    why += f", U {used[m]:.3f} (weakest {min(used.values()):.3f}, noise {noise[m]:.3f})"
                ctx.events.append(("schedule", change_event(m, before[m], tau, ctx.t, why)))
                self.changes[m] += 1
            self._set(m, tau)

    def _set(self, m: str, tau: int) -> None:
        """Give encoder m the delay tau or the interval tau + 1, whichever the mode has, from this step on."""
        if self.config.kind == "frequency":
            self.interval[m] = tau + 1
        else:
            self.delay[m] = tau
        if self.buffer is not None:
            self.buffer.set_delay(m, tau)
        if self.mask is not None:
            self.mask.set_every(m, tau + 1)

    # -- after backward
    def scale(self, ctx: StepContext) -> None:
        """Scale what each encoder is about to apply, by the factors of the control and of the boost."""
        c = self.config
        for m in self.modalities:
            if c.control == "lr_matched":
                # held steps also freeze weight decay, which a factor on the learning rate scales along
                through = "lr" if c.through == "auto" and c.masking != "soft" else c.through
                ctx.rescale(m, mean_factor(c.masking, self.interval[m], c.soft_scale), through)
            elif c.control == "scale_only" and c.compensation == "inverse":
                ctx.rescale(m, compensation(self.delay[m], c.lambda_comp), c.through)
        if self.config.boosts and self.probe is not None and len(self.probe.utilisation) == len(self.modalities):
            for m, scale in boost_scale(self.config.boost, self.probe.utilisation).items():
                ctx.rescale(m, self._boosted(m, scale), self.config.boost.through)

    def _boosted(self, m: str, scale: float) -> float:
        """Return the smoothed factor of this step; it is committed only with the step.

        What is averaged is the part above 1, so that within the threshold the factor is exactly 1.
        """
        ema = self.boosts[m]
        self._staged_boost[m] = scale - 1.0
        total = (1 - ema.alpha) * ema.sum + ema.alpha * (scale - 1.0)
        return 1.0 + total / (1 - (1 - ema.alpha) ** (ema.count + 1))

    def on_commit(self, ctx: StepContext) -> None:
        for m, excess in self._staged_boost.items():
            ctx.metrics[f"boost/{m}"] = 1.0 + self.boosts[m].update(excess)
        self._staged_boost = {}
        if self.tracker is None:
            return
        # the gradient of one path alone is smaller for no reason of the encoder's
        partial = {m for m, action in self.mask.actions.items() if action == "fusion"} if self.mask else set()
        norms = {m: ctx.host[f"fresh/{m}"] for m in self.modalities if m not in partial}
        losses = {m: ctx.host[f"loss/{m}"] for m in self.modalities if f"loss/{m}" in ctx.host}
        self.tracker.observe(norms, losses)
        gradient, descent = self.tracker.gradient(), self.tracker.descent()
        score = speed_score(gradient, descent, self.config.adaptive.beta)
        for name, values in (("G", gradient), ("D", descent), ("S", score)):
            ctx.metrics.update({f"{name}/{m}": v for m, v in values.items()})

    def on_veto(self, ctx: StepContext) -> None:
        self._staged_boost = {}

    def unmet(self) -> list[str]:
        """Return what the configuration asked for and training has not done, in a sentence each."""
        still = [said for m in self.modalities if (said := self._never_moved(m))]
        if self.later is None or self.dominant is not None:
            return still
        used = ", ".join(f"{m} {u:.3f}" for m, u in self._utilisation().items())
        rows = self.probe.holdout_rows if self.probe is not None else 0
        told = f"saw a gap beyond its noise ({used}, on {rows} held-out rows)" if rows else "had rows to score"
        return [
            *still,
            f"asgml.delayed=dominant: nobody was delayed in the whole run, which was a plain one. The probes never "
            f"{told}. Name the modality, for example asgml.delayed={self.modalities[0]}",
        ]

    def _never_moved(self, m: str) -> str:
        """Return a sentence on an encoder that was held back in every step, "" where it was not."""
        if self.mask is not None:
            held, moved = self.mask.done.counts["held"][m], self.mask.done.table()["applied"][m]
            key, value, why = "k", self.interval[m], "no step in which it was due came"
        elif self.buffer is not None and m in self.buffer.stamps:
            held, moved = self.buffer.stamps[m].held, self.buffer.stamps[m].applied
            key, value, why = "tau", self.delay[m], "no gradient became that old"
        else:
            return ""
        if moved or not held:
            return ""
        return (
            f"asgml.{key}={value}: the encoder of {m} never moved, because {why} in the {held} steps of this run. "
            f"Train for more steps (trainer.max_epochs, or a smaller loader.batch_size), or set a smaller asgml.{key}"
        )

    def counters(self) -> dict[str, Any]:
        if self.later is not None:
            return {"dominant": self.dominant, "dominant_since": self.since}
        if self.config.mode != "adaptive":
            return {}
        return {"schedule_decisions": self.decisions, "schedule_changes": dict(self.changes)}

    def state(self) -> dict[str, Any]:
        return {
            "delay": dict(self.delay),
            "interval": dict(self.interval),
            "changes": dict(self.changes),
            "decisions": self.decisions,
            "decided": self._decided,
            "dominant": self.dominant,
            "since": self.since,
            "boosts": {m: [e.sum, e.count] for m, e in self.boosts.items()},
            "tracker": self.tracker.state() if self.tracker else {},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.delay, self.interval = dict(state["delay"]), dict(state["interval"])
        self.changes, self.decisions, self._decided = dict(state["changes"]), state["decisions"], state["decided"]
        self.dominant, self.since = state["dominant"], state["since"]
        for m, (total, count) in state["boosts"].items():
            self.boosts[m].sum, self.boosts[m].count = total, count
        self._loaded = state["tracker"] or None


class RhythmFactors(Stage):
    """Applies the factors of a `Rhythm`, once it is settled which gradient each encoder applies.

    A factor concerns the step that it was made for: it must not be stored with a gradient that is applied later.

    Example (built by `asgml.rhythm.stages`)::

        asgml: {mode: boost}

    Limits: stands behind the buffer and the mask of the same pipeline.

    Args:
        rhythm: the deciding stage of the same pipeline.
    """

    name = "factors"
    phase = Phase.MASK

    def __init__(self, rhythm: Rhythm):
        self.rhythm = rhythm

    @property
    def acts(self) -> bool:
        return self.rhythm.config.boosts or self.rhythm.config.control != "none"

    def on_gradients(self, ctx: StepContext) -> None:
        self.rhythm.scale(ctx)
