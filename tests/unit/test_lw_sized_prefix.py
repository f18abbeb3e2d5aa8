"""A deep prefix of a length of its own: its positions, literally, and where it starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lw_toys import tiny_lm
from torch import Tensor

from latentwire.adapters.mlp import MLPAdapter
from latentwire.injectors.deep_prefix import DeepPrefix
from latentwire.injectors.sized_prefix import SizedPrefix, overlap
from latentwire.lm.frozen import FrozenLM

TEXTS = ["Ada Stone lives in Oslo.", "Ben works as a baker.", "Plums!"]
D_Z = 6


def sized(lm: FrozenLM, **settings: Any) -> SizedPrefix:
    torch.manual_seed(0)
    return SizedPrefix(D_Z, lm, TEXTS, MLPAdapter, width=16, **settings).eval()


def latents() -> Tensor:
    return torch.randn(3, 4, D_Z, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("slots", "length"), [(4, 6), (4, 3), (5, 1), (3, None)])
def test_positions_literally(slots: int, length: int | None) -> None:
    """Positions as written in the docstring, the share of each slot counted on a fine grid of places in the text."""
    lm = tiny_lm()
    injector = sized(lm, length=length, heads=2)
    for p in injector.parameters():
        torch.nn.init.normal_(p, std=0.3)
    injector.adapter.calibration.measured.fill_(1.0)
    z = torch.randn(2, slots, D_Z)
    h, n = injector.adapter(z), length or slots
    share = torch.zeros(n, slots)
    for place in range(60 * 7):
        at = (place + 0.5) / (60 * 7)
        share[int(at * n), int(at * slots)] += n / (60 * 7)
    torch.testing.assert_close(overlap(n, slots).float(), share, rtol=0, atol=1e-5)
    norm = torch.nn.functional.layer_norm
    place = 0.0 if injector.place is None else injector.place
    b = share @ h + place
    of, w = injector.attention, 8
    q = of.q(norm(b, (16,), injector.norm_positions.weight, injector.norm_positions.bias))
    y = norm(h, (16,), injector.norm_slots.weight, injector.norm_slots.bias)
    k, v, read = of.k(y), of.v(y), torch.zeros_like(b)
    for row in range(2):
        for head in (slice(0, w), slice(w, 16)):
            for j in range(n):
                weights = torch.stack([q[row, j, head] @ k[row, i, head] / w**0.5 for i in range(slots)]).softmax(0)
                read[row, j, head] = sum(weights[i] * v[row, i, head] for i in range(slots))
    x = b + of.out(read)
    inner = injector.mlp[1](norm(x, (16,), injector.mlp[0].weight, injector.mlp[0].bias))
    literal = x + injector.mlp[4](torch.nn.functional.gelu(inner))
    torch.testing.assert_close(injector.hidden(z), literal, rtol=1e-4, atol=1e-4)
    injector.calibrate(z)
    prefix = injector(z)
    assert prefix.latents == n == injector.positions(slots)
    assert torch.equal(injector(z).kv[0][0], prefix.kv[0][0])  # type: ignore[index]
    injector.train()
    assert not torch.equal(injector(z).kv[0][0], prefix.kv[0][0])  # type: ignore[index]  # dropout


def test_a_sized_prefix_of_as_many_positions_starts_as_the_deep_one() -> None:
    """The same weights: the branches start within a few hundredths of nothing."""
    lm = tiny_lm()
    z, one, other = (
        latents(),
        DeepPrefix(D_Z, lm, TEXTS, MLPAdapter, width=16).eval(),
        sized(lm, length=None, dropout=0.0),
    )
    own = {k: v for k, v in one.state_dict().items() if k in other.state_dict()}
    other.load_state_dict(own, strict=False)
    for injector in (one, other):
        injector.calibrate(z, TEXTS)
    found, expected = other.states(z), one.states(z)
    assert (found - expected).pow(2).mean() < 0.01 * expected.pow(2).mean()
    ids, mask = torch.tensor([[7, 8, 9, 10]]), torch.ones(1, 4, dtype=torch.bool)
    longer = sized(lm, length=8)
    pooled = one.text_states(ids, mask, [4])
    torch.testing.assert_close(longer.text_states(ids, mask, [4]), pooled.repeat_interleave(2, 2))
