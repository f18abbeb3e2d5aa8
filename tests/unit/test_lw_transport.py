"""Transport plans: Sinkhorn's algorithm written out, what every slot receives, and mixes of layers token by token."""

from __future__ import annotations

import math

import pytest
import torch
from lw_parts import SHARED, TEXTS, make_encoder
from lw_toys import tiny_lm

from callbacks.errors import UserError
from latentwire.encoders.pooling import ChunkMean
from latentwire.encoders.transport import TransportPlan, plan


def literal_sinkhorn(scores: list[list[float]], mass: list[float], steps: int) -> list[list[float]]:
    """Scale exp(scores) row by row to the mass of tokens, then column by column to equal slots, and again."""
    p = [[math.exp(s) for s in row] for row in scores]
    slots = len(p[0])
    for _ in range(steps):
        for t, row in enumerate(p):
            total = sum(row)
            p[t] = [x * mass[t] / total for x in row]
        for j in range(slots):
            total = sum(row[j] for row in p)
            for row in p:
                row[j] *= 1 / (slots * total)
    return p


@pytest.mark.parametrize(("tokens", "slots", "steps"), [(7, 3, 1), (7, 3, 12), (2, 5, 4), (1, 1, 1)])
def test_a_plan_is_sinkhorn_s_algorithm(tokens: int, slots: int, steps: int) -> None:
    g = torch.Generator().manual_seed(3)
    scores = 2 * torch.randn(2, tokens, slots, generator=g, dtype=torch.float64)
    mass = torch.randn(2, tokens, generator=g, dtype=torch.float64).log_softmax(1)
    found = plan(scores, mass, steps)
    for b in range(2):
        expected = literal_sinkhorn(scores[b].tolist(), mass[b].exp().tolist(), steps)
        torch.testing.assert_close(found[b], torch.tensor(expected, dtype=torch.float64))


def test_no_other_plan_is_better() -> None:
    """The optimum of a concave objective: along every cycle that keeps all sums its derivative is 0."""
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 5, 3, generator=g, dtype=torch.float64)
    mass = torch.randn(1, 5, generator=g, dtype=torch.float64).log_softmax(1)
    p = plan(scores, mass, 300)[0]
    torch.testing.assert_close(p.sum(1), mass[0].exp())
    torch.testing.assert_close(p.sum(0), torch.full((3,), 1 / 3, dtype=torch.float64))
    gradient = scores[0] - p.log() - 1
    for t in range(4):
        for j in range(2):
            assert abs(gradient[t, j] - gradient[t, j + 1] - gradient[t + 1, j] + gradient[t + 1, j + 1]) < 1e-8


def test_slots_share_the_text_and_padding_has_nothing_to_give() -> None:
    torch.manual_seed(0)
    pooling = TransportPlan(8, steps=200).double()
    for p in pooling.parameters():
        torch.nn.init.normal_(p, std=0.5)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    (p,) = pooling.plans(x.masked_fill(~mask[..., None], 0.0), mask, mask.sum(1), [4])
    torch.testing.assert_close(p.sum(1), torch.full((2, 4), 0.25, dtype=torch.float64))
    assert bool((p[1, 6:] == 0).all())
    torch.testing.assert_close(pooling(x, mask, [4]), 4 * p.mT @ x.masked_fill(~mask[..., None], 0.0))


def test_a_fresh_plan_is_nearly_that_of_chunks_and_a_sharp_one_is() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(1, 12, 8), torch.ones(1, 12, dtype=torch.bool)
    chunks = ChunkMean(8)(x, mask, [3])
    fresh, sharp = TransportPlan(8), TransportPlan(8, epsilon=0.01, steps=50)
    torch.testing.assert_close(sharp(x, mask, [3]), chunks, atol=0.05, rtol=0.05)
    (p,) = fresh.plans(x, mask, mask.sum(1), [3])
    own = sum(float(p[0, 4 * j : 4 * j + 4, j].sum()) for j in range(3))
    assert own > 0.6, "most of what a slot receives is of its chunk"
    with pytest.raises(UserError, match=r"max_slots=65"):
        fresh(x, mask, [65])


def test_every_token_has_a_mix_of_layers_of_its_own() -> None:
    """Literally, state by state; with gates of 0 the mix is that of `lm_hidden`."""
    lm = tiny_lm()
    encoder, plain = make_encoder("comprexit", lm), make_encoder("lm_hidden", lm)
    states = encoder._states(encoder.tokenize(TEXTS[:2]))
    with torch.no_grad():
        for each in (encoder, plain):
            each.mix.copy_(torch.tensor([0.3, -0.5, 0.1]))
    torch.testing.assert_close(encoder.blended(states.clone()), plain.blended(states.clone()))
    torch.nn.init.normal_(encoder.gates)
    found = encoder.blended(states.clone())
    s = (states - encoder.mean[:, None, None]) / encoder.std[:, None, None]
    for b, t in ((0, 0), (0, 5), (1, 2)):
        scores = [
            float(encoder.mix[n] + encoder.gates[n] @ s[n, b, t] / encoder.gates.shape[1] ** 0.5) for n in range(3)
        ]
        total = sum(math.exp(x) for x in scores)
        expected = sum(math.exp(x) / total * s[n, b, t] for n, x in enumerate(scores))
        torch.testing.assert_close(found[b, t], expected)
    assert encoder.encode(TEXTS, SHARED).shape[1] == 4
