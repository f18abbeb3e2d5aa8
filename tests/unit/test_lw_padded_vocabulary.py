"""Rows of a model's vocabulary that belong to no token of its tokenizer, as Qwen 2.5's and Phi-3's last ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lw_toys import byte_tokenizer, tiny_model

from callbacks.errors import UserError
from latentwire.data import stories
from latentwire.lm import vocabulary
from latentwire.lm.decoding import Decoding, dull_tokens
from latentwire.lm.frozen import FrozenLM

TOKENS, ROWS = 262, 290


@pytest.fixture
def lm() -> FrozenLM:
    return FrozenLM(tiny_model("qwen2", vocab=ROWS), byte_tokenizer(), "padded")


def test_an_answer_that_is_to_begin_with_a_word_does_not_begin_with_a_row_that_reads_as_nothing(lm: FrozenLM) -> None:
    dull = dull_tokens(lm.tokenizer, lm.vocab_size, lm.stop_ids)
    assert dull.shape == (ROWS,)
    assert dull[TOKENS:].all()
    assert not dull[sorted(lm.stop_ids)].any()
    scores = torch.full((1, ROWS), -5.0)
    scores[0, TOKENS:] = -1.0
    scores[0, lm.style.encode("a")[0]] = -2.0
    taken = Decoding(ban_punctuation=True).choose(scores, 0, lm.stop_ids, dull, [(1,)])
    assert lm.style.decode(taken.tolist()) == "a"
    assert int(dull_tokens(lm.tokenizer, ROWS, {ROWS - 1})[-1]) == 0, "a stop token ends an answer wherever it stands"


def test_a_teller_that_samples_such_rows_is_told_apart_from_a_crash(
    lm: FrozenLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stories, "BLOCK", 6)
    told = stories.Stories(lm, str(tmp_path), begin=16, rest=8, train=2, val=2, test=2)
    monkeypatch.setattr(told, "_sample", lambda name, number: [[*range(ROWS - 25, ROWS)]] * 6)
    with pytest.raises(UserError, match="0 of 24 stories"):
        told.split("train")


def test_no_vector_is_near_to_such_a_row(lm: FrozenLM) -> None:
    assert vocabulary.size(lm) == TOKENS
    rows = lm.embed(torch.arange(TOKENS, ROWS))
    ids, _ = vocabulary.nearest(rows, vocabulary.rows(lm, "embeddings", at_once=100), 3)
    assert int(ids.max()) < TOKENS
