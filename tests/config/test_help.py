"""`--help` of everything that can be started is one screen and says only what belongs to it."""

from __future__ import annotations

import runpy
import sys
import warnings

import pytest
from entry_points import entries

from asgml.about import ABOUT as ASGML
from asgml.feedback.about import ABOUT as FEEDBACK
from latentwire.about import ABOUT as LATENTWIRE
from suite.config.compose import Composer
from suite.runs.about import About

LINES, COLUMNS = 40, 100
PROGRAMS = {"asgml": ASGML, "latentwire": LATENTWIRE, "asgml.feedback": FEEDBACK}
# groups that are chosen by the others, stand in the line of another or belong to another command of the program
ELSEWHERE = {
    "asgml": set[str](),
    "latentwire": {"adaptation", "pocket", "setting", "smoke"},
    "asgml.feedback": {"averaging", "lr_schedule"},
}


def shown(module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What `python -m MODULE words` prints before it ends with exit code 0."""
    monkeypatch.setattr(sys, "argv", [module, *words])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of modules that other tests have imported
        code: object = 0
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
    assert code in (0, None), f"{module}: {code}"
    return capsys.readouterr().out


def test_there_is_something_to_start() -> None:
    assert {"asgml.run", "asgml.tune", "latentwire.ladder", "suite.report", "asgml.bench"} <= set(entries())
    assert len(entries()) >= 25


@pytest.mark.parametrize("module", entries())
def test_help_is_one_screen(module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(module, capsys, monkeypatch, "--help")
    lines = text.splitlines()
    assert 1 < len(lines) <= LINES, text
    assert max(map(len, lines)) <= COLUMNS, max(lines, key=len)
    assert f"python -m {module}" in text


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_has_the_groups_of_its_own_program(
    program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    about: About = PROGRAMS[program]
    groups = set(Composer(program).groups()) - ELSEWHERE[program]
    assert set(about.groups) == groups, "each with one line"
    lines = shown(f"{program}.run", capsys, monkeypatch, "--help").splitlines()
    begun = [line.split()[0] for line in lines if line.startswith("  ") and ": " in line]
    assert groups <= set(begun)
    assert sum(line.startswith(f"  {about.command}") for line in lines) == 5, "five examples"
