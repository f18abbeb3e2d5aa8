"""The latentwire program stopped anywhere and resumed follows the uninterrupted run bit by bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import Kill, Killed
from lw_runs import config, fit, prepare, rows
from lw_toys import save_sentence_model
from omegaconf import open_dict
from states import unequal

from callbacks.errors import UserError
from latentwire.monitors import records
from suite.runs.identity import run_dir

ALL = (
    "objective=[answer_ce,first_token_ce,answer_kd,embedding_reconstruction,text_reconstruction,continuation,"
    "mismatch_hinge]"
)
MODES: dict[str, list[str]] = {
    "everything-dropout": [ALL, "encoder.dropout=0.2"],
    "rvq-ratio": ["codec=rvq", "codec.size=4", "curriculum=ratio", "wire.slots=2"],
    "nested-lora-stages": ["+adaptation.tiny_llama={_target_:latentwire.lm.LoRA,rank:2}", "curriculum=adaptation",
                           "+wire.nested={_target_:latentwire.train.NestedGeometric,p:0.4}"],
    "several-ratios": ["curriculum=several_ratios", "wire.slots=8"],
    "teacher-cached": ["objective=[answer_ce,answer_kd]", "teacher.cache=true", "corpus.train=7",
                       "injector=soft_prefix"],
    # two steps, six and four: the first stop falls into the stage with a batch, rates and a schedule of its own
    "reconstruct-first": ["curriculum=reconstruct_then_generate", "wire.private={tiny_llama:1}", "loader.batch_size=2"],
    "gated-ema": ["averaging=ema", "objective=[answer_ce,mismatch_hinge]"],
    "sentence-encoder-ema": ["encoder=st_query", "averaging=ema"],
    "whole-prompt-bytes": ["wire.track=whole_prompt", "encoder=byte", "encoder.heads=2", "encoder.gate=true"],
}  # fmt: skip
GATE = {
    "_target_": "latentwire.train.Gated",
    "metric": "loss/answer_ce",
    "above": 0.0,
    "schedule": {"_target_": "latentwire.train.PeakAndDecay", "peak": 1.0, "rise": 5, "decay": 10},
}


SLOW = {"several-ratios", "teacher-cached", "sentence-encoder-ema", "whole-prompt-bytes"}


@pytest.mark.parametrize("mode", [pytest.param(m, marks=[pytest.mark.slow] * (m in SLOW)) for m in MODES])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, mode: str) -> None:
    lms: Any = ("llama", "qwen2") if mode == "everything-dropout" else ("llama",)
    settings = [*MODES[mode], "callbacks.checkpoint.every_n_steps=4", "trainer.log_every_n_steps=3"]
    if mode == "sentence-encoder-ema":
        settings.append(f"encoder.source={save_sentence_model(tmp_path)}")
    trees = [config(tmp_path, *settings, lms=lms, runs=name) for name in ("whole", "broken")]
    if mode == "gated-ema":
        for cfg in trees:
            cfg.objectives.mismatch_hinge.weight = GATE
    if mode == "reconstruct-first":
        for cfg in trees:
            with open_dict(cfg):
                cfg.stages[0].update(share=3.0, batch_size=1, require=None)
                cfg.stages[0].advance.update(above=-1.0, after=2)
                cfg.stages[1].update(share=4.2, batch_size=3, group_lr={"adapter": 0.01})
                cfg.stages[1].weights.text_reconstruction.steps = 4
                cfg.stages[2].update(share=2.8, require={**cfg.stages[0].advance, "above": -2.0})
    whole, broken = trees
    expected = fit(whole)

    draw = random.Random(mode)
    for graceful, step in ((False, draw.randrange(5, 7)), (True, draw.randrange(8, 11))):
        with pytest.raises(SystemExit if graceful else Killed):
            fit(broken, [Kill(step, graceful)], resume=graceful)
    resumed = fit(broken, resume=True)

    assert not unequal(expected.module.state_dict(), resumed.module.state_dict())
    a, b = (torch.load(run_dir(c) / "checkpoints" / "last.ckpt", weights_only=True) for c in trees)
    for saved in (a, b):
        del saved["restart"]["history"]  # file sizes: step times have more or fewer digits
    assert not unequal(a, b)
    assert expected.module.metrics == resumed.module.metrics
    assert expected.pipeline.counters() == resumed.pipeline.counters()
    for table in ("history.csv", "events.csv"):
        assert rows(whole, table) == rows(broken, table), table
    seen = [{p.name: p.read_text() for p in sorted((run_dir(c) / records.FOLDER).iterdir())} for c in trees]
    assert len(seen[0]) == 4, "two validations, latents and answers"
    assert seen[0] == seen[1]
    if mode == "reconstruct-first":
        assert [row[0] for row in rows(whole, "events.csv") if row[2] == "stage"] == ["1", "3", "9"]


def test_another_language_model_is_refused_on_resuming(tmp_path: Path) -> None:
    cfg = config(tmp_path, "trainer.max_epochs=1")
    fit(cfg)
    parts = prepare(cfg)
    with torch.no_grad():
        next(iter(parts.module.lms["tiny_llama"].model.parameters()))[0, 0] += 1
    last = str(run_dir(cfg) / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match="weights of"):
        parts.trainer.fit(parts.module, parts.train, parts.val, ckpt_path=last, weights_only=True)
