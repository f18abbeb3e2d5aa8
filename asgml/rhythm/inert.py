"""The keys of the `asgml` node that act on nothing at the values of others (lambda at a delay of 0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AGE = ("lambda_comp", "compensation", "mu", "warmup", "buffer_dtype", "buffer_device", "through")
SKIPS = ("masking", "soft_scale", "phases", "through")
DECIDES = ("tau_base", "threshold_delta", "gap_full", "kappa", "ramp_steps", "ceilings")
LIFTS = ("ema", "threshold_delta", "gap_full", "relative", "through")


def inert_keys(asgml: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys whose value changes nothing of a run, not even what it logs, each with the setting behind it.

    Keys that the mode does not read are not among them: overriding those is an error (`config.dead_keys`). `control`
    and `mode` are never: they say which run of a comparison this is.

    Args:
        asgml: the values of an `Asgml`, nested ones as mappings.
    """
    found: dict[str, str] = {}

    def idle(why: str, *keys: str) -> None:
        found.update({key: why for key in keys if key not in found})

    mode = asgml["mode"]
    adaptive = asgml.get("adaptive") or {}
    kind = adaptive.get("kind", "staleness") if mode == "adaptive" else mode
    if mode == "adaptive":
        low, high = adaptive.get("tau_min", 0), adaptive.get("tau_max", 4)
        if low == high:
            idle(f"asgml.adaptive.tau_min=asgml.adaptive.tau_max={high}", *(f"adaptive.{key}" for key in DECIDES))
        if high == 0:
            idle("asgml.adaptive.tau_max=0", *(AGE if kind == "staleness" else SKIPS))
    elif mode == "staleness" and _all(asgml["tau"], 0):
        idle("asgml.tau=0", *AGE, *(() if isinstance(asgml["tau"], Mapping) else ("delayed",)))
    elif mode == "frequency" and _all(asgml["k"], 1):
        idle("asgml.k=1", *SKIPS, *(() if isinstance(asgml["k"], Mapping) else ("delayed",)))
    if kind == "staleness":
        if asgml["compensation"] != "inverse":
            idle(f"asgml.compensation={asgml['compensation']}", "through")
        if asgml["lambda_comp"] == 0:
            idle("asgml.lambda_comp=0", "through")
    boost = asgml.get("boost") or {}
    if mode == "boost" or boost.get("enabled", False):
        if boost.get("alpha", 0.5) == 0:
            idle("asgml.boost.alpha=0", "boost.cap", *(f"boost.{key}" for key in LIFTS))
        elif boost.get("cap", 2.0) == 1:
            idle("asgml.boost.cap=1", "boost.alpha", *(f"boost.{key}" for key in LIFTS))
    return found


def _all(setting: int | Mapping[str, int], neutral: int) -> bool:
    """Return whether a setting is neutral for every modality; those that a mapping leaves out are."""
    return all(v == neutral for v in setting.values()) if isinstance(setting, Mapping) else setting == neutral
