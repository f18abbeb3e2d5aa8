"""The faults that can be replayed: what each was, which rule it breaks, under which settings it acts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from omegaconf import DictConfig

from asgml.rhythm.config import Asgml
from callbacks.errors import UserError


@dataclass(frozen=True)
class Fault:
    """What is told of a fault.

    Attributes:
        what: what was wrong, in one phrase.
        rule: the rule of docs/specification.md that it breaks.
        acts: whether there is anything for it to act on under an `asgml` node.
        needs: overrides under which it acts.
    """

    what: str
    rule: str
    acts: Callable[[Asgml], bool]
    needs: str


def _delays(config: Asgml) -> bool:
    return config.delays


def _inverse(config: Asgml) -> bool:
    return config.delays and config.compensation == "inverse" and config.lambda_comp > 0


def _holds(config: Asgml) -> bool:
    return config.skips and config.masking in ("hard", "accumulate")


def _fixed_cadence(config: Asgml) -> bool:
    return config.skips and config.mode == "frequency" and config.control != "random_skip"


def _speed(config: Asgml) -> bool:
    return config.mode == "adaptive" and not config.yoked and config.adaptive.signal in ("speed", "hybrid", "blend")


def _averages(config: Asgml) -> bool:
    return config.uses_probes or _speed(config)


def _always(config: Asgml) -> bool:
    return True


FAULTS = {
    "amp_scaled_buffer": Fault(
        "gradients were stored times the loss scale of then and unscaled by that of now",
        "A2.9",
        _delays,
        "asgml.mode=staleness",
    ),
    "off_by_one": Fault("the delay was one step shorter than tau", "A2.1", _delays, "asgml.mode=staleness"),
    "inverted_compensation": Fault(
        "the factor was `1 + lambda tau`, not its inverse",
        "A2.6",
        _inverse,
        "asgml.mode=staleness asgml.compensation=inverse asgml.lambda_comp=0.1",
    ),
    "clamped_descent": Fault(
        "a negative loss descent counted as 0 in the speed score",
        "A3.2",
        _speed,
        "asgml.mode=adaptive asgml.adaptive.signal=hybrid",
    ),
    "zero_start_ema": Fault(
        "moving averages began at 0 and were not corrected for it", "A3.1, A4.3", _averages, "asgml.mode=adaptive"
    ),
    "all_groups_gate": Fault(
        "a step was skipped when any group had no gradient", "A5.1", _always, "any settings at all"
    ),
    "in_phase": Fault(
        "all encoders were masked in the same steps",
        "A2.3",
        _fixed_cadence,
        "asgml.mode=frequency asgml.control=none",
    ),
    "zeroed_gradients": Fault(
        "a held encoder got gradients of 0, not none, so that momentum and weight decay moved it",
        "A2.2",
        _holds,
        "asgml.mode=frequency asgml.masking=hard",
    ),
}


def fault_of(cfg: DictConfig) -> str | None:
    """Return the name of the fault that a run replays, None for a run of the exact code."""
    name = cfg.get("fault")
    return None if name is None else str(name)


def check_fault(cfg: DictConfig, config: Asgml) -> None:
    """Refuse a fault that is not known, or one that has nothing to act on.

    Args:
        cfg: the whole configuration.
        config: its `asgml` node, built.

    Raises:
        UserError: it names the fault, and the settings under which it acts.
    """
    name = fault_of(cfg)
    if name is None:
        return
    if name not in FAULTS:
        first = next(iter(FAULTS))
        raise UserError("fault", name, f"one of {', '.join(FAULTS)}", f"set +fault={first}, or leave it out")
    fault = FAULTS[name]
    if not fault.acts(config):
        raise UserError(
            f"+fault={name}",
            f"nothing for it to act on under asgml.mode={config.mode}",
            f"settings under which it can be wrong that {fault.what}",
            f"set {fault.needs}, or leave +fault={name} out",
        )


def warning(name: str) -> str:
    """Return the first line of a run that replays a fault."""
    fault = FAULTS[name]
    return (
        f"FAULT REPLAY: {name}. This run is wrong on purpose ({fault.what}; specification {fault.rule}) and no result "
        "of any method."
    )


def marks(cfg: DictConfig) -> dict[str, str]:
    """Return what `result.json` says of the fault that a run replays: its name, and a label that has it."""
    name = fault_of(cfg)
    if name is None:
        return {}
    label = str(cfg.label or "")
    known = name in re.split(r"[^\w-]+", label)
    return {"fault": name, "label": label if known else f"{label} fault={name}".strip()}
