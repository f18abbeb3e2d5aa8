"""LoRA's dropout acts in steps of training alone, resumes bit by bit, and is there by one override."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kills import Kill, Killed
from lw_runs import config, fit, prepare
from lw_toys import tiny_lm

from latentwire.lm.layout import Prefix
from latentwire.lm.lora import LoRA, dropping
from suite.config.compose import Composer

LORA = "+adaptation.tiny_llama={_target_:latentwire.lm.LoRA,rank:2,dropout:0.5,layers:1,targets:[q_proj]}"
SHORT = ["trainer.max_epochs=1", "loader.steps_per_epoch=4", "callbacks.checkpoint.every_n_steps=1"]


def test_dropout_is_on_within_the_block_and_off_outside() -> None:
    lm = tiny_lm()
    torch.manual_seed(0)
    found = LoRA(rank=2, dropout=0.5, layers=1, targets=["q_proj", "o_proj"]).apply(lm)
    assert len(found) == 4  # two matrices on each of two maps of the first layer
    for _, p in found:
        torch.nn.init.normal_(p)
    ask = lambda: lm.answer_logprobs(Prefix(text_ids=[[40, 41, 42]]), [[50]], [[60, 2]]).scores  # noqa: E731
    off = ask()
    assert torch.equal(off, ask())
    with dropping([lm]):
        assert not torch.equal(ask(), ask())
        with lm.adapters_off():
            assert torch.equal(ask(), ask())
    assert torch.equal(off, ask())


def test_a_run_with_it_resumes_bit_by_bit(tmp_path: Path) -> None:
    plain, whole, broken = (
        config(tmp_path, *SHORT, lora, runs=r)
        for r, lora in (("plain", LORA.replace("0.5", "0.0")), ("whole", LORA), ("broken", LORA))
    )
    expected = fit(whole).module.state_dict()
    with pytest.raises(Killed):
        fit(broken, [Kill(2, False)])
    found = fit(broken, resume=True).module.state_dict()
    assert not [k for k, x in expected.items() if not torch.equal(x, found[k])]
    other = fit(plain).module.state_dict()
    assert [k for k in other if k.startswith("wire.lora") and not torch.equal(other[k], expected[k])]


@pytest.mark.parametrize(("option", "layers"), [("lora", None), ("lora_first", 2)])
def test_the_group_puts_it_on_a_reader(tmp_path: Path, option: str, layers: int | None) -> None:
    cfg = Composer("latentwire").compose(["experiment=pocket_smoke", f"+adaptation@adaptation.pocket_llama={option}"])
    node = cfg.adaptation.pocket_llama
    assert (node._target_, node.layers, node.dropout) == ("latentwire.lm.LoRA", layers, 0.05)
    tiny = config(tmp_path)
    tiny.adaptation = {"tiny_llama": {**node, "rank": 2}}
    assert prepare(tiny).module.wire.lora["tiny_llama"]
