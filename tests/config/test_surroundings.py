"""What is odd around a command and not in it: closed streams, folders that cannot be, variables left over."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fake_program
import pytest

from callbacks.errors import UserError
from latentwire.encode import read_bytes
from suite.runs.surroundings import open_streams

Main = Callable[..., int]


def test_a_command_with_closed_streams_runs(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main() == 0
    assert len(fake_program.calls) == 1
    assert main("speed.tua=1") == 2


def test_a_closed_stream_gives_its_number_to_no_file() -> None:
    """Otherwise what a library prints would go into the next file that is opened."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; from suite.runs.surroundings import open_streams; open_streams()"
    opened = "import os; os.write(2, str(os.open('/dev/null', os.O_RDONLY)).encode()); print('nowhere', flush=True)"
    closed = subprocess.run(
        ["bash", "-c", '"$0" -S -c "$1" >&-', sys.executable, f"{code}; {opened}"], stderr=subprocess.PIPE, check=True
    )
    assert int(closed.stderr) > 2


def test_open_streams_stay_what_they_are() -> None:
    before = sys.stdin, sys.stdout, sys.stderr
    open_streams()
    assert (sys.stdin, sys.stdout, sys.stderr) == before


@pytest.mark.parametrize("below", ["", "/deeper", f"/{'x' * 300}"])
def test_runs_where_no_folder_can_be(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (file := tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["program"])
    place = f"{tmp_path}/folder{below}" if "x" in below else f"{file}{below}"
    with pytest.raises(SystemExit) as end:
        fake_program.launch(
            "fake",
            fake_program.task,
            fake_program.dead,
            schema=fake_program.Tree,
            config_dir=fake_program.CONF,
            argv=[f"paths.runs={place}"],
        )
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert f"paths.runs={place}" in told
    assert "set paths.runs=runs" in told
    assert fake_program.calls == []


def test_a_name_that_is_too_long_for_a_folder(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"name={'x' * 300}") == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(f"name={'x' * 200}/{'y' * 200}") == 0


@pytest.mark.parametrize("name", ["LOCAL_RANK", "RANK", "NODE_RANK"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_left_over_in_the_environment(
    main: Main, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, rank: str
) -> None:
    for other in ("WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, rank)
    assert main() == 2
    assert f"unset {name}" in capsys.readouterr().err
    assert fake_program.calls == []


def test_a_message_without_an_end_is_refused(tmp_path: Path) -> None:
    if not os.path.exists("/dev/zero"):
        pytest.skip("no /dev/zero here")
    with pytest.raises(UserError, match="more than 256 MiB"):
        read_bytes("/dev/zero")
    (file := tmp_path / "a.wire").write_bytes(b"abc")
    assert read_bytes(str(file)) == b"abc"
