"""The harness that kills commands: it finds nothing in what survives that, and what does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from callbacks.errors import UserError
from suite.torture import begin
from suite.torture.__main__ import main, torture
from suite.torture.case import FOLDER, Case, cases_of
from suite.torture.left import of_files

# Twenty steps; each adds its number to a list of numbers and writes it, in one piece or as it comes.
STEPS = """
import os, signal, sys, time
if sys.argv[2] != "rude":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
place = sys.argv[1] + "/steps"
if not os.path.exists(place):
    open(place, "w").close()
while (done := len(open(place).read().split())) < 20:
    time.sleep(0.005)
    if sys.argv[2] != "appends":
        with open(place + ".tmp", "w") as file:
            file.write(open(place).read() + f"{done}\\n")
        os.replace(place + ".tmp", place)
    else:
        with open(place, "a") as file:
            file.write(f"{done}\\n")
            file.flush()
            time.sleep(0.005)
            file.write(f"{done}\\n")
"""


def case(kind: str) -> Case:
    return Case(kind, ["-S", "-c", STEPS, FOLDER, kind], of_files("steps"))


def verdicts(out: Path) -> list[str]:
    return [json.loads(line)["verdict"] for line in (out / "0_trials.jsonl").read_text().splitlines()]


def test_a_command_that_survives_is_equal_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert torture([case("sound")], tmp_path, kills=6, seed=0, seconds=60, limit=10) == 0
    assert verdicts(tmp_path) == ["equal"] * 6
    told = capsys.readouterr().out
    assert "6 of 6 trials" in told
    assert re.search(r"written last before a kill: (its start|steps) \d", told)
    assert torture([case("sound")], tmp_path, kills=7, seed=0, seconds=60, limit=10) == 0
    assert len(verdicts(tmp_path)) == 7, "the list goes on"
    assert capsys.readouterr().out.count("SIG") == 1 + 3


def test_what_a_kill_tears_is_a_divergence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert torture([case("appends")], tmp_path, kills=6, seed=1, seconds=60, limit=10) == 1
    assert "different steps" in capsys.readouterr().out
    assert list(tmp_path.glob("1_appends_*/steps")), "the folder stays, to be looked at"


def test_a_traceback_after_ctrl_c_is_no_end_of_a_command(tmp_path: Path) -> None:
    assert torture([case("rude")], tmp_path, kills=9, seed=0, seconds=60, limit=10) == 1
    rows = [json.loads(line) for line in (tmp_path / "0_trials.jsonl").read_text().splitlines()]
    assert {row["verdict"] for row in rows if row["signal"] == "INT" and any(row["after"])} == {"traceback"}
    assert {row["verdict"] for row in rows if row["signal"] != "INT"} == {"equal"}


@pytest.mark.parametrize(("kind", "code"), [("sound", 0), ("appends", 1)])
def test_forks_of_this_process_are_killed_as_commands_are(
    kind: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(begin, "SLOW", ())
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_steps.py").write_text(STEPS)
    toy = Case(kind, ["-m", "toy_steps", FOLDER, kind], of_files("steps"))
    out = tmp_path / "out"
    assert torture([toy], out, kills=6, seed=1, seconds=60, limit=10, begin=begin.forked) == code
    rows = [json.loads(line) for line in (out / "1_trials.jsonl").read_text().splitlines()]
    assert any(row["moments"] for row in rows)


@pytest.mark.parametrize(("words", "code"), [("import sys; sys.exit(3)", 3), ("raise ValueError('no')", 1), ("1", 0)])
def test_a_fork_ends_with_the_code_of_its_command(
    words: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(begin, "SLOW", ())
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_ends.py").write_text(words)
    assert begin.forked(["-m", "toy_ends"], tmp_path, tmp_path / "log").wait(20) == code


def test_a_moment_is_counted_in_what_a_command_has_written(tmp_path: Path) -> None:
    """Hence it is spread over its work, whatever share of its time goes to its start."""
    late = "import time; time.sleep(0.1)" + STEPS
    torture([Case("late", ["-S", "-c", late, FOLDER, "sound"], of_files("steps"))], tmp_path, 5, 3, 60, 10)
    rows = [json.loads(line) for line in (tmp_path / "3_trials.jsonl").read_text().splitlines()]
    kills = [after for row in rows for after in row["after"]]
    assert sum(after.startswith("steps") for after in kills) > len(kills) / 2


def test_no_trial_begins_after_its_time(tmp_path: Path) -> None:
    assert torture([case("sound")], tmp_path, kills=3, seed=0, seconds=0, limit=10) == 0
    assert not (tmp_path / "0_trials.jsonl").exists()


@pytest.mark.parametrize("program", ["asgml", "asgml.feedback", "latentwire"])
def test_programs_list_commands_that_there_are(program: str) -> None:
    cases = cases_of([program], [])
    assert len({c.name for c in cases}) == len(cases) >= 2
    assert all(c.line(Path("/tmp"))[0] == "-m" for c in cases)


@pytest.mark.parametrize(
    "words",
    [["nowhere"], ["suite"], ["asgml", "--case", "none"], ["asgml", "--kills", "0"], ["asgml", "--limit", "-1"]],
)
def test_what_cannot_be_tortured_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == UserError.EXIT_CODE
    assert "remedy" in capsys.readouterr().err


def test_the_list_of_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latentwire", "--list"]) == 0
    assert "latentwire.run: python -m latentwire.run experiment=pocket_smoke" in capsys.readouterr().out
