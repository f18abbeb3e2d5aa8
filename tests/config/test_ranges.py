"""Every number of a configuration has a declared range, and what lies outside is refused before anything is built."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from asgml_runs import compose, overrides, write_features

from asgml.feedback import run as feedback
from asgml.run import Tree, main
from asgml.study import PROGRAM
from asgml.tune.options import DataSet, RowOptions, StudyTree
from asgml.tune.rows import Row
from asgml.tune.space import Range
from asgml.tune.trees import Trees
from callbacks.errors import UserError
from suite.config.check import Common, check
from suite.config.compose import Composer
from suite.config.reference.files import packages
from suite.config.signature import locate, parameters
from suite.config.third_party import RANGES
from suite.config.wording import undeclared

ROOT = Path(__file__).parents[2]

# Public names that hold what a run has measured or agreed on; no YAML builds them.
HOLDERS = {
    "asgml.data.DataSpec",
    "asgml.data.ModalitySpec",
    "asgml.feedback.data.Sample",
    "asgml.methods.Epoch",
    "asgml.methods.Step",
    "callbacks.GroupPlan",
    "callbacks.Phase",
    "callbacks.StepContext",
    "callbacks.StepPlan",
    "callbacks.gradient_share",
    "latentwire.codec.Payload",
    "latentwire.data.Passage",
    "latentwire.encoders.LatentLayout",
    "latentwire.encoders.Tokens",
    "latentwire.encoders.chunk_mean",
    "latentwire.lm.Prefix",
    "latentwire.objectives.Needs",
    "latentwire.objectives.ReaderShape",
    "latentwire.objectives.Seen",
}
# The one number without a range of its own: the key that a knob sets has it, and every end of a knob is checked there.
FREE = "asgml.tune.space.Range.choice"


def of_yaml(*folders: str) -> Iterator[str]:
    """Every `_target_` below folders of conf/."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("_target_"), str):
                yield node["_target_"]
            node = list(node.values())
        for child in node if isinstance(node, list) else []:
            yield from walk(child)

    for path in sorted(p for folder in folders for p in (ROOT / "conf" / folder).rglob("*.yaml")):
        yield from walk(yaml.safe_load(path.read_text(encoding="utf-8")))


def of_stubs(package: str) -> Iterator[str]:
    """Every public name of a package and those below it: what a user's own YAML may name."""
    for stub in sorted((ROOT / package).rglob("__init__.pyi")):
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                module = ".".join(stub.parent.relative_to(ROOT).parts)
                yield from (f"{module}.{alias.name}" for alias in node.names)


def without_range(target: Any) -> list[str]:
    """The numeric parameters of a target, or fields of a dataclass and those nested in it, that declare no range."""
    if not callable(target) or target in {locate(name) for name in HOLDERS}:
        return []
    try:
        accepted = parameters(target)
    except ValueError:  # an exception's or a protocol's constructor
        return []
    title = f"{target.__module__}.{getattr(target, '__qualname__', '')}"
    known = accepted.annotations | RANGES.get(title, {})
    found = [f"{title}.{name}" for name, annotation in known.items() if undeclared(annotation)]
    for annotation in known.values():
        for inner in (annotation, *get_args(annotation)):
            if dataclasses.is_dataclass(inner) and inner.__module__.split(".")[0] in packages():
                found += without_range(inner)
    return found


def test_every_number_of_asgml_and_of_what_all_share_has_a_range() -> None:
    names = {*of_yaml("asgml", "common", "feedback"), *of_stubs("asgml"), *of_stubs("callbacks")} - HOLDERS
    assert len(names) > 100
    targets = [locate(name) for name in sorted(names)]
    trees = [Common, Tree, feedback.Tree, StudyTree, RowOptions, DataSet, Range]
    assert [where for target in (*targets, *trees) for where in without_range(target)] == [FREE]


def test_every_number_of_latentwire_has_a_range() -> None:
    names = {*of_yaml("latentwire"), *of_stubs("latentwire")} - HOLDERS
    assert len(names) > 80
    modules = [importlib.import_module(f"latentwire.{name}") for name in ("run", "pretrain", "ladder.options")]
    trees = [c for module in modules for c in vars(module).values() if inspect.isclass(c) and issubclass(c, Common)]
    assert len(trees) > 3
    assert [where for target in (*map(locate, sorted(names)), *trees) for where in without_range(target)] == []


def test_the_walk_finds_a_plain_number_wherever_it_stands() -> None:
    for plain in (int, float | None, list[int], dict[str, float], tuple[float, ...], float | str, list[list[int]]):
        assert undeclared(plain), plain


