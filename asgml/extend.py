"""`python -m asgml.run extend=RUN trainer.max_epochs=N`: a finished run trained on, as a new run.

The configuration is that of RUN; what may be changed with it is the length, and what changes no number (device,
display, loggers, workers). The new run lies beside RUN.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from callbacks.errors import UserError
from suite.runs.extension import KEY
from suite.runs.finished import (
    PLACE,
    apply_override,
    parsed,
    read_config,
    refuse_training_keys,
    require_finished,
    stored_checkpoint,
)
from suite.runs.foreseen import PLAN
from suite.runs.identity import NOT_MEANINGFUL
from suite.runs.planning import arguments_of

LENGTHS = ("trainer.max_epochs", "trainer.max_steps")
STEPS = 50  # in an epoch, when two schedules are compared


def asked(argv: Sequence[str]) -> bool:
    """Tell whether a command line extends a run."""
    return any(word.lstrip("+").startswith(f"{KEY}=") for word in argv)


def extended(argv: Sequence[str]) -> tuple[DictConfig, DictConfig, list[str], bool]:
    """Return the trees of a run and of the one that extends it, what was typed, and whether it is only planned.

    Raises:
        UserError: no finished run, a key that is not one of length, or no more training than there was.
    """
    args = arguments_of([word for word in argv if word != PLAN])
    _refuse_flags(args)
    runs, words = _split(args.overrides)
    run_dir = runs[0]
    if len(runs) > 1 or not run_dir:
        found = "no run" if not run_dir else f"{len(runs)} runs"
        raise UserError(KEY, found, "one finished run", f"set {KEY}={PLACE}")
    place = Path(run_dir).expanduser().resolve()
    before = read_config(place, "asgml", "multimodal network")
    hash_of = require_finished(place, "repeat its command: it goes on").get("hash")
    stored_checkpoint(place, "last")
    cfg = copy.deepcopy(before)
    with open_dict(cfg):
        cfg.paths.runs = str(place.parents[len(str(cfg.name).split("/"))])
        cfg.resume = "auto"
        cfg[KEY], cfg.paths[KEY] = str(hash_of), str(place)
    told = f"{' or '.join(LENGTHS)}, or a key that changes no number"
    for word in words:
        override = parsed(word, "trainer.max_epochs=20")
        command = f"python -m asgml.run +init.weights={run_dir} …"
        refuse_training_keys(override, (*LENGTHS, *NOT_MEANINGFUL), told, place, command)
        apply_override(cfg, override)
    _require_more(before, cfg, run_dir)
    return before, cfg, [f"{KEY}={run_dir}", *words], PLAN in argv


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the runs that are extended, and all other words."""
    named = [w for w in words if asked([w])]
    return [w.partition("=")[2].strip("'\"") for w in named], [w for w in words if w not in named]


def _refuse_flags(args: argparse.Namespace) -> None:
    if args.multirun or args.cfg or args.config_dir:
        flag = "-m" if args.multirun else "--cfg" if args.cfg else "--config-dir"
        remedy = f"leave {flag} out and give one command per run; {PLAN} shows what it would do"
        raise UserError(
            f"{flag} with {KEY}=RUN", flag, "the configuration of the run, whose length alone changes", remedy
        )


def _require_more(before: DictConfig, cfg: DictConfig, run_dir: str) -> None:
    """Refuse a length that a run has reached."""
    limits = {key: old for key in LENGTHS if (old := _limit(before, key)) is not None}
    for key, old in limits.items():
        new = _limit(cfg, key)
        if new is not None and new <= old:
            found, expected = f"{new}: {run_dir} has {old} of them", f"more than {old}"
            raise UserError(key, found, expected, f"set {key}={2 * old}")


def _limit(cfg: DictConfig, key: str) -> int | None:
    """Return how long a run goes by one of the two measures; None where that one does not end it."""
    value = cfg.trainer.get(key.rpartition(".")[2])
    return None if value is None or int(value) < 0 else int(value)


def remarks(before: DictConfig, cfg: DictConfig) -> list[str]:
    """Return one line for each part whose work depends on the length of training; [] where the result is exact.

    Args:
        before: the configuration of the run that is extended.
        cfg: that of the new run.
    """
    from asgml.methods.base import Method
    from callbacks.stages.lr import LRSchedule
    from suite.config.instantiate import build_node

    old, new = _limit(before, LENGTHS[0]), _limit(cfg, LENGTHS[0])
    said, other = [], f"it is not the run of {new} epochs"
    schedule: Any = build_node(cfg.lr_schedule)
    if not isinstance(schedule, LRSchedule):
        said.append(f"lr_schedule: whether {type(schedule).__name__} depends on the length is not known")
    elif old is not None and new is not None:
        was, now = schedule.factor(STEPS, old), schedule.factor(STEPS, new)
        if any(was(t) != now(t) for t in range(STEPS * old)):
            last, first = was(STEPS * old - 1), now(STEPS * old)
            said.append(
                f"lr_schedule={schedule.kind} is drawn over trainer.max_epochs: the rate ended at {last:.3g} of its "
                f"base over {old} epochs and goes on at {first:.3g}, as over {new}; {other}"
            )
    for name, node in cfg.methods.items():
        method: Method = build_node(node)
        if method.reads_length:
            said.append(f"method {name} acts by the share of trainer.max_epochs: {other}")
    return said
