"""Every experiment with every method composes, binds and has an identity of its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from suite.check import check
from suite.compose import Composer, conf_dir
from suite.identity import config_hash

PROGRAMS = sorted(p.stem for p in conf_dir().glob("*.yaml"))


@cache
def composer() -> Composer:
    return Composer()


def names(group: str) -> list[str]:
    return sorted(str(p.relative_to(conf_dir() / group).with_suffix("")) for p in (conf_dir() / group).rglob("*.yaml"))


def belongs(program: str, experiment: str) -> bool:
    """An experiment says which program it is for by `program: …`; without it, it is for asgml."""
    text = (conf_dir() / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")
    said = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("program:")]
    return (said or ["asgml"])[0] == program


CASES = [(p, e) for p in PROGRAMS for e in names("experiment") if belongs(p, e)]


@pytest.mark.parametrize(("program", "experiment"), CASES)
def test_experiment_with_every_method(program: str, experiment: str) -> None:
    hashes: dict[str, str] = {}
    for method in names("method") if program == "asgml" else [None]:
        overrides = [f"experiment={experiment}", *([f"method={method}"] if method else [])]
        cfg = composer().compose(program, overrides)
        missing = [f"{key}=given" for key in OmegaConf.missing_keys(cfg)]  # what only the user can know: data.path
        if missing:
            cfg = composer().compose(program, [*overrides, *missing])
        check(cfg)
        assert (cfg.program, cfg.name) == (program, experiment)
        twin = hashes.setdefault(config_hash(cfg), str(method))
        assert twin == str(method), f"method={method} and method={twin} are one run"


def test_the_tree_stays_in_struct_mode() -> None:
    for program, experiment in CASES[:1]:
        cfg = composer().compose(program, [f"experiment={experiment}"])
        with pytest.raises(Exception, match="not in struct"):
            cfg.no_such_key = 1


def test_conf_is_where_the_wheel_takes_it_from() -> None:
    import tomllib

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    packaged = tomllib.loads(text)["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert packaged["conf"] == "suite/conf"
