"""Bad input at the front door: one screen that names the place and the remedy, exit code 2, and nothing lost."""

from __future__ import annotations

import errno
import json
import shutil
import traceback
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from asgml_runs import overrides, write_features

from asgml.data.cremad_mini import CremadMini
from asgml.run import Tree, dead, foresee, judge, train
from suite.runs.launch import launch
from suite.runs.ledger import write_json
from suite.runs.provenance import read_result

SCREEN = 24  # lines


def run(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and what the user sees."""
    code = 0
    try:
        launch("asgml", train, dead, schema=Tree, judge=judge, argv=argv)
    except SystemExit as end:
        code = int(end.code or 0)
    seen = capsys.readouterr()
    return code, seen.out + seen.err


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], *told: str) -> str:
    """The run ends with code 2, on one screen, without a traceback, saying all of `told`."""
    code, text = run(argv, capsys)
    assert code == 2, text
    assert "Traceback" not in text
    assert len(text.splitlines()) <= SCREEN, text
    flat = " ".join(text.split())
    for word in ("expected:", "remedy:", *told):
        assert word in flat, f"{word!r} not in:\n{text}"
    return text


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder in CREMA-D's layout."""
    root = tmp_path_factory.mktemp("clips")
    source = CremadMini(path=str(root / "mini"), samples=36, actors=6)
    source.tables()
    found = next(p.parent for p in (root / "mini").rglob("train.csv"))
    shutil.copytree(found, root / "cremad", ignore=shutil.ignore_patterns("prepared*"))
    return root / "cremad"


@pytest.fixture
def cremad(clips: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(clips, tmp_path / "cremad"))


def media(root: Path, tmp_path: Path) -> list[str]:
    return [
        "experiment=cremad",
        f"data.path={root}",
        "model=small",
        "data.size=32",
        "data.store=[40,40]",
        "data.split=speaker_disjoint",
        "loader.batch_size=8",
        "loader.workers=0",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        "callbacks.progress=null",
        f"paths.runs={tmp_path / 'runs'}",
    ]


def test_the_unbroken_clips_train(cremad, tmp_path, capsys):
    code, text = run(media(cremad, tmp_path), capsys)
    assert code == 0, text


def test_unknown_key(tmp_path, capsys):
    refused(["asgml.lamda_comp=0.2", f"paths.runs={tmp_path}"], capsys, "asgml.lamda_comp", "lambda_comp")


def test_wrong_type(tmp_path, capsys):
    refused(["optimizer.lr=fast", f"paths.runs={tmp_path}"], capsys, "optimizer.lr", "'fast'")


def test_empty_sections_of_an_experiment(tmp_path, capsys):
    """`trainer:` with nothing below it is null, which no default fills."""
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults: [features]\nname: own\ntrainer:\noptimizer:\n"
    (tmp_path / "experiment" / "own.yaml").write_text(text)
    line = [f"--config-dir={tmp_path}", "experiment=own", "data.path=f.npz", f"paths.runs={tmp_path}"]
    refused(line, capsys, "trainer: None", "optimizer: None")


def test_a_key_without_effect(tmp_path, capsys):
    refused(["method=joint", "asgml.tau=4", f"paths.runs={tmp_path}"], capsys, "asgml.tau", "no effect")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("+trainer.enable_checkpointing=false", "leave it out"),
        ("+trainer.logger=false", "logger=wandb"),
        ("+trainer.gradient_clip_val=1.0", "callbacks.clip.max_norm"),
        ("+trainer.accumulate_grad_batches=2", "loader.batch_size"),
        ("callbacks.gate=null", "leave callbacks.gate=null out"),
        ("asgml.lambda_comp=nan", "a finite number of 0 or more"),
        pytest.param(
            "trainer.accelerator=gpu",
            "set trainer.accelerator=auto",
            marks=pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="a GPU"),
        ),
        ("trainer.strategy=no_such_one", "trainer.strategy=auto"),
        ("trainer.precision=fp7", "precision"),
    ],
)
def test_what_the_step_cannot_do_without_is_refused_before_data_are_read(override, told, tmp_path, capsys):
    line = ["experiment=features", "data.path=not_there.npz", f"paths.runs={tmp_path / 'runs'}"]
    text = refused([*line, override], capsys, told)
    assert override.partition("=")[0].lstrip("+") in text
    assert "not_there" not in text


def test_one_key_switches_the_bar_off(tmp_path, capsys):
    line = [o for o in overrides(write_features(tmp_path / "f.npz"), tmp_path / "runs") if "progress=" not in o]
    assert "trainer.enable_progress_bar=false" in line
    code, text = run([*line, "trainer.max_epochs=1"], capsys)
    assert code == 0, text
    assert "finished in" in text, "with the numbers of the run"


def test_a_plan_runs_nothing_and_says_what_a_run_takes(tmp_path, capsys):
    line = overrides(write_features(tmp_path / "f.npz"), tmp_path / "runs")

    def plan(*more: str) -> str:
        launch("asgml", train, dead, schema=Tree, judge=judge, foresee=foresee, argv=[*more, *line, "plan=true"])
        return capsys.readouterr().out

    text = plan()
    for word in ("20 in 2 epochs, 80 training samples in batches of 8", "trained weights", "begins", "torch.optim.SGD"):
        assert word in text
    assert not (tmp_path / "runs").exists()
    assert run(line, capsys)[0] == 0
    text = plan()
    assert "finished: its result is shown" in text
    assert "1 finished run of the kind" in text
    text = plan("-m", "seed=0,1")
    assert "plan of 2 jobs" in text
    assert text.count("begins") == 1
    refused([*line, "plan=true", "loader.batch_size=0"], capsys, "loader.batch_size")


