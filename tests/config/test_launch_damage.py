"""Damaged files of a run: one screen, exit code 2, and what the remedy says to type works; or the run goes on."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_program
import pytest
import yaml
from damage import flipped
from omegaconf import DictConfig

from callbacks.files import atomic
from callbacks.run.stored import LAST, PREVIOUS, write_checkpoint
from suite.report.data import read_run
from suite.runs.job import Run
from suite.runs.ledger import Ledger
from suite.runs.provenance import read_result

Main = Callable[..., int]
# Every kind of damage is tried on the readers themselves (test_sealed_files); here, what becomes of one.
bit = flipped(0.5)


def run_of(tmp_path: Path) -> Path:
    (run,) = (p for p in (tmp_path / "runs" / "tiny").iterdir() if ".old" not in p.name)
    return run


def typed(remedy: str) -> None:
    """Do what a remedy says, which begins with `rm <file>`."""
    words = remedy.partition(",")[0].split()
    assert words[0] == "rm"
    Path(words[1]).unlink()


def told(text: str, *parts: str) -> str:
    """Return the remedy of the one error on the screen, which names these."""
    for part in parts:
        assert part in text
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) < 12, "one screen"
    return next(line for line in lines if "remedy:" in line).partition("remedy:")[2].strip()


def test_a_damaged_result(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("seed=2") == 0
    path = run_of(tmp_path) / "result.json"
    before = read_result(path.parent)
    bit(path)
    capsys.readouterr()
    assert main("seed=2") == 2
    remedy = told(capsys.readouterr().err, str(path))
    typed(remedy)
    assert main("seed=2") == 0
    assert read_result(run_of(tmp_path))["val"] == before["val"]


def test_a_folder_in_the_place_of_the_configuration(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("seed=2") == 0
    path = run_of(tmp_path) / "config.yaml"
    path.unlink()
    path.mkdir()
    capsys.readouterr()
    assert main("seed=2") == 2
    assert told(capsys.readouterr().err, str(path), "a folder").startswith(f"rm -r {path}, then")
    path.rmdir()
    assert main("seed=2") == 0
    assert path.is_file()


def test_a_damaged_configuration(main: Main, tmp_path: Path) -> None:
    assert main("seed=2") == 0
    path = run_of(tmp_path) / "config.yaml"
    whole = yaml.safe_load(path.read_text())
    bit(path)
    assert main("seed=2") == 0, "a finished run is reused"
    with pytest.raises(Exception, match=r"config\.yaml") as error:
        read_run(path.parent)
    typed(told(str(error.value), str(path)))
    assert main("seed=2") == 0
    assert read_run(path.parent).config == whole


def test_a_damaged_row_is_left_out_told_and_written_again(main: Main, tmp_path: Path) -> None:
    assert main("seed=2") == 0
    ledger = Ledger(tmp_path / "runs" / "ledger.jsonl")
    before = ledger.rows()
    bit(ledger.path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert main("seed=2") == 0
        rows = ledger.rows()
    same = ("hash", "val", "status")
    assert [[r[k] for k in same] for r in rows] == [[r[k] for k in same] for r in before]
    if ledger.path.read_bytes().count(b"\n") > 1:
        assert any(f"{ledger.path}, line 1" in str(w.message) for w in said)


def test_a_damaged_checkpoint_is_passed_over(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("speed.mode=boom") == 1
    folder = run_of(tmp_path) / "checkpoints"
    shutil.copy(folder / LAST, folder / PREVIOUS)
    bit(folder / LAST)
    assert main("speed.mode=boom") == 0
    assert fake_program.calls[-1].resume_from == folder / PREVIOUS
    out = capsys.readouterr().out
    assert str(folder / LAST) in out
    assert str(folder / PREVIOUS) in out


def test_without_any_intact_one_a_run_begins_anew_when_asked_to(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("speed.mode=boom") == 1
    run = run_of(tmp_path)
    bit(run / "checkpoints" / LAST)
    capsys.readouterr()
    assert main("speed.mode=boom") == 2
    assert "resume=never" in told(capsys.readouterr().err, str(run / "checkpoints" / LAST))
    assert main("speed.mode=boom", "resume=never") == 1, "it fails anew, as this program does when it begins"
    assert fake_program.calls[-1].resume_from is None
    assert (run.with_name(f"{run.name}.old-1") / "checkpoints" / LAST).exists(), "kept aside"


def test_another_run_s_checkpoint_is_not_continued(main: Main, tmp_path: Path) -> None:
    assert main("speed.mode=boom") == 1
    path = run_of(tmp_path) / "checkpoints" / LAST
    write_checkpoint({"state_dict": {}, "callbacks": {"StepCheckpoint": {"config_hash": "0123456789ab"}}}, path)
    assert main("speed.mode=boom") == 2


def test_a_damaged_result_fails_its_own_job_of_a_sweep(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("-m", "seed=0,1") == 0
    path = next((tmp_path / "runs" / "tiny").glob("*/result.json"))
    flipped(0.5)(path)
    capsys.readouterr()
    assert main("-m", "seed=0,1,2", "--failed-only") == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    assert str(path) in shown.err


def test_a_full_disk_is_one_screen(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "to_disk", full)
        assert main("seed=2") == 2
    assert "free disk space" in told(capsys.readouterr().err, "No space left")
    assert list((tmp_path / "runs" / "tiny").glob("*/*")) == [], "no half of a file stays"
    assert main("seed=2") == 0


@pytest.mark.parametrize("becomes", ["a file while the run writes", "a file at its end"])
def test_a_folder_of_runs_that_goes_away_is_one_screen(
    becomes: str, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"

    def breaks(cfg: DictConfig, run: Run) -> dict[str, Any]:
        shutil.rmtree(runs)
        runs.touch()
        if "writes" in becomes:
            (run.dir / "history.csv").write_text("")
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(fake_program, "task", breaks)
        assert main("seed=3") == 2
    seen = capsys.readouterr()
    assert "Traceback" not in seen.out + seen.err
    assert "paths.runs" in told(seen.err, str(runs))
    runs.unlink()
    assert main("seed=3") == 0


def test_remembered_hashes_that_are_damaged_are_measured_again(main: Main, tmp_path: Path) -> None:
    from suite.runs.fingerprint import Fingerprints

    data = tmp_path / "data"
    data.write_bytes(b"some data")
    known = Fingerprints(tmp_path / "hashes.json")
    known._known = known._new = {str(data): ["", "0" * 64]}
    known.save()
    flipped(0.5)(tmp_path / "hashes.json")
    assert Fingerprints(tmp_path / "hashes.json")._known == {}
