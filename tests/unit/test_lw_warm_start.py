"""Parts of finished runs taken over one by one, and parts that training leaves as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import Kill, Killed
from lw_runs import config, finish, fit, prepare, run_of, save_lm
from omegaconf import DictConfig, open_dict

from callbacks.errors import UserError
from callbacks.step.groups import named_groups
from latentwire.checkpoints import read_checkpoint
from latentwire.restore import load
from latentwire.run import Tree, dead, earlier, facts
from latentwire.train.beforehand import refuse
from latentwire.warm_start import digest_of, prefix_of
from latentwire.wire_parts import frozen, taken
from suite.runs.identity import config_hash, run_dir
from suite.runs.planning import plan

RVQ = ["codec=rvq", "codec.size=4", "codec.stages=1"]
LORA = "+adaptation.tiny_llama={_target_:latentwire.lm.LoRA,rank:2,dropout:0.5}"
EVERY = ["encoder", "codec", "adapter.tiny_llama", "injector.tiny_llama", "lora.tiny_llama"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("warm")


@pytest.fixture(scope="module")
def sender(folder: Path) -> Path:
    """A finished run that has every part of a wire."""
    return finish(config(folder, *RVQ, LORA, "seed=1", "trainer.max_epochs=1"))


def later(folder: Path, *more: str) -> DictConfig:
    return config(folder, *RVQ, LORA, "seed=2", "trainer.max_epochs=1", *more)


def tensors(run: Path, part: str) -> dict[str, torch.Tensor]:
    """The tensors of a part in a run's best checkpoint."""
    inside, without = prefix_of(part)
    state = read_checkpoint(run)["state_dict"]
    return {k: v for k, v in state.items() if k.startswith(inside) and not (without and k.startswith(without))}


@pytest.mark.parametrize("part", EVERY)
def test_a_part_is_taken_alone_and_frozen_it_comes_out_of_training_to_the_last_bit(
    folder: Path, sender: Path, part: str
) -> None:
    cfg = later(folder, f"+init.{part}={sender}", f"+freeze=[{part}]")
    parts = fit(cfg)
    theirs, saved = tensors(sender, part), read_checkpoint(run_dir(cfg))["state_dict"]
    assert theirs
    assert all(torch.equal(saved[name], value) for name, value in theirs.items())
    for other in set(EVERY) - {part}:
        mine = tensors(run_dir(cfg), other)
        assert any(not torch.equal(mine[name], value) for name, value in tensors(sender, other).items()), other
    optimizer = parts.trainer.optimizers[0]
    group = part.replace(".", ":", 1)
    assert group not in named_groups(optimizer), "no group of the optimiser"
    moved = {id(p) for p in optimizer.state}
    module = parts.module.wire.part(part)
    own = [p for name, p in module.named_parameters() if not (part.startswith("inj") and name.startswith("adapter."))]
    assert not moved & {id(p) for p in own}, "no state in it"
    told = facts(cfg, parts)
    assert group not in told["parameters"]
    assert told["frozen"] == {part: sum(p.numel() for p in own)}
    assert told["init"] == {part: {"run": sender.name, "sha256": digest_of(module, part)}}
    again = load(run_dir(cfg)).wire
    assert digest_of(again.part(part), part) == digest_of(module, part)


def test_what_is_taken_and_not_frozen_is_trained_from_there(folder: Path, sender: Path) -> None:
    cfg = later(folder, f"+init.encoder={sender}", f"+init.codec={sender}")
    parts = prepare(cfg)
    for part in ("encoder", "codec"):
        state = parts.module.wire.part(part).state_dict()
        assert all(torch.equal(state[k.removeprefix(f"wire.{part}.")], v) for k, v in tensors(sender, part).items())
    assert "encoder" in parts.module.groups()
    parts.trainer.fit(parts.module, parts.train, parts.val)
    now = parts.module.wire.part("codec").state_dict()["codebooks"]
    assert not torch.equal(now, tensors(sender, "codec")["wire.codec.codebooks"])


@pytest.mark.parametrize("injector", ["deep_prefix", "latent_adapters"])
def test_an_injector_of_its_own_is_measured_behind_the_adapter_that_is_taken(folder: Path, injector: str) -> None:
    chosen = [f"injector={injector}", *(["injector.heads=2"] if injector == "latent_adapters" else [])]
    run = finish(config(folder, *chosen, "seed=1", "trainer.max_epochs=1"))
    taken_ = [f"+init.{part}={run}" for part in ("encoder", "adapter.tiny_llama")]
    parts = prepare(config(folder, *chosen, *taken_, "seed=2"))
    wire, texts = parts.module.wire, parts.inputs.texts
    own: Any = wire.injectors["tiny_llama"]
    found = {name: x.clone() for name, x in own.state_dict().items()}
    own.refit(wire.encode(texts), texts)
    for name, value in own.state_dict().items():
        torch.testing.assert_close(found[name], value, msg=f"{name} was measured behind another adapter")


