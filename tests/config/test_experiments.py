"""Experiments and methods compose, bind and have an identity of their own, in every combination."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from suite.config.check import check
from suite.config.compose import Composer, conf_dir
from suite.runs.identity import config_hash

PROGRAMS = sorted(p.parent.name for p in conf_dir().glob("*/config.yaml"))


@cache
def composer(program: str) -> Composer:
    return Composer(program)


def names(program: str, group: str) -> list[str]:
    folder = conf_dir() / program / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


CASES = [(p, e) for p in PROGRAMS for e in names(p, "experiment")]


def missing(cfg: DictConfig) -> list[str]:
    """What is to be given; values that refer to it are not asked."""

    def walk(node: Any, key: str) -> list[str]:
        if isinstance(node, dict):
            return [found for name, child in node.items() for found in walk(child, f"{key}.{name}".lstrip("."))]
        return [f"{key}=given"] if node == "???" else []

    return walk(OmegaConf.to_container(cfg, resolve=False), "")


def composes(program: str, experiment: str, methods: Sequence[str | None]) -> None:
    hashes: dict[str, str] = {}
    given = missing(composer(program).compose([f"experiment={experiment}"]))  # what only the user can know: data.path
    for method in methods:
        overrides = [f"experiment={experiment}", *([f"method={method}"] if method else []), *given]
        cfg = composer(program).compose(overrides)
        if more := missing(cfg):
            cfg = composer(program).compose([*overrides, *more])
        check(cfg)
        assert (cfg.program.rpartition(".")[2], cfg.name) == (program, experiment)
        twin = hashes.setdefault(config_hash(cfg), str(method))
        assert twin == str(method), f"method={method} and method={twin} are one run"


@pytest.mark.parametrize(("program", "experiment"), CASES)
def test_every_experiment_and_every_method(program: str, experiment: str) -> None:
    """Each method with `features`, and with one of the other experiments in turn."""
    every, others = names(program, "method"), [e for p, e in CASES if p == program and e != "features"]
    if program != "asgml":
        composes(program, experiment, [None])
    elif experiment == "features":
        composes(program, experiment, every)
    else:
        composes(program, experiment, every[others.index(experiment) :: len(others)])


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [e for p, e in CASES if p == "asgml"])
def test_every_experiment_with_every_method(experiment: str) -> None:
    composes("asgml", experiment, names("asgml", "method"))


def test_the_tree_stays_in_struct_mode() -> None:
    for program, experiment in CASES[:1]:
        cfg = composer(program).compose([f"experiment={experiment}"])
        with pytest.raises(Exception, match="not in struct"):
            cfg.no_such_key = 1


def test_conf_is_where_the_wheel_takes_it_from() -> None:
    import tomllib

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    packaged = tomllib.loads(text)["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert packaged["conf"] == "suite/conf"
