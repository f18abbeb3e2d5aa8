"""Every choice of the latentwire tree composes, binds against its schema and is refused where it does nothing."""

from __future__ import annotations

from functools import cache

import pytest

from callbacks.errors import UserError
from latentwire.run import Tree, dead, judge
from suite.config.check import check, check_effective
from suite.config.compose import Composer
from suite.runs.identity import config_hash

# What a choice leaves to its user.
OPEN = {
    "hf": "hf.source=models/mine",
    "frozen_encoder": "init.encoder=runs/pocket_smoke/0123456789ab",
    **dict.fromkeys(("text", "jsonl", "qa"), "corpus.path=mine"),
}
GROUPS = ("corpus", "readers", "objective", "curriculum", "smoke")


@cache
def composer() -> Composer:
    return Composer("latentwire")


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_composes_and_is_another_run(group: str) -> None:
    hashes = set()
    options = composer().options(group)
    for option in options:
        value = f"[{option}]" if group in ("objective", "baseline") else option
        cfg = composer().compose([f"{group}={value}", *([OPEN[option]] if option in OPEN else [])])
        check(cfg, Tree)
        hashes.add(config_hash(cfg))
    assert len(hashes) == len(options) > 0


@pytest.mark.parametrize("feature", composer().options("smoke"))
def test_every_feature_can_be_tried_in_few_steps(feature: str) -> None:
    words = ["experiment=pocket_smoke", f"smoke={feature}", *([OPEN[feature]] if feature in OPEN else [])]
    cfg = composer().compose(words)
    check(cfg, Tree)
    judge(cfg)
    assert cfg.loader.steps_per_epoch * cfg.trainer.max_epochs <= 90, "a minute on one core"
    assert cfg.evaluation.passages <= 20


def refused(*overrides: str) -> str:
    cfg = composer().compose(list(overrides))
    check(cfg, Tree)
    with pytest.raises(UserError) as error:
        check_effective(cfg, list(overrides), dead, composer().compose)
    return str(error.value)


def test_keys_without_effect_are_refused() -> None:
    assert "wire.slots" in refused("wire.slots=6", "wire.ratio=8")
    assert "no objective learns from the teacher" in refused("teacher.top_k=5")
    assert "fixes encoder and codec" in refused("wire.from_run=runs/x", "group_lr.encoder=0.1")
    fine = ["objective=[answer_ce,answer_kd]", "teacher.top_k=5", "wire.ratio=8"]
    check_effective(composer().compose(fine), fine, dead)


def test_a_misspelt_key_of_a_plain_node_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"did you mean ratio"):
        check(composer().compose(["+wire.ratios=8"]), Tree)


@pytest.mark.parametrize("experiment", ["pocket", "pocket_smoke"])
def test_bytes_of_a_pocket_text_are_as_many_as_the_encoder_of_bytes_takes(experiment: str) -> None:
    longest = {
        encoder: composer().compose([f"experiment={experiment}", f"encoder={encoder}"]).encoder.max_tokens
        for encoder in ("byte", "lm_hidden", "st_query")
    }
    assert longest == {"byte": 2048, "lm_hidden": 256, "st_query": 256}
