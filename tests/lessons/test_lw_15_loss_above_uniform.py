"""A run whose loss starts far above ln(vocabulary) is ended at its first step (specification B2.15).

A reader that is read one place off is certain of other tokens than the labels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config, prepare, rows
from omegaconf import DictConfig, open_dict

from callbacks.errors import UserError
from latentwire.build import Parts
from latentwire.monitors.uniform import UniformBound

SMALL = ("wire.measured_texts=8", "loader.steps_per_epoch=1", "trainer.max_epochs=2", "encoder.max_tokens=240")
MODEL = "pocket_llama"


def run(folder: Path, shifted: Callable[[], bool], *more: str) -> tuple[DictConfig, Parts, UniformBound]:
    """A wire into a trained reader, not yet trained itself; while `shifted` says so, labels are one place off."""
    cfg = config(folder, *SMALL, *more)
    with open_dict(cfg):
        cfg.lms = {MODEL: {"_target_": "latentwire.pocket.load", "name": MODEL}}
    parts = prepare(cfg)
    lm: Any = parts.module.lms[MODEL]
    inner = lm.answer_logprobs

    def answer_logprobs(*given: Any) -> Any:
        out = inner(*given)
        return replace(out, tokens=out.tokens.roll(1)) if shifted() else out

    lm.answer_logprobs = answer_logprobs
    (bound,) = (c for c in parts.trainer.callbacks if isinstance(c, UniformBound))  # type: ignore[attr-defined]
    return cfg, parts, bound


def fit(parts: Parts) -> None:
    parts.trainer.fit(parts.module, parts.train, parts.val)


def in_validation() -> bool:
    return not torch.is_grad_enabled()


@pytest.mark.parametrize(("injector", "objective"), [("deep_prefix", "answer_ce"), ("soft_prefix", "continuation")])
def test_labels_that_are_one_place_off_end_the_run_at_its_first_step(
    tmp_path: Path, injector: str, objective: str
) -> None:
    ends = rf"at the start of training\n.*ln\(468\) \+ 2 = {math.log(468) + 2:.3f}"
    said = rf"objectives\.{objective} on {MODEL}\n.*{ends}"
    _, parts, _ = run(tmp_path, lambda: True, f"injector={injector}", f"objective=[{objective}]")
    with pytest.raises(UserError, match=said):
        fit(parts)
    assert parts.pipeline.t == 1


def test_a_healthy_start_passes_and_is_not_asked_again(tmp_path: Path) -> None:
    _, parts, bound = run(tmp_path, lambda: False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*uniform guess.*")
        fit(parts)
    assert bound.state_dict() == {"checked": 1, "validated": True, "warned": False}


def test_a_first_validation_that_is_one_place_off_ends_the_run(tmp_path: Path) -> None:
    _, parts, _ = run(tmp_path, in_validation)
    with pytest.raises(UserError, match=rf"val/nll on {MODEL}"):
        fit(parts)


def test_a_later_validation_above_the_bound_is_one_event(tmp_path: Path) -> None:
    cfg, parts, bound = run(tmp_path, in_validation, "trainer.max_epochs=3")
    bound.load_state_dict({"checked": 1, "validated": True, "warned": False})
    with pytest.warns(UserWarning, match="certain of wrong answers"):
        fit(parts)
    assert [row[2] for row in rows(cfg, "events.csv") if row[2] == "above_uniform"] == ["above_uniform"]
    assert bound.warned
