"""Memory and time of a step in every mode, on clips of CREMA-D's shape."""

from __future__ import annotations

from collections.abc import Iterator

from asgml.accelerator.clock import Clock
from asgml.accelerator.runs import CREMAD, trained
from asgml.accelerator.runs import MODES as NAMES
from suite.accelerator.section import Place, Row, Section, check

WARM, STEPS = 6, 40  # steps: the intervals of monitors (10) are in the counted ones
STALENESS, HARD = "staleness, tau = 2", "frequency hard, k = 2"


def modes(place: Place) -> Iterator[Row]:
    """Yield milliseconds, ratio to joint and peak memory of each mode, then what is promised of them."""
    clips, warm, steps = (CREMAD.tiny(), 1, 3) if place.dry else (CREMAD, WARM, WARM + STEPS)
    ratios: dict[str, float] = {}
    first = 0.0
    for mode in NAMES:
        clock = Clock(place, warm)
        trained(place, clips, mode, steps, callbacks=[clock])
        first = first or clock.ms
        ratios[mode] = clock.ms / first
        yield Row(mode, f"{clock.ms:.2f} ms, {ratios[mode]:.3f} of joint, peak {clock.peak_mb:.0f} MiB")
    clock = Clock(place, warm)
    trained(place, clips, "joint", steps, {"trainer.precision": "bf16-mixed"}, [clock])
    yield Row("joint, bf16-mixed", f"{clock.ms:.2f} ms, {clock.ms / first:.3f} of joint, peak {clock.peak_mb:.0f} MiB")
    if place.dry:
        return
    against = ratios[STALENESS] / ratios["uniform"]
    yield check("staleness over the same run without delay", f"{against:.3f}", "at most 1.05", against <= 1.05)
    against = ratios[HARD] / ratios["uniform"]
    yield check("hard masking over the same run without it", f"{against:.3f}", "below 1", against < 1)


MODES = Section("modes", "Memory and time of a step, two ResNet18, CREMA-D's shapes, batch 64", 110, modes)
