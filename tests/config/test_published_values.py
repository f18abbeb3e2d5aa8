"""A method comes with the values that its paper gives for the data set of the run."""

from __future__ import annotations

import re
from typing import Any

import pytest
from omegaconf import OmegaConf

from asgml.run import Tree, dead
from suite.config.compose import Composer, compose, conf_dir
from suite.runs.launch import plan

BETA = {"audio": 0.95, "visual": 0.1}
MERGED = {"audio": 0.4, "visual": 0.6}
PUBLISHED: list[tuple[str, str, dict[str, Any]]] = [
    ("arl", "temperature", {"cremad": 8, "cremad_mini": 8, "ave": 4, "kinetics_sounds": 4, "avdigits": 4}),
    ("arl", "gamma", {"cremad": 4, "cremad_mini": 4, "ave": 5, "kinetics_sounds": 3, "avdigits": 3}),
    ("amst", "factor", {"cremad": 5, "cremad_mini": 5, "ave": 2}),
    ("mmcosine", "scale", {"cremad": 10, "cremad_mini": 10, "ave": 15, "kinetics_sounds": 15}),
    ("reconboost", "reconcile", {"cremad": 0.2, "ave": 0.25}),
    ("lfm", "schedule", {"cremad": "fitted", "ave": "heuristic", "cremad_mini": "heuristic"}),
    ("lfm", "alignment", {"cremad": "js", "ave": "contrastive", "cremad_mini": "contrastive"}),
    ("inforeg", "beta", {data: BETA for data in ("cremad", "cremad_mini", "ave", "kinetics_sounds", "avdigits")}),
    ("ogm_ge", "alpha", {"cremad": 0.8}),
    ("ogm_ge", "ends", {"cremad": 51}),
    ("agm", "ends", {"cremad": 20}),
    ("dgl", "alpha", {"cremad": 4, "kinetics_sounds": 3, "ave": 4}),
    ("greedy", "begins", {"cremad": 1}),
    ("pmr", "ends", {"cremad": 70}),
    ("amss", "temperature", {"cremad": 0.2, "kinetics_sounds": 0.2}),
    ("aug", "every", {"cremad": 20, "kinetics_sounds": 10}),
    ("aug", "residual", {"cremad": 0.5, "kinetics_sounds": 0.2}),
    ("aug", "weights", {"cremad": MERGED, "kinetics_sounds": MERGED, "ave": None}),
    ("g2d", "alone", {"cremad": 0.5}),
]


@pytest.mark.parametrize(("method", "key", "values"), PUBLISHED, ids=[f"{m}.{k}" for m, k, _ in PUBLISHED])
def test_the_data_set_decides(method: str, key: str, values: dict[str, Any]) -> None:
    for data, value in values.items():
        node = compose("asgml", [f"experiment={data}", f"method={method}"]).methods[method]
        assert OmegaConf.to_container(node, resolve=True)[key] == value  # type: ignore[call-overload]


def test_combined_rows_have_their_parts_values() -> None:
    cfg = compose("asgml", ["experiment=cremad", "method=boost_ogm_ge"])
    assert (cfg.asgml.boost.enabled, cfg.asgml.boost.alpha, cfg.methods.ogm_ge.alpha) == (True, 0.75, 0.8)
    cfg = compose("asgml", ["experiment=cremad", "method=opm_ogm"])
    assert (list(cfg.methods), cfg.methods.ogm_ge.noise, cfg.methods.ogm_ge.ends) == (["opm", "ogm_ge"], False, 51)


def test_the_command_line_has_the_last_word() -> None:
    cfg = compose("asgml", ["experiment=kinetics_sounds", "method=arl", "methods.arl.gamma=1.5"])
    assert cfg.methods.arl.gamma == 1.5


def test_a_sweep_over_data_sets_gives_each_its_own() -> None:
    jobs = plan("asgml", ["-m", "experiment=ave,kinetics_sounds", "method=arl"], dead=dead, schema=Tree).jobs
    assert [job.cfg.methods.arl.gamma for job in jobs] == [5, 3]


def test_only_data_sets_of_the_suite_are_named() -> None:
    """A misspelt name would silently mean every other data set."""
    known, found = set(Composer("asgml").options("data")), set()
    for path in (conf_dir() / "asgml" / "method").glob("*.yaml"):
        for mapping in re.findall(r"\$\{choose:\$\{hydra:runtime\.choices\.data\},\{(.*)\},[^}]*\}", path.read_text()):
            found |= set(re.findall(r"(\w+):", re.sub(r"\{[^{}]*\}", "{}", mapping)))
        assert path.read_text().count("${choose:") == len(re.findall(r"\$\{choose:\$\{hydra:", path.read_text()))
    assert found
    assert found <= known
