"""Padding is what lies behind a length, never what has an id (specification B2.4).

With PAD in labels and PAD positions in attention, left padding made the loss learn PAD→EOS; with pad = eos, stopping
was never learned.
"""

from __future__ import annotations

import pytest
import torch
from lw_toys import EOS, FAMILIES, PAD, Family, byte_tokenizer, tiny_model

from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix

QUESTIONS = [[40, 41, 42], [50], [60, 61]]
ANSWERS = [[70, EOS], [80, 81, 82, 83, EOS], [PAD, EOS, EOS]]


@pytest.fixture(params=FAMILIES)
def lm(request: pytest.FixtureRequest) -> FrozenLM:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    family: Family = request.param
    return FrozenLM(tiny_model(family), tokenizer, "pad_is_eos")


def test_each_answer_token_counts_once_and_no_padding_does(lm: FrozenLM) -> None:
    found = lm.answer_logprobs(Prefix(), QUESTIONS, ANSWERS)
    assert found.tokens.tolist() == [t for a in ANSWERS for t in a]
    assert found.row.tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert found.position.tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 1, 2]


def test_the_loss_of_an_example_does_not_know_its_neighbours(lm: FrozenLM) -> None:
    batch = lm.answer_logprobs(Prefix(), QUESTIONS, ANSWERS).nll()
    for i in range(3):
        alone = lm.answer_logprobs(Prefix(), QUESTIONS[i : i + 1], ANSWERS[i : i + 1]).nll()
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=1e-5)


def test_stopping_is_learned(lm: FrozenLM) -> None:
    """A few steps on one soft prefix teach the model to stop after the answer, though EOS is also the padding."""
    latents = torch.randn(3, 8, lm.d_model, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    optimizer = torch.optim.Adam([latents], lr=0.1)
    answers = [[70, EOS], [80, 81, EOS], [90, EOS]]
    for _ in range(60):
        loss = lm.answer_logprobs(Prefix(embeds=latents), QUESTIONS, answers).nll().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert lm.generate(Prefix(embeds=latents.detach()), QUESTIONS, 6) == [a[:-1] for a in answers]
