"""Where models lie: a device of their own, 4 bits, pieces on ranks; what cannot be is refused by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config, prepare, save_lm
from lw_toys import tiny_lm
from omegaconf import open_dict

from callbacks.errors import UserError
from latentwire.lm import loading
from latentwire.lm.frozen import FrozenLM
from latentwire.train.placement import refuse_shared_places


def test_a_reader_with_a_device_of_its_own_stays_there(tmp_path: Path) -> None:
    parts = prepare(config(tmp_path, "placement.devices={tiny_llama: cpu}", lms=("llama", "qwen2")))
    llama, qwen = parts.module.lms.values()
    assert (llama.placed, qwen.placed) == (True, False)
    for lm in (llama, qwen):
        lm.to("meta")
    assert (llama.input_device.type, qwen.input_device.type) == ("cpu", "meta")


def test_devices_that_are_not_there_and_two_places_for_one_model_are_refused() -> None:
    lm = tiny_lm()
    with pytest.raises(UserError, match=r"placement\.devices\.tiny_llama[\s\S]*cuda:77[\s\S]*cpu"):
        lm.pin("cuda:77")
    for absent in ("banana", "meta", "cuda:77"):
        with pytest.raises(UserError) as told:
            FrozenLM.load("nothing is read", device=absent, name="reader")
        assert (told.value.where, told.value.found) == ("lms.reader.device", absent)
    lm.model.hf_device_map = {"": "cpu"}
    with pytest.raises(UserError, match="a device_map"):
        lm.pin("cpu")


@pytest.mark.parametrize(
    ("kind", "installed", "said"),
    [
        ("nf4", False, "pip install bitsandbytes, or set lms.mine.quantize=null"),
        ("nf4", True, "an NVIDIA GPU"),
        ("int3", True, r"nf4 \| fp4"),
    ],
)
def test_weights_in_4_bits_are_refused_where_they_cannot_be(
    kind: str, installed: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=said):
        FrozenLM.load(save_lm(tmp_path), name="mine", quantize=kind)


def test_4_bits_are_asked_of_bitsandbytes_in_the_dtype_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    try:
        asked: Any = loading.quantization("nf4", "bfloat16", "mine")
    except ImportError:  # its own check of the package's version
        pytest.skip("bitsandbytes is not installed")
    assert (asked.load_in_4bit, asked.bnb_4bit_quant_type) == (True, "nf4")
    assert asked.bnb_4bit_compute_dtype == torch.bfloat16


def test_a_bound_on_memory_needs_a_map_that_keeps_to_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lms\.mine\.max_memory[\s\S]*device_map=auto"):
        FrozenLM.load(save_lm(tmp_path), name="mine", max_memory={"0": "1GiB"})


@pytest.mark.parametrize(
    ("given", "where", "remedy"),
    [
        (["trainer.strategy=fsdp"], "trainer.strategy", "trainer.strategy=ddp placement.shard=true"),
        (["placement.shard=true"], "placement.shard", "placement.shard=false"),
        (["placement.shard=true", "trainer.devices=2"], "placement.shard", "placement.shard=false"),
        (["trainer.devices=2"], "trainer.devices=2", "lms.tiny_llama.device_map=null"),
    ],
)
def test_what_ranks_cannot_share_is_refused_before_anything_is_loaded(
    given: list[str], where: str, remedy: str, tmp_path: Path
) -> None:
    cfg = config(tmp_path, *given)
    refuse_shared_places(config(tmp_path, "trainer.devices=2"))
    with open_dict(cfg):
        cfg.lms.tiny_llama.device_map = "auto"
    with pytest.raises(UserError) as error:
        refuse_shared_places(cfg)
    assert error.value.where == where
    assert remedy in error.value.remedy
