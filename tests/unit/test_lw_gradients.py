"""Every objective's gradient reaches the groups that it declares and that its docstring names, on every injector."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from lw_runs import config, prepare

from latentwire.build import Parts
from latentwire.objectives.base import READING, Objective
from latentwire.train.curriculum import KINDS
from suite.config.compose import Composer
from suite.config.signature import locate

COMPOSER = Composer("latentwire")
LORA = "+adaptation.tiny_llama={_target_:latentwire.lm.LoRA,rank:2}"
# what can be in one run, and what it needs
TOGETHER: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "reading": (
        ("answer_ce", "first_token_ce", "k_token_ce", "answer_kd", "mismatch_hinge", "embedding_reconstruction",
         "text_reconstruction", "continuation", "first_token_entropy", "answer_length", "answer_embedding",
         "text_contrast", "token_alignment", "latent_scale", "state_kd"),
        ["objectives.state_kd.layers=[1,2]",
         "objectives.mismatch_hinge.margin=100.0", "objectives.first_token_entropy.ceiling=50"],
    ),
    "hidden": (("answer_ce", "masked_reconstruction", "state_kd"), []),
    "said": (("answer_ce", "semantic_anchor", "refiner_depth", "adapter_l2"),
             ["encoder=interlingua", "encoder.halting=true", "adapter=channel_affine"]),
    "states": (("answer_ce", "state_regression"), []),
}  # fmt: skip
STATES = ("deep_prefix",)  # whose readers take latents as keys and values alone; others are refused
INJECTORS = COMPOSER.options("injector")
FAST = {("reading", "deep_prefix"), ("reading", "soft_prefix"), ("said", "deep_prefix"), ("states", "deep_prefix")}
CASES = [(kind, injector) for kind in TOGETHER for injector in INJECTORS if kind != "states" or injector in STATES]


def class_of(name: str) -> type[Objective]:
    """The class of an option."""
    node = yaml.safe_load((COMPOSER.folder / "objective" / f"{name}.yaml").read_text(encoding="utf-8"))
    kind: type[Objective] = locate(node["_target_"])
    return kind


def built(folder: Path, kind: str, injector: str) -> Parts:
    """A run of two readers with private slots, one of them adapted; no weight is where it starts."""
    names, more = TOGETHER[kind]
    sizes = ["injector.heads=2"] if injector in ("combined", "latent_adapters", "sized_prefix") else []
    cfg = config(folder, f"objective=[{','.join(names)}]", "codec=fsq", f"injector={injector}", "wire.slots=5",
                 "wire.private={tiny_llama:2,tiny_qwen2:1}", LORA, *more, *sizes, lms=("llama", "qwen2"))  # fmt: skip
    parts = prepare(cfg)
    parts.module._pipeline = parts.pipeline  # what is hidden is drawn by step
    with torch.no_grad():
        for params in parts.module.groups().values():
            for p in params:
                p.add_(0.01 * torch.randn_like(p))
    return parts


@pytest.mark.parametrize(
    ("kind", "injector"), [pytest.param(*case, marks=[pytest.mark.slow] * (case not in FAST)) for case in CASES]
)
def test_each_objective_reaches_the_groups_that_it_declares_and_no_others(
    tmp_path: Path, kind: str, injector: str
) -> None:
    parts = built(tmp_path, kind, injector)
    module, batch = parts.module, parts.train.dataset.__getitems__([(0, 0), (1, 0), (2, 0)])  # type: ignore[attr-defined]
    groups = module.groups()
    assert ("injector:tiny_llama" in groups) == (injector != "soft_prefix")
    for name, objective in module.objectives.items():
        module.zero_grad(set_to_none=True)
        _, found = module.objective_outputs(batch, {name: objective})
        torch.stack([outputs[name].loss for outputs in found.values()]).mean().backward()
        for outputs in found.values():
            assert tuple(outputs[name].observed) == objective.observes
        reached = {g for g, params in groups.items() if any(p.grad is not None and p.grad.any() for p in params)}
        declared = {g for g in groups if g.partition(":")[0] in objective.reaches or g == f"head:{name}"}
        if name == "adapter_l2":  # a part of a group: the audit counts on none of it
            moved = {n.rpartition(".")[2] for n, p in module.named_parameters() if p.grad is not None and p.grad.any()}
            assert moved == {"scale", "shift"}
            declared = {g for g in groups if g.startswith("adapter:")}
        assert reached == declared, name


def test_no_objective_is_left_out() -> None:
    assert {name for names, _ in TOGETHER.values() for name in names} == set(COMPOSER.options("objective"))


@pytest.mark.parametrize("name", COMPOSER.options("objective"))
def test_a_docstring_names_the_groups_that_a_gradient_reaches_unless_it_reaches_all(name: str) -> None:
    kind = class_of(name)
    said = re.search(r"gradient\s+reaches ([^.;]*)", kind.__doc__ or "")
    if kind.reaches == READING:
        assert said is None
        return
    assert said is not None, f"{kind.__name__} does not say what its gradient reaches"
    named = {word for word in re.findall(r"[a-z]+", said[1]) if word in KINDS}
    assert named == set(kind.reaches)
