"""The start-up line: memory and time from the configuration alone, before any weight is loaded."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lw_runs import config, fit, prepare
from lw_toys import tiny_model
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig

from latentwire import build, footprint
from latentwire.data.base import Passage, Question
from latentwire.lm.frozen import FrozenLM


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that operations have made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (key := x.untyped_storage()._cdata) not in self.known:
                self.known[key] = x.untyped_storage().nbytes()
                self.now += self.known[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(x.untyped_storage(), self._gone, key)
        return out

    def _gone(self, key: int) -> None:
        self.now -= self.known.pop(key, 0)


def test_sizes_are_those_of_the_model_and_a_large_one_needs_no_memory() -> None:
    tiny = tiny_model("llama")
    found = footprint.model_of("tiny", tiny.config, "bfloat16")
    assert found.weights == sum(p.numel() for p in tiny.parameters())
    assert found.weights - found.matrices == tiny.get_input_embeddings().weight.numel()
    assert (found.layers, found.width, found.inner, found.kv, found.size) == (2, 32, 48, 2 * 2 * 2 * 8, 2)
    llama8b = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8,
    )  # fmt: skip
    large = footprint.model_of("llama", llama8b, "bfloat16")
    assert large.weights == 8_030_261_248  # as its model card counts
    few, many = (footprint.Load(texts, 2 * texts, 512, 40, 8, 128) for texts in (4, 8))
    assert footprint.estimate([large], few, 0).weights == 2 * large.weights
    assert footprint.estimate([large], many, 0).activations == pytest.approx(
        2 * footprint.estimate([large], few, 0).activations, rel=1e-3
    )


@pytest.mark.parametrize("more", [["injector=deep_prefix"], ["injector=soft_prefix"]])
def test_the_peak_of_a_run_is_what_was_said(
    more: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[footprint.Footprint] = []
    whole = footprint.estimate
    monkeypatch.setattr(footprint, "estimate", lambda *a: said.append(whole(*a)) or said[-1])
    sizes = ["loader.batch_size=8", "loader.questions=8", "loader.steps_per_epoch=2", "trainer.max_epochs=1"]
    cfg = config(tmp_path, *more, *sizes, "encoder.max_tokens=240", "wire.slots=20")
    with Live() as live:
        fit(cfg)
    measured = live.peak + said[0].weights  # files are read into memory without an operation
    assert 1 / 2 < said[0].peak / measured < 2
    assert capsys.readouterr().out.startswith("memory: about ")


@pytest.mark.parametrize(
    "more",
    [
        ["injector=deep_prefix"],
        ["injector=sized_prefix", "injector.length=5", "injector.heads=2", "injector.width=64"],
        ["injector=latent_adapters", "injector.heads=2", "injector.slots=64"],
        ["injector=coprocessor"],
        ["injector=combined", "injector.heads=2", "injector.slots=64"],
        [
            "injector=combined",
            "injector@injector.prefix=sized_prefix",
            "injector.heads=2",
            "injector.slots=64",
            "injector.prefix.length=5",
            "injector.prefix.heads=2",
        ],
        ["adapter=mixture", "encoder.halting=true", "encoder.refiner_layers=3"],
    ],
)
def test_trained_weights_and_positions_are_those_of_the_parts(more: Sequence[str], tmp_path: Path) -> None:
    cfg = config(tmp_path, *more)
    module: Any = prepare(cfg).module
    (name,) = cfg.lms
    model = footprint.model_of(name, module.lms[name].model.config, "float32")
    there = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert footprint.trained_weights(cfg, [model]) == pytest.approx(there, rel=0.3)
    load = footprint.load_of(cfg, [Passage("p", "text", (Question("q", "?", ("a",), ""),), "p", None)], lambda t: [9])
    injector = module.wire.injectors[name]
    assert (load.slots if load.columns is None else load.columns) == injector.columns(module.wire.slots)
    fewer, all_of_them = (footprint.estimate([model], replace(load, columns=n), 0) for n in (0, 3))
    assert fewer.cache < all_of_them.cache


def test_halting_has_a_decision_of_its_own_for_every_layer(tmp_path: Path) -> None:
    (name,) = config(tmp_path).lms
    model = footprint.model_of(name, tiny_model("llama").config, "float32")
    plain, halting = (
        footprint.trained_weights(config(tmp_path, "encoder.refiner_layers=3", *more), [model])
        for more in ([], ["encoder.halting=true"])
    )
    assert halting - plain == 3 * (16 + 1)


def test_nothing_is_loaded_before_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(build, "rank_zero_print", lambda text: order.append(text.partition(":")[0]))
    monkeypatch.setattr(FrozenLM, "__init__", lambda *_a, **_k: order.append("loaded"))
    with pytest.raises(AttributeError):  # a model that is none
        build.build_inputs(config(tmp_path), announce=True)
    assert order == ["memory", "loaded"]


def test_lengths_are_taken_from_the_passages(tmp_path: Path) -> None:
    question = Question("q", "x" * 40, ("y" * 11,), "kind")
    passages = [Passage("p", "z" * n, (question,), "p", None) for n in (200, 400)]
    found = footprint.load_of(
        config(tmp_path, "wire.slots=null", "wire.ratio=5", "loader.batch_size=3"),
        passages,
        lambda texts: [len(t) for t in texts],
    )
    assert found == footprint.Load(3, 6, 400, len("Question: \nAnswer:") + 40 + 11, 12, 60)


def test_what_cannot_be_estimated_is_left_to_its_loading(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    (name,) = cfg.lms
    passage = Passage("p", "text", (), "p", None)
    OmegaConf.update(cfg, f"lms.{name}.dtype", "int7", force_add=True)
    assert name in footprint.line(cfg, [passage])
    cfg.lms[name].source = "nowhere/at/all"
    assert footprint.line(cfg, [passage]).startswith("memory: not estimated")


def test_an_encoder_on_a_frozen_model_is_estimated_whichever_of_its_states_are_mixed(tmp_path: Path) -> None:
    passage = Passage("1", "Anna lives in Rome.", (Question("1", "Where?", ("Rome",), ""),), "1", None)
    every, two = (footprint.line(config(tmp_path, *more), [passage]) for more in ([], ["encoder.layers=[0,2]"]))
    assert two.split(" M trained")[0] == every.split(" M trained")[0]
    assert "models/sentences not counted" in footprint.line(
        config(tmp_path, "encoder=st_query", "encoder.source=models/sentences"), [passage]
    )
