"""KV compaction: with all positions it is the full cache, with fewer it is the best that the kept keys can do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lw_parts import lessons
from lw_toys import FAMILIES, Family, tiny_lm
from test_lw_evaluator import NEW, PASSAGES

from callbacks.errors import UserError
from latentwire.baselines.compaction import KVCompaction, compact
from latentwire.baselines.text import Text
from latentwire.examples import prompt_of
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.scoring.evaluator import Evaluator

ASKED = [p.questions[1] for p in PASSAGES]
PROMPTS = [(p, q) for p, q in zip(PASSAGES, ASKED, strict=True)]


def fitted(lm: FrozenLM, **settings) -> KVCompaction:
    baseline = KVCompaction(**settings)
    baseline.fit(lm, lessons([replace(p, text=p.text[::-1]) for p in PASSAGES], 0), 1)
    return baseline


@pytest.mark.parametrize("family", FAMILIES)
def test_with_all_positions_it_answers_as_the_text_does(family: Family) -> None:
    lm = tiny_lm(family)
    prompts = [prompt_of(lm, p, q) for p, q in PROMPTS]
    longest = max(len(p.context) for p in prompts)
    made = fitted(lm).prefix(lm, PASSAGES, ASKED, longest)  # shorter texts have places without a key
    text = Text().prefix(lm, PASSAGES, ASKED, longest)
    questions, answers = [p.question for p in prompts], [p.answer for p in prompts]
    a = lm.answer_logprobs(made, questions, answers).scores
    b = lm.answer_logprobs(text, questions, answers).scores
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    assert lm.generate(made, questions, NEW) == lm.generate(text, questions, NEW)


def test_kept_keys_are_the_texts_own_and_what_follows_stands_behind_the_whole_text() -> None:
    lm = tiny_lm()
    prompts = [prompt_of(lm, p, q) for p, q in PROMPTS]
    made = fitted(lm).prefix(lm, PASSAGES, ASKED, 5)
    assert made.stands_for == [len(p.context) for p in prompts]
    assert made.kv is not None
    for row, prompt in enumerate(prompts):
        cache = lm.keys_and_values((*prompt.bos, *prompt.context))
        for (keys, _), (own, _) in zip(made.kv, cache, strict=True):
            for head in range(keys.shape[1]):
                distance = (keys[row, head][:, None] - own[0, head]).norm(dim=-1)
                assert float(distance.min(1).values.max()) < 1e-4
    given = lm._inputs(made, [p.question for p in prompts], None)
    ends = [len(p.bos) + len(p.context) + len(p.question) - 1 for p in prompts]
    assert given["position_ids"][:, -1].tolist() == ends


def test_biases_and_values_are_the_least_squares_solutions() -> None:
    g = torch.Generator().manual_seed(0)
    keys, values, queries = (torch.randn(n, 6, generator=g, dtype=torch.float64) for n in (20, 20, 300))
    found = compact(keys, values, queries, 7, 0.4)
    attention = (0.4 * queries @ keys.T).softmax(1)
    assert set(found.kept.tolist()) == set(attention.pow(2).mean(0).argsort(descending=True)[:7].tolist())

    def mass_error(bias: torch.Tensor) -> float:
        return float((attention[:, found.kept] @ bias.exp() - 1).pow(2).sum())

    def output_error(c: torch.Tensor) -> float:
        mixed = (0.4 * queries @ keys[found.kept].T + found.bias).softmax(1)
        return float((mixed @ c - attention @ values).pow(2).sum())

    for _ in range(20):
        assert mass_error(found.bias) <= mass_error(found.bias + 0.05 * torch.randn(7, generator=g)) + 1e-6
        moved = found.values + 0.05 * torch.randn(7, 6, generator=g)
        assert output_error(found.values) <= output_error(moved) + 1e-6
    assert mass_error(found.bias) < 0.2 * mass_error(torch.zeros_like(found.bias))
    assert output_error(found.values) < 0.5 * output_error(values[found.kept])


def test_it_is_closer_to_the_text_than_the_same_keys_alone() -> None:
    """On tiny random models too: matching mass and output beats keeping tokens as they are."""
    lm = tiny_lm()
    prompts = [prompt_of(lm, p, q) for p, q in PROMPTS]
    questions, answers = [p.question for p in prompts], [p.answer for p in prompts]
    text = lm.answer_logprobs(Text().prefix(lm, PASSAGES, ASKED, 1), questions, answers).scores
    made = fitted(lm).prefix(lm, PASSAGES, ASKED, 8)

    def far(prefix: Prefix) -> float:
        scores = lm.answer_logprobs(prefix, questions, answers).scores
        return float((text.exp() * (text - scores)).sum(1).mean())

    assert made.bias is not None
    unbiased = replace(made, bias=[torch.zeros_like(b) for b in made.bias])
    assert far(made) < 0.6 * far(unbiased)


def test_in_a_table_it_counts_positions_and_bytes_and_the_question_is_never_a_reference() -> None:
    lm = tiny_lm()
    baseline = KVCompaction(questions=3)
    train = [replace(p, questions=(replace(p.questions[0], text="who?"),)) for p in PASSAGES]
    evaluator = Evaluator({"t": lm}, PASSAGES, {"kv": baseline, "text": Text()}, 2, budget=lessons(train, 0), n_boot=10)
    found = evaluator.run({}, slots=6).methods["kv"]
    assert found["positions"] == 6
    assert found["bytes"] == 2 * 6 * (2 * 2 * 2 * 8 + 2 * 2)
    assert not found["learned"]
    assert {q.text for q in baseline._asked} == {"who?"}
    with pytest.raises(UserError, match="reference queries"):
        KVCompaction(questions=0, repeat=False)
