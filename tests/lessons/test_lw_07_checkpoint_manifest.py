"""A checkpoint proves what it holds (specification B2.7).

A peak checkpoint without its LoRA weights came back with 41.9 M of 272.8 M trained parameters, silently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config, fit, prepare
from peft import LoraConfig

from callbacks.errors import UserError
from callbacks.run.manifest import verify
from latentwire.restore import load
from suite.runs.identity import run_dir

LORA = ["+adaptation.tiny_llama={_target_:latentwire.lm.LoRA,rank:2}", "trainer.max_epochs=1"]


def saved(cfg: Any, name: str = "best") -> tuple[Path, dict[str, Any]]:
    path = run_dir(cfg) / "checkpoints" / f"{name}.ckpt"
    return path, torch.load(path, weights_only=True)


def test_lora_weights_are_saved_and_come_back(tmp_path: Path) -> None:
    cfg = config(tmp_path, *LORA)
    parts = fit(cfg)
    trained = {n: p.detach() for n, p in parts.module.named_parameters() if p.requires_grad}
    _, checkpoint = saved(cfg, "last")
    assert set(checkpoint["manifest"]["tensors"]) == set(trained)
    assert any("lora_B" in n and t.any() for n, t in trained.items())
    back = load(run_dir(cfg), "last")
    for name, p in back.wire.lora.named_parameters():
        assert torch.equal(p, trained[f"wire.lora.{name}"])
    for name, p in back.inputs.lms["tiny_llama"].model.named_parameters():
        if p.requires_grad:
            assert torch.equal(p, trained["wire.lora.tiny_llama." + name.replace(".", "-")]), "in the model itself"


def test_a_checkpoint_that_lost_its_lora_weights_is_refused(tmp_path: Path) -> None:
    cfg = config(tmp_path, *LORA)
    fit(cfg)
    path, checkpoint = saved(cfg)
    kept = {k: v for k, v in checkpoint["state_dict"].items() if ".lora." not in k}
    assert len(kept) < len(checkpoint["state_dict"])
    torch.save({**checkpoint, "state_dict": kept}, path)
    with pytest.raises((UserError, RuntimeError), match="lora"):
        load(run_dir(cfg))
    with pytest.raises(UserError, match=r"wire\.lora\.tiny_llama.*is missing in the file"):
        verify({**checkpoint, "state_dict": kept})


def test_a_model_that_was_given_only_a_part_of_it_is_refused(tmp_path: Path) -> None:
    """`strict=False`, the old mistake, loads what it finds."""
    cfg = config(tmp_path, *LORA)
    fit(cfg)
    _, checkpoint = saved(cfg)
    module = prepare(cfg).module
    part = {k: v for k, v in checkpoint["state_dict"].items() if "lora_B" not in k}
    module.load_state_dict(part, strict=False)
    with pytest.raises(UserError, match="has other values in the model after loading"):
        verify(checkpoint, module)
    module.load_state_dict(checkpoint["state_dict"])
    verify(checkpoint, module)


def test_changed_bytes_and_other_shapes_are_named(tmp_path: Path) -> None:
    cfg = config(tmp_path, "trainer.max_epochs=1")
    fit(cfg)
    _, checkpoint = saved(cfg)
    name = next(n for n, e in checkpoint["manifest"]["tensors"].items() if len(e["shape"]) == 2)
    original = checkpoint["state_dict"][name]
    checkpoint["state_dict"][name] = original + 1e-3
    with pytest.raises(UserError, match="has other values in the file"):
        verify(checkpoint)
    checkpoint["state_dict"][name] = original[:, :1]
    with pytest.raises(UserError, match=r"is \(\d+, 1\) in the file, was"):
        verify(checkpoint)


def test_what_was_measured_and_not_trained_is_proven_too(tmp_path: Path) -> None:
    cfg = config(tmp_path, "trainer.max_epochs=1")
    fit(cfg)
    path, checkpoint = saved(cfg)
    load(run_dir(cfg))
    for name in ("wire.encoder.std", "wire.injectors.tiny_llama.rms"):
        state = checkpoint["state_dict"] | {name: checkpoint["state_dict"][name] * 1.01}
        torch.save({**checkpoint, "state_dict": state}, path)
        with pytest.raises(UserError, match=f"{name.removeprefix('wire.')} has other values in the file"):
            load(run_dir(cfg))


def test_trained_weights_that_no_state_dict_holds_cannot_be_saved(tmp_path: Path) -> None:
    """An adapter on the frozen model that went to the optimiser, but not into the module."""
    cfg = config(tmp_path, "trainer.max_epochs=1", "callbacks.audit=null")
    parts = prepare(cfg)
    hidden = parts.inputs.lms["tiny_llama"].adapt(LoraConfig(r=2, target_modules=["v_proj"]))
    inner = parts.module._optimizer

    def with_hidden(groups: list[dict[str, Any]]) -> Any:
        return inner([*groups, {"params": [p for _, p in hidden], "name": "hidden"}])

    parts.module._optimizer = with_hidden
    with pytest.raises(UserError, match=r"trained, but not saved: a tensor .* of group hidden"):
        parts.trainer.fit(parts.module, parts.train, parts.val)


def test_a_second_adapter_on_a_model_is_refused(tmp_path: Path) -> None:
    lm = prepare(config(tmp_path, *LORA)).inputs.lms["tiny_llama"]
    with pytest.raises(UserError, match="second adapter"):
        lm.adapt(LoraConfig(r=2, target_modules=["v_proj"]))
