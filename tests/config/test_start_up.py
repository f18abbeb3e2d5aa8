"""What needs no training is told without torch and Lightning: help, lists, wrong command lines, finished runs."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from asgml_runs import overrides, write_features
from entry_points import entries

from asgml.run import Tree, dead, judge, train
from suite.runs.launch import launch
from suite.runs.ledger import write_json
from suite.runs.provenance import read_result

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    *("torch", "lightning", "pandas", "transformers", "torchmetrics", "torchvision", "wandb"),
    *("numpy", "scipy", "sklearn", "matplotlib", "plotly"),
)
HELPED = entries()
STUDIED = (("latentwire.study", "family"),)  # studies with options of their own that import nothing for their help
LISTED = ("asgml.run", "latentwire.run", "asgml.feedback.run")
WRONG = {
    "an unknown key": ("asgml.run", "asgml.tua=2", "did you mean asgml.tau"),
    "an unknown option": ("asgml.run", "method=ogm_gee", "did you mean method=ogm_ge"),
    "no value": ("asgml.run", "experiment=features", "data.path"),
    "a type": ("asgml.run", "loader.batch_size=many", "loader.batch_size"),
    "a range": ("asgml.run", "loader.batch_size=0", "loader.batch_size"),
    "an option of the trainer": ("asgml.run", "+trainer.gradient_clip_val=1", "callbacks.clip.max_norm"),
    "one that is typed plainly": ("asgml.run", "trainer.accumulate_grad_batches=4", "loader.batch_size"),
    "a run that is extended and not there": ("asgml.run", "extend=nowhere", "the directory of a run"),
    "a wire's": ("latentwire.run", "wire.d_z=wide", "wire.d_z"),
    "the feedback system's": ("asgml.feedback.run", "stages.text.epochs=-1", "stages.text.epochs"),
    "a run to score that is not there": ("asgml.feedback.evaluate", "nowhere", "<paths.runs>/<name>/<hash>"),
    "one to predict with": ("asgml.feedback.predict", "nowhere --data a.png -o s.csv", "<paths.runs>/<name>/<hash>"),
    "one to export": ("asgml.feedback.export", "nowhere -o adapters", "<paths.runs>/<name>/<hash>"),
}
# Runs each command in turn; says how it ended, what it printed, and what of HEAVY has been imported by then.
SCRIPT = """
import contextlib, io, json, runpy, sys
told = []
for module, *words in json.loads(sys.argv[1]):
    sys.argv = [module, *words]
    code, out = 0, io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
    told.append([code, out.getvalue(), [m for m in HEAVY if m in sys.modules]])