def problem(*line: str) -> UserError:
    with pytest.raises(UserError) as error:
        check(compose(["experiment=features", "data.path=x.npz", *line]), Tree)
    return error.value


@pytest.mark.parametrize(
    ("override", "where", "expected", "remedy"),
    [
        ("optimizer.lr=nan", "optimizer.lr", "a learning rate above 0", "set optimizer.lr=0.001"),
        ("optimizer.lr=inf", "optimizer.lr", "a learning rate above 0", "set optimizer.lr=0.001"),
        ("optimizer.lr=1e30", "optimizer.lr", "1000 at most", "set optimizer.lr=0.001"),
        ("optimizer.lr=-1", "optimizer.lr", "a learning rate above 0", "set optimizer.lr=0.001"),
        ("optimizer.momentum=5", "optimizer.momentum", "a share of 0 or more, below 1", "set optimizer.momentum=0"),
        ("optimizer.weight_decay=-0.1", "optimizer.weight_decay", "0 or more", "set optimizer.weight_decay=0"),
        ("+group_lr.audio=-1", "group_lr.audio", "a learning rate above 0", "set ++group_lr.audio=0.001"),
        ("asgml.tau={}", "asgml.tau", "non-empty", "set asgml.tau=2"),
        ("asgml.tau=-1", "asgml.tau", "a delay from 0 to 1000 steps", "set asgml.tau=2"),
        ("asgml.tau=1000000", "asgml.tau", "a delay from 0 to 1000 steps", "set asgml.tau=2"),
        ("asgml.tau={audio:-1}", "asgml.tau.audio", "a delay from 0 to 1000 steps", "set asgml.tau=2"),
        ("asgml.k=0", "asgml.k", "a whole number from 1", "set asgml.k=2"),
        ("asgml.delayed=[]", "asgml.delayed", "non-empty list", "set asgml.delayed=dominant"),
        ("asgml.phases={}", "asgml.phases", "non-empty", "set asgml.phases=null"),
        ("optimizer.weight_decay=1e308", "optimizer.weight_decay", "1e37 at most", "set optimizer.weight_decay=0"),
        ("asgml.mu=3e38", "asgml.mu", "1e37 at most", "set asgml.mu=0.04"),
        ("asgml.mu=inf", "asgml.mu", "a finite number of 0 or more", "set asgml.mu=0.04"),
        ("asgml.boost.alpha=-1", "asgml.boost.alpha", "0 or more", "set asgml.boost.alpha=0.5"),
        ("asgml.boost.cap=0", "asgml.boost.cap", "1 or more", "set asgml.boost.cap=2.0"),
        ("asgml.boost.ema=2", "asgml.boost.ema", "a share above 0, 1 at most", "set asgml.boost.ema=0.3"),
        ("asgml.boost.gap_full=0", "asgml.boost.gap_full", "above 0", "set asgml.boost.gap_full=0.3"),
        ("asgml.adaptive.ema=0", "asgml.adaptive.ema", "a share above 0", "set asgml.adaptive.ema=0.1"),
        ("asgml.adaptive.kappa=nan", "asgml.adaptive.kappa", "1 or more", "set asgml.adaptive.kappa=3.0"),
        ("asgml.adaptive.window=1", "asgml.adaptive.window", "from 2", "set asgml.adaptive.window=50"),
        ("asgml.adaptive.ceilings={audio:7}", "asgml.adaptive.ceilings.audio", "a share", "ceilings=null"),
        ("loader.batch_size=0", "loader.batch_size", "a whole number from 1", "set loader.batch_size=64"),
        ("loader.workers=100000", "loader.workers", "0 to 256 processes", "set loader.workers=0"),
        ("loader.limit=0", "loader.limit", "a whole number from 1", "set loader.limit=null"),
        ("+loader.missing.audio=1", "loader.missing.audio", "below 1", "set ++loader.missing.audio=0.3"),
        ("cosine_every=-1", "cosine_every", "a whole number from 0", "set cosine_every=0"),
        ("trainer.max_epochs=0", "trainer.max_epochs", "-1 or a whole number from 1", "set trainer.max_epochs=100"),
        ("trainer.max_steps=-2", "trainer.max_steps", "-1 or a whole number", "set trainer.max_steps=-1"),
        ("+trainer.limit_val_batches=1.5", "trainer.limit_val_batches", "a share from 0 to 1", "_batches=null"),
        ("trainer.devices=0", "trainer.devices", "1 to 4096 devices", "set trainer.devices=auto"),
        (
            "callbacks.clip.max_norm=0",
            "callbacks.clip.max_norm",
            "1e37 at most or null",
            "set callbacks.clip.max_norm=null",
        ),
        ("+callbacks.clip.groups.audio=nan", "callbacks.clip.groups.audio", "above 0", "callbacks.clip.groups=null"),
        ("callbacks.probe.holdout_share=1", "callbacks.probe.holdout_share", "below 1", "holdout_share=0.25"),
        ("lr_schedule.warmup_steps=-1", "lr_schedule.warmup_steps", "from 0", "set lr_schedule.warmup_steps=0"),
        ("data.val_fraction=1", "data.val_fraction", "above 0 and below 1", "set data.val_fraction=0.15"),
        ("model.encoder.dim=99999999", "model.encoder.dim", "a width from 1 to 65536", "set model.encoder.dim=64"),
        ("seed=4294967296", "seed", "a seed from 0 to 4294967295", "set seed=0"),
    ],
)
def test_a_value_outside_of_its_range_is_refused_with_the_range_and_one_inside(override, where, expected, remedy):
    error = problem(override)
    assert error.where == where
    assert expected in error.expected
    assert remedy in error.remedy
    value = override.partition("=")[2].partition(":")[2].rstrip("}") or override.partition("=")[2]
    assert error.found.startswith(value) or float(value) == float(error.found.split()[0])


