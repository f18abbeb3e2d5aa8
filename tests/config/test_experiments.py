"""Every experiment with every method composes, binds and has an identity of its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

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


@pytest.mark.parametrize(("program", "experiment"), CASES)
def test_experiment_with_every_method(program: str, experiment: str) -> None:
    hashes: dict[str, str] = {}
    for method in names(program, "method") if program == "asgml" else [None]:
        overrides = [f"experiment={experiment}", *([f"method={method}"] if method else [])]
        cfg = composer(program).compose(overrides)
        missing = [f"{key}=given" for key in OmegaConf.missing_keys(cfg)]  # what only the user can know: data.path
        if missing:
            cfg = composer(program).compose([*overrides, *missing])
        check(cfg)
        assert (cfg.program, cfg.name) == (program, experiment)
        twin = hashes.setdefault(config_hash(cfg), str(method))
        assert twin == str(method), f"method={method} and method={twin} are one run"


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
