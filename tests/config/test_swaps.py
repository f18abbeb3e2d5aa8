"""Swapping a part of an experiment never fails on a key that the user did not write."""

from __future__ import annotations

from functools import cache

import pytest
import yaml
from test_experiments import missing

from suite.config.check import check
from suite.config.compose import Composer, conf_dir

PROGRAMS = ("asgml", "feedback", "latentwire")


@cache
def composer(program: str) -> Composer:
    return Composer(program)


def swaps() -> list[tuple[str, str, str, str]]:
    """Return every option of every group of which an experiment sets keys itself."""
    found = []
    for program in PROGRAMS:
        groups = set(composer(program).groups())
        for path in sorted((conf_dir() / program / "experiment").glob("*.yaml")):
            own = yaml.safe_load(path.read_text(encoding="utf-8"))
            for group in sorted(groups & own.keys()):
                # an option of `adaptation` is that of one reader
                places = [f"+adaptation@adaptation.{n}" for n in own[group]] if group == "adaptation" else [group]
                options = composer(program).options(group)
                found += [(program, path.stem, place, option) for place in places for option in options]
    return found


@pytest.mark.parametrize(("program", "experiment", "group", "option"), swaps())
def test_every_option_of_a_group_that_the_experiment_tunes(
    program: str, experiment: str, group: str, option: str
) -> None:
    line = [f"experiment={experiment}", f"{group}={option}"]
    cfg = composer(program).compose(line)
    given = missing(cfg)
    check(composer(program).compose([*line, *given]) if given else cfg)


@pytest.mark.parametrize("experiment", ["features", "cremad", "cremad_mini"])
def test_an_optimiser_brings_its_own_learning_rate(experiment: str) -> None:
    cfg = composer("asgml").compose([f"experiment={experiment}", "optimizer=adamw", "++data.path=given"])
    assert cfg.optimizer.lr == 0.001
    assert "momentum" not in cfg.optimizer


@pytest.mark.parametrize("experiment", Composer("asgml").options("experiment"))
def test_no_experiment_delays_under_momentum_by_default(experiment: str) -> None:
    cfg = composer("asgml").compose([f"experiment={experiment}", "++data.path=given"])
    assert cfg.asgml.mode == "staleness"
    assert cfg.optimizer.momentum == 0