def test_a_part_that_was_frozen_in_its_run_may_be_trained_in_the_next(folder: Path, sender: Path) -> None:
    kept = finish(later(folder, f"+init.encoder={sender}", "+freeze=[encoder,adapter]", "seed=3"))
    parts = fit(later(folder, f"+init.encoder={kept}", f"+init.adapter.tiny_llama={kept}", "seed=4"))
    state = parts.module.wire.encoder.state_dict()
    theirs = tensors(kept, "encoder")
    assert any(not torch.equal(state[k.removeprefix("wire.encoder.")], v) for k, v in theirs.items())


def test_a_frozen_part_draws_no_dropout_and_a_kind_is_all_of_its_parts(folder: Path) -> None:
    cfg = config(folder, "+freeze=[adapter]", "adapter.dropout=0.5", lms=("llama", "qwen2"))
    wire = prepare(cfg).module.wire
    wire.train()
    assert wire.frozen == {"adapter.tiny_llama", "adapter.tiny_qwen2"}
    for injector in wire.injectors.values():
        assert injector.training
        assert not any(m.training for m in injector.adapter.modules())
    assert wire.encoder.training


def test_frozen_runs_resume_bit_for_bit(folder: Path, sender: Path) -> None:
    words = (f"+init.injector.tiny_llama={sender}", "+freeze=[injector.tiny_llama,codec]", "seed=5")
    whole, parted = (
        config(folder, *RVQ, LORA, *words, "callbacks.checkpoint.every_n_steps=4", runs=name) for name in ("w", "p")
    )
    fit(whole)
    straight = read_checkpoint(run_dir(whole), "last")["state_dict"]
    with pytest.raises(Killed):
        fit(parted, [Kill(6, graceful=False)])
    fit(parted, resume=True)
    resumed = read_checkpoint(run_dir(parted), "last")["state_dict"]
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.parametrize(
    ("words", "found", "expected", "remedy"),
    [
        (["+init.adapter.tiny_lama=RUN"], "no such part", "adapter.tiny_llama", "set init.adapter.tiny_llama=RUN"),
        (["+init.lora.tiny_llama=RUN"], "no such part", "injector.tiny_llama", "set init."),
        (
            ["+freeze=[encoder,adaptor.tiny_llama]"],
            "no such part",
            "encoder",
            "set freeze=[encoder,adapter.tiny_llama]",
        ),
        (["wire.from_run=RUN", "wire.slots=null", "+freeze=[encoder]"], "wire.from_run=RUN", "trains", "leave it out"),
        (
            ["curriculum=byte_alignment", "stages.0.advance.after=1", "+freeze=[injector]"],
            "keeps injector.tiny_llama",
            "anew",
            "stages.1.refit=false",
        ),
    ],
)
def test_unknown_parts_are_refused_beforehand_with_those_there_are(folder, words, found, expected, remedy) -> None:
    with pytest.raises(UserError) as error:
        refuse(config(folder, *words))
    assert found in error.value.found
    assert expected in error.value.expected
    assert remedy in error.value.remedy


def test_what_does_not_fit_is_refused_by_name(folder: Path, sender: Path, tmp_path: Path) -> None:
    def problem(*words: str) -> UserError:
        with pytest.raises(UserError) as error:
            prepare(config(folder, "seed=6", *words))
        return error.value

    other = problem(f"+init.adapter.tiny_llama={sender}", "wire.d_z=16")
    assert "is (" in other.found
    assert "there" in other.found
    assert other.remedy == "set wire.d_z=8, or leave init.adapter.tiny_llama out"
    sliced = problem(f"+init.encoder={sender}", "wire.private={tiny_llama:1}")
    assert sliced.remedy.startswith("leave wire.private out")
    refitted = problem(f"+init.adapter.tiny_llama={sender}", "adapter=linear")
    assert "set adapter as in that run's config.yaml" in refitted.remedy
    assert "nowhere" in str(problem(f"+init.encoder={tmp_path / 'nowhere'}"))
    plain = finish(config(folder, "seed=7", "trainer.max_epochs=1"))
    assert "codec is empty" in problem(f"+init.codec={sender}").found
    assert "fp16" in problem("+freeze=[codec]").expected.lower()
    assert "a run without codec; it has encoder" in problem(f"+init.codec={plain}", *RVQ).found
    (plain / "result.json").write_text(json.dumps({"status": "failed"}), encoding="utf-8")
    assert "a run that is failed" in problem(f"+init.encoder={plain}").found
    (plain / "result.json").write_text(json.dumps({"status": "finished", "hash": plain.name}), encoding="utf-8")
    shutil.copy(sender / "checkpoints" / "best.ckpt", plain / "checkpoints" / "best.ckpt")
    assert "a checkpoint of run" in problem(f"+init.encoder={plain}").found
    foreign = config(folder, "seed=6", f"+init.adapter.tiny_llama={sender}")
    with open_dict(foreign):
        foreign.lms.tiny_llama.source = config(folder, lms=("qwen2",)).lms.tiny_qwen2.source
    with pytest.raises(UserError, match="another model that was called tiny_llama"):
        prepare(foreign)
    everything = "+freeze=[encoder,codec,adapter,injector]"
    assert "left is nothing" in problem(everything.replace("codec,", "")).found


