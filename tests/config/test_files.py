"""A file is parsed once, and whoever composes cannot tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import OmegaConf

from suite.config import files
from suite.config.compose import Composer

LINES = (
    ["experiment=features", "method=[asgml_adaptive,boost]"],
    ["experiment=cremad", "method=boost_ogm_ge", "optimizer=adamw", "asgml.tau=2"],
    ["experiment=features", "method=[asgml_adaptive,boost]"],  # after others have used the same files
)


@pytest.mark.parametrize("program", ["asgml", "latentwire"])
def test_trees_are_those_of_a_loader_that_reads_every_time(program: str) -> None:
    composer = Composer(program)
    plain = ConfigLoaderImpl(composer.loader.config_search_path)
    for line in LINES if program == "asgml" else (["seed=3"], [], ["seed=3"]):
        expected = plain.load_configuration("config", line, RunMode.RUN, from_shell=False)
        assert OmegaConf.to_yaml(composer.with_hydra(line)) == OmegaConf.to_yaml(expected)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "program"
    (folder / "part").mkdir(parents=True)
    (folder / "config.yaml").write_text("defaults: [part: small, _self_]\nseed: 0\n")
    option = folder / "part" / "small.yaml"
    option.write_text("size: 1\n")
    composer = Composer("program", tmp_path)
    assert composer.compose().part.size == 1
    option.write_text("size: 2\n")
    assert composer.compose().part.size == 2
    (folder / "part" / "large.yaml").write_text("size: 9\n")
    assert composer.compose(["part=large"]).part.size == 9


def test_a_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "config.yaml").write_text("seed: 0\n")
    read, load = [], OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", lambda f: read.append(f) or load(f))
    monkeypatch.setattr(files, "_parsed", {})
    for seed in range(3):
        assert Composer("program", tmp_path).compose([f"seed={seed}"]).seed == seed
    assert sum("program/config.yaml" in f.name for f in read) == 1
