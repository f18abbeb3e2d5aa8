"""Options of decoding: without any, answers are greedy to the last bit; each of them acts as it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from callbacks.errors import UserError
from latentwire.baselines.text import Text
from latentwire.data.biographies import Biographies
from latentwire.examples import examples
from latentwire.lm.decoding import Decoding, dull_tokens
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.results import Generation
from latentwire.pocket import load
from latentwire.scoring.evaluator import Evaluator

N = 6


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return load("pocket_llama")


@pytest.fixture(scope="module")
def asked(lm: FrozenLM) -> tuple[Prefix, list[tuple[int, ...]]]:
    split = Biographies(people=2, facts_per_person=3, test=1).split("test")
    found = examples(lm, [split[0]])[:N]
    embeds = torch.stack([lm.embed(torch.tensor(e.prompt.context)) for e in found])
    return Prefix(embeds=embeds), [e.prompt.question for e in found]


def answers(lm: FrozenLM, asked: Any, options: Decoding | None, new: int = 6) -> Generation:
    prefix, questions = asked
    return lm.generate_scored(prefix, questions, new, options)


def test_without_an_option_nothing_changes(lm: FrozenLM, asked: Any) -> None:
    greedy, options = answers(lm, asked, None), answers(lm, asked, Decoding())
    assert (greedy.tokens, greedy.logprobs) == (options.tokens, options.logprobs)
    assert Decoding().answer(" The answer is Berlin. ") == " The answer is Berlin. "


def test_an_answer_does_not_stop_before_its_least_length(lm: FrozenLM, asked: Any) -> None:
    assert min(map(len, answers(lm, asked, None).tokens)) < 4
    longer = answers(lm, asked, Decoding(min_new_tokens=4)).tokens
    assert min(map(len, longer)) >= 4
    assert not {t for row in longer for t in row[:4]} & lm.stop_ids


def test_a_first_token_is_drawn_by_seed_and_question_alone(lm: FrozenLM, asked: Any) -> None:
    hot = Decoding(first_temperature=50.0)
    drawn = [answers(lm, asked, replace(hot, seed=s)).tokens for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    prefix, questions = asked
    alone = [lm.generate_scored(prefix.select([i]), [questions[i]], 6, hot).tokens[0] for i in range(N)]
    assert alone == drawn[0]
    assert answers(lm, asked, replace(hot, first_top_k=1)).tokens == answers(lm, asked, None).tokens
    assert answers(lm, asked, Decoding(first_temperature=1e-6)).tokens == answers(lm, asked, None).tokens


def test_draws_follow_the_softmax() -> None:
    scores = torch.tensor([0.6, 0.3, 0.1]).log().expand(4000, 3)
    options = Decoding(first_temperature=1.0)
    drawn = options.choose(scores, 0, (), None, [(i,) for i in range(4000)])
    shares = drawn.bincount(minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.03, rtol=0)


def test_an_answer_may_be_kept_from_beginning_with_punctuation(lm: FrozenLM) -> None:
    dull = dull_tokens(lm.tokenizer, lm.vocab_size, lm.stop_ids)
    assert dull[lm.tokenizer.convert_tokens_to_ids(".")]
    assert not dull[sorted(lm.stop_ids)].any()
    scores = torch.full((1, lm.vocab_size), -9.0)
    scores[0, dull] = -1.0
    options = Decoding(ban_punctuation=True)
    assert not dull[options.choose(scores, 0, lm.stop_ids, dull, [(1,)])]
    assert dull[options.choose(scores, 1, lm.stop_ids, dull, [(1,)])]


def test_a_gain_acts_on_latents_from_the_token_that_it_is_given_for(lm: FrozenLM, asked: Any) -> None:
    plain = answers(lm, asked, Decoding(min_new_tokens=4))
    later = answers(lm, asked, Decoding(min_new_tokens=4, gain=[1.0, 0.2]))
    at_once = answers(lm, asked, Decoding(min_new_tokens=4, gain=[0.2]))
    firsts = [[row[0] for row in g.logprobs] for g in (plain, later, at_once)]
    assert firsts[0] == firsts[1] != firsts[2]
    assert [row[1] for row in later.logprobs] != [row[1] for row in plain.logprobs]
    assert answers(lm, asked, Decoding(gain=[1.0])).logprobs == answers(lm, asked, None).logprobs
    text = Prefix(text_ids=[(5, 6, 7)] * N), asked[1]
    assert answers(lm, text, Decoding(gain=[0.2])).logprobs == answers(lm, text, None).logprobs


def test_a_gain_of_keys_and_values_is_one_of_values(lm: FrozenLM, asked: Any) -> None:
    prefix, questions = lm.cached(asked[0]), asked[1]
    plain = lm.generate_scored(prefix, questions, 4)
    doubled = Prefix(kv=[(k, 2 * v) for k, v in prefix.kv or []])
    expected = lm.generate_scored(doubled, questions, 4).logprobs
    assert lm.generate_scored(prefix, questions, 4, Decoding(gain=[2.0])).logprobs == expected != plain.logprobs


def test_an_evaluation_scores_what_its_options_leave(lm: FrozenLM) -> None:
    passages = [Biographies(people=1, facts_per_person=2, test=1).split("test")[0]]
    plain, cut = (
        Evaluator({"m": lm}, passages, {"text": Text()}, 6, n_boot=40, decoding=d).run({}, slots=1)
        for d in (None, Decoding(min_new_tokens=4, stop=["e", "a", "o", "i"], gain=[0.1]))
    )
    assert [r["f1"] for r in plain.rows] == [1.0, 1.0]
    assert all(not set(r["prediction"]) & set("eaoi") for r in cut.rows)
    assert [r["nll"] for r in plain.rows] == [r["nll"] for r in cut.rows]


@pytest.mark.parametrize(
    ("options", "said", "scored"),
    [
        ({"stop": ["\nQ", " ("]}, "Bern (city)\nQ: x", "Bern"),
        ({"extract": "line"}, "Answer: Bern, maybe\nWhy", "Bern, maybe"),
        ({"extract": "sentence"}, "The answer is 3.5 km. Or not.", "3.5 km"),
        ({"extract": "phrase"}, "It is Bern, as said.", "Bern"),
        ({"extract": "phrase", "stop": ["Bern"]}, "in Bern", "in"),
        ({"extract": "line"}, "answering machine", "answering machine"),
    ],
)
def test_what_is_scored_of_an_answer(options: dict[str, Any], said: str, scored: str) -> None:
    assert Decoding(**options).answer(said) == scored


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UserError, match=r"evaluation\.decode\.stop"):
        Decoding(stop=[""])
