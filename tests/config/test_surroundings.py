"""What is odd around a command and not in it: closed streams, folders that cannot be, variables left over."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fake_program
import pytest

from callbacks.errors import UserError
from latentwire.encode import read_bytes
from suite.runs import surroundings
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


PRINTS = """
import os, sys; sys.path[:0] = {path!r}
from suite.runs.command import command
@command
def main(argv=None):
    for line in range(20000):
        print(line, flush={flush})
    os.write({stderr}, b"to its end")
    print("the last line")
    return 0
sys.exit(main())
"""


def printing(shell: str, *options: str, flush: bool = False) -> tuple[int, str]:
    """Run a command that prints 20 000 lines behind a shell line; return its exit code and what it says elsewhere."""
    read, write = os.pipe()
    code = PRINTS.format(path=sys.path, flush=flush, stderr=write)
    line = [*("bash", "-c", f"{shell}; exit ${{PIPESTATUS[0]}}"), sys.executable, code, *options]
    with subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(write,)) as process:
        os.close(write)
        assert process.stderr is not None
        said = os.read(read, 100).decode() + process.stderr.read().decode()
        os.close(read)
        return process.wait(), said


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
def test_a_pipe_that_nobody_reads_any_more_ends_nothing(flush: bool, unbuffered: list[str]) -> None:
    shell = '"$0" "${@:2}" -S -c "$1" | head -1'
    assert printing(shell, *unbuffered, flush=flush) == (0, "to its end")


def test_nor_does_one_behind_both_streams() -> None:
    assert printing('"$0" -S -c "$1" 2>&1 | head -1') == (0, "to its end")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_what_does_not_fit_on_the_disk_is_told_once_and_ends_nothing() -> None:
    code, said = printing('"$0" -S -c "$1" > /dev/full')
    assert code == 1
    assert said.startswith("to its end") or said.endswith("to its end")
    assert said.count("stdout: No space left on device; what is printed from here on is lost") == 1


def test_a_list_behind_head_on_a_terminal_that_knows_ascii_alone() -> None:
    line = f"{sys.executable} -m asgml.run list | head -3; exit ${{PIPESTATUS[0]}}"
    ascii_alone = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    listed = subprocess.run(["bash", "-c", line], capture_output=True, env=ascii_alone)
    assert (listed.returncode, listed.stderr) == (0, b"")
    assert listed.stdout.startswith(b"methods")
    assert listed.stdout.isascii()


def test_characters_that_a_terminal_does_not_have_end_nothing() -> None:
    code = (
        "import sys; sys.path[:0] = {!r}; from suite.runs.surroundings import open_streams; open_streams(); print({!r})"
    )
    words = [sys.executable, "-S", "-c", code.format(sys.path, "α … β")]
    shown = subprocess.run(words, capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert shown.stdout == b"? ? ?\n"


def test_every_entry_point_opens_its_streams() -> None:
    """By itself, or through `launch`, `command` or a study's `main`."""
    root = Path(surroundings.__file__).parents[2]
    entries = [p for name in ("asgml", "latentwire", "suite") for p in (root / name).rglob("*.py")]
    entries = [p for p in entries if '__name__ == "__main__"' in p.read_text(encoding="utf-8")]
    assert len(entries) > 30
    opens = re.compile(r"^@command$|open_streams\(\)|^    launch\(|^    main\(PROGRAM|import main$", re.MULTILINE)
    assert [str(p) for p in entries if not opens.search(p.read_text(encoding="utf-8"))] == []


def test_a_signal_is_heard_where_nobody_reads_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C behind `2>&1 | tee log` ends `tee` first; the run still has to be saved."""
    from callbacks.run.signals import GracefulStop

    def gone(*_: object) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    stop, nowhere = GracefulStop(), list[int]()
    stop._training = True
    monkeypatch.setattr(os, "write", gone)
    monkeypatch.setattr("callbacks.run.stderr.lead_nowhere", nowhere.append)
    stop._handle(signal.SIGTERM, None)
    assert stop.received
    assert nowhere == [2]


def test_no_duration_is_measured_on_a_clock_that_can_be_set() -> None:
    """But for that of a submission, which another process goes on with."""
    root = Path(surroundings.__file__).parents[2]
    files = [p for name in ("asgml", "callbacks", "latentwire", "suite") for p in (root / name).rglob("*.py")]
    found = {p.name for p in files if "time.time()" in p.read_text(encoding="utf-8")}
    assert found <= {"slurm.py", "submissions.py"}


def test_open_streams_stay_what_they_are() -> None:
    open_streams()
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


RANKS = {
    "LOCAL_RANK": {"WORLD_SIZE": "4"},
    "RANK": {"WORLD_SIZE": "4", "LOCAL_RANK": "0"},
    "NODE_RANK": {"MASTER_ADDR": "localhost"},
    "SLURM_PROCID": {"SLURM_NTASKS": "4"},
    "JSM_NAMESPACE_RANK": {"JSM_NAMESPACE_SIZE": "4"},
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*RANKS, *(partner for partners in RANKS.values() for partner in partners)):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_left_over_in_the_environment(
    main: Main, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, rank: str
) -> None:
    monkeypatch.setenv(name, rank)
    assert main("trainer.devices=4") == 2
    assert f"unset {name}" in capsys.readouterr().err
    for partner, value in RANKS[name].items():  # still one short of what its starter sets
        assert main("trainer.devices=4") == 2
        assert partner in capsys.readouterr().err
        monkeypatch.setenv(partner, value)
    assert fake_program.calls == []
    assert main("trainer.devices=4") == 0


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", RANKS)
def test_a_spare_copy_of_a_run_of_one_device_does_not_train_in_silence(
    main: Main, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What `torchrun --nproc-per-node 4` makes of a run with `trainer.devices=1`: it would exit with 0 and no file."""
    for partner, value in RANKS[name].items():
        monkeypatch.setenv(partner, value)
    monkeypatch.setenv(name, "3")
    assert main() == 2
    said = capsys.readouterr().err
    assert f"{name}=3" in said
    assert "spare copy" in said
    assert fake_program.calls == []
    monkeypatch.setenv(name, "0")
    assert main() == 0


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", RANKS)
def test_a_rank_that_is_no_number(
    main: Main, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "first")
    assert main() == 2
    assert "not a number" in capsys.readouterr().err


def test_a_message_without_an_end_is_refused(tmp_path: Path) -> None:
    if not os.path.exists("/dev/zero"):
        pytest.skip("no /dev/zero here")
    with pytest.raises(UserError, match="more than 256 MiB"):
        read_bytes("/dev/zero")
    (file := tmp_path / "a.wire").write_bytes(b"abc")
    assert read_bytes(str(file)) == b"abc"