HEAD = "head.embedding_reconstruction"
RECONSTRUCTS = "objective=[answer_ce,embedding_reconstruction]"


@pytest.fixture(scope="module")
def reconstructed(folder: Path) -> Path:
    """A finished run with an objective that has parameters of its own."""
    return finish(config(folder, RECONSTRUCTS, "seed=1", "trainer.max_epochs=1"))


@pytest.mark.parametrize("held", [False, True])
def test_an_objective_starts_from_the_head_of_another_run_and_stays_there_if_frozen(
    folder: Path, reconstructed: Path, held: bool
) -> None:
    words = [f"+init.{HEAD}={reconstructed}", "seed=2", "trainer.max_epochs=1", *[f"+freeze=[{HEAD}]"] * held]
    cfg = config(folder, RECONSTRUCTS, *words)
    parts = prepare(cfg)
    objective = parts.module.objectives["embedding_reconstruction"]
    theirs, inside = tensors(reconstructed, HEAD), prefix_of(HEAD)[0]
    before = {inside + name: value.clone() for name, value in objective.state_dict().items()}
    assert before.keys() == theirs.keys() != set()
    assert all(torch.equal(before[name], value) for name, value in theirs.items())
    assert any(not torch.equal(parts.module.state_dict()[n], v) for n, v in tensors(reconstructed, "encoder").items())
    told = facts(cfg, parts)
    assert told["init"] == {HEAD: {"run": reconstructed.name, "sha256": digest_of(objective, HEAD)}}
    parts.trainer.fit(parts.module, parts.train, parts.val)
    same = all(torch.equal(value, before[inside + name]) for name, value in objective.state_dict().items())
    assert same == held
    assert (told.get("frozen") == {HEAD: sum(p.numel() for p in objective.parameters())}) == held


def test_a_head_that_the_other_run_lacks_or_that_does_not_fit_is_refused_in_words(
    folder: Path, sender: Path, reconstructed: Path
) -> None:
    def problem(*words: str, **models: str) -> UserError:
        cfg = config(folder, "seed=6", *words)
        with open_dict(cfg):
            cfg.lms.tiny_llama = {**cfg.lms.tiny_llama, **models}
        with pytest.raises(UserError) as error:
            prepare(cfg)
        return error.value

    lacking = problem(RECONSTRUCTS, f"+init.{HEAD}={sender}")
    assert lacking.where == f"init.{HEAD}={sender}"
    assert lacking.found.startswith(f"a run without {HEAD}; it has encoder, codec")
    assert lacking.expected == f"a run with {HEAD}"
    empty = problem(f"+init.head.answer_ce={reconstructed}")
    assert empty.found == "nothing to take: head.answer_ce is empty"
    assert empty.remedy == "leave init.head.answer_ce out"
    shorter = problem(RECONSTRUCTS, f"+init.{HEAD}={reconstructed}", "wire.slots=6")
    assert "there" in shorter.found
    assert shorter.remedy == f"set wire.slots=3, or leave init.{HEAD} out"
    other = problem(RECONSTRUCTS, f"+init.{HEAD}={reconstructed}", source=save_lm(folder, seed=9))
    assert "another model that was called tiny_llama" in other.found
    nobody = config(folder, f"+init.{HEAD}={reconstructed}")
    with pytest.raises(UserError, match="no such part"):
        refuse(nobody)


def test_a_run_is_told_apart_by_the_run_that_a_part_comes_from(folder: Path) -> None:
    one, two = (config(folder, f"+init.adapter.tiny_llama=runs/x/{n * 12}") for n in "ab")
    moved = config(folder, f"+init.adapter.tiny_llama=/elsewhere/runs/x/{'a' * 12}")
    assert config_hash(one) == config_hash(moved) != config_hash(two)
    assert len({config_hash(c) for c in (one, config(folder), config(folder, "+freeze=[encoder]"))}) == 3
    assert earlier(one) == {"init.adapter.tiny_llama": Path("runs/x") / ("a" * 12) / "checkpoints" / "best.ckpt"}
    reasons = dead(config(folder, "+freeze=[encoder,adapter.tiny_llama]"))
    assert {"group_lr.encoder", "group_lr.adapter"} <= set(reasons)
    run_of(one)  # a configuration that is written, and read again with these keys


def test_both_keys_are_typed_without_a_plus_and_reach_the_tree() -> None:
    line = ["experiment=pocket_smoke", "init.adapter.pocket_llama=runs/x/a", "freeze=[encoder,adapter.pocket_llama]"]
    (job,) = plan("latentwire", line, schema=Tree).jobs
    assert taken(job.cfg) == {"adapter.pocket_llama": Path("runs/x/a")}
    assert frozen(job.cfg) == ["encoder", "adapter.pocket_llama"]
    with pytest.raises(UserError, match="has no parameter 'adaptor'"):
        plan("latentwire", ["experiment=pocket_smoke", "init.adaptor.pocket_llama=runs/x/a"], schema=Tree)
