"""FSQ and RVQ: the papers' formulas, where they start from, what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lw_parts import D, latents, make_codec
from torch import Tensor

from callbacks.errors import UserError
from latentwire.codec.base import Payload
from latentwire.codec.fp16 import FP16
from latentwire.codec.fsq import FSQ
from latentwire.codec.rvq import EPS, RVQ


# -- FSQ --------------------------------------------------------------------------------------------------------------
def literal_fsq(x: list[float], levels: list[int], eps: float = 1e-3) -> tuple[list[float], int]:
    """Mentzer et al., appendix A.1, for one code, with atanh and (1 + eps) as the docstring says."""
    values, index, basis = [], 0, 1
    for v, level in zip(x, levels, strict=True):
        half_l = (level - 1) * (1 + eps) / 2
        offset = 0.5 if level % 2 == 0 else 0.0
        bounded = math.tanh(v + math.atanh(offset / half_l)) * half_l - offset
        rounded = round(bounded)
        half_width = level // 2
        values.append(rounded / half_width)
        index += (rounded + half_width) * basis
        basis *= level
    return values, index


def test_fsq_is_the_literal_transcription() -> None:
    torch.manual_seed(1)  # float32 rounds values within 1e-5 of a border otherwise; here are none
    levels = [8, 2, 3]
    codec, z = FSQ(D, levels=levels, codes=4, project=False), torch.randn(1, 40, D) * 2
    coded = codec(z)
    assert coded.codes is not None
    for row, got, codes in zip(z[0], coded.values[0], coded.codes[0], strict=True):
        for c in range(4):
            values, index = literal_fsq(row[3 * c : 3 * c + 3].tolist(), levels)
            assert got[3 * c : 3 * c + 3].tolist() == pytest.approx(values)
            assert int(codes[c]) == index


@pytest.mark.parametrize("level", [2, 3, 4, 5, 8, 15, 16, 256])
def test_fsq_uses_exactly_its_levels_and_maps_zero_to_zero(level: int) -> None:
    codec = FSQ(1, levels=[level], project=False)
    z = torch.cat([torch.linspace(-12, 12, 20001), torch.tensor([-1e4, 1e4])]).view(1, -1, 1)
    codes = codec(z).codes
    assert codes is not None
    assert codes.unique().tolist() == list(range(level))
    assert float(codec(torch.zeros(1, 1, 1)).values) == 0.0


def test_fsq_gradient_is_that_of_the_bound() -> None:
    codec = FSQ(1, levels=[5], project=False)
    x = torch.tensor([[[0.3]]], requires_grad=True)
    codec(x).values.backward()
    half_l = 4 * 1.001 / 2
    assert x.grad is not None
    assert float(x.grad) == pytest.approx(half_l * (1 - math.tanh(0.3) ** 2) / 2)


def test_fsq_sizes_and_impossible_codes() -> None:
    codec = FSQ(D, levels=[7, 5, 4], codes=3)  # 140 codes in 8 bits
    assert codec.payload(5) == Payload(codes=15)
    with pytest.raises(UserError, match="code 140"):
        codec.decode(bytes([140]) + bytes(14), 5)


def test_fsq_starts_from_the_principal_components_of_the_latents() -> None:
    """Two directions carry everything: two fine codes keep it, where a random start does not."""
    torch.manual_seed(0)
    z = torch.randn(40, 6, 2) @ torch.randn(2, D) + 3
    lost = {}
    for calibrated in (True, False):
        codec = FSQ(D, levels=[255], codes=2)
        if calibrated:
            codec.calibrate(z)
        lost[calibrated] = float((codec(z).values - z).pow(2).mean() / (z - z.mean((0, 1))).pow(2).mean())
    assert lost[True] < 0.2 < 0.5 < lost[False]  # the bound takes its part of the tails


def test_spare_codes_are_taken_in_training_and_never_sent() -> None:
    torch.manual_seed(0)
    codec, z = FSQ(D, levels=[4], codes=5, spare=3), torch.randn(2, 6, D)
    assert codec.payload(6) == FSQ(D, levels=[4], codes=5).payload(6)
    codec.take(8)
    codec.calibrate(z)
    more, sent = codec.train()(z), codec.eval()(z)
    assert more.codes is not None
    assert sent.codes is not None
    assert (more.codes.shape[-1], sent.codes.shape[-1]) == (8, 5)
    assert torch.equal(more.codes[..., :5], sent.codes)
    assert not torch.equal(more.values, sent.values)
    codec.take(None)
    assert torch.equal(codec.train()(z).values, sent.values)
    for wrong in (4, 9):
        with pytest.raises(UserError, match=r"stages\.<n>\.codes"):
            codec.take(wrong)
    with pytest.raises(UserError, match="with codec FP16"):
        FP16(D).take(3)


# -- RVQ --------------------------------------------------------------------------------------------------------------
def test_rvq_is_the_literal_transcription() -> None:
    torch.manual_seed(5)
    codec = RVQ(3, stages=2, size=4, decay=0.9, commitment=0.5, dead=0.0).train()
    codec(torch.randn(2, 8, 3))  # fills the codebooks
    for _ in range(3):
        z = torch.randn(2, 8, 3)
        books, counts, sums = (t.double().numpy().copy() for t in (codec.codebooks, codec.counts, codec.sums))
        coded = codec(z)
        assert coded.codes is not None
        residual = z.view(-1, 3).double().numpy()
        total, loss = np.zeros_like(residual), 0.0
        for q in range(2):
            index = [int(((r - books[q]) ** 2).sum(1).argmin()) for r in residual]
            assert coded.codes.view(-1, 2)[:, q].tolist() == index
            for entry in range(4):
                mine = [residual[i] for i in range(len(index)) if index[i] == entry]
                counts[q, entry] = 0.9 * counts[q, entry] + 0.1 * len(mine)
                sums[q, entry] = 0.9 * sums[q, entry] + 0.1 * np.sum(mine, 0)
            chosen = books[q][index]
            loss += ((residual - chosen) ** 2).mean() / 2
            total, residual = total + chosen, residual - chosen
            n = counts[q].sum()
            smoothed = (counts[q] + EPS) / (n + 4 * EPS) * n
            np.testing.assert_allclose(codec.codebooks[q], sums[q] / smoothed[:, None], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(coded.values.view(-1, 3), total, rtol=1e-4, atol=1e-5)
        assert float(coded.loss) == pytest.approx(0.5 * loss, rel=1e-4)


def test_rvq_follows_the_data_and_stages_refine() -> None:
    torch.manual_seed(6)
    centres = 4 * torch.randn(6, 5)
    codec = RVQ(5, stages=3, size=8, decay=0.8).train()

    def batch() -> Tensor:
        return (centres[torch.randint(6, (16, 8))] + 0.1 * torch.randn(16, 8, 5)).detach()

    first = float((codec(z := batch()).values - z).pow(2).mean())
    for _ in range(60):
        codec(batch())
    z = batch()
    last = float((codec.eval()(z).values - z).pow(2).mean())
    assert last < 0.02
    assert last < first
    with torch.no_grad():
        one = codec.codebooks[0][codec.nearest(0, z.view(-1, 5))]
    assert float((one - z.view(-1, 5)).pow(2).mean()) > last


def test_rvq_begins_at_the_k_means_of_the_latents() -> None:
    torch.manual_seed(8)
    z = torch.randn(6, 10, 4)
    codec, chance = RVQ(4, stages=2, size=5).train(), RVQ(4, stages=2, size=5).train()
    codec.calibrate(z)
    chance(z)
    residual = z.view(-1, 4)
    for stage in range(2):  # every entry is the mean of what it stands for
        index = codec.nearest(stage, residual)
        for entry in range(5):
            torch.testing.assert_close(codec.codebooks[stage, entry], residual[index == entry].mean(0))
        residual = residual - codec.codebooks[stage][index]
    assert float(residual.pow(2).mean()) < 0.9 * float((chance.eval()(z).values - z).pow(2).mean())


def test_rvq_revives_entries_that_nobody_uses() -> None:
    torch.manual_seed(7)
    codec = RVQ(2, stages=1, size=4, decay=0.5, dead=0.05).train()
    codec(torch.zeros(1, 8, 2) + 100)  # all entries sit far away
    for _ in range(30):
        codec(torch.randn(1, 64, 2))
    assert codec.counts.min() > 0.05
    codes = codec.eval()(torch.randn(1, 200, 2)).codes
    assert codes is not None
    assert len(codes.unique()) == 4


def test_rvq_state_is_saved_and_evaluation_moves_nothing() -> None:
    codec, other = make_codec("rvq"), RVQ(D, stages=3, size=11).eval()
    with pytest.raises(UserError, match="no batch has filled"):
        other(latents(1, 2))
    with pytest.raises(UserError, match="no batch has filled"):
        other.encode(latents(2))
    other.load_state_dict(codec.state_dict())
    before = {k: v.clone() for k, v in other.state_dict().items()}
    assert other.encode(latents(4)) == codec.encode(latents(4))
    other(latents(2, 4))
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    assert [n for n, _ in other.named_parameters()] == []


def test_rvq_refuses_impossible_codes() -> None:
    codec = make_codec("rvq")  # 11 entries in 4 bits
    with pytest.raises(UserError, match="code 15"):
        codec.decode(b"\xff\xf0", 1)
