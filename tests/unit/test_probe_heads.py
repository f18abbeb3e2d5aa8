"""The probes' own step, and which samples are held out (specification A4)."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from callbacks.stages.holdout import FeatureBuffer, held_out
from callbacks.stages.probe_heads import ProbeHeads, probe_gradients, probe_logits


def test_a_share_of_the_samples_is_held_out_and_another_seed_holds_out_others():
    index = torch.arange(20_000)
    one, two = held_out(index, 0.25), held_out(index, 0.25, seed=1)
    for mask in (one, two):
        assert mask.float().mean() == pytest.approx(0.25, abs=0.01)
        for step in (2, 3, 6, 10):  # classes that go round in the table
            assert mask[::step].float().mean() == pytest.approx(0.25, abs=0.025)
    assert (one & two).float().mean() == pytest.approx(1 / 16, abs=0.01)
    assert torch.equal(one[5:90], held_out(index[5:90], 0.25))


@pytest.mark.parametrize("hidden", [0, 5], ids=["linear", "mlp"])
def test_the_gradients_of_a_probe_are_those_of_its_loss(hidden):
    generator = torch.Generator().manual_seed(2)
    heads = ProbeHeads(3, hidden, 1e-3, 0)
    heads.build({"a": 4}, torch.device("cpu"))
    f, y = torch.randn(9, 4, generator=generator), torch.randint(3, (9,), generator=generator)
    w = torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 0, 1])
    weights = [x.double().requires_grad_() for x in heads.weights["a"]]
    loss = (w * cross_entropy(probe_logits(weights, f.double()), y, reduction="none")).sum()
    for expected, found in zip(
        torch.autograd.grad(loss, weights), probe_gradients(heads.weights["a"], (f, y, w)), strict=True
    ):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_probes_move_as_under_torch_s_adam():
    """Two modalities of other sizes, ten steps, rows of weight 0 and a batch without a row."""
    generator = torch.Generator().manual_seed(4)
    heads = ProbeHeads(3, 0, 0.01, 1)
    heads.build({"a": 4, "b": 6}, torch.device("cpu"))
    copies = {m: [w.clone().requires_grad_() for w in ws] for m, ws in heads.weights.items()}
    adam = torch.optim.Adam([w for ws in copies.values() for w in ws], lr=0.01)
    for step in range(10):
        n = 0 if step == 6 else 5
        batch = {
            m: (torch.randn(n, d, generator=generator), torch.arange(n) % 3, (torch.arange(n) != 2).float())
            for m, d in (("a", 4), ("b", 6))
        }
        heads.train(batch)
        adam.zero_grad()
        for m, (f, y, w) in batch.items():
            losses = cross_entropy(probe_logits(copies[m], f), y, reduction="none")
            ((losses * w).sum() / max(1.0, float(w.sum()))).backward()
        adam.step()
    for m, ws in copies.items():
        for expected, found in zip(ws, heads.weights[m], strict=True):
            torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [0, 2, 5])
def test_a_buffer_is_restored_as_it_was(length):
    """Rows by batch, with a modality that misses rows; then the oldest goes first, as before."""
    generator = torch.Generator().manual_seed(3)

    def batch(n: int):
        f = torch.randn(n, 2, generator=generator)
        return {"a": (f, torch.arange(n), f[:, 0] > 0), "b": (f[1:], torch.arange(n)[1:], f[1:, 0] > 0)}

    whole = FeatureBuffer(3)
    for n in range(length):
        whole.append(batch(n + 2))
    other = FeatureBuffer.of_state(whole.state(), torch.device("cpu"))
    more = batch(4)
    for buffer in (whole, other):
        buffer.append(more)
    assert len(whole) == len(other) == min(3, length + 1)
    for m in ("a", "b"):
        for expected, found in zip(whole.rows(m), other.rows(m), strict=True):
            assert torch.equal(expected, found)
