"""The `asgml` node of the configuration: which encoder updates when, typed and checked (specification A2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from asgml.rhythm.inert import inert_keys
from asgml.rhythm.parts import RhythmParts
from asgml.rhythm.schedule import Adaptive, Boost
from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, Delay, NonNegative, Share, Steps
from callbacks.stages.frequency import check_phases
from callbacks.stages.stale_gradients import StoredType
from callbacks.step.groups import Through

Mode = Literal["sync", "frequency", "staleness", "adaptive", "boost"]
Control = Literal[
    "none",
    "lr_matched",
    "random_skip",
    "scale_only",
    "all_delayed",
    "yoked_scale",
    "yoked_skip",
    "yoked_lr",
    "yoked_swap",
]

PROBELESS = ("speed", "theory")  # signals of the schedule that do not read the probes


@dataclass(frozen=True)
class Asgml:
    """Holds the rhythm of the encoders: which of them updates when, and with which gradient.

    Attributes:
        mode: the mode: `sync`, `frequency`, `staleness`, `adaptive` or `boost` (sync with the boost switched on).
        gamma: the weight of the unimodal losses in `L = L_fusion + gamma * sum_m L_m`.
        delayed: the encoders to which `tau` and `k` apply where they are one number: `dominant` (the one that the data
            set names or, where it names none, the one that the probes first find ahead), `all`, or a list of
            modalities.
        tau: the delay in committed steps, 0 for none; one number or one per modality.
        k: the interval, an update every k committed steps; one number or one per modality.
        masking: what `frequency` applies between two updates: `soft`, `hard`, `fusion_preserving` or `accumulate`.
        soft_scale: the factor of `soft`.
        phases: the phases of `frequency`, one per modality; null finds staggered ones.
        warmup: what happens until a gradient of age tau exists: `skip` stands still, `fresh` applies the fresh one.
        compensation: what makes up for the age of a gradient: `none`, `inverse` (`1 / (1 + lambda * tau)`) or
            `delay_compensated`.
        lambda_comp: lambda of `inverse`, per step of delay.
        mu: the strength of `delay_compensated`.
        through: where constant factors (compensation and the scaling controls) act: on the learning rate (`lr`), on the
            `gradient`, or (`auto`) on the gradient under SGD and on the learning rate under Adam-like optimisers, which
            cancel a constant factor on the gradient. The alternating factor of `soft` always acts on the gradient.
        buffer_dtype: the type in which stale gradients are stored; null stores them exactly.
        buffer_device: where stale gradients are stored: the `same` device as the parameters, or the `cpu`.
        adaptive: the schedule of `mode: adaptive`.
        boost: the boost of the weak modality.
        control: `none`, or the control that separates asynchrony from its side effects: `lr_matched` (no skipping,
            but the mean factor that the masking applies: `(1 + (k - 1) * soft_scale) / k` for `soft`, else `1 / k`),
            `random_skip` (skips at random at the same rate), `scale_only` (`c(tau) * g_m(t)` without delay;
            a compensation other than `inverse` has no `c`, and the run is plain), `all_delayed` (every modality
            alike), or one that replays the finished adaptive run of the same configuration and seed: `yoked_scale`
            (its factors without delay), `yoked_skip` (as many skips at other steps), `yoked_lr` (its mean factor per
            window as learning rate) or `yoked_swap` (its delays given to the other modality).
        parts: the classes that the rhythm is built of, for variations of your own.

    Raises:
        UserError: a control that has nothing to control under the mode, or a value out of its range.
    """

    mode: Mode = "sync"
    gamma: NonNegative = 1.0
    delayed: Annotated[str, NOT_EMPTY] | Annotated[list[str], NOT_EMPTY] = "dominant"
    tau: Delay | Annotated[dict[str, Delay], NOT_EMPTY] = 2
    k: Count | Annotated[dict[str, Count], NOT_EMPTY] = 2
    masking: Literal["soft", "hard", "fusion_preserving", "accumulate"] = "soft"
    soft_scale: Share = 0.1
    phases: Annotated[dict[str, Steps], NOT_EMPTY] | None = None
    warmup: Literal["skip", "fresh"] = "skip"
    compensation: Literal["none", "inverse", "delay_compensated"] = "inverse"
    lambda_comp: NonNegative = 0.1
    mu: NonNegative = 0.04
    through: Through = "auto"
    buffer_dtype: StoredType | None = None
    buffer_device: Literal["same", "cpu"] = "same"
    adaptive: Adaptive = field(default_factory=Adaptive)
    boost: Boost = field(default_factory=Boost)
    control: Control = "none"
    parts: RhythmParts = field(default_factory=RhythmParts)

    @staticmethod
    def inert_keys(arguments: Mapping[str, Any]) -> dict[str, str]:
        """Return the keys that act on nothing at these values (see `suite.runs.reads`)."""
        return inert_keys(arguments)

    def __post_init__(self) -> None:
        allowed = {
            "none": ("sync", "frequency", "staleness", "adaptive", "boost"),
            "lr_matched": ("frequency", "adaptive"),
            "random_skip": ("frequency", "adaptive"),
            "scale_only": ("staleness", "adaptive"),
            "all_delayed": ("frequency", "staleness", "adaptive"),
        }.get(self.control, ("adaptive",))
        if self.mode not in allowed:
            raise UserError(
                "asgml.control",
                f"'{self.control}' with mode '{self.mode}'",
                f"mode one of {', '.join(allowed)}: this control has nothing to control elsewhere",
                f"set asgml.mode={allowed[0]} or asgml.control=none",
            )
        if (
            self.mode == "adaptive"
            and self.control in ("lr_matched", "random_skip")
            and self.adaptive.kind != "frequency"
        ):
            raise UserError(
                "asgml.control",
                f"'{self.control}' with adaptive staleness",
                "asgml.adaptive.kind=frequency: a delayed encoder skips no updates",
                "set asgml.control=scale_only or asgml.adaptive.kind=frequency",
            )
        if self.mode == "adaptive" and self.control == "scale_only" and self.adaptive.kind != "staleness":
            raise UserError(
                "asgml.control",
                "'scale_only' with adaptive frequency",
                "asgml.adaptive.kind=staleness: an encoder that skips updates is not compensated",
                "set asgml.control=lr_matched or asgml.adaptive.kind=staleness",
            )
        if self.mode == "adaptive" and self.adaptive.signal == "theory" and self.masking == "fusion_preserving":
            raise UserError(
                "asgml.adaptive.signal",
                "'theory' with masking 'fusion_preserving'",
                "masking hard, accumulate or soft: the law is of factors on the whole gradient",
                "set asgml.masking=hard or asgml.adaptive.signal=hybrid",
            )
        if self.yoked:
            self._check_yoked()
        if self.control == "yoked_scale" and self.compensation != "inverse":
            raise UserError(
                "asgml.control",
                f"'yoked_scale' with compensation '{self.compensation}'",
                "asgml.compensation=inverse: without a factor c(tau) this control has none to apply",
                "set asgml.compensation=inverse",
            )
        if (
            self.control in ("lr_matched", "yoked_lr")
            and self.kind == "frequency"
            and self.masking == "fusion_preserving"
        ):
            raise UserError(
                "asgml.control",
                f"'{self.control}' with masking 'fusion_preserving'",
                "masking soft, hard or accumulate: fusion_preserving scales one path of the gradient, which no "
                "learning rate does",
                "set asgml.masking=soft or asgml.control=random_skip",
            )
        for key, default in (("gamma", Asgml.gamma), ("lambda_comp", Asgml.lambda_comp), ("mu", Asgml.mu)):
            if not 0 <= getattr(self, key) < math.inf:
                found, expected = str(getattr(self, key)), "a finite number, 0 or more"
                raise UserError(f"asgml.{key}", found, expected, f"set asgml.{key}={default}")
        if not 0 <= self.soft_scale <= 1:
            raise UserError(
                "asgml.soft_scale",
                str(self.soft_scale),
                "0 to 1: the share of its gradient that an encoder applies between two updates",
                f"set asgml.soft_scale={Asgml.soft_scale}",
            )
        if not self.delayed:
            raise UserError(
                "asgml.delayed",
                repr(self.delayed),
                "dominant, all, or at least one modality: with none this is a run of asgml.mode=sync",
                "set asgml.delayed=dominant, or asgml.mode=sync",
            )

    def _check_yoked(self) -> None:
        """Refuse what a yoked control cannot replay."""
        kind = {"yoked_scale": "staleness", "yoked_skip": "frequency"}.get(self.control, self.adaptive.kind)
        if self.adaptive.kind != kind:
            raise UserError(
                "asgml.control",
                f"'{self.control}' with asgml.adaptive.kind={self.adaptive.kind}",
                f"asgml.adaptive.kind={kind}: the other kind has no such side effect",
                f"set asgml.adaptive.kind={kind} or asgml.control=yoked_lr",
            )
        if self.control == "yoked_skip" and self.adaptive.update_every < 2:
            raise UserError(
                "asgml.control",
                "'yoked_skip' with asgml.adaptive.update_every=1",
                "a window of 2 steps or more between two decisions, within which skips change their place",
                f"set asgml.adaptive.update_every={Adaptive.update_every}",
            )
        if self.boosts:
            raise UserError(
                "asgml.control",
                f"'{self.control}' with the boost",
                "no boost: it would follow this run's own probes, and not those of the run that is replayed",
                "set asgml.boost.enabled=false in both runs",
            )

    @property
    def yoked(self) -> bool:
        """Return whether the rhythm is that of another run."""
        return self.control.startswith("yoked_")

    @property
    def uses_probes(self) -> bool:
        """Return whether any decision reads the probes."""
        return self.boosts or (self.mode == "adaptive" and self.adaptive.signal not in PROBELESS and not self.yoked)

    @property
    def kind(self) -> str:
        """Return what the mode, or the schedule of `adaptive`, sets: `staleness` or `frequency`; else the mode."""
        return self.adaptive.kind if self.mode == "adaptive" else self.mode

    @property
    def delays(self) -> bool:
        """Return whether encoders apply stale gradients; controls may take that away from a mode."""
        return self.kind == "staleness" and self.control in ("none", "all_delayed", "yoked_swap")

    @property
    def skips(self) -> bool:
        """Return whether encoders skip updates; controls may take that away from a mode."""
        return self.kind == "frequency" and self.control in (
            "none",
            "all_delayed",
            "random_skip",
            "yoked_skip",
            "yoked_swap",
        )

    @property
    def boosts(self) -> bool:
        """Return whether the weak modality is boosted, by the mode or beside it."""
        return self.boost.enabled or self.mode == "boost"

    def waits(self, modalities: list[str], dominant: str | None) -> bool:
        """Return whether `tau` or `k` applies to nobody before the probes have found the dominant modality.

        Arguments as in `chosen`.
        """
        if self.mode not in ("staleness", "frequency") or self.delayed != "dominant" or self.control == "all_delayed":
            return False
        value, none = (self.tau, 0) if self.mode == "staleness" else (self.k, 1)
        return dominant is None and len(modalities) > 1 and not isinstance(value, dict) and value != none

    def chosen(self, modalities: list[str], dominant: str | None) -> list[str]:
        """Return the modalities that `delayed` names from the first step on.

        They are none where `dominant` is left to the probes (see `waits`).

        Args:
            modalities: the modalities that are trained.
            dominant: the modality that the data set names as dominant, or None.

        Raises:
            UserError: an unknown modality, or `dominant` where the one that the data set names is not trained.
        """
        if self.control == "all_delayed" or self.delayed == "all":
            return list(modalities)
        if self.delayed == "dominant":
            if dominant is None:
                return list(modalities) if len(modalities) == 1 else []
            if dominant not in modalities:
                raise UserError(
                    "asgml.delayed",
                    f"'dominant', which is '{dominant}', but only {modalities} are trained here",
                    f"all, or a list out of {modalities}",
                    f"set asgml.delayed=[{modalities[0]}] or asgml.mode=sync",
                )
            return [dominant]
        names = [self.delayed] if isinstance(self.delayed, str) else list(self.delayed)
        self.known(names, modalities, "asgml.delayed")
        return names

    @staticmethod
    def known(names: list[str], modalities: list[str], where: str) -> None:
        """Refuse names that are not among the modalities, `where` being the key that has them."""
        for name in names:
            if name not in modalities:
                near = get_close_matches(name, modalities, 1) or modalities
                raise UserError(
                    where,
                    f"modality '{name}'",
                    f"out of {modalities}",
                    f"write '{near[0]}' in place of '{name}'",
                )

    def per_modality(
        self, value: int | dict[str, int], rest: int, modalities: list[str], dominant: str | None, key: str
    ) -> dict[str, int]:
        """Return a setting of every modality.

        Args:
            value: one number for the modalities that `delayed` names, or the numbers of some modalities.
            rest: the number of all other modalities.
            modalities: the modalities that are trained.
            dominant: the modality that the data set names as dominant, or None.
            key: the key of `value`, for the error.
        """
        if isinstance(value, dict):
            self.known(list(value), modalities, key)
            if self.control == "all_delayed":
                return dict.fromkeys(modalities, max(value.values(), default=rest))
            return {m: int(value.get(m, rest)) for m in modalities}
        chosen = self.chosen(modalities, dominant)
        return {m: value if m in chosen else rest for m in modalities}

    def taus(self, modalities: list[str], dominant: str | None) -> dict[str, int]:
        """Return tau of every modality, in committed steps."""
        taus = self.per_modality(self.tau, 0, modalities, dominant, "asgml.tau")
        for m, tau in (taus if isinstance(self.tau, dict) else {**taus, "tau": self.tau}).items():
            if tau < 0:
                remedy = "set asgml.tau=0 for no delay"
                raise UserError("asgml.tau", f"{m}: {tau}", "a delay in steps, 0 or more", remedy)
        return taus

    def ks(self, modalities: list[str], dominant: str | None) -> dict[str, int]:
        """Return k of every modality, in committed steps.

        Raises:
            UserError: intervals under which some step would idle every encoder.
        """
        ks = self.per_modality(self.k, 1, modalities, dominant, "asgml.k")
        if self.waits(modalities, dominant):  # whoever it will be, the others have k 1
            check_phases({**ks, modalities[0]: int(self.k)}, self.phases, "asgml.k")  # type: ignore[arg-type]
        elif self.control != "lr_matched":
            check_phases(ks, self.phases, "asgml.k")
        return ks


def dead_keys(asgml: dict[str, Any]) -> dict[str, str]:
    """Return the keys of an `asgml` node without effect under its mode, with the reason; overriding one is an error."""
    mode, control = asgml["mode"], asgml["control"]
    adaptive = asgml["adaptive"]
    dead: dict[str, str] = {}

    def kill(reason: str, *keys: str) -> None:
        dead.update({f"asgml.{k}": reason for k in keys if f"asgml.{k}" not in dead})

    timing = mode if mode != "adaptive" else adaptive["kind"]
    if mode != "adaptive":
        kill(f"asgml.mode={mode} has no adaptive schedule", *(f"adaptive.{k}" for k in adaptive if k != "_target_"))
    if timing != "staleness":
        kill(
            f"asgml.mode={mode} delays no gradient",
            "tau",
            "warmup",
            "compensation",
            "lambda_comp",
            "mu",
            "buffer_dtype",
            "buffer_device",
        )
    if timing != "frequency":
        kill(f"asgml.mode={mode} skips no update", "k", "masking", "soft_scale", "phases")
    if mode == "adaptive":
        kill("the adaptive schedule sets it", "tau", "k", "delayed", "phases")
        if adaptive["signal"] != "blend":
            kill(f"signal={adaptive['signal']} blends nothing", "adaptive.blend_weight")
        if adaptive["signal"] in ("utilisation", "theory"):
            unread = () if adaptive["signal"] == "theory" else ("adaptive.window",)
            kill(
                f"signal={adaptive['signal']} does not read the speed score",
                "adaptive.beta",
                "adaptive.tau_base",
                "adaptive.ema",
                *unread,
            )
        if adaptive["signal"] in PROBELESS:
            kill(
                f"signal={adaptive['signal']} does not read the probes",
                "adaptive.threshold_delta",
                "adaptive.gap_full",
                "adaptive.ceilings",
            )
    if timing == "frequency" and asgml["masking"] != "soft":
        kill(f"masking={asgml['masking']} does not scale", "soft_scale")
    if timing == "frequency" and control != "lr_matched":
        kill("masking scales the gradient, if anything, whatever the optimiser", "through")
    if timing == "staleness":
        if asgml["compensation"] != "inverse":
            kill(f"compensation={asgml['compensation']} does not use it", "lambda_comp", "through")
        if asgml["compensation"] != "delay_compensated":
            kill(f"compensation={asgml['compensation']} does not use it", "mu")
    if mode in ("sync", "boost"):
        kill(f"asgml.mode={mode} delays no encoder", "delayed")
        kill(f"asgml.mode={mode} scales nothing", "through")
    if control in ("lr_matched", "scale_only"):
        kill(f"control={control} neither skips nor delays", "phases", "warmup", "buffer_dtype", "buffer_device")
    if asgml["boost"].get("relative"):
        kill("boost.relative=true knows no threshold", "boost.threshold_delta", "boost.gap_full")
    if not asgml["boost"]["enabled"] and mode != "boost":
        kill("the boost is off", *(f"boost.{k}" for k in asgml["boost"] if k not in ("_target_", "enabled")))
    return dead
