"""Nothing reaches a constructor that it does not understand, and nothing typed is without effect."""

from __future__ import annotations

import math
from typing import Any

import fake_program
import pytest
from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError
from suite.config.check import check, check_effective
from suite.config.compose import compose


def tree(*overrides: str) -> DictConfig:
    return compose("fake", overrides, fake_program.CONF)


def problem(cfg: DictConfig, schema: type | None = fake_program.Tree) -> UserError:
    with pytest.raises(UserError) as error:
        check(cfg, schema)
    return error.value


@pytest.mark.parametrize(("key", "remedy"), [("loader", "leave ~loader out"), ("paths.runs", "set +paths.runs=runs")])
def test_what_is_missing_is_supplied_or_not_taken_out(key: str, remedy: str) -> None:
    assert problem(tree(f"~{key}")).remedy == remedy


def test_a_good_tree_passes_and_nothing_is_built() -> None:
    fake_program.Part.built = 0
    check(tree(), fake_program.Tree)
    check(tree("part=wide", "method=[first,second]", "+group_lr.audio=1", "experiment=large"), fake_program.Tree)
    check(tree())
    assert fake_program.Part.built == 0


@pytest.mark.parametrize(
    ("override", "where", "told"),
    [
        ("+part.withd=3", "part.withd", "did you mean width?"),
        ("+part.inner.ofset=3", "part.inner.ofset", "did you mean offset?"),
        ("part.width=wide", "part.width", "int"),
        ("part.width=4.0", "part.width", "int"),
        ("part.width=true", "part.width", "int"),
        ("part.width=null", "part.width", "int"),
        ("part.betas=[0.9]", "part.betas", "tuple[float, float]"),
        ("part.inner.scale=big", "part.inner.scale", "float"),
        ("speed.mode=fats", "speed.mode", "did you mean speed.mode=fast?"),
        ("+source.names=[a,1]", "source.names.1", "list[str] | None"),
        ("~source.root", "source.root", "missing"),
        ("speed._target_=fake_program.Sped", "speed._target_", "fake_program.Speed"),
        ("speed._target_=fake_pogram.Speed", "speed._target_", "fake_program"),
        ("speed._target_=fake_program.CONF", "speed._target_", "a class or function"),
        ("speed._target_=fake_program.Swallow", "speed", "**kwargs"),
        ("seed=???", "seed", "seed=VALUE"),
        ("source.rows=???", "source.rows", "source.rows=VALUE"),
        ("'source.root=${nowhere}/x'", "source.root", "nowhere"),
        ("seed=one", "seed", "a seed from 0 to 4294967295"),
        ("seed=-1", "seed", "set seed=0"),
        ("resume=perhaps", "resume", "set resume=auto"),
        ("name=../elsewhere", "name", "set name=trial"),
        ("loader.batch_size=2.5", "loader.batch_size", "int"),
        ("+loader.batchsize=2", "loader.batchsize", "batch_size"),
        ("+group_lr.audio=fast", "group_lr.audio", "float"),
        ("+group_lr.audio=nan", "group_lr.audio", "a number"),
        ("part.betas=[0.9,nan]", "part.betas.1", "nan"),
        ("+sped=1", "sped", "did you mean speed"),
        ("~loader", "loader", "missing"),
        ("~paths.runs", "paths.runs", "missing"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(override: str, where: str, told: str) -> None:
    error = problem(tree(override.strip("'")))
    assert error.where.split("=")[0] == where
    assert told in str(error)


def test_right_values_pass() -> None:
    """An int for a float, a list for a tuple, None for a default None, inf, a name for type checkers only."""
    check(tree("part.inner.scale=2", "part.betas=[0,1]", "part.inner.scale=inf", "+part.inner.offset=null"))
    check(tree("+extra={_target_:fake_program.Exotic,thing:1,size:2}"))
    assert problem(tree("+extra={_target_:fake_program.Exotic,thing:1,size:a}"), None).where == "extra.size"


def test_partial_may_leave_parameters_open_but_not_invent_them() -> None:
    node = {"_target_": "fake_program.Part", "width": 2}
    assert problem(OmegaConf.create({"part": node}), None).where == "part.shape"
    check(OmegaConf.create({"part": {**node, "_partial_": True}}))
    assert problem(OmegaConf.create({"part": {**node, "_partial_": True, "wdith": 1}}), None).where == "part.wdith"
    check(OmegaConf.create({"part": {"_target_": "fake_program.Part", "_args_": [[1, 2], 3]}}))


def test_nodes_inside_lists_and_mappings_are_found() -> None:
    inner = {"_target_": "fake_program.Inner", "scael": 1}
    assert problem(OmegaConf.create({"all": [{"x": inner}]}), None).where == "all.0.x.scael"


def test_all_problems_are_told_on_one_screen() -> None:
    error = problem(tree("part.width=a", "+part.withd=3", "speed.mode=fats", "seed=???", "loader.batch_size=x"))
    for key in ("part.width", "part.withd", "speed.mode", "seed", "loader.batch_size"):
        assert f"{key}:" in str(error)
    many = OmegaConf.create({f"n{i}": {"_target_": "fake_program.Inner", "scale": "x"} for i in range(40)})
    told = str(problem(many, None))
    assert "40 problems" in told
    assert "and 28 more" in told
    assert len(told.splitlines()) < 32


@pytest.mark.parametrize(
    ("node", "where"),
    [
        ({"_target_": "lightning.Trainer", "max_epochs": 3, "precision": "bf16-mixed", "devices": 1}, None),
        (
            {
                "_target_": "lightning.Trainer",
                "devices": "auto",
                "gradient_clip_val": 1,
                "val_check_interval": 0.5,
            },
            None,
        ),
        ({"_target_": "lightning.Trainer", "max_epoch": 3}, "x.max_epoch"),
        ({"_target_": "lightning.Trainer", "precision": "fp61"}, "x.precision"),
        (
            {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0, "weight_decay": 0.0001},
            None,
        ),
        ({"_target_": "torch.optim.AdamW", "_partial_": True, "betas": [0.9, 0.99]}, None),
        ({"_target_": "torch.optim.AdamW", "_partial_": True, "beta": 0.9}, "x.beta"),
        ({"_target_": "torch.optim.AdamW", "_partial_": True, "lr": "fast"}, "x.lr"),
        ({"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "x"}, None),
        ({"_target_": "lightning.pytorch.loggers.WandbLogger", "project": "x", "reinit": "create_new"}, None),
        ({"_target_": "lightning.pytorch.loggers.WandbLogger", "projct": "x"}, "x.projct"),
        ({"_target_": "lightning.pytorch.callbacks.EMAWeightAveraging", "decay": 0.9, "use_buffers": True}, None),
    ],
)
def test_third_party_targets_are_bound_too(node: dict[str, Any], where: str | None) -> None:
    cfg = OmegaConf.create({"x": node})
    if where is None:
        check(cfg)
    else:
        assert problem(cfg, None).where == where


def test_values_from_json_keep_their_meaning() -> None:
    check(OmegaConf.create({"x": {"_target_": "fake_program.Inner", "scale": math.inf}}))
    error = problem(OmegaConf.create({"x": {"_target_": "fake_program.Inner", "scale": "1.0"}}), None)
    assert "'1.0' (str)" in error.found


def effective(*overrides: str) -> None:
    check_effective(tree(*overrides), overrides, fake_program.dead, lambda o: tree(*o))


def test_an_override_without_effect_is_refused() -> None:
    with pytest.raises(UserError) as error:
        effective("seed=1", "speed.tau=2")
    assert error.value.where == "speed.tau=2"
    assert "speed.mode is fast" in error.value.found
    with pytest.raises(UserError, match=r"speed\.tau"):
        effective("speed={tau: 3}")
    with pytest.raises(UserError, match=r"speed\.tau"):
        effective("++speed.tau=3")


def test_an_override_with_effect_or_of_the_default_passes() -> None:
    effective("speed.tau=2", "speed.mode=slow")
    effective("speed.tau=0")
    effective("speed.k=3", "part=wide")
    with pytest.raises(UserError):
        check_effective(tree("speed.tau=0"), ["speed.tau=0"], fake_program.dead)
