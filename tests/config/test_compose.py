"""What a user types becomes one tree, or an error that names what to type instead."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import fake_program
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

from callbacks.errors import UserError
from suite.config.compose import Composer, compose, conf_dir, nearest_key


def test_overrides_groups_and_the_experiment_name_arrive() -> None:
    cfg = compose("fake", ["experiment=large", "part=wide", "method=[second,first]", "seed=3"], fake_program.CONF)
    assert (cfg.name, cfg.seed, cfg.loader.batch_size, cfg.part.width) == ("large", 3, 8, 64)
    assert list(cfg.methods) == ["second", "first"]
    assert "hydra" not in cfg
    with pytest.raises(ConfigAttributeError):
        cfg.speed.tua  # noqa: B018 (struct mode)


def test_composing_leaves_no_global_state() -> None:
    before = HydraConfig.instance().cfg  # an earlier launch in this process may have left its own
    compose("fake", [], fake_program.CONF)
    assert not GlobalHydra.instance().is_initialized()
    assert HydraConfig.instance().cfg is before


def test_data_roots_stay_references() -> None:
    cfg = compose("fake", ["paths.data=/big/disk"], fake_program.CONF)
    assert OmegaConf.to_container(cfg.source)["root"] == "${paths.data}/tiny"  # type: ignore[index,call-overload]
    assert cfg.source.root == "/big/disk/tiny"


@pytest.mark.parametrize(
    ("override", "found", "advice"),
    [
        ("seeed=1", "'seeed'", "seed"),
        ("speed.tua=2", "'speed.tua'", "speed.tau"),
        ("tau=2", "'tau'", "speed.tau"),
        ("partt=wide", "'partt'", "part"),
        ("experiment=tinny", "'tinny'", "experiment=tiny"),
        ("method=[first,secnd]", "'secnd'", "method=second"),
        ("group_lr.audio=0.1", "'group_lr.audio'", "+group_lr.audio=0.1"),
        ("seed=0,1", "several values", "-m"),
        ("seed=[", "input", "quote"),
        ("seed", "EQUAL", "quote"),
        ("~nothing", "'nothing'", "nothing comes near"),
        ("group_lr={audio:0.1}", "'audio' is not in struct", "type '+group_lr={audio:0.1}'"),
        ("+speed.tau=2", "already at 'speed.tau'", "type speed.tau=2"),
        (r"+group_lr.adapter:audio=0.1", "':'", r"type '+group_lr={adapter\:audio:0.1}'"),
    ],
)
def test_a_wrong_override_is_named_with_the_remedy(override: str, found: str, advice: str) -> None:
    with pytest.raises(UserError) as error:
        compose("fake", ["seed=1", override], fake_program.CONF)
    assert override.split("=")[0] in error.value.where
    assert found in error.value.found
    assert advice in error.value.remedy


@pytest.mark.parametrize("override", ["group_lr={audio:0.1}", "+speed.tau=2", "+group_lr.adapter:audio=0.1"])
def test_what_the_remedy_tells_to_type_composes(override: str) -> None:
    with pytest.raises(UserError) as error:
        compose("fake", ["seed=1", override, "resume=never"], fake_program.CONF)
    assert error.value.where == override
    (typed,) = shlex.split(error.value.remedy.removeprefix("type "))
    compose("fake", ["seed=1", typed, "resume=never"], fake_program.CONF)


def test_all_wrong_overrides_are_told_at_once() -> None:
    with pytest.raises(UserError) as error:
        compose("fake", ["seeed=1", "speed.tua=2"], fake_program.CONF)
    assert "did you mean seed" in str(error.value)
    assert "did you mean speed.tau" in str(error.value)


def test_broken_yaml_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "config.yaml").write_text("seed: 0\nname: [a\n")
    with pytest.raises(UserError) as error:
        compose("fake", [], tmp_path)
    assert "config.yaml, line" in error.value.where


def test_a_user_folder_adds_experiments(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 42\n")
    cfg = Composer("fake", fake_program.CONF, [tmp_path]).compose(["experiment=mine"])
    assert (cfg.name, cfg.seed) == ("mine", 42)
    with pytest.raises(UserError, match="no such folder"):
        Composer("fake", fake_program.CONF, [tmp_path / "absent"])


def test_conf_dir_is_found_from_anywhere(tmp_path: Path) -> None:
    code = "from suite.config.compose import conf_dir; print(conf_dir())"
    env = {"PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(conf_dir())
    assert conf_dir().is_absolute()


def test_the_packaged_tree_comes_before_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "suite"
    (package / "conf").mkdir(parents=True)
    monkeypatch.setattr("suite.config.compose.__file__", str(package / "config" / "compose.py"))
    assert conf_dir() == package / "conf"
    (package / "conf").rmdir()
    with pytest.raises(UserError, match="conf"):
        conf_dir()


def test_siblings_are_nearer_than_strangers() -> None:
    keys = ["asgml", "asgml.tau", "schedule.tau_max", "schedule.taus"]
    assert nearest_key("asgml.taus", keys)[0] == "asgml.tau"
    assert nearest_key("tau", keys)[0] == "asgml.tau"
    assert nearest_key("completely_else", keys) == []
