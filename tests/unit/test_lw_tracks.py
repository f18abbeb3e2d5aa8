"""Tracks never mix: what a wire is compared with reads as the wire does, and asks what the wire is asked."""

from __future__ import annotations

import pytest
import torch
from lw_toys import tiny_lm
from peft import LoraConfig
from test_lw_evaluator import NEW, PASSAGES, FirstTokens, M
from torch import Tensor

from latentwire.baselines.budget import TokenBudget, WholePromptBudget
from latentwire.baselines.pooled import MeanPooled
from latentwire.baselines.text import NoContext, Text
from latentwire.data.base import Passage
from latentwire.examples import whole_prompt_text
from latentwire.lm.frozen import FrozenLM
from latentwire.scoring.evaluation import Evaluation
from latentwire.scoring.evaluator import Evaluator
from latentwire.scoring.messages import other_texts, texts_of


def adapted() -> FrozenLM:
    lm = tiny_lm()
    for name, p in lm.adapt(LoraConfig(r=2, target_modules=["q_proj", "v_proj"])):
        with torch.no_grad():
            p.fill_(0.2 if "lora_B" in name else 0.1)
    return lm


def evaluated(lm: FrozenLM) -> Evaluation:
    baselines = {"text": Text(), "none": NoContext(), "token_budget": TokenBudget(), "mean_pooled": MeanPooled()}
    return Evaluator({"tiny": lm}, PASSAGES, baselines, NEW, n_boot=50).run({"wire": FirstTokens({"tiny": lm})})


def test_an_adapted_reader_is_compared_with_itself_on_the_text() -> None:
    found, bare = evaluated(adapted()), evaluated(tiny_lm())
    m = found.methods
    assert m["wire"]["track"] == "adapted"
    assert m["wire"]["nll"] == pytest.approx(m["token_budget"]["nll"], abs=1e-5), "the same tokens, the same reader"
    for name in ("text", "none", "token_budget"):
        assert (m[name]["track"], m[f"{name}:frozen"]["track"]) == ("adapted", "frozen")
        assert m[f"{name}:frozen"]["nll"] == pytest.approx(bare.methods[name]["nll"], abs=1e-5)
        assert abs(m[name]["nll"] - m[f"{name}:frozen"]["nll"]) > 1e-3
    assert m["mean_pooled"]["track"] == "frozen"
    assert m["mean_pooled"]["nll"] == pytest.approx(bare.methods["mean_pooled"]["nll"], abs=1e-5)
    assert {t["against"] for t in found.tests} == {k for k, v in m.items() if v["track"] == "adapted"} - {"wire"}
    assert not [name for name in bare.methods if ":frozen" in name]


class Spy(FirstTokens):
    """Notes what it encodes."""

    def __init__(self, lms: dict[str, FrozenLM]):
        super().__init__(lms, whole=True)
        self.read: list[str] = []

    def encode(self, texts: list[str]) -> Tensor:
        self.read += texts
        return super().encode(texts)


def test_shuffled_messages_of_whole_prompts_keep_the_question() -> None:
    lms = {"tiny": tiny_lm()}
    spy = Spy(lms)
    found = Evaluator(lms, PASSAGES, {"budget": WholePromptBudget()}, NEW, n_boot=50).run({"wire": spy}, None, ["wire"])
    own = [(p, q) for p in PASSAGES for q in p.questions]
    sent, others = spy.read[: len(own)], spy.read[len(own) :]
    assert sent == [whole_prompt_text(p, q) for p, q in own]
    for (p, q), other in zip(own, others, strict=True):
        context, _, question = other.rpartition("\n")
        assert question.endswith(q.text)
        assert context in {x.text for x in PASSAGES} - {p.text}
    assert {"wire:shuffled", "wire:mean", "wire:random"} <= set(found.methods)


def test_the_shuffled_message_of_a_text_is_read_with_its_own_question() -> None:
    texts, of = texts_of(PASSAGES, whole=True)
    assert len(other_texts(PASSAGES, 0)) == len(texts) == len(of)
    twice = [PASSAGES[0], Passage("again", PASSAGES[0].text, PASSAGES[1].questions, "g", None)]
    assert other_texts(twice, 0) == [], "one text, twice, is no other text"
    lms = {"tiny": tiny_lm()}
    found = Evaluator(lms, twice, {}, NEW, n_boot=50).run({"wire": FirstTokens(lms, whole=True)}, M, ["wire"])
    assert set(found.methods) == {"wire"}
    assert any("no controls" in note for note in found.notes)
