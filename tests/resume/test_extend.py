"""A finished run is trained on as if it had never ended, and a new one starts from its weights."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from asgml_runs import compose, config, finish, fit, prepare, rows, write_features
from omegaconf import DictConfig
from states import unequal

from asgml.extend import extended, remarks
from asgml.run import extend, main
from callbacks.errors import UserError
from callbacks.run.stored import read_checkpoint
from suite.runs.extension import begun
from suite.runs.identity import run_dir
from suite.runs.job import Run
from suite.runs.ledger import write_json
from suite.runs.provenance import read_result

# with momentum, a delay and a schedule that does not know the length: all of it has to go on
LINE = ("method=asgml_staleness", "lr_schedule=step", "lr_schedule.step_epochs=1", "lr_schedule.step_gamma=0.5")


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("extend") / "f.npz")


def configured(npz: Path, *more: str) -> DictConfig:
    return config(npz, npz.parent / "runs", *LINE, *more)


@pytest.fixture(scope="module")
def short(npz: Path) -> Path:
    return finish(configured(npz, "trainer.max_epochs=1"))


def trained_on(short: Path, *more: str) -> DictConfig:
    """The tree of the extended run."""
    return extended([f"extend={short}", "trainer.max_epochs=2", *more])[1]


def test_extended_is_the_longer_run_bit_for_bit(npz: Path, short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert extend([f"extend={short}", "trainer.max_epochs=2"]) == 0
    seconds = re.findall(r"^epoch \d/2 .* (\d+\.\d) s", capsys.readouterr().out, re.MULTILINE)
    assert len(seconds) == 2, "the end of the first epoch is done again"
    assert max(map(float, seconds)) < 600
    cfg, longer = trained_on(short), configured(npz, "trainer.max_epochs=2")
    fit(longer)
    one, other = (read_checkpoint(run_dir(c) / "checkpoints" / "last.ckpt") for c in (cfg, longer))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "asgml"):
        assert unequal(one[part], other[part]) == [], part
    for name in one["callbacks"].keys() | other["callbacks"].keys():  # buffers, stages, generators
        if name != "StepCheckpoint":
            assert unequal(one["callbacks"][name], other["callbacks"][name]) == [], name
    for table in ("history.csv", "timeline.csv"):
        assert rows(cfg, table) == rows(longer, table)
    # the best of both parts of the training counts
    best = [read_checkpoint(run_dir(c) / "checkpoints" / "best.ckpt")["state_dict"] for c in (cfg, longer)]
    assert unequal(*best) == []

    assert run_dir(cfg).name not in (short.name, run_dir(longer).name), "a run of its own"
    assert read_result(run_dir(cfg))["inputs"]["extend"]["path"] == str(short / "checkpoints" / "last.ckpt")
    capsys.readouterr()
    assert extend([f"extend={short}", "trainer.max_epochs=2"]) == 0
    assert "finished before" in capsys.readouterr().out


def test_whatever_makes_it_begin_anew_it_begins_at_the_end_of_the_other(short: Path, tmp_path: Path) -> None:
    """With resume=never, or after its results were kept aside; a resumed one goes on from its own checkpoint."""
    cfg = trained_on(short)
    run = Run(tmp_path, run_dir(cfg).name, "features", 0, None, is_main=True)
    started = begun(cfg, run)
    assert started.resume_from == tmp_path / "checkpoints" / "last.ckpt"
    found = read_checkpoint(started.resume_from, config_hash=run.hash)
    kept = read_checkpoint(short / "checkpoints" / "last.ckpt")
    assert unequal(found["optimizer_states"], kept["optimizer_states"]) == []
    best = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt", config_hash=run.hash)  # counts while none is better
    assert unequal(best["state_dict"], read_checkpoint(short / "checkpoints" / "best.ckpt")["state_dict"]) == []
    assert (tmp_path / "history.csv").read_bytes() == (short / "history.csv").read_bytes()
    assert begun(cfg, started) is started
    assert begun(configured(Path("f.npz")), run) is run, "extends none"
    wrong = trained_on(short)
    wrong.extend = "0" * 12
    with pytest.raises(UserError, match=f"a checkpoint of another run, {short.name}"):
        begun(wrong, run)


def test_what_is_extended_is_part_of_the_identity(short: Path, tmp_path: Path) -> None:
    """Where it lies is not: a moved run is the same one."""
    place = tmp_path / "runs" / short.parent.name / short.name
    moved = shutil.copytree(short, place)
    assert run_dir(trained_on(moved)).name == run_dir(trained_on(short)).name
    other = shutil.copytree(short, tmp_path / "runs" / short.parent.name / ("0" * 12))
    write_json(other / "result.json", {**read_result(short), "hash": other.name})
    assert run_dir(trained_on(other)).name != run_dir(trained_on(short)).name
    assert run_dir(trained_on(moved)).parents[1] == tmp_path / "runs", "beside the run"
    assert (
        run_dir(trained_on(short, "logger=null", "trainer.log_every_n_steps=7")).name == run_dir(trained_on(short)).name
    )


WRONG = {
    "no longer": (["trainer.max_epochs=1"], "more than 1"),
    "no length": ([], "more than 1"),
    "another seed": (["trainer.max_epochs=2", "seed=3"], "+init.weights="),
    "another rate": (["trainer.max_epochs=2", "optimizer.lr=1"], "belongs to the training"),
    "a sweep": (["-m", "trainer.max_epochs=2"], "leave -m out"),
    "several values": (["trainer.max_epochs=2,3"], "one value"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_extension_is_refused(
    kind: str, short: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, told = WRONG[kind]
    monkeypatch.setattr(
        sys,
        "argv",
        ["asgml.run", *(w for w in words if w == "-m"), f"extend={short}", *(w for w in words if w != "-m")],
    )
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == UserError.EXIT_CODE
    assert told in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_not_extended(short: Path, tmp_path: Path) -> None:
    stopped = shutil.copytree(short, tmp_path / "runs" / "features" / short.name)
    write_json(stopped / "result.json", {**read_result(short), "status": "stopped"})
    with pytest.raises(UserError, match="a run that is stopped"):
        trained_on(stopped)
    with pytest.raises(UserError, match=r"no config\.yaml"):
        trained_on(tmp_path)


def test_the_plan_of_an_extension_runs_nothing(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert extend([f"extend={short}", "trainer.max_epochs=9", "plan=true"]) == 0
    assert "nothing runs" in capsys.readouterr().out
    assert not run_dir(extended([f"extend={short}", "trainer.max_epochs=9"])[1]).exists()


def test_a_schedule_over_the_length_says_so(npz: Path) -> None:
    before = configured(npz, "trainer.max_epochs=2")
    assert remarks(before, configured(npz, "trainer.max_epochs=4")) == []
    cosine = compose(["experiment=features", f"data.path={npz}", "lr_schedule=cosine", "method=amco"])
    longer = cosine.copy()
    longer.trainer.max_epochs = 2 * cosine.trainer.max_epochs
    rate, method = remarks(cosine, longer)
    assert "goes on at 0.5" in rate  # half of the way of twice the length
    assert method.startswith("method amco")


# -- warm start
def test_a_warm_start_has_the_best_weights(npz: Path, short: Path) -> None:
    parts = prepare(configured(npz, f"+init.weights={short}", "seed=5"))
    best = read_checkpoint(short / "checkpoints" / "best.ckpt")["state_dict"]
    assert unequal(dict(parts.module.state_dict()), best) == []
    assert parts.trainer.global_step == 0


def test_a_part_of_the_weights(npz: Path, short: Path) -> None:
    """Encoders go into another fusion; what is not taken is what it would be without."""
    line = ("fusion=gated", "seed=5")
    cold = prepare(configured(npz, *line)).module.net
    warm = prepare(configured(npz, *line, f"+init.weights={short}", "+init.parts=[encoders]")).module.net
    best = read_checkpoint(short / "checkpoints" / "best.ckpt")["state_dict"]
    for name, value in warm.state_dict().items():
        wanted = best[f"net.{name}"] if name.startswith("encoders.") else cold.state_dict()[name]
        assert torch.equal(value, wanted), name


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["model.encoder.dim=4"], "there, (4"),
        (["fusion=gated"], "is not in"),
        (["data.classes=[a,b,c,d]"], "classes 0, 1, 2, 3"),
    ],
)
def test_weights_that_do_not_fit_are_named(more: list[str], told: str, npz: Path, short: Path) -> None:
    with pytest.raises(UserError) as error:
        prepare(configured(npz, f"+init.weights={short}", *more))
    assert error.value.where == f"init.weights={short}"
    assert told in error.value.found
    assert "+init.parts=[encoders]" in error.value.remedy


def test_a_run_that_is_not_there(npz: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml"):
        prepare(configured(npz, f"+init.weights={tmp_path}"))