@pytest.mark.parametrize("betas", ["[0.9,1]", "[0.9,nan]", "[0.9,-0.1]"])
def test_an_entry_of_a_list_is_named(betas):
    error = problem("optimizer=adamw", f"optimizer.betas={betas}")
    assert (error.where, error.remedy) == ("optimizer.betas.1", "set optimizer.betas=[0.9,0.999]")


def test_every_wrong_entry_of_a_mapping_is_told_once():
    text = str(problem("asgml.tau={audio:-1,visual:nan}"))
    assert "2 problems" in text
    assert text.count("asgml.tau.visual: ") == text.count("asgml.tau.audio: ") == 1


@pytest.mark.parametrize(
    "line",
    [
        ["trainer.max_epochs=-1", "trainer.max_steps=10"],
        ["+trainer.limit_train_batches=2", "+trainer.limit_val_batches=0.5"],
        ["trainer.devices=[0]", "+trainer.min_epochs=0"],
        ["asgml.tau={audio:3}", "asgml.delayed=[audio]"],
        ["optimizer=adamw", "optimizer.betas=[0,0.5]", "+group_lr={audio:1}"],
        ["averaging=swa", "callbacks.averaging.start=0", "callbacks.averaging.swa_lr={audio:0.1}"],
    ],
)
def test_values_with_a_meaning_pass(line):
    check(compose(["experiment=features", "data.path=x.npz", *line]), Tree)


def test_a_value_that_another_key_refers_to_is_refused_once():
    error = problem("asgml.gamma=-1")  # methods.uniform.gamma is ${asgml.gamma}
    assert (error.where, error.remedy) == ("asgml.gamma", "set asgml.gamma=1.0")


def test_such_a_run_ends_with_code_2_on_one_screen(tmp_path, capsys, monkeypatch):
    """`python -m asgml.run … +group_lr.audio=-1`."""
    line = [*overrides(write_features(tmp_path / "f.npz"), tmp_path / "runs"), "+group_lr.audio=-1"]
    monkeypatch.setattr("sys.argv", ["asgml.run", *line])
    with pytest.raises(SystemExit) as end:
        main()
    seen = capsys.readouterr()
    text = seen.out + seen.err
    assert end.value.code == 2
    assert len(text.splitlines()) < 24
    for told in ("group_lr.audio", "-1", "a learning rate above 0", "set ++group_lr.audio=0.001"):
        assert told in text
    assert not (tmp_path / "runs").exists()


def test_what_trials_would_set_is_judged_before_the_first_one():
    """Every end of a knob's range and every choice; the learning rate's range, too."""
    line = ["experiment=features", "data.path=x.npz", "method=uniform"]
    trees = Trees(replace(PROGRAM, judge=None), Composer("asgml"), line[:2], "optimizer.lr")
    good = Range(log=(0.01, 1.0))
    for knobs, lr, where in (
        ({"asgml.gamma": Range(uniform=(-1.0, 1.0))}, good, "space.uniform.knobs"),
        ({"asgml.gamma": Range(choice=(1.0, 2.0, -3.0))}, good, "space.uniform.knobs"),
        ({}, Range(log=(0.1, 1e30)), "lr_factors"),
    ):
        with pytest.raises(UserError) as error:
            trees.refuse_ends(Row("uniform", tuple(line[2:]), knobs), lr)
        assert error.value.where == where
        assert "at an end of its range" in error.value.found
    trees.refuse_ends(Row("uniform", tuple(line[2:]), {"asgml.gamma": Range(log=(0.25, 4.0))}), good)
