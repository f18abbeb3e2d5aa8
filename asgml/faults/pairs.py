"""What the study of faults runs: every fault beside the exact code at the same settings."""

from __future__ import annotations

from dataclasses import dataclass

# The settings of the exact code, by what the table calls them. Momentum 0.9 comes with a rate that no delay is part of.
SETTINGS: dict[str, tuple[str, ...]] = {
    "staleness, tau 1": ("method=asgml_staleness", "asgml.tau=1"),
    "staleness, tau 2": ("method=asgml_staleness", "asgml.tau=2"),
    "staleness, tau 4": ("method=asgml_staleness", "asgml.tau=4"),
    "adaptive by speed": (
        "method=asgml_adaptive",
        "asgml.adaptive.signal=speed",
        "asgml.adaptive.tau_base=1",
    ),
    "adaptive by utilisation": ("method=asgml_adaptive", "asgml.adaptive.signal=utilisation"),
    "hard masking, k 2": ("method=asgml_frequency", "asgml.masking=hard"),
    "hard masking, k 2 for all": ("method=asgml_frequency", "asgml.masking=hard", "asgml.delayed=all"),
    "hard masking, k 4, momentum 0.9": (
        "method=asgml_frequency",
        "asgml.masking=hard",
        "asgml.k=4",
        "optimizer=sgd",
        "optimizer.lr=0.005",
    ),
    "soft masking, k 2": ("method=asgml_frequency",),
    "uniform, face missing in 95 %": ("method=uniform", "+loader.missing.visual=0.95"),
}

# Every run: short, and with a rate that falls to 0, so that the last epoch is not the luck of its last steps.
COMMON = ("trainer.max_epochs=20", "lr_schedule=cosine")

# GradScaler's 2000 steps, of some 10 500 in 100 epochs of CREMA-D, are 80 of the 420 here.
SCALE = "asgml.parts.buffer"


@dataclass(frozen=True)
class Pair:
    """A fault beside the exact code at the same settings.

    Attributes:
        fault: the fault's name; `gamma 4` is none of the code but a value.
        settings: the name of the settings of both.
        faulty: the overrides that only the faulty run has.
        told: what else the table says of the faulty run.
        row: the row of the predecessor's table that the fault concerns, in so far as that row can have had it at these
            settings: `frequency` or `staleness`; "" for none of both.
    """

    fault: str
    settings: str
    faulty: tuple[str, ...]
    told: str = ""
    row: str = ""

    @property
    def label(self) -> str:
        """What the faulty run is called; the exact one is called by its settings."""
        return f"{self.name} ({self.settings})"

    @property
    def name(self) -> str:
        """What the table calls the fault."""
        return f"{self.fault}, {self.told}" if self.told else self.fault


def _pair(fault: str, settings: str, *more: str, told: str = "", row: str = "") -> Pair:
    return Pair(fault, settings, (f"+fault={fault}", *more), told, row)


PAIRS = (
    _pair("off_by_one", "staleness, tau 1"),
    _pair("off_by_one", "staleness, tau 2", row="staleness"),
    _pair("inverted_compensation", "staleness, tau 2", row="staleness"),
    _pair("inverted_compensation", "staleness, tau 4"),
    _pair(
        "amp_scaled_buffer",
        "staleness, tau 2",
        f"{SCALE}.growth_interval=80",
        f"{SCALE}.overflow_after=40",
        told="scale moves as often as in 100 epochs",
        row="staleness",
    ),
    _pair(
        "amp_scaled_buffer",
        "staleness, tau 2",
        f"{SCALE}.growth_interval=8",
        f"{SCALE}.overflow_after=4",
        told="scale moves ten times as often",
    ),
    Pair("gamma 4", "staleness, tau 2", ("asgml.gamma=4",), row="staleness"),
    Pair("gamma 4", "soft masking, k 2", ("asgml.gamma=4",), row="frequency"),
    _pair("in_phase", "hard masking, k 2 for all", row="frequency"),
    _pair("zeroed_gradients", "hard masking, k 4, momentum 0.9", row="frequency"),
    _pair("all_groups_gate", "hard masking, k 2"),
    _pair("all_groups_gate", "uniform, face missing in 95 %"),
    _pair("clamped_descent", "adaptive by speed"),
    _pair("zero_start_ema", "adaptive by utilisation"),
)


def rows() -> tuple[tuple[str, ...], ...]:
    """Return the overrides of every run of the study, each with its `label=…`: the exact ones once, then the faulty."""
    exact = [(f"label={name}", *COMMON, *SETTINGS[name]) for name in dict.fromkeys(pair.settings for pair in PAIRS)]
    faulty = [(f"label={pair.label}", *COMMON, *SETTINGS[pair.settings], *pair.faulty) for pair in PAIRS]
    return (*exact, *faulty)