print(json.dumps(told))
"""


def told(commands: list[list[str]], cwd: Path) -> list[tuple[int, str, list[str]]]:
    """What one fresh process says to each command."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("HEAVY", repr(HEAVY)), json.dumps(commands)],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [tuple(answer) for answer in json.loads(done.stdout.splitlines()[-1])]  # type: ignore[misc]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[int, str, list[str]]]:
    """What a fresh process says to everything at once, a finished run of the same command included."""
    folder = tmp_path_factory.mktemp("start")
    line = overrides(write_features(folder / "f.npz"), folder / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        launch("asgml", train, dead, schema=Tree, judge=judge, argv=line)
    commands = [
        *([module, "--help"] for module in HELPED),
        *([module, study, "--help"] for module, study in STUDIED),
        *([module, "list"] for module in LISTED),
        ["asgml.run", "list", "nothing"],
        *([module, *shlex.split(words)] for module, words, _ in WRONG.values()),
        ["asgml.run", *line],
    ]
    found = dict(zip(map(tuple, commands), told(commands, folder)))
    return {("finished" if "experiment=features" in k and len(k) > 2 else k): v for k, v in found.items()}  # type: ignore[misc]


def test_help_and_lists_import_nothing_heavy(answers: dict[Any, tuple[int, str, list[str]]]) -> None:
    for module, word in (*((m, "--help") for m in HELPED), *((m, "list") for m in LISTED)):
        code, text, heavy = answers[(module, word)]
        assert (code, heavy) == (0, []), f"{module} {word}: {text[-500:]}"
    for module, study in STUDIED:
        code, text, heavy = answers[(module, study, "--help")]
        assert (code, heavy) == (0, []), text[-500:]
        assert f"python -m {module} {study}" in text
        assert len(text.splitlines()) <= 40
    text = answers["asgml.run", "list"][1]
    for word in ("ogm_ge", "avdigits", "absent", "made at first use", "give data.path=…"):
        assert word in text
    assert "biographies" in answers["latentwire.run", "list"][1]


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_command_line_imports_nothing_heavy(kind: str, answers: dict[Any, tuple[int, str, list[str]]]) -> None:
    module, words, remedy = WRONG[kind]
    code, text, heavy = answers[(module, *shlex.split(words))]
    assert (code, heavy) == (2, [])
    assert remedy in text
    assert "Traceback" not in text


INTERRUPTED = """
import signal, sys
class AtOnce:
    def find_spec(self, name, path=None, target=None):
        if name == "omegaconf":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, AtOnce())
"""


@pytest.mark.parametrize("name", ["asgml.run", "latentwire.run", "suite.report"])
def test_ctrl_c_while_libraries_are_imported_is_told_in_a_word(name: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, "-m", name, "no_such_run"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == "stopped"
    assert done.returncode in (-signal.SIGINT, 130)  # which is the same for a shell


def test_a_list_that_does_not_exist_is_refused(answers: dict[Any, tuple[int, str, list[str]]]) -> None:
    code, text, _ = answers["asgml.run", "list", "nothing"]
    assert code == 2
    assert "remedy: python -m asgml.run list methods" in " ".join(text.split())


def test_a_finished_run_is_shown_without_anything_heavy(answers: dict[Any, tuple[int, str, list[str]]]) -> None:
    code, text, heavy = answers["finished"]
    assert (code, heavy) == (0, []), text
    assert "finished before" in text
    assert "data unchanged (data.path)" in text


@pytest.mark.parametrize("change", ["data", "result", "typed", "half its memory", "a bit of its memory", "nothing"])
def test_what_has_changed_is_looked_at_anew(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remembered answer holds for nothing but the very same command, files and result."""
    npz = write_features(tmp_path / "f.npz")
    line = overrides(npz, tmp_path / "runs")
    calls: list[str] = []

    def task(cfg: Any, run: Any) -> dict[str, Any]:
        calls.append(run.hash)
        return {"val": {"accuracy": 0.5}, "test": {"accuracy": 0.5}, "counters": {}}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("suite.runs.known.TICK_NS", 0)
    launch("asgml", task, dead, schema=Tree, argv=line)
    looked: list[int] = []
    real = launch.__globals__["judged"]
    monkeypatch.setitem(launch.__globals__, "judged", lambda *a, **k: looked.append(1) or real(*a, **k))
    if change == "data":
        write_features(npz, seed=1)
    elif change == "result":
        path = next((tmp_path / "runs").glob("*/*/result.json"))
        write_json(path, {**read_result(path.parent), "val": {"accuracy": 0.25}})
    elif "memory" in change:
        memory = next((tmp_path / "runs" / ".known").glob("*.json"))
        whole = memory.read_bytes()
        memory.write_bytes(whole[: len(whole) // 2] if "half" in change else whole.replace(b'"remarks"', b'"remarkz"'))
    launch("asgml", task, dead, schema=Tree, argv=[*line, *(["loader.workers=1"] if change == "typed" else [])])
    assert bool(looked) == (change != "nothing")
    assert len(calls) == (2 if change == "data" else 1)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("asgml experiment=cre", ["experiment=cremad", "experiment=cremad_mini"]),
        ("asgml optimizer=ad", ["optimizer=adam", "optimizer=adamw"]),  # of the folder that all programs share
        ("asgml experiment=features trainer.max_", ["trainer.max_epochs=", "trainer.max_steps="]),
    ],
)
def test_the_shell_completes_groups_options_and_keys(
    line: str, found: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    launch("asgml", train, dead, schema=Tree, argv=["-sc", "query=bash"])
    assert capsys.readouterr().out.split() == found
