"""An NLL has bounds that a right metric cannot leave (specification B2.15).

The NLL of text was logged above ln(vocabulary): the metric was misaligned.
"""

from __future__ import annotations

import math

import pytest
import torch
from lw_toys import BOS, EOS, byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from callbacks.errors import UserError
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.sanity import check_bounds

VOCAB, LOGIT = 264, 5.0
QUESTIONS = [[10], [20, 30], [9, 8, 40]]
ANSWERS = [[11, 12], [31, 32, 33], [41]]


def successor(logit: float = LOGIT) -> FrozenLM:
    """After token i it gives i + 1 the logit `logit` and everything else 0: every NLL is known in closed form."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=VOCAB,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(VOCAB))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        # a normalised one-hot vector is sqrt(width) high
        model.lm_head.weight.copy_(torch.eye(VOCAB).roll(1, 0) * logit / math.sqrt(VOCAB))
    return FrozenLM(model, byte_tokenizer(), "successor")


def test_the_bounds_hold_and_are_exact() -> None:
    found = check_bounds(successor(), Prefix(), QUESTIONS, ANSWERS)
    right = math.log(1 + (VOCAB - 1) * math.exp(-LOGIT))
    assert found.nll == pytest.approx(right, abs=1e-3)
    assert found.uniform == pytest.approx(math.log(VOCAB))
    # only the first token of a foreign answer is a surprise
    assert found.shuffled == pytest.approx(right + LOGIT * (1 / 3 + 1 + 1 / 2) / 3, abs=1e-3)
    assert right < found.uniform < right + LOGIT


def test_a_metric_shifted_by_one_position_is_caught() -> None:
    lm = successor()
    lm.model.model.norm.register_forward_hook(lambda _, args, out: out.roll(1, 1))
    with pytest.raises(UserError, match="check that labels are not shifted"):
        check_bounds(lm, Prefix(), QUESTIONS, ANSWERS)


def test_a_model_that_does_not_read_the_prompt_is_caught() -> None:
    with pytest.raises(UserError, match=r"less than ln\(264\)"):
        check_bounds(successor(logit=0.0), Prefix(), QUESTIONS, ANSWERS)


def test_answers_that_are_all_the_same_bound_nothing() -> None:
    with pytest.raises(ValueError, match="different answers"):
        check_bounds(successor(), Prefix(), QUESTIONS, [[11], [11], [11]])
