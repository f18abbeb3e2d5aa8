"""The renderer: four runs of ids, nothing ever cut."""

from __future__ import annotations

import pytest
from lw_toys import BOS, EOS, byte_tokenizer

from callbacks.errors import UserError
from latentwire.lm import prompts
from latentwire.lm.prompts import chat, plain, render

LONG = "word " * 30


def test_a_prompt_reads_as_documented() -> None:
    style = plain(byte_tokenizer(), 256)
    p = render(style, "  Ann lives in Rome. ", " Where does Ann live? ", " Rome ")
    text = style.tokenizer.decode(list(p.ids))
    assert text == "<bos>Ann lives in Rome.\nQuestion: Where does Ann live?\nAnswer: Rome<eos>"
    assert style.tokenizer.decode(list(p.cue)) == "Answer:"
    assert p.question[-len(p.cue) :] == p.cue
    assert p.bos == (BOS,)
    assert p.answer[-1] == EOS
    assert style.decode(p.answer) == "Rome"


def test_the_parts_do_not_depend_on_each_other() -> None:
    for style in (plain(byte_tokenizer(), 256), chat(byte_tokenizer(chat=True), 256)):
        full = render(style, "context", "question?", "answer")
        assert render(style, None, "question?", "answer").question == full.question
        assert render(style, None, "question?").answer == ()
        assert render(style, None, "question?").context == ()
        assert render(style, "context", "question?").ids + full.answer == full.ids


def test_too_long_is_refused_and_says_what_is_long() -> None:
    style = plain(byte_tokenizer(), 100)
    with pytest.raises(UserError, match="150 of context") as error:
        render(style, LONG, "q?")
    assert "readers=" in error.value.remedy
    with pytest.raises(UserError, match="at most 40 tokens"):
        render(style, "x" * 30, "q?", max_tokens=40)


def test_a_question_is_never_cut() -> None:
    style = plain(byte_tokenizer(), 100)
    with pytest.raises(UserError, match=r"167 of question[\s\S]*nothing is cut off a prompt"):
        render(style, "c", LONG)


def test_a_chat_model_needs_a_template_that_keeps_the_message() -> None:
    with pytest.raises(UserError, match="a tokenizer without a chat template"):
        chat(byte_tokenizer(), 64)
    deaf = byte_tokenizer(chat=True)
    deaf.chat_template = "{{ bos_token }}hello"
    with pytest.raises(UserError, match="appears 0 times"):
        chat(deaf, 64)


def test_a_tokenizer_without_eos_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        plain(tokenizer, 64)


SAID = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
CLOCK = "{{ strftime_now('%d %B %Y, %-d') }}|{% if calm %}calm|{% endif %}" + SAID


def test_a_template_with_a_clock_says_the_same_on_every_day() -> None:
    """Both ways in which templates ask: a function of today's date, and a string that some replace by today."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CLOCK
    style = prompts.chat(tokenizer, 256, {"calm": True}, "2023-02-01")
    assert style.decode(style.head) == "01 February 2023, 1|calm|"
    assert prompts.chat(tokenizer, 256).head != style.head
    tokenizer.chat_template = "\n{{ date_string }}|" + SAID
    head = tokenizer.decode(prompts.chat(tokenizer, 256).head)
    assert head == "\n26 Jul 2024|"


def test_an_argument_that_a_template_does_not_know_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CLOCK
    with pytest.raises(UserError, match=r"calmly, which the chat template does not mention"):
        prompts.chat(tokenizer, 256, {"calmly": True})
    with pytest.raises(UserError, match="a day, as 2024-07-26"):
        prompts.chat(tokenizer, 256, date="today")
