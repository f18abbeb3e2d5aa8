"""Validation over several ranks: what was asked, sent and answered is in the order of the split again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latentwire.data.base import Question
from latentwire.train import validation
from latentwire.train.validation import QUESTION, TEXT, Scores

PASSAGES = 5
LM = "tiny"


def scores(numbers: list[int]) -> Scores:
    """Return what a rank has of these passages, with two questions about each."""
    found = Scores(f1={LM: []}, outputs={LM: []}, references={LM: []})
    for row, number in enumerate(numbers):
        for which in range(2):
            found.asked.append((row, Question(f"{number}.{which}", "which?", (f"gold {number}.{which}",), "fact")))
            found.places.append((QUESTION, number))
            found.f1[LM].append(number + which / 10)
            found.outputs[LM].append(f"said {number}.{which}")
            found.references[LM].append(f"gold {number}.{which}")
        found.texts.append(f"text {number}")
    found.places += [(TEXT, number) for number in numbers]
    found.latents.append(torch.tensor([[float(number)] for number in numbers]))
    return found


def test_ranks_give_what_one_rank_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = [scores(list(range(rank, PASSAGES, 2))) for rank in range(2)]

    def gather(everyone: list[Any], _mine: Scores) -> None:
        everyone[:] = ranks

    one = scores(list(range(PASSAGES)))
    monkeypatch.setattr(validation, "world_size", lambda: 2)
    monkeypatch.setattr(validation.dist, "all_gather_object", gather)
    found = ranks[0].over_ranks()
    assert found.texts == one.texts
    assert found.asked == one.asked
    assert found.outputs == one.outputs
    assert found.f1 == one.f1
    assert torch.equal(torch.cat(found.latents).flatten(), torch.cat(one.latents).flatten())
