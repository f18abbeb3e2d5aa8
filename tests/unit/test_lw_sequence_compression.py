"""The study of poolings: codes of every pooling learn, a mean says nothing, and the verdict follows from the rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latentwire import sequence_compression as study
from latentwire.data.biographies import Biographies
from latentwire.examples import context_ids
from latentwire.lm.frozen import FrozenLM
from latentwire.pocket import load
from latentwire.token_code import Texts


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return load("pocket_llama")


@pytest.fixture(scope="module")
def data(lm: FrozenLM) -> Texts:
    return Texts.of(lm, Biographies(people=1, facts_per_person=2, train=400, test=200), 2, 3)


def ids_of(lm: FrozenLM, data: Texts) -> torch.Tensor:
    return torch.tensor([context_ids(lm, p, p.questions[0]) for p in data.train[:4]])


@pytest.mark.parametrize("pooling", study.POOLINGS)
@pytest.mark.parametrize("objective", [study.PLACE, study.MESSAGE])
def test_every_number_of_a_code_learns_and_a_token_depends_on_its_message_alone(
    lm: FrozenLM, data: Texts, pooling: str, objective: str
) -> None:
    torch.manual_seed(0)
    ids = ids_of(lm, data)
    code = study.PooledCode(lm, study.POOLINGS[pooling], objective, ids.shape[1], 1.0)
    z = code.encode(lm.embed(ids).float())
    assert z.shape == (4, round(ids.shape[1] / study.RATIO), study.D_Z)
    y = code(ids)
    assert y.shape == (*ids.shape, lm.d_model)
    y.pow(2).sum().backward()
    still = {n for n, p in code.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert still <= {"pooling.queries"}, "queries beyond the slots rest"
    torch.testing.assert_close(code.eval()(ids[:2]), code(ids)[:2])


def test_training_brings_tokens_closer_and_keeps_the_best(lm: FrozenLM, data: Texts) -> None:
    torch.manual_seed(0)
    ids = ids_of(lm, data)
    scale = float(lm.embed(ids).float().pow(2).mean().sqrt())
    code = study.PooledCode(lm, study.POOLINGS["chunk_mean"], study.PLACE, ids.shape[1], scale)
    told = study.learn(lm, code, data, 40, 2e-3, 0)
    own = lm.embed(ids).float()
    with torch.no_grad():
        cosine = torch.nn.functional.cosine_similarity(code(ids), own, dim=-1).mean()
    assert told["cosine"] > 0.3
    assert cosine > 0.3


def test_means_are_repeated_over_the_text_and_over_chunks(lm: FrozenLM, data: Texts) -> None:
    ids = ids_of(lm, data)[:, :8]
    own = lm.embed(ids).float()
    torch.testing.assert_close(study.repeated(lm, 1, ids), own.mean(1, keepdim=True).expand_as(own))
    torch.testing.assert_close(study.repeated(lm, 8, ids), own)
    found = study.compute(lm, data, (study.WHOLE, study.NONE), 0, 0.0, 0)
    assert max(found["f1"]) < 1 or sum(found["f1"]) < len(found["f1"]) / 2


def outcome(right: float, cosine: float = 0.9) -> dict[str, Any]:
    """A trained row's cell; with another cosine in validation another objective is chosen."""
    told = {"f1": [right] * 4, "nll": [0.5] * 4, "cosine": 0.9, "nearest": 0.8}
    return told | {"val": {"cosine": cosine}, "parameters": 1000, "lr": 0.001}


def test_a_pooling_is_judged_under_the_objective_that_validation_chose() -> None:
    """Test prefers the other one of `pool_expand`, which must not count."""
    place = {"chunk_mean": 0.6, "strided_conv": 0.6, "hierarchical": 0.2, "pool_expand": 0.9}
    found = {(p, study.PLACE): {s: outcome(f) for s in (0, 1)} for p, f in place.items()}
    found |= {("pool_expand", study.MESSAGE): {s: outcome(0.1, 0.95) for s in (0, 1)}}
    found |= {(study.WHOLE, study.NONE): {0: {"f1": [0.0] * 4, "nll": [0.5] * 4, "cosine": 0.9, "nearest": 0.8}}}
    groups = ["a", "a", "b", "b"]
    assert study.chosen(found)["pool_expand"] == ("pool_expand", study.MESSAGE)
    told = study.verdict(found, groups)
    assert "`chunk_mean` by place keeps most answers, F1 60.0 %; not told apart from it: `strided_conv` by pl" in told
    assert "behind it: `hierarchical` by place (20.0 %), `pool_expand` by message (10.0 %)" in told
    assert "Asking by place is better for `pool_expand` (+80.0" in told
    assert "keeps half" not in told
    assert "cosine of 0.90 with them and F1 0.0 %." in told
    few = {key: {s: c | {"f1": [0.1] * 4} for s, c in cells.items()} for key, cells in found.items()}
    assert "In so many steps no pooling keeps half of the answers. `chunk_mean`" in study.verdict(few, groups)
    page = study.page({"tiny": (found, groups)}, 2, 300, [0.001])
    assert "| **hierarchical** | **by place** |" in page
    assert "| pool_expand | by place |" in page
    assert "| the text's mean | nothing is trained |" in page
    assert len(study.KEYS) == 14
