"""Every key of every part changes what two steps of training make, or says where it acts in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lw_runs import config, fit, rows
from lw_toys import save_sentence_model
from states import unequal

from suite.config.compose import Composer

ROOT = Path(__file__).parents[2]
COMPOSER = Composer("latentwire")
GROUPS = ("encoder", "pooling", "adapter", "injector", "codec", "objective", "adaptation")
SIZES = [
    "trainer.max_epochs=1",
    "loader.steps_per_epoch=2",
    "callbacks.uniform_bound.margin=20",
    "lr_schedule=constant",
]
# keys that act on texts of other lengths alone, find another model's files, or want a codebook in use for longer than
# two steps: with the tests that hold them to it
ELSEWHERE = {
    "max_tokens": "lessons/test_lw_01_truncation_is_never_silent.py",
    "overflow": "lessons/test_lw_01_truncation_is_never_silent.py",
    "short": "unit/test_lw_pooling.py",
    "source": "unit/test_lw_sentence.py",
    "anchor_source": "unit/test_lw_interlingua.py",
    "layer_weights": "unit/test_lw_state_kd.py",
    "tasks": "unit/test_lw_adapters.py",
    "task": "unit/test_lw_adapters.py",
    "codec=rvq entropy": "unit/test_lw_entropy.py",
}
# what a key must stand beside to act in two steps
BESIDE: dict[str, list[str]] = {
    "encoder=st_query": ["encoder.source={sentence}"],
    "encoder=pca": ["encoder.chunk=60"],
    "encoder=lm_lora": ["encoder.rank=2", "group_lr.encoder=0.01"],
    "adapter=affine": ["wire.d_z=16"],
    "adapter=film": ["adapter.hidden=8"],
    "codec=int4": ["codec.group=8"],
    "codec=fsq": ["wire.d_z=12"],
    "codec=rvq": ["codec.size=64", "codec.decay=0.01"],  # so that entries fall out of use
    "pooling=pool_expand": ["wire.slots=8"],
    "objective=adapter_l2": ["adapter=channel_affine"],
    "objective=refiner_depth": ["encoder.halting=true"],
    "objective=semantic_anchor": ["encoder=interlingua"],
    "objective=state_kd": ["objectives.state_kd.layers=[1,2]"],
    "objective=first_token_ce": ["objectives.first_token_ce.tolerated=0.5"],
    "objective=first_token_entropy": ["objectives.first_token_entropy.ceiling=50"],
    "adaptation=lora": ["group_lr.lora=0.1"],
}
# another value of a key, where the next one of its type is none
OTHER: dict[str, Any] = {
    "layers": {None: "[0,1]"}, "anchor_layers": "[1]", "lora_layers": "1", "targets": "[q_proj]", "heads": "2",
    "width": "32", "dropout": "0.5", "lora_dropout": "0.5", "calibration": "token", "start": "random", "bits": "6",
    "group": "4", "kernel": "5", "max_slots": "32", "cue": "Say it again.", "tolerated": "2.0", "first": "1",
    "length": "5", "decay": "0.5", "dead": "0.9", "share": "0.2", "k": "2", "low": "0.5", "high": "0.5",
    "chunk": "61", "steps": "2", "layer_weights": "[1.0,3.0]",
    "by": {"message": "slot", "directions": "channels", "film": "shift"}, "levels": {2: "1", None: "[4,4,4]"},
    "temperature": "2.0",
}  # fmt: skip
LAYERS = {"adaptation": "1", "injector": "[1]", "objective": "[2]"}  # where encoders list states
# of the nodes without a part of their own
NODES = ["seed=1", "wire.d_z=10", "wire.slots=4", "wire.private={tiny_llama:1}", "wire.track=whole_prompt",
         "wire.measured_texts=5", "loader.batch_size=2", "loader.questions=1", "loader.eval_questions=1",
         "loader.eval_passages=3", "group_lr.encoder=0.01", "group_lr.adapter=0.01", "group_lr.injector=0.01",
         "optimizer.betas=[0.5,0.9]", "optimizer.weight_decay=0.5", "lr_schedule.warmup_steps=2",
         "callbacks.clip.max_norm=0.01"]  # fmt: skip


def settings(group: str, option: str) -> dict[str, Any]:
    """The keys of an option with its values, those of the options that it stands on included."""
    own = yaml.safe_load((COMPOSER.folder / group / f"{option}.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for below in own.get("defaults", []):
        if isinstance(below, str) and below != "_self_":
            found |= settings(group, below)
    return found | {key: value for key, value in own.items() if key != "defaults"}


def parts() -> dict[str, list[str]]:
    """One option of every class, with its keys; the one with most layers of its own where several are of a class."""
    found: dict[str, str] = {}
    for group in GROUPS:
        for option in COMPOSER.options(group):
            found.setdefault(f"{group}:{settings(group, option)['_target_']}", f"{group}={option}")
    chosen = {"encoder=lm_lora" if option == "encoder=lm_hidden" else option for option in found.values()}
    return {o: [k for k in settings(*o.split("=")) if not k.startswith("_")] for o in sorted(chosen)}


PARTS = parts()


def other(group: str, key: str, value: Any) -> str:
    """Another value of a key."""
    told = LAYERS[group] if key == "layers" and group in LAYERS else OTHER.get(key)
    if isinstance(told, dict):
        told = told.get(value if isinstance(value, str | int) else None)
    if told is not None:
        return str(told)
    if isinstance(value, bool):
        return str(not value).lower()
    assert isinstance(value, int | float), key
    return str(value + 1) if isinstance(value, int) else str(value / 2 or 0.5)


def trained(folder: Path, line: list[str], runs: str) -> dict[str, Any]:
    """What two steps leave: weights and buffers, the tables of the run, a message."""
    cfg = config(folder, *SIZES, *line, runs=runs)
    module = fit(cfg).module
    wire = module.wire.eval()
    with torch.no_grad():
        values = wire.encoder.encode(module.texts[:1], wire.layout)[0] if not wire.whole_prompt else None
    sent = None if values is None else wire.codec.encode(values)
    return {"weights": dict(module.state_dict()), "history": rows(cfg), "sent": sent}


def where(group: str, option: str, key: str) -> str:
    """The place of a key in the tree."""
    place = {"pooling": "encoder.pooling", "objective": f"objectives.{option}", "adaptation": "adaptation.tiny_llama"}
    return f"{place.get(group, group)}.{key}" + (".value" if key == "weight" else "")


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_every_key_of_a_part_acts(tmp_path: Path, part: str) -> None:
    group, _, option = part.partition("=")
    line = [part, *BESIDE.get(part, [])]
    if group == "objective":
        line[0] = f"objective=[{','.join(dict.fromkeys(['answer_ce', option]))}]"
    elif group == "pooling":
        line[0] = f"pooling@encoder.pooling={option}"
    elif group == "adaptation":
        line[0] = f"+adaptation@adaptation.tiny_llama={option}"
    if part == "encoder=st_query":
        line = [o.replace("{sentence}", save_sentence_model(tmp_path)) for o in line]
    base = trained(tmp_path, line, "base")
    assert not unequal(base, trained(tmp_path, line, "again")), "the same line is the same run"
    own = settings(group, option)
    idle = []
    for key in PARTS[part]:
        if key in ELSEWHERE or f"{part} {key}" in ELSEWHERE:
            continue
        value = own[key]["value"] if key == "weight" else own[key]
        changed = f"{where(group, option, key)}={other(group, key, value)}"
        if not unequal(base, trained(tmp_path, [*line, changed], key)):
            idle.append(changed)
    assert not idle


@pytest.mark.slow
def test_every_number_of_the_nodes_acts(tmp_path: Path) -> None:
    base = trained(tmp_path, [], "base")
    idle = [o for n, o in enumerate(NODES) if not unequal(base, trained(tmp_path, [o], str(n)))]
    assert not idle


def test_what_is_left_out_has_a_test_of_its_own() -> None:
    named = {name for part, keys in PARTS.items() for key in keys for name in (key, f"{part} {key}")}
    for name, path in ELSEWHERE.items():
        assert name in named
        assert name.split()[-1] in (ROOT / "tests" / path).read_text(encoding="utf-8")
    assert set(BESIDE) <= set(PARTS)