def test_early_stopping_and_adam_are_one_word_each(tmp_path, capsys):
    line = overrides(write_features(tmp_path / "f.npz"), tmp_path / "runs")
    line = [o for o in line if not o.startswith("optimizer")]
    stop = ["early_stopping=val_loss", "callbacks.early_stopping.min_delta=100", "callbacks.early_stopping.patience=1"]
    code, text = run([*line, "optimizer=adam", "method=joint", *stop, "trainer.max_epochs=9"], capsys)
    assert code == 0, text
    history = next((tmp_path / "runs").glob("features/*/history.csv")).read_text()
    assert "epoch 2/9" in text
    assert "epoch 3/9" not in text, history


def test_a_sweep_is_refused_before_its_first_run(tmp_path, capsys):
    argv = ["-m", "asgml.tau=0,1,two", f"paths.runs={tmp_path / 'runs'}"]
    refused(argv, capsys, "asgml.tau", "'two'")
    assert not (tmp_path / "runs" / "ledger.jsonl").exists()


def test_empty_list_file(cremad, tmp_path, capsys):
    (cremad / "train.csv").write_text("")
    refused(media(cremad, tmp_path), capsys, "train.csv")


def test_truncated_wav(cremad, tmp_path, capsys):
    wav = sorted((cremad / "AudioWAV").glob("*.wav"))[3]
    wav.write_bytes(wav.read_bytes()[:2000])
    refused(media(cremad, tmp_path), capsys, wav.name)


def test_zero_byte_jpg(cremad, tmp_path, capsys):
    jpg = sorted((cremad / "Image-01-FPS").rglob("*.jpg"))[3]
    jpg.write_bytes(b"")
    refused(media(cremad, tmp_path), capsys, jpg.parent.name)


def test_label_outside_the_classes(cremad, tmp_path, capsys):
    lines = (cremad / "train.csv").read_text().splitlines()
    lines[4] = lines[4].rpartition(",")[0] + ",BORED"
    (cremad / "train.csv").write_text("\n".join(lines) + "\n")
    refused(media(cremad, tmp_path), capsys, "train.csv", "5", "BORED")


def test_modality_missing_everywhere(cremad, tmp_path, capsys):
    for jpg in (cremad / "Image-01-FPS").rglob("*.jpg"):
        jpg.unlink()
    refused([*media(cremad, tmp_path), "data.corrupt=missing"], capsys, "visual")


def test_nan_in_features(tmp_path, capsys):
    path = write_features(tmp_path / "f.npz")
    arrays = dict(np.load(path))
    arrays["x_visual"][17, 3] = np.nan
    np.savez(path, **arrays)
    refused(overrides(path, tmp_path / "runs"), capsys, "x_visual", "17")


def test_full_disk_while_preparing_keeps_what_was_written(cremad, tmp_path, capsys, monkeypatch):
    import asgml.data.shards as shards

    real = shards._sync
    calls = iter(range(10**6))

    def sync(file: IO[Any]) -> None:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(shards, "_sync", sync)
    refused(media(cremad, tmp_path), capsys, "space")
    monkeypatch.undo()
    code, text = run(media(cremad, tmp_path), capsys)
    assert code == 0, text


def test_checkpoint_of_another_config(tmp_path, capsys):
    path = write_features(tmp_path / "f.npz")
    runs = tmp_path / "runs"
    assert run([*overrides(path, runs), "seed=1"], capsys)[0] == 0
    first = next((runs / "features").glob("*/checkpoints/last.ckpt"))
    assert run([*overrides(path, runs), "seed=2"], capsys)[0] == 0
    second = next(p for p in (runs / "features").glob("*/checkpoints/last.ckpt") if p != first)
    folder = second.parent.parent
    shutil.copy(first, second)
    second.with_name("previous.ckpt").unlink()
    result = read_result(folder)
    write_json(folder / "result.json", {**result, "status": "stopped"})
    ledger = runs / "ledger.jsonl"
    ledger.write_text("".join(line for line in ledger.open() if folder.name not in line))
    refused([*overrides(path, runs), f"seed={result['seed']}"], capsys, "seed", "another run", first.parent.parent.name)
    assert torch.load(second, map_location="cpu", weights_only=True)  # the file is as it was


def test_a_failing_job_leaves_its_traceback_and_the_others_run(tmp_path, capsys, monkeypatch):
    import suite.shell as shell

    real = shell.build_trainer

    def flaky(cfg, run_, callbacks, tags=()):
        if int(cfg.seed) == 1:
            raise RuntimeError("the third law was repealed")
        return real(cfg, run_, callbacks, tags)

    monkeypatch.setattr(shell, "build_trainer", flaky)
    path = write_features(tmp_path / "f.npz")
    code, text = run(["-m", *overrides(path, tmp_path / "runs"), "seed=0,1,2"], capsys)
    assert code == 1, traceback.format_exc()
    assert "the third law was repealed" in text
    rows = [json.loads(line) for line in (tmp_path / "runs" / "ledger.jsonl").open()]
    assert sorted((r["seed"], r["status"]) for r in rows) == [(0, "finished"), (1, "failed"), (2, "finished")]
    assert "repealed" in next(r for r in rows if r["seed"] == 1)["traceback"]
