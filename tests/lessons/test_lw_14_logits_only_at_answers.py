"""Logits are only ever computed at answer positions (specification B2.14).

Those of whole sequences are gigabytes in the memory of a teacher.
"""

from __future__ import annotations

import pytest
import torch
from lw_toys import EOS, FAMILIES, Family, tiny_lm
from torch import Tensor

from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix

ANSWERS = [[70, EOS], [80, 81, 82, EOS]]


def projected(lm: FrozenLM) -> list[Tensor]:
    """Collects what enters the output projection."""
    seen: list[Tensor] = []
    lm.model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    return seen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["text", "embeds", "kv"])
def test_the_output_projection_sees_answer_positions_only(family: Family, kind: str) -> None:
    lm = tiny_lm(family)
    seen = projected(lm)
    prefix = {
        "text": Prefix(text_ids=[[40] * 90, [41] * 60]),
        "embeds": Prefix(embeds=torch.zeros(2, 90, 32)),
        "kv": Prefix(kv=[(torch.zeros(2, 2, 90, 8),) * 2] * 2),
    }[kind]
    with lm.adapters_off():  # the teacher's path
        found = lm.answer_logprobs(prefix, [[50] * 30, [51] * 20], ANSWERS)
    assert [s.shape for s in seen] == [(2, 4, 32)], "batch x longest answer, however long the context"
    assert found.scores.shape == (6, lm.vocab_size), "no padding becomes fp32"


def test_generation_projects_one_position_per_step_and_states_none() -> None:
    lm = tiny_lm()
    seen = projected(lm)
    lm.stop_ids = set()
    lm.generate(Prefix(text_ids=[[40] * 90, [41] * 60]), [[50], [51]], 3)
    lm.hidden(torch.full((2, 90), 40), torch.ones(2, 90), (1, 2))
    assert [s.shape for s in seen] == [(2, 1, 32)] * 3
