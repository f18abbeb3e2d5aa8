"""Baselines: what each one reads, that none loses the question by accident, and that none is unfair unsaid."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from lw_parts import lessons
from lw_toys import FAMILIES, Family, tiny_lm
from omegaconf import OmegaConf

from latentwire.baselines.base import Baseline
from latentwire.baselines.bm25 import BestSentence, bm25, sentences
from latentwire.baselines.budget import LegacyTruncation, TokenBudget, WholePromptBudget
from latentwire.baselines.controls import control
from latentwire.baselines.memory import MemorySlots
from latentwire.baselines.pca import PCA
from latentwire.baselines.pooled import MeanPooled
from latentwire.baselines.replay import Replay
from latentwire.baselines.static import StaticPrefix
from latentwire.baselines.text import NoContext, Text
from latentwire.data.base import Passage, Question
from latentwire.examples import prompt_of
from latentwire.lm.layout import Prefix

M = 6
FACTS = ("Ann has a cat. Bob lives in Rome. Eve is old.", "Bob has a dog. Ann lives in Oslo.")
PASSAGES = [
    Passage(f"p{i}", text, (Question(f"q{i}", "where is Bob?", ("Rome", "in Rome"), "city"),), f"p{i}", None)
    for i, text in enumerate(FACTS)
]
QUESTIONS = [p.questions[0] for p in PASSAGES]


@pytest.mark.parametrize("slots", [1, M, 500])
def test_the_budget_reads_exactly_m_tokens_of_context_and_the_whole_question(slots: int) -> None:
    lm = tiny_lm()
    prefix = TokenBudget().prefix(lm, PASSAGES, QUESTIONS, slots)
    assert prefix.text_ids is not None
    for p, q, ids in zip(PASSAGES, QUESTIONS, prefix.text_ids, strict=True):
        prompt = prompt_of(lm, p, q)
        assert tuple(ids) == prompt.context[:slots]
        assert len(ids) == min(slots, len(prompt.context))
        assert TokenBudget().follows(prompt) == prompt.question
        assert p.text.startswith(lm.style.decode(ids))


def test_for_continuation_the_budget_is_the_last_tokens() -> None:
    lm = tiny_lm()
    story = Passage("s", "once upon a time", (Question("s/0", "", (" there was",), "continuation"),), "s", None)
    question = story.questions[0]
    prompt = prompt_of(lm, story, question)
    assert prompt.context == lm.style.encode("once upon a time")
    assert prompt.question + prompt.answer == lm.style.encode(" there was")
    prefix = TokenBudget(keep="last").prefix(lm, [story], [question], M)
    assert prefix.text_ids == [prompt.context[-M:]]


def test_no_baseline_but_the_legacy_one_cuts_the_question() -> None:
    lm = tiny_lm()
    whole = [Text(), NoContext(), TokenBudget(), BestSentence(), MeanPooled(), PCA(), Replay()]
    whole += [StaticPrefix(), MemorySlots()]
    prompt = prompt_of(lm, PASSAGES[0], QUESTIONS[0])
    for baseline in whole:
        assert baseline.follows(prompt) == prompt.question, baseline.name
    legacy = LegacyTruncation()
    prefix = legacy.prefix(lm, PASSAGES, QUESTIONS, M)
    assert legacy.follows(prompt) == ()
    assert prefix.text_ids == [prompt_of(lm, p, q).context[:M] for p, q in zip(PASSAGES, QUESTIONS, strict=True)]
    assert [b.fair for b in (*whole, legacy)] == [True] * len(whole) + [False]


@pytest.mark.parametrize("extra", [0, 7])
def test_where_the_question_is_compressed_too_it_is_kept_and_counted(extra: int) -> None:
    lm = tiny_lm()
    prompt = prompt_of(lm, PASSAGES[0], QUESTIONS[0])
    question = prompt.question[: -len(prompt.cue)]
    budget = WholePromptBudget()
    prefix = budget.prefix(lm, PASSAGES[:1], QUESTIONS[:1], len(question) + extra)
    assert prefix.text_ids == [prompt.context[:extra] + question]
    assert budget.follows(prompt) == prompt.cue
    short = budget.prefix(lm, PASSAGES[:1], QUESTIONS[:1], 3)
    assert short.text_ids == [question], "a question is never cut"


def test_bm25_finds_the_sentence_and_equals_the_formula() -> None:
    assert sentences(FACTS[0]) == ["Ann has a cat.", "Bob lives in Rome.", "Eve is old."]
    scores = bm25("where is Bob?", sentences(FACTS[0]))
    # Bob: in 1 of 3 sentences, ln(1 + 2.5/1.5); that sentence has 4 words, the mean is 11/3
    assert scores[1] == pytest.approx(0.980829253 * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 12 / 11)))
    assert scores[0] == 0.0
    lm = tiny_lm()
    question = Question("q", "where does Bob live?", ("Rome",), "city")
    prefix = BestSentence().prefix(lm, PASSAGES[:1], [question], 100)
    assert prefix.text_ids == [lm.style.encode("Bob lives in Rome.\n")]
    cut = BestSentence().prefix(lm, PASSAGES[:1], [question], M)
    assert cut.text_ids == [lm.style.encode("Bob lives in Rome.\n")[:M]]


def test_mean_pooled_is_the_mean_of_chunks_whatever_the_batch() -> None:
    lm = tiny_lm()
    both = MeanPooled().prefix(lm, PASSAGES, QUESTIONS, M)
    alone = MeanPooled().prefix(lm, PASSAGES[1:], QUESTIONS[1:], M)
    assert both.embeds is not None
    assert alone.embeds is not None
    torch.testing.assert_close(both.embeds[1:], alone.embeds)
    ids = torch.tensor(prompt_of(lm, PASSAGES[1], QUESTIONS[1]).context)
    torch.testing.assert_close(both.embeds[1, 0], lm.embed(ids[: len(ids) // M]).mean(0))
    assert MeanPooled().message_bytes(lm, M) == 2 * M * lm.d_model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pca_that_keeps_every_component_is_the_text(family: Family) -> None:
    lm = tiny_lm(family)
    train = [
        Passage(f"t{i}", " ".join(random.Random(i).sample(words, len(words))), tuple(QUESTIONS), "g", None)
        for i, words in enumerate([f.split() for f in FACTS] * 20)
    ]
    pca = PCA(d_z=10**6, texts=40, headroom=1.0)
    longest = max(len(lm.style.encode(p.text)) + 1 for p in train)
    slots = longest // 2 + 1  # chunks of two tokens: 64 entries, more than enough chunks for all components
    pca.fit(lm, lessons(train, 0), slots)
    prefix = pca.prefix(lm, PASSAGES[:1], QUESTIONS[:1], slots)
    assert prefix.embeds is not None
    expected = lm.embed(torch.tensor(prompt_of(lm, PASSAGES[0], QUESTIONS[0]).context))
    torch.testing.assert_close(prefix.embeds[0], expected, rtol=0, atol=0.02 * float(expected.abs().max()))


def test_the_static_prefix_learns_answers_and_is_the_same_for_all() -> None:
    lm = tiny_lm()
    static = StaticPrefix(lr=0.05)
    before = lm.fingerprint()
    prompts = [prompt_of(lm, p, q) for p, q in zip(PASSAGES, QUESTIONS, strict=True)]

    def nll(steps: int) -> float:
        static.fit(lm, lessons(PASSAGES, steps), M)
        prefix = static.prefix(lm, PASSAGES, QUESTIONS, M)
        assert prefix.embeds is not None
        assert prefix.embeds.shape == (2, M, lm.d_model)
        assert torch.equal(prefix.embeds[0], prefix.embeds[1])
        scored = lm.answer_logprobs(prefix, [p.question for p in prompts], [p.answer for p in prompts])
        return float(scored.nll().mean())

    assert nll(40) < 0.7 * nll(0)
    assert lm.fingerprint() == before
    assert static.message_bytes(lm, M) == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("read", ["embeddings", "keys"])
def test_memory_slots_learn_what_is_told_and_leave_the_reader_alone(family: Family, read) -> None:
    """Two passages, one question, other answers: only a prefix that tells them apart can answer both."""
    lm = tiny_lm(family)
    before = lm.fingerprint()
    questions = [replace(q, answers=(a,)) for q, a in zip(QUESTIONS, "xy", strict=True)]
    told = [replace(p, questions=(q,)) for p, q in zip(PASSAGES, questions, strict=True)]
    prompts = [prompt_of(lm, p, q) for p, q in zip(told, questions, strict=True)]
    memory = MemorySlots(read, lr=0.02)

    def nll(answers: list) -> float:
        prefix = memory.prefix(lm, told, questions, 4)
        return float(lm.answer_logprobs(prefix, [p.question for p in prompts], answers).nll().mean())

    memory.fit(lm, lessons(told, 60), 4)
    right, wrong = nll([p.answer for p in prompts]), nll([p.answer for p in prompts][::-1])
    assert right < wrong - 1
    alone = memory.prefix(lm, told[1:], questions[1:], 4)
    both = memory.prefix(lm, told, questions, 4)
    pairs = [(alone.embeds, both.embeds)] if read == "embeddings" else list(zip(alone.kv[0], both.kv[0], strict=True))
    for one, two in pairs:
        torch.testing.assert_close(one[0], two[1], rtol=0, atol=1e-4)
    assert lm.fingerprint() == before


def test_untrained_gist_keys_are_those_of_the_context_moved_to_the_front() -> None:
    """With the memory tokens equal to a text and nothing else before them, keys and values are the text's own."""
    lm = tiny_lm()
    memory = MemorySlots("keys")
    memory.fit(lm, lessons(PASSAGES, 0), M)
    net = memory._learned[lm.name, M]
    ids = torch.tensor(lm.style.encode("abcdef"))
    net.memory.copy_(lm.embed(ids))
    made = net([()])
    cache = lm.model(input_ids=torch.tensor([[*lm.style.head, *ids.tolist()]]), use_cache=True).past_key_values
    for (k, v), (keys, values, _) in zip(made.kv, cache, strict=True):
        torch.testing.assert_close(k, keys[:, :, 1:], rtol=0, atol=1e-5)
        torch.testing.assert_close(v, values[:, :, 1:], rtol=0, atol=1e-5)
    # the first layer's keys depend on the token and its place alone: contexts of any length leave them there
    behind = net([(9, 8, 7), (9,)])
    for key in behind.kv[0][0]:
        torch.testing.assert_close(key, cache.layers[0].keys[0, :, 1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("anchor", ["raw", "question"])
def test_replay_is_the_text_plus_minus_nothing(family: Family, anchor) -> None:
    lm = tiny_lm(family)
    replay = Replay(anchor)
    for p, q in zip(PASSAGES, QUESTIONS, strict=True):
        prompt = prompt_of(lm, p, q)
        prefix = replay.prefix(lm, [p], [q], M)
        text = Text().prefix(lm, [p], [q], M)
        assert lm.generate(prefix, [replay.follows(prompt)], 12) == lm.generate(text, [prompt.question], 12)
        a = lm.answer_logprobs(prefix, [replay.follows(prompt)], [prompt.answer]).scores
        b = lm.answer_logprobs(text, [prompt.question], [prompt.answer]).scores
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="one length"):
        replay.prefix(lm, PASSAGES, QUESTIONS, M)


def test_text_generates_what_the_bare_model_does_from_the_plain_prompt() -> None:
    lm = tiny_lm()
    text = Text().prefix(lm, PASSAGES, QUESTIONS, M)
    prompts = [prompt_of(lm, p, q) for p, q in zip(PASSAGES, QUESTIONS, strict=True)]
    made = lm.generate(text, [p.question for p in prompts], 6)
    for prompt, tokens in zip(prompts, made, strict=True):
        ids = list(prompt.bos + prompt.context + prompt.question)
        bare: list[int] = []
        while len(bare) < 6:
            token = int(lm.model(input_ids=torch.tensor([ids + bare])).logits[0, -1].argmax())
            if token in lm.stop_ids:
                break
            bare.append(token)
        assert tokens == bare
    empty = NoContext().prefix(lm, PASSAGES, QUESTIONS, M)
    assert empty == Prefix()


def test_controls_take_the_message_out_and_nothing_else() -> None:
    values = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0)) * 3 + 1
    shuffled = control(values, "shuffled", 0)
    assert not any(torch.equal(a, b) for a, b in zip(values, shuffled, strict=True))
    assert sorted(map(tuple, shuffled.flatten(1).tolist())) == sorted(map(tuple, values.flatten(1).tolist()))
    assert torch.equal(control(values, "mean", 0)[3], values.mean(0))
    many = control(values[:, :1].repeat(400, 1, 1), "random", 0)
    torch.testing.assert_close(many.mean(0), values[:, :1].mean(0), rtol=0, atol=0.3)
    with pytest.raises(ValueError, match="two messages"):
        control(values[:1], "shuffled", 0)


def test_every_baseline_config_builds_under_its_own_name() -> None:
    folder = Path(__file__).parents[2] / "conf" / "latentwire" / "baseline"
    built = {}
    for path in sorted(folder.glob("*.yaml")):
        own = {"token_budget_last": "token_budget"}.get(path.stem, path.stem)  # the same row, its other end
        assert path.read_text().startswith(f"# @package baselines.{own}\n")
        built[path.stem] = instantiate(OmegaConf.merge({"seed": 0}, {"node": OmegaConf.load(path)}).node)
    assert len(built) == 21
    assert all(isinstance(b, Baseline) for b in built.values())
    assert [name for name, b in built.items() if not b.fair] == ["legacy_truncation"]
