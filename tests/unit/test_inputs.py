"""The content of what a run reads is part of which run it is; where the files lie, and what acts on nothing, is not."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from asgml_runs import compose, config, differing, fit, rows, weights, write_features
from lw_runs import config as lw_config
from lw_runs import fit as lw_fit

from asgml.rhythm.inert import inert_keys
from callbacks.errors import UserError
from latentwire.restore import load
from suite.config.instantiate import build_node
from suite.runs import fingerprint
from suite.runs.fingerprint import Fingerprints
from suite.runs.identity import config_hash, run_dir
from suite.runs.inputs import derived_files, given_files, inert

MINI = ["experiment=cremad_mini", "data.samples=18", "data.actors=3"]


def test_the_same_content_is_the_same_run_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    a, b = write_features(tmp_path / "a.npz"), write_features(tmp_path / "there" / "b.npz", seed=1)
    here, other = config(a, tmp_path / "runs"), config(b, tmp_path / "runs")
    first = config_hash(here)
    assert first != config_hash(other)
    shutil.copy(a, b)
    assert config_hash(other) == first
    b.touch()
    assert config_hash(other) == first
    write_features(a, seed=2)
    assert config_hash(here) != first
    a.unlink()
    assert config_hash(here) == config_hash(here, inputs=False), "what is not there does not count"


def test_nothing_is_hashed_twice_and_no_change_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = tmp_path / "data.bin", []
    sha256 = fingerprint.digest_of
    monkeypatch.setattr(fingerprint, "digest_of", lambda p: read.append(p) or sha256(p))
    monkeypatch.setattr(fingerprint, "TICK_NS", 0)
    path.write_bytes(b"one")
    store = Fingerprints(tmp_path / "cache.json")
    one = store.of({"data": path})
    assert one == store.of({"data": path})
    assert len(read) == 1
    store.save()
    assert Fingerprints(tmp_path / "cache.json").of({"data": path}) == one
    assert len(read) == 1
    before = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time of modification
    two = store.of({"data": path})
    assert two["data"]["sha256"] != one["data"]["sha256"]
    assert two["data"]["size"] == 3
    several = store.of({"folder": [path, tmp_path / "cache.json"], "gone": tmp_path / "gone"})
    assert several.keys() == {"folder"}
    assert several["folder"]["files"] == 2


def test_a_file_that_was_only_just_written_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"one")
    store = Fingerprints(tmp_path / "cache.json")
    store.of({"data": path})
    store.save()
    assert not (tmp_path / "cache.json").exists()


def test_what_a_run_renders_is_recorded_and_does_not_change_its_identity(tmp_path: Path) -> None:
    cfg = compose([*MINI, f"data.path={tmp_path / 'mini'}", f"paths.runs={tmp_path / 'runs'}"])
    before = config_hash(cfg)
    assert not given_files(cfg)
    build_node(cfg.data).prepare()
    assert config_hash(cfg) == before
    store = Fingerprints(tmp_path / "cache.json")
    made = store.of(derived_files(cfg))
    assert made.keys() == {"data.path/train.csv", "data.path/test.csv", "data.prepared/audio", "data.prepared/visual"}
    first, second, *_ = sorted((tmp_path / "mini").glob("*/AudioWAV/*.wav"))
    os.utime(first)
    assert store.of(derived_files(cfg)) == made, "the same sound, decoded again"
    shutil.copy(second, first)
    changed = store.of(derived_files(cfg))
    assert [role for role in made if made[role]["sha256"] != changed[role]["sha256"]] == ["data.prepared/audio"]


def test_lists_of_a_published_data_set_count(tmp_path: Path) -> None:
    cfg = compose(["experiment=cremad", f"paths.data={tmp_path}", f"paths.runs={tmp_path / 'runs'}"])
    nothing = config_hash(cfg)
    (tmp_path / "cremad").mkdir()
    for name in ("train.csv", "test.csv"):
        (tmp_path / "cremad" / name).write_text(f"1001_{name}_NEU_XX,NEU\n")
    lists = config_hash(cfg)
    clips = "".join(f"{1001 + n}_IEO_SAD_XX,SAD\n" for n in range(5))
    (tmp_path / "cremad" / "train.csv").write_text(clips)
    assert len({nothing, lists, config_hash(cfg)}) == 3
    assert derived_files(cfg) == {}, "nothing is prepared"


def test_recordings_and_checkpoints_that_are_given_count(tmp_path: Path) -> None:
    (tmp_path / "fsdd").mkdir()
    for n in range(2):
        (tmp_path / "fsdd" / f"0_theo_{n}.wav").write_bytes(b"sound")
    digits = compose(["experiment=avdigits", f"paths.data={tmp_path}"])
    assert {role: len(paths) for role, paths in given_files(digits).items()} == {"data.path/fsdd": 2}
    umt = compose([*MINI, "method=umt", "methods.umt.checkpoints={audio:a.ckpt,visual:auto}"])
    assert given_files(umt) == {"methods.umt.checkpoints.audio": Path("a.ckpt")}


# -- keys that act on nothing

ASGML: dict[str, Any] = {
    "mode": "staleness", "control": "none", "delayed": "dominant", "tau": 2, "k": 2, "masking": "soft",
    "compensation": "inverse", "lambda_comp": 0.1,
    "adaptive": {"kind": "staleness", "tau_min": 0, "tau_max": 4}, "boost": {"enabled": False, "alpha": 0.5, "cap": 2},
}  # fmt: skip
AGE = {"lambda_comp", "compensation", "mu", "warmup", "buffer_dtype", "buffer_device", "through"}
SKIPS = {"masking", "soft_scale", "phases", "through"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"tau": 0}, AGE | {"delayed"}),
        ({"tau": {"audio": 0}}, AGE),
        ({"tau": {"audio": 0, "visual": 1}}, set()),
        ({"lambda_comp": 0}, {"through"}),
        ({"mode": "frequency"}, set()),
        ({"mode": "frequency", "k": 1}, SKIPS | {"delayed"}),
        ({"mode": "sync", "tau": 0}, set()),
        ({"mode": "adaptive", "adaptive": {"kind": "frequency", "tau_min": 0, "tau_max": 0}}, SKIPS),
        ({"mode": "adaptive", "adaptive": {"kind": "staleness", "tau_min": 1, "tau_max": 1}}, set()),
        ({"boost": {"enabled": True, "alpha": 0, "cap": 2}}, {"boost.cap", "boost.ema", "boost.through"}),
    ],
)
def test_which_keys_act_on_nothing(changes: dict[str, Any], expected: set[str]) -> None:
    found = {key for key in inert_keys({**ASGML, **changes}) if not key.startswith("adaptive.")}
    unnamed = {"boost.threshold_delta", "boost.gap_full", "boost.relative"}
    assert found - unnamed == expected


@pytest.mark.parametrize(
    ("setting", "idle"),
    [
        (["asgml.tau=0"], ["asgml.lambda_comp=0.5", "asgml.warmup=fresh", "asgml.through=gradient"]),
        (["method=asgml_frequency", "asgml.k=1"], ["asgml.soft_scale=0.5", "asgml.masking=hard"]),
        (["asgml.lambda_comp=0"], ["asgml.through=gradient"]),
        (["method=boost", "asgml.boost.alpha=0"], ["asgml.boost.ema=0.9", "asgml.boost.cap=3.0"]),
    ],
)
def test_what_is_called_idle_changes_no_number(tmp_path: Path, setting: list[str], idle: list[str]) -> None:
    data = write_features(tmp_path / "data.npz")
    one, other = config(data, tmp_path / "one", *setting), config(data, tmp_path / "other", *setting, *idle)
    assert config_hash(one) == config_hash(other) != config_hash(other, idle=True)
    a, b = fit(one), fit(other)
    assert differing(weights(a), weights(b)) == []
    for table in ("history.csv", "timeline.csv"):
        assert rows(one, table) == rows(other, table)


def test_the_grid_of_the_study_has_63_runs() -> None:
    cfg = compose(["method=asgml_staleness", "paths.runs=runs"])
    hashes = []
    for gamma, tau, lambda_comp in itertools.product((0.5, 1, 4), (0, 1, 2, 4), (0, 0.1)):
        cfg.asgml.gamma, cfg.asgml.tau, cfg.asgml.lambda_comp = gamma, tau, lambda_comp
        hashes.append(config_hash(cfg))
    assert (len(hashes), len(set(hashes))) == (24, 21), "times three seeds: 72 and 63"
    cfg.asgml.tau = 0
    assert inert(cfg)["asgml.lambda_comp"] == "asgml.tau=0"


# -- a checkpoint that lies where it does not belong


def test_a_checkpoint_made_on_other_data_is_refused(tmp_path: Path) -> None:
    one, other = (write_features(tmp_path / f"{n}.npz", seed=n) for n in (0, 1))
    made, cfg = config(one, tmp_path / "runs"), config(other, tmp_path / "runs")
    fit(made)
    shutil.copytree(run_dir(made), run_dir(cfg))
    with pytest.raises(UserError) as told:
        fit(cfg, resume=True)
    assert "made on other data: data.path" in told.value.found
    assert "resume=never" in told.value.remedy


def test_a_wire_is_not_restored_on_another_model(tmp_path: Path) -> None:
    cfg = lw_config(tmp_path, "trainer.max_epochs=1", "loader.steps_per_epoch=2")
    lw_fit(cfg)
    made = run_dir(cfg)
    load(made)
    file = Path(cfg.lms.tiny_llama.source) / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_length": 7}))
    with pytest.raises(UserError) as told:
        load(made)
    assert "lms.tiny_llama.source/generation_config.json" in told.value.found
