"""Every `asgml.run` command of the README composes and checks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from asgml.run import Tree, dead
from asgml.sweep import for_the_data
from suite.config.compose import Composer
from suite.runs.launch import plan

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNS = re.findall(r"`python -m asgml\.run ?([^`]*)`", README)
# `list` composes nothing; a finished run is what RUN stands for: resume/test_extend.py
COMMANDS = [line for line in RUNS if line != "list" and "RUN" not in line]


def test_there_are_commands():
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("command", COMMANDS)
def test_composes(command):
    argv = [a for a in shlex.split(command) if a != "plan=true"]  # a word of the command line, no key
    if "launcher=slurm" in argv:
        pytest.importorskip("submitit")
        argv.append("launcher.cluster=local")  # there is no cluster here
    if "-m" in argv:  # the first and last of the grid stand for it: composing all takes seconds
        argv = [re.sub(r"=(\w|\.)+,[^=]*,", "=", a) if "," in a else a for a in argv]
        argv += ["seed=0", "method=joint,umt,boost"] * ("sweep=methods" in argv)
    assert plan("asgml", for_the_data(argv, Tree), None, dead, Tree).jobs


def test_the_sweep_lists_methods_that_exist() -> None:
    """Each composes with every experiment, see test_experiments.py."""
    listed = yaml.safe_load((ROOT / "conf/asgml/sweep/methods.yaml").read_text(encoding="utf-8"))
    names = [name.strip() for name in listed["hydra"]["sweeper"]["params"]["method"].split(",")]
    assert len(names) == len(set(names)) > 40
    assert set(names) <= set(Composer("asgml").options("method"))


def test_the_class_index_names_every_method_and_its_file() -> None:
    rows = re.findall(r"^\| `(\w+)` \| \[`(\w+)`\]\((asgml/methods/\w+\.py)\) \| .+ \|$", README, re.MULTILINE)
    assert all(f"class {name}(" in (ROOT / path).read_text(encoding="utf-8") for _, name, path in rows)
    files = (ROOT / "conf" / "asgml" / "method").glob("*.yaml")  # the others combine or control these
    own = {f.stem for f in files if f.read_text(encoding="utf-8").startswith("# @package methods.")}
    assert {name for name, _, _ in rows} == own


def tables(text: str) -> list[str]:
    return re.findall(r"^\|.*\|$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("page", "begins", "ends"),
    [("asgml", "Test accuracy in %", "LatentWire on "), ("pocket", "LatentWire on ", "Feedback: ")],
)
def test_a_table_of_results_is_that_of_its_study(page: str, begins: str, ends: str) -> None:
    """It regenerates with the page: `python -m asgml.tune.page RUNS`, `python -m latentwire.study pocket`."""
    _, _, rest = (ROOT / "docs" / "results" / f"{page}.md").read_text(encoding="utf-8").partition("## In short")
    written = tables(rest.partition("\n## ")[0])
    _, _, here = README.partition(begins)
    assert len(written) > 5
    assert tables(here.partition(ends)[0]) == written
