"""How a job was stopped from outside is seen through what libraries make of it; a small command ends without a page."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from suite.launchers import worker
from suite.runs.command import command
from suite.runs.outcome import Outcome
from suite.runs.stopping import ends_on_interrupt, stop_code


def interrupted_archive() -> None:
    """As torch's zip writer: what it was interrupted in is incomplete, and it says that instead."""
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("unexpected pos 9659588 vs 9659472")


def interrupted_twice() -> None:
    """As a trainer: it exits, and while it does, something is not there any more."""
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1) from None
    finally:
        raise RuntimeError("Please call `iter(combined_loader)` first.")


def stopped() -> None:
    try:
        raise SIGTERMException
    except SIGTERMException:
        raise ValueError("write to closed file") from None


def failed() -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        raise ValueError("no x") from error


@pytest.mark.parametrize(
    ("ends", "code"), [(interrupted_archive, 130), (interrupted_twice, 130), (stopped, 143), (failed, 0)]
)
def test_what_a_library_raises_on_its_way_out_is_not_what_ended_the_job(ends: Callable[[], None], code: int) -> None:
    with pytest.raises(Exception) as error:
        ends()
    assert stop_code(error.value) == code


def test_ctrl_c_ends_a_small_command_with_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    @command
    def main(argv: Sequence[str] | None = None) -> int:
        raise KeyboardInterrupt

    assert main([]) == 130
    assert capfd.readouterr().err.split() == ["stopped"]


def test_ctrl_c_where_no_job_is_under_way_ends_a_program_with_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    @ends_on_interrupt
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capfd.readouterr().err.split() == ["stopped"]


def test_a_worker_whose_sweep_was_killed_ends_after_its_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[Path] = []

    def do(program: object, path: Path) -> Outcome:
        done.append(path)
        return Outcome("hash", tmp_path, "finished")

    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(worker, "do", do)
    monkeypatch.setattr(worker, "_from_stdin", lambda: iter(["one", "two"]))
    assert worker.main(["asgml.run", "--replies", str(write)]) == 0
    os.close(write)
    assert done == [Path("one")]
