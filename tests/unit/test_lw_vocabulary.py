"""The tokens that latents are nearest to: exact over a vocabulary in parts, whatever the size of a part."""

from __future__ import annotations

import pytest
import torch
from lw_toys import FAMILIES, Family, tiny_lm
from torch import Tensor

from latentwire.lm import vocabulary
from latentwire.lm.layout import Prefix
from latentwire.monitors.latents import decode

G = torch.Generator


def literal(vectors: Tensor, table: Tensor, k: int) -> list[list[tuple[int, float]]]:
    """Every cosine with every row, one by one, sorted."""
    found = []
    for v in vectors:
        cosines = [float(v @ row / (v.norm() * row.norm()).clamp(min=1e-12)) for row in table]
        best = sorted(range(len(table)), key=lambda i: -cosines[i])[:k]
        found.append([(i, cosines[i]) for i in best])
    return found


@pytest.mark.parametrize("at_once", [1, 7, 64, 1000])
def test_the_nearest_rows_are_those_of_all_cosines(at_once: int) -> None:
    vectors, table = torch.randn(5, 6, generator=G().manual_seed(0)), torch.randn(50, 6, generator=G().manual_seed(1))
    table[17] = 0  # a row without a direction
    ids, cosines = vocabulary.nearest(vectors, iter(table.split(at_once)), 4)
    expected = literal(vectors, table, 4)
    assert ids.tolist() == [[i for i, _ in row] for row in expected]
    assert torch.allclose(cosines, torch.tensor([[c for _, c in row] for row in expected]), atol=1e-6)


def test_there_are_no_more_neighbours_than_rows() -> None:
    ids, _ = vocabulary.nearest(torch.ones(1, 3), iter(torch.eye(3).split(2)), 9)
    assert sorted(ids[0].tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="without rows"):
        vocabulary.nearest(torch.ones(1, 3), iter(()), 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_planted_embeddings_decode_to_their_own_tokens(family: Family) -> None:
    lm = tiny_lm(family)
    planted = torch.tensor([[40, 90], [90, 200]])
    found = decode(lm, Prefix(embeds=3.0 * lm.embed(planted)), 2)
    assert found["space"] == "embeddings"
    for row, message in zip(planted.tolist(), found["nearest"], strict=True):
        assert [slot[0] for slot in message] == [(vocabulary.piece(lm, token), 1.0) for token in row]


@pytest.mark.parametrize("family", FAMILIES)
def test_planted_values_decode_to_their_own_tokens_and_are_the_models_own(family: Family) -> None:
    lm = tiny_lm(family)
    planted = [40, 90, 200]
    own = [lm.keys_and_values([token])[0][1].flatten() for token in planted]  # first layer, one token at position 0
    assert torch.allclose(vocabulary.first_values(lm, torch.tensor(planted)), torch.stack(own), atol=1e-6)
    heads, width = lm.kv_shape
    values = torch.stack(own).view(1, 3, heads, width).transpose(1, 2)
    kv = [(torch.randn_like(values), values), (torch.randn_like(values), torch.randn_like(values))]
    found = decode(lm, Prefix(kv=kv), 1)
    assert found["space"] == "values"
    assert [slot[0] for slot in found["nearest"][0]] == [(vocabulary.piece(lm, token), 1.0) for token in planted]


def test_memory_does_not_grow_with_the_vocabulary() -> None:
    lm = tiny_lm()
    parts = list(vocabulary.rows(lm, "embeddings", at_once=100))
    assert [len(part) for part in parts] == [100, 100, 62]
    assert torch.equal(torch.cat(parts), lm.model.get_input_embeddings().weight)


def test_a_token_that_cannot_be_printed_reads_as_the_tokenizer_writes_it() -> None:
    lm = tiny_lm()
    written = {lm.tokenizer.convert_ids_to_tokens(i): i for i in range(len(lm.tokenizer))}
    assert vocabulary.piece(lm, written["a"]) == "a"
    assert vocabulary.piece(lm, written["Ġ"]) == "Ġ"  # a space
    assert vocabulary.piece(lm, written["<eos>"]) == "<eos>"
