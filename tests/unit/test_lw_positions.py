"""What training will read is measured before it begins."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lw_parts import make_encoder
from lw_toys import tiny_lm

from callbacks.errors import UserError
from latentwire.data.base import Passage, Question
from latentwire.examples import prompt_of
from latentwire.objectives.base import Needs
from latentwire.train.positions import check_training, longest_prompt


def passages(n: int) -> list[Passage]:
    """Of `n` passages, the last but one has the longest text, the last one the longest question."""
    found = []
    for i in range(n):
        text = "Ada lives in Oslo. " * (3 if i == n - 2 else 1)
        asked = [
            Question(f"{i}/{k}", "Where?" + " Say" * (20 * k if i == n - 1 else k), ("Oslo",), "city") for k in (0, 1)
        ]
        found.append(Passage(str(i), text, tuple(asked), str(i), None))
    return found


def test_the_longest_prompt_is_that_of_the_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm(chat=True)
    literal = {q.id: prompt_of(lm, p, q) for p in passages(9) for q in p.questions}
    for at_once in (2, 100):
        monkeypatch.setattr("latentwire.train.positions.AT_ONCE", at_once)
        found = longest_prompt(lm, passages(9))
        assert (found.tokens, found.question) == max((len(p.ids), name) for name, p in literal.items())
        found = longest_prompt(lm, passages(9), 7)
        assert found.tokens == 7 + max(len(p.ids) - len(p.context) for p in literal.values())
        assert found.passage == "8"


def test_a_continuation_counts_its_text_and_its_end() -> None:
    lm = tiny_lm()
    story = Passage("s", "Once upon a time", (Question("s/0", "", (" there was a fox",), "rest"),), "s", None)
    prompt = prompt_of(lm, story, story.questions[0])
    assert longest_prompt(lm, [story]).tokens == len(prompt.ids)
    assert longest_prompt(lm, [story], 2).tokens == len(prompt.ids) - len(prompt.context) + 2


@pytest.mark.parametrize(
    ("positions", "needs", "teaches", "said"),
    [
        (110, Needs(), False, "tokens of latents, question and answer"),
        (120, Needs(), True, "tokens of text, question and answer"),
        (150, Needs(frozenset({"text"}), cue="Repeat the text, all of it, word by word, " * 2), False, "cue and text"),
    ],
)
def test_a_split_that_does_not_fit_is_refused_before_training(
    positions: int, needs: Needs, teaches: bool, said: str
) -> None:
    lm = tiny_lm()
    encoder = make_encoder("token", lm)
    check_training(passages(5), encoder, {"tiny": lm}, {"tiny": 3}, needs, teaches)
    lm.max_tokens = positions
    with pytest.raises(UserError, match=said):
        check_training(passages(5), encoder, {"tiny": lm}, {"tiny": 3}, needs, teaches)


def test_a_text_that_the_encoder_does_not_take_is_found_before_training() -> None:
    lm = tiny_lm()
    encoder = make_encoder("token", lm, max_tokens=60)
    one = passages(1)[0]
    long = replace(one, text="Ada lives in Oslo. " * 4)
    with pytest.raises(UserError, match=r"encoder\.max_tokens=76"):
        check_training([one] * 300 + [long], encoder, {"tiny": lm}, {"tiny": 3}, Needs(), False)
