"""The latentwire program on tiny models: what moves, what is saved, what is measured, what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config, fit, history, prepare, rows, run_of
from omegaconf import open_dict

from callbacks.errors import UserError
from callbacks.run.collapse import Collapsed, CollapseMonitor, CollapseSample, effective_rank
from callbacks.step.groups import named_groups
from latentwire.objectives import RefinerDepth
from latentwire.objectives.base import ObjectiveOutput, Seen
from latentwire.restore import load
from latentwire.run import train
from latentwire.scoring.evaluator import Wire
from suite.runs.identity import run_dir
from suite.runs.job import seed_everything

TERMS = (
    "answer_ce",
    "k_token_ce",
    "answer_kd",
    "embedding_reconstruction",
    "text_reconstruction",
    "continuation",
    "mismatch_hinge",
)
EVERYTHING = f"objective=[{','.join(TERMS)}]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lw")


def test_frozen_models_neither_move_nor_stand_in_a_checkpoint(folder: Path) -> None:
    cfg = config(folder, EVERYTHING, "encoder=lm_lora", "encoder.rank=2", lms=("llama", "qwen2"))
    parts = fit(cfg)
    for name, lm in parts.module.lms.items():
        lm.verify(parts.module.fingerprints[name])
        assert not any(p.requires_grad for p in lm.model.parameters())
    saved = torch.load(run_dir(cfg) / "checkpoints" / "last.ckpt", weights_only=True)
    frozen = {p.data_ptr() for lm in parts.module.lms.values() for p in lm.model.parameters()}
    assert not any(t.data_ptr() in frozen for t in parts.module.state_dict().values())
    in_groups = sum(p.numel() for params in parts.module.groups().values() for p in params)
    assert saved["manifest"]["parameters"] == in_groups
    buffers = sum(b.numel() for b in parts.module.buffers())
    assert sum(t.numel() for t in saved["state_dict"].values()) <= in_groups + buffers


def test_every_parameter_is_in_one_group_with_the_learning_rate_of_its_kind(folder: Path) -> None:
    cfg = config(folder, "codec=fsq", "objective=[answer_ce,embedding_reconstruction]", "group_lr.encoder=0.0002",
                 "+group_lr.head=0.01", "trainer.max_epochs=1", "lr_schedule=constant",
                 lms=("llama", "qwen2"))  # fmt: skip
    with open_dict(cfg):
        cfg.group_lr["adapter:tiny_qwen2"] = 0.005
    parts = fit(cfg)
    groups = named_groups(parts.trainer.optimizers[0])
    assert list(groups) == ["encoder", "codec", "adapter:tiny_llama", "injector:tiny_llama", "adapter:tiny_qwen2",
                            "injector:tiny_qwen2", "head:embedding_reconstruction"]  # fmt: skip
    rates = {name: group.options["lr"] for name, group in groups.items()}
    assert rates["encoder"] == 0.0002
    assert (rates["adapter:tiny_llama"], rates["adapter:tiny_qwen2"]) == (0.001, 0.005)
    assert rates["head:embedding_reconstruction"] == 0.01
    assert rates["codec"] == cfg.optimizer.lr
    grouped = [id(p) for group in groups.values() for p in group.params]
    assert sorted(grouped) == sorted(id(p) for p in parts.module.parameters() if p.requires_grad)
    with pytest.raises(UserError, match="group_lr"):
        fit(config(folder, "+group_lr.adaptor=1.0"))


def test_a_stage_moves_only_what_it_trains(folder: Path) -> None:
    cfg = config(folder, "curriculum=adaptation", "loader.steps_per_epoch=4", "trainer.max_epochs=3",
                 "+adaptation.tiny_llama={_target_:latentwire.lm.LoRA,rank:2}")  # fmt: skip
    first = fit(_cut(cfg, 1))
    lora = {n: p.detach().clone() for n, p in first.module.wire.lora["tiny_llama"].named_parameters()}
    assert all(not p.any() for n, p in lora.items() if "lora_B" in n), "held in stage A"
    assert history(_cut(cfg, 1), "delta/encoder")[0] > 0
    whole = fit(cfg)
    assert any(p.any() for n, p in whole.module.wire.lora["tiny_llama"].named_parameters() if "lora_B" in n)
    assert [row[3] for row in rows(cfg, "events.csv")[1:] if row[2] == "stage"][1].startswith("adaptation")


def _cut(cfg: Any, epochs: int) -> Any:
    """The same plan, stopped earlier."""
    cut = cfg.copy()
    with open_dict(cut):
        cut.callbacks.stopper = {"_target_": "lightning.pytorch.callbacks.Timer", "duration": {"days": epochs}}
        cut.trainer.max_epochs = epochs
        share = cfg.trainer.max_epochs / epochs
        cut.stages = [{**cfg.stages[0], "share": 1.0}, {**cfg.stages[1], "share": 1e-9 * share}]
    return cut


def test_a_ratio_curriculum_changes_the_slots_that_are_trained_but_not_those_that_are_measured(folder: Path) -> None:
    cfg = config(folder, "curriculum=ratio", "wire.slots=null", "wire.ratio=16", "trainer.max_epochs=3")
    parts = prepare(cfg)
    own = parts.module.wire.slots
    trained: list[int] = []
    inner = parts.module.wire.latents

    def latents(tokens: Any, layout: Any = None) -> Any:
        coded = inner(tokens, layout)
        (trained if parts.module.training else measured).append(coded.values.shape[1])
        return coded

    measured: list[int] = []
    parts.module.wire.latents = latents  # type: ignore[method-assign]
    parts.trainer.fit(parts.module, parts.train, parts.val)
    assert own == round(parts.inputs.tokens / 16)
    assert trained[:6] == [round(parts.inputs.tokens / 4)] * 6
    assert trained[6:] == [own] * 12
    assert set(measured) == {own}


def test_a_metric_opens_the_gate_of_an_objective(folder: Path) -> None:
    rise = {"_target_": "latentwire.train.Linear", "first": 0.0, "last": 1.0, "steps": 4}
    gated = {"_target_": "latentwire.train.Gated", "metric": "loss/answer_ce", "below": 100.0, "schedule": rise}
    cfg = config(folder, "objective=[answer_ce,answer_kd]")
    with open_dict(cfg):
        cfg.objectives.answer_kd.weight = gated
        cfg.trainer.log_every_n_steps = 1
    fit(cfg)
    assert history(cfg, "weight/answer_kd") == [0.0, 0.0, 0.25, 0.5, 0.75] + [1.0] * 7


def test_a_run_ends_with_baselines_verdicts_and_a_checkpoint_that_reproduces_its_metric(folder: Path) -> None:
    cfg = config(folder, "seed=3", lms=("llama", "qwen2"))
    seed_everything(3)
    result = train(cfg, run_of(cfg))
    expected = {"wire/tiny_llama", "wire/tiny_qwen2", "text/tiny_llama", "token_budget/tiny_qwen2"}
    assert expected <= set(result["methods"])
    for key in ("f1", "em", "nll", "first_token_top1", "f1_low", "f1_high", "bytes"):
        assert key in result["methods"]["wire/tiny_llama"]
    assert result["M"] == 3
    assert result["ratio"] == pytest.approx(result["tokens"]["tiny_llama"] / 3, rel=0.1)
    rules = [v["rule"] for v in result["acceptance"]]
    assert rules == ["above_the_fair_budget/tiny_llama", "above_the_fair_budget/tiny_qwen2"], "each reader is judged"
    assert result["accepted"] in (True, False)
    assert (run_dir(cfg) / "evaluations" / result["evaluation"] / "predictions.jsonl").exists()

    loaded = load(run_dir(cfg))
    assert loaded.wire.identity().hex() == result["identity"]
    again = torch.load(run_dir(cfg) / "checkpoints" / "best.ckpt", weights_only=True)
    assert again["latentwire"]["val"] == result["val_best"]
    wire: Wire = loaded.wire
    texts = [p.text for p in loaded.inputs.corpus.split("test")[:3]]
    values = wire.encode(texts)
    assert values.shape == (3, 3, 8)
    kv = wire.prefix(values, "tiny_qwen2").kv
    assert kv is not None
    assert len(kv) == 2
    assert wire.message_bytes() == 13 + 2 * 3 * 8


def test_a_later_model_learns_to_read_an_existing_wire(folder: Path) -> None:
    first = config(folder, "seed=5", "codec=rvq", "codec.size=4", "trainer.max_epochs=1")
    fit(first)
    sender = load(run_dir(first)).wire
    second = config(folder, "seed=6", "codec=rvq", "codec.size=4", f"wire.from_run={run_dir(first)}", "wire.slots=null",
                    "trainer.max_epochs=1", lms=("qwen2",))  # fmt: skip
    with open_dict(second):
        second.encoder_lm = first.lms.tiny_llama
    parts = fit(second)
    assert list(parts.module.groups()) == ["adapter:tiny_qwen2", "injector:tiny_qwen2"]
    text = [parts.inputs.corpus.split("test")[0].text]
    assert torch.equal(parts.module.wire.encode(text), sender.encode(text))
    assert parts.module.wire.identity() == sender.identity()
    other = config(folder, "seed=6", "wire.d_z=16", f"wire.from_run={run_dir(first)}", "wire.slots=null", "codec=rvq")
    with pytest.raises(UserError, match="another encoder"):
        prepare(other)


def test_a_wire_goes_on_from_another_run_with_another_codec(folder: Path) -> None:
    first = config(folder, "seed=7", "trainer.max_epochs=1")
    fit(first)
    before = load(run_dir(first)).wire
    parts = prepare(config(folder, "seed=8", "codec=fsq", f"+wire.start_from={run_dir(first)}"))
    wire = parts.module.wire
    for part in ("encoder", "injectors"):
        old, new = getattr(before, part).state_dict(), getattr(wire, part).state_dict()
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old)
    assert not wire.frozen
    assert {"encoder", "codec"} <= set(parts.module.groups())
    with pytest.raises(UserError, match="another encoder"):
        prepare(config(folder, "wire.d_z=16", f"+wire.start_from={run_dir(first)}"))


def test_a_wire_goes_on_to_another_task_with_what_it_has_of_the_first(folder: Path) -> None:
    tasks = ["adapter=task", "adapter.tasks=[a,b]", "trainer.max_epochs=1", "callbacks.checkpoint.every_n_steps=1"]
    first = config(folder, *tasks, "adapter.task=a")
    trained = fit(first).module.wire.injectors["tiny_llama"].adapter.of.detach()
    assert trained[:, 0].all()
    assert not trained[:, 1].any()
    later = fit(config(folder, *tasks, "adapter.task=b", "optimizer.weight_decay=0.0",
                       f"+wire.start_from={run_dir(first)}")).module.wire  # fmt: skip
    table = later.injectors["tiny_llama"].adapter.of.detach()
    assert table[:, 1].all()
    assert torch.equal(table[:, 0], torch.load(run_dir(first) / "checkpoints" / "best.ckpt", weights_only=True)[
        "state_dict"]["wire.injectors.tiny_llama.adapter.of"][:, 0])  # fmt: skip


def test_a_stage_may_take_more_codes_than_are_sent(folder: Path) -> None:
    cfg = config(folder, "codec=fsq", "codec.levels=[4]", "codec.codes=2", "codec.spare=2", "trainer.max_epochs=1")
    with open_dict(cfg):
        cfg.stages = [
            {"_target_": "latentwire.train.Period", "name": "wide", "share": 1.0, "codes": 4},
            {"_target_": "latentwire.train.Period", "name": "latents", "share": 1.0},
        ]
    parts = prepare(cfg)
    seen = []
    take = parts.module.wire.codec.take
    parts.module.wire.codec.take = lambda codes: (seen.append(codes), take(codes))  # type: ignore[method-assign]
    parts.trainer.fit(parts.module, parts.train, parts.val)
    assert seen == [4] * 4 + [None] * 4, "on entering a stage, and at each of its three steps"
    assert parts.module.wire.message_bytes() == 13 + -(-3 * 2 * 2 // 8)


@pytest.mark.parametrize("more", [["wire.track=whole_prompt"], ["wire.private={tiny_llama:1}"], ["codec=fsq"],
                                  ["averaging=ema"], ["trainer.precision=bf16-mixed"],
                                  ["injector=soft_prefix", "encoder=token", "encoder.heads=2"],
                                  ["encoder=byte", "encoder.heads=2"]])  # fmt: skip
def test_variants_train(folder: Path, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cfg = config(folder, *more, "trainer.max_epochs=1")
    parts = fit(cfg)
    assert re.search(r"^epoch 1/1  train/loss [\d.]+  val/f1 \d\.\d{3}", capsys.readouterr().out, re.MULTILINE)
    assert parts.pipeline.t == 6
    assert max(history(cfg, "delta/adapter:tiny_llama")) > 0


def test_what_cannot_be_meant_is_refused_by_name(folder: Path) -> None:
    for more, found in (
        (["wire.track=whole_prompt", "objective=[text_reconstruction]"], "whole_prompt"),
        (["objective=[mismatch_hinge]", "loader.batch_size=1"], "batch_size"),
        (["trainer.devices=2", "trainer.strategy=fsdp"], "trainer.strategy"),
        (["loader.accumulate=4"], "loader.accumulate"),
        (["placement.devices={tiny_llama: cuda:77}"], "placement.devices.tiny_llama"),
        (["placement.devices={other: cpu}"], "placement.devices.other"),
        (["callbacks.gate=null"], "callbacks.gate"),
        (["objective=[answer_kd]", "teacher.cache=true", "corpus.train=200000"], "teacher.cache"),
        (["wire.from_run=nowhere"], "nowhere"),
        (["+adaptation.other={_target_:latentwire.lm.LoRA}"], "adaptation.other"),
    ):
        with pytest.raises(UserError, match=found):
            fit(config(folder, *more))


def test_nothing_to_learn_is_an_error_and_not_a_silent_step(folder: Path) -> None:
    cfg = config(folder)
    with open_dict(cfg):
        cfg.objectives.answer_ce.weight = {"_target_": "latentwire.train.Delayed", "start": 5}
    with pytest.raises(UserError, match="all weights are 0"):
        fit(cfg)


def sample(outputs: list[str], rank: int = 4) -> CollapseSample:
    n = len(outputs)
    x = torch.randn(n, rank, generator=torch.Generator().manual_seed(0)) @ torch.eye(rank, 8)
    ones = torch.ones(n)
    return CollapseSample(outputs, [str(i) for i in range(n)], ones, ones, ones, x)


def test_collapse_indicators_see_the_the_the() -> None:
    good = CollapseMonitor.indicators(sample([str(i) for i in range(20)]))
    bad = CollapseMonitor.indicators(sample(["the"] * 20, rank=1))
    assert (good["distinct"], bad["distinct"]) == (1.0, 0.05)
    assert (good["commonest"], bad["commonest"]) == (0.05, 1.0)
    assert good["effective_rank"] > 3 > 1.01 > bad["effective_rank"]
    assert effective_rank(torch.ones(5, 3)) == 0.0
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    assert effective_rank(x) == pytest.approx(6, abs=0.1)


def test_the_collapse_monitor_stops_a_run_that_says_the_same_to_everything(folder: Path) -> None:
    cfg = config(folder, "callbacks.collapse.action=stop", "callbacks.collapse.grace=0",
                 "callbacks.collapse.patience=2", "callbacks.collapse.min_distinct=50.0",
                 "trainer.max_epochs=4")  # fmt: skip
    with pytest.raises(Collapsed, match="2 validations in a row"):
        fit(cfg)
    assert len(history(cfg, "collapse/distinct")) == 2
    assert any(row[2] == "collapse" for row in rows(cfg, "events.csv"))


@pytest.mark.parametrize("track", ["question_text", "whole_prompt"])
def test_objectives_on_messages_see_all_of_them(folder: Path, track: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole prompt is a message for every question, a text one for all of its questions."""
    seen: list[tuple[int, int]] = []
    priced = RefinerDepth.forward

    def heard(objective: RefinerDepth, said: Seen, model: str) -> ObjectiveOutput:
        seen.append((len(said.latents), len(said.said["depth"])))
        return priced(objective, said, model)

    monkeypatch.setattr(RefinerDepth, "forward", heard)
    fit(config(folder, f"wire.track={track}", "objective=[answer_ce,refiner_depth]", "encoder.halting=true",
               "loader.batch_size=3", "loader.questions=2", "trainer.max_epochs=1",
               "loader.steps_per_epoch=1"))  # fmt: skip
    assert seen[0] == ((6, 6) if track == "whole_prompt" else (3, 3))
