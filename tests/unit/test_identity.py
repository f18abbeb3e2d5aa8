"""The hash names the numbers of a run: nothing else changes it, and everything that counts does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from suite.runs.identity import AFTERWARDS, NOT_MEANINGFUL, config_hash, evaluation_hash, meaningful, run_dir

TREE: dict[str, Any] = {
    "program": "fake",
    "name": "tiny",
    "seed": 0,
    "resume": "auto",
    "paths": {"runs": "runs", "data": "data"},
    "data": {"root": "${paths.data}/tiny", "rows": 8},
    "loader": {"batch_size": 4, "workers": 0},
    "optimizer": {"lr": 0.001, "betas": [0.9, 0.99]},
    "methods": {"a": {"alpha": 0.1}, "b": {"alpha": 0.2}},
    "trainer": {"max_epochs": 2, "devices": 1, "accelerator": "cpu", "precision": "32-true"},
    "callbacks": {"progress": {"rate": 1}, "gate": {"limit": 3}},
    "logger": None,
    "debug": None,
}


def tree(**changes: Any) -> DictConfig:
    cfg = OmegaConf.create(TREE)
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=False)
    return cfg


def test_the_hash_is_the_same_in_every_process_and_for_every_order_of_keys() -> None:
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])}
    imports = "from suite.runs.identity import config_hash; from omegaconf import OmegaConf"
    code = f"{imports}; print(config_hash(OmegaConf.create({TREE!r})))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert other.stdout.strip() == config_hash(tree())
    assert len(config_hash(tree())) == 12
    backwards = OmegaConf.create({k: TREE[k] for k in reversed(TREE)})
    assert config_hash(backwards) == config_hash(tree())


def test_this_very_hash_does_not_change_between_releases() -> None:
    assert config_hash(tree()) == "3e09beed9464", "a changed hash orphans every finished run: change it only on purpose"


@pytest.mark.parametrize("key", sorted(NOT_MEANINGFUL))
def test_where_and_how_fast_do_not_count(key: str) -> None:
    cfg = tree()
    OmegaConf.update(cfg, key, {"runs": "elsewhere", "data": "/big/disk"} if key == "paths" else "changed", merge=False)
    assert config_hash(cfg) == config_hash(tree())


def test_what_is_asked_of_finished_weights_has_a_hash_of_its_own() -> None:
    asked = [tree(), *(tree(**{key: {"size": 1}}) for key in AFTERWARDS), tree(evaluation={"size": 2})]
    assert {config_hash(cfg) for cfg in asked} == {config_hash(tree())}
    assert len({evaluation_hash(cfg) for cfg in asked}) == len(asked)
    other = tree(seed=1, evaluation={"size": 2}, acceptance={"rule": 1})
    assert evaluation_hash(other) == evaluation_hash(asked[-1])
    assert config_hash(tree(acceptance={"rule": 1})) == config_hash(tree())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("name", "other"),
        ("data__rows", 9),
        ("data__root", "${paths.data}/other"),
        ("loader__batch_size", 8),
        ("optimizer__lr", 0.0010001),
        ("optimizer__betas", [0.9, 0.999]),
        ("trainer__max_epochs", 3),
        ("trainer__precision", "bf16-mixed"),
        ("callbacks__gate", None),
        ("debug", "overfit"),
        ("methods", {"b": {"alpha": 0.2}, "a": {"alpha": 0.1}}),  # methods are applied in order
    ],
)
def test_everything_else_counts(key: str, value: Any) -> None:
    assert config_hash(tree(**{key: value})) != config_hash(tree())


def test_one_number_has_one_identity() -> None:
    assert config_hash(tree(optimizer__lr=1)) == config_hash(tree(optimizer__lr=1.0))
    assert config_hash(tree(optimizer__lr=1e-3)) == config_hash(tree(optimizer__lr=0.001))
    assert config_hash(tree(debug=1)) != config_hash(tree(debug=True))
    assert config_hash(tree(debug=1)) != config_hash(tree(debug="1"))
    assert meaningful(tree(debug=float("nan")))["debug"] == "nan"


def test_the_tree_itself_is_left_alone() -> None:
    cfg = tree()
    OmegaConf.set_struct(cfg, True)
    before = OmegaConf.to_yaml(cfg)
    config_hash(cfg)
    assert OmegaConf.to_yaml(cfg) == before
    assert OmegaConf.is_struct(cfg)


def test_run_dir_follows_paths_name_and_hash(tmp_path: Any) -> None:
    cfg = tree(paths__runs=str(tmp_path))
    assert run_dir(cfg) == tmp_path / "tiny" / config_hash(cfg)
    assert run_dir(tree()).is_absolute()
    assert not run_dir(cfg).exists()


def test_an_earlier_run_counts_by_its_name_and_hash_however_its_folder_is_written() -> None:
    run = "tiny/0123456789ab"
    spellings = (f"runs/{run}", f"runs/{run}/", f"/big/disk/{run}", f"../my runs/{run}", f"${{paths.runs}}/{run}")
    for key in ("init.weights", "wire.from_run", "wire.start_from"):
        hashes = {config_hash(tree(**{key.replace(".", "__"): s})) for s in spellings}
        assert len(hashes) == 1, key
        others = {config_hash(tree(**{key.replace(".", "__"): x})) for x in (f"{run[:-1]}c", "other/0123456789ab")}
        assert len(others | hashes) == 3
    assert config_hash(tree(init__weights=f"runs/{run}")) == "6f5b8de44ecf", (
        "a changed hash orphans every run that stands on another"
    )
