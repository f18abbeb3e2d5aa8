"""The recipes of docs/adding.md: every file and every command on that page, run as they stand at a tiny size."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import media_trees
import numpy as np
import pytest
import torch
from lw_runs import save_lm

from asgml.run import Tree as AsgmlTree
from asgml.run import dead as asgml_dead
from asgml.run import train as asgml_train
from latentwire.run import Tree as WireTree
from latentwire.run import dead as wire_dead
from latentwire.run import train as wire_train
from suite.runs.launch import launch
from suite.runs.provenance import read_result

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    "asgml.run": ("asgml", asgml_train, asgml_dead, AsgmlTree),
    "latentwire.run": ("latentwire", wire_train, wire_dead, WireTree),
}
TINY = {
    "asgml.run": [
        "trainer.accelerator=cpu",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        "callbacks.progress=null",
        "callbacks.probe=null",
        "loader.batch_size=16",
    ],
    "latentwire.run": [
        "wire.d_z=8",
        "wire.slots=3",
        "wire.measured_texts=4",
        "corpus.train=200",
        "loader.batch_size=3",
        "loader.questions=2",
        "loader.steps_per_epoch=4",
        "loader.eval_passages=4",
        "loader.eval_batch_size=4",
        "evaluation.passages=3",
        "evaluation.max_new_tokens=3",
        "evaluation.n_boot=40",
        "~acceptance.evaluation",  # four steps reach nothing
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        "callbacks.progress=null",
        "callbacks.audit.within=4",
        "lr_schedule.warmup_steps=0",
    ],
}
# What the tiny size of one recipe needs beside that.
MORE = {
    "A data set": ["data.samples=64"],
    "An injector": ["curriculum=single"],
    "A language model": ["encoder.max_tokens=240", "corpus.facts_per_person=2"],
}


@dataclass
class Recipe:
    """One section: its files by name, and its command."""

    title: str
    text: str
    files: dict[str, str] = field(default_factory=dict)
    command: str = ""

    def lines(self, suffix: str) -> int:
        return sum(len(text.splitlines()) for name, text in self.files.items() if name.endswith(suffix))


def recipes() -> list[Recipe]:
    found = []
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        recipe = Recipe(title, text)
        for language, name, content in BLOCK.findall(text):
            if name:
                recipe.files[name] = content
            elif language == "sh":
                recipe.command = content.strip().replace("\\\n", "")
        found.append(recipe)
    return found


RECIPES = [recipe for recipe in recipes() if recipe.files]
OWN_DATA = re.findall(r"^```sh\n(.*?)^```$", next(r.text for r in recipes() if not r.files), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files of all recipes, features and a language model, as the current one."""
    place = tmp_path_factory.mktemp("adding")
    for recipe in RECIPES:
        for name, content in recipe.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(content, encoding="utf-8")
    rng, n = np.random.default_rng(0), 64
    y = np.arange(n) % 4
    x = {
        f"x_{m}": (rng.standard_normal((4, *shape))[y] + rng.standard_normal((n, *shape))).astype(np.float32)
        for m, shape in {"audio": (5, 6), "visual": (10,)}.items()
    }
    np.savez(place / "features.npz", **x, y=y, split=np.repeat([0, 1, 2], [32, 16, 16]))
    (place / "models").mkdir()
    Path(save_lm(place / "models")).rename(place / "models" / "mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(str(place))
        yield place


def do(command: str, more: list[str], runs: Path, without: tuple[str, ...] = ()) -> Path:
    """Do a command of the page at a tiny size; return the directory of its run, which is finished."""
    module, *argv = shlex.split(command.removeprefix("python -m "))
    program, task, dead, schema = PROGRAMS[module]
    argv += [*(o for o in TINY[module] if not o.startswith(without)), *more, f"paths.runs={runs}"]
    launch(program, task, dead, schema=schema, argv=argv + [f"paths.cache={runs}"] * (program == "latentwire"))
    (result,) = runs.glob("*/*/result.json")
    assert read_result(result.parent)["status"] == "finished"
    return result.parent


@pytest.mark.parametrize("recipe", RECIPES, ids=[r.title for r in RECIPES])
def test_the_recipe_works_as_it_stands(recipe: Recipe, tmp_path: Path) -> None:
    config = (do(recipe.command, MORE.get(recipe.title, []), tmp_path) / "config.yaml").read_text(encoding="utf-8")
    for name in recipe.files:
        if name.endswith(".py"):
            assert f"_target_: {Path(name).stem}." in config, f"the run did without {name}"


@pytest.mark.slow
@pytest.mark.parametrize("command", OWN_DATA)
def test_own_data_need_no_code(command: str, folder: Path, tmp_path: Path) -> None:
    mine, words = folder / "mine", " ".join(f"word{i}" for i in range(100))
    if not mine.exists():
        media_trees.table(mine)
        (mine / "texts").mkdir()
        texts = [f"So it goes {i} {words}" for i in range(30)]
        asked = [{"question": "Where does Ann live?", "answers": ["Roma", "Rome"]}]
        for i, text in enumerate(texts):
            (mine / "texts" / f"{i}.txt").write_text(text, encoding="utf-8")
        for name, lines in {
            "texts": [{"text": text} for text in texts],
            "questions": [{"context": f"Ann {i} lives in Rome.", "questions": asked} for i in range(30)],
        }.items():
            (mine / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    fitting = ["encoder.max_tokens=240"]  # the tiny model has 256 positions, of bytes
    words = ["corpus.begin=20", "corpus.rest=8"]
    more = {"table": ["asgml.delayed=[audio]"], "text": [*fitting, *words], "qa": fitting}
    experiment = command.split()[3].removeprefix("experiment=")
    do(command, more[experiment], tmp_path, ("corpus.train", "~acceptance"))


def test_the_page_shows_own_data_first() -> None:
    assert [c.split()[3] for c in OWN_DATA] == [f"experiment={e}" for e in ("table", "text", "text", "qa")]


def example(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def test_the_codec_keeps_the_invariant() -> None:
    codec = example("float8", "Float8")(6).eval()
    z = torch.randn(4, 6) * torch.tensor([[1e-3], [1.0], [100.0], [1e4]])
    assert len(codec.encode(z)) == codec.payload(4).total == 24
    assert torch.equal(codec.decode(codec.encode(z), 4), codec(z[None]).values[0])


def test_an_absent_modality_contributes_nothing_to_the_fusion() -> None:
    fusion = example("low_rank", "LowRank")({"audio": 3, "visual": 4}, 5)
    f = {"audio": torch.randn(2, 3), "visual": torch.full((2, 4), torch.nan)}
    present = {"audio": torch.tensor([True, True]), "visual": torch.tensor([False, False])}
    assert torch.equal(fusion(f, present), fusion({**f, "visual": torch.zeros(2, 4)}))


def test_one_modality_alone_says_nothing_in_the_data_set() -> None:
    table = example("xor", "Xor")(samples=4000, noise=0.0).tables()["train"]
    bits = [table.x[m][:, 0] > 0 for m in ("audio", "visual")]
    assert np.array_equal(table.y == 1, bits[0] != bits[1])
    assert all(abs(table.y[b].mean() - 0.5) < 0.05 for b in bits)


def test_the_examples_are_as_clean_as_the_repository(folder: Path) -> None:
    own = 'lint.isort.known-first-party=["asgml", "callbacks", "latentwire", "suite"]'
    options = ["--no-cache", "--config", str(ROOT / "pyproject.toml"), "--config", own]
    names = [name for recipe in RECIPES for name in recipe.files if name.endswith(".py")]
    for command in (["check"], ["format", "--diff"]):
        line = [sys.executable, "-m", "ruff", *command, *options, *names]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_ten_kinds_of_parts_each_with_files_command_and_test() -> None:
    assert len(RECIPES) == 10
    for recipe in RECIPES:
        assert recipe.command.startswith("python -m "), recipe.title
        assert any(name.endswith(".yaml") for name in recipe.files), recipe.title
        assert "*Inside:*" in recipe.text, recipe.title
        assert "*Test:*" in recipe.text, recipe.title


def test_the_overview_counts_the_lines() -> None:
    for recipe in RECIPES:
        anchor = recipe.title.lower().replace(" ", "-").replace("'", "")
        (row,) = [line for line in PAGE.splitlines() if f"](#{anchor})" in line]
        assert row.split("|")[3].strip() == f"{recipe.lines('.py')}, {recipe.lines('.yaml')}", recipe.title


def test_the_files_that_the_page_names_exist() -> None:
    """But those that a published part would add: they have the name of an example."""
    prose = BLOCK.sub("", PAGE)
    examples = {Path(name).stem for recipe in RECIPES for name in recipe.files} | {"linear"}
    named = set(re.findall(r"`((?:asgml|callbacks|conf|docs|latentwire|suite|tests)/[\w./]+)`", prose))
    assert len(named) > 30
    for name in named:
        is_example = Path(name).stem.removeprefix("test_") in examples
        assert (ROOT / name).exists() != is_example, name


def test_the_tables_of_tests_that_the_page_names_are_there() -> None:
    named = re.findall(r"`([A-Z]{3,})`\s+(?:in|of)\s+`(tests/[\w./]+)`", PAGE)
    assert len(named) >= 5
    for name, path in named:
        assert re.search(rf"^{name}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{name} in {path}"
