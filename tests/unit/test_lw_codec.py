"""Codecs: what training sees is what the receiver decodes, to the bit; sizes are exact; damage is an error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from latentwire.codec.base import Codec, Payload, straight_through, usage
from latentwire.codec.bits import pack, packed_bytes, unpack, width_of
from latentwire.codec.fp16 import FP16
from latentwire.codec.fsq import FSQ
from latentwire.codec.integer import Integer, half_up
from latentwire.codec.rvq import EPS, RVQ

D = 12
CODECS = ("fp16", "int8", "int6", "int4", "fsq", "fsq_bare", "fsq_spare", "rvq")


def make(name: str) -> Codec:
    torch.manual_seed(0)
    codec: Codec
    if name == "fp16":
        codec = FP16(D)
    elif name == "fsq":
        codec = FSQ(D, levels=[7, 5, 4], codes=3)
    elif name == "fsq_bare":
        codec = FSQ(D, levels=[8, 2, 3], codes=4, project=False)
    elif name == "fsq_spare":
        codec = FSQ(D, levels=[4], codes=5, spare=3)
    elif name == "rvq":
        codec = RVQ(D, stages=3, size=11)
        codec.train()
        for _ in range(5):
            codec(torch.randn(4, 6, D))
    else:
        codec = Integer(D, bits=int(name[3:]), group=4)
    return codec.eval()


def latents(*shape: int, seed: int = 1) -> Tensor:
    """Rows of very different size, one of zeros."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(*shape, D, generator=g) * torch.logspace(-3, 2, shape[-1]).unsqueeze(1)
    z[..., -1, :] = 0
    return z


# -- all codecs -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("slots", [1, 5])
def test_the_receiver_gets_what_training_saw(name: str, slots: int) -> None:
    codec, z = make(name), latents(slots)
    data = codec.encode(z)
    assert len(data) == codec.payload(slots).total
    assert torch.equal(codec.decode(data, slots), codec(z[None]).values[0])


@pytest.mark.parametrize("name", CODECS)
def test_a_batch_is_its_rows(name: str) -> None:
    codec, z = make(name), latents(3, 4)
    coded = codec(z)
    for i in range(3):
        alone = codec(z[i : i + 1])
        torch.testing.assert_close(coded.values[i], alone.values[0])
        if coded.codes is not None and alone.codes is not None:
            assert torch.equal(coded.codes[i], alone.codes[0])


@pytest.mark.parametrize("name", ["fp16", "int8", "int6", "int4"])
def test_coding_twice_changes_nothing_on_a_grid(name: str) -> None:
    codec = make(name)
    once = codec(latents(2, 4)).values
    torch.testing.assert_close(codec(once).values, once, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", CODECS)
def test_gradients_reach_the_latents_and_training_works_through_the_codec(name: str) -> None:
    codec = make(name).train()
    torch.manual_seed(3)
    x, wanted = torch.randn(16, 4, D), torch.randn(16, 4, D)
    encoder, decoder = nn.Linear(D, D), nn.Linear(D, D)
    wanted = decoder(torch.tanh(encoder(x))).detach() + 0.1 * wanted
    encoder, decoder = nn.Linear(D, D), nn.Linear(D, D)
    modules = nn.ModuleList([encoder, decoder, codec])
    optimizer = torch.optim.Adam(modules.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        coded = codec(encoder(x))
        loss = (decoder(coded.values) - wanted).pow(2).mean() + coded.loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in modules.parameters())
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("name", CODECS)
def test_half_precision_input_is_coded_in_single(name: str) -> None:
    codec = make(name)
    z = latents(2, 3).bfloat16()
    assert codec(z).values.dtype == torch.float32
    assert torch.equal(codec.decode(codec.encode(z[0]), 3), codec(z[:1]).values[0])


@pytest.mark.parametrize("name", CODECS)
def test_nothing_but_finite_latents_of_the_right_width_is_sent(name: str) -> None:
    codec = make(name)
    for bad in (float("nan"), float("inf")):
        z = latents(3)
        z[1, 2] = bad
        with pytest.raises(UserError, match="NaN or infinite"):
            codec.encode(z)
    with pytest.raises(UserError, match="shape"):
        codec.encode(torch.zeros(3, D + 1))
    with pytest.raises(UserError, match="bytes"):
        codec.decode(codec.encode(latents(3)) + b"\0", 3)


def test_straight_through_is_exact_forward_and_identity_backward() -> None:
    z = torch.tensor([1e8, 1e-8], requires_grad=True)
    q = torch.tensor([1.0, 3.0])
    out = straight_through(z, q)
    assert torch.equal(out.detach(), q)  # z + (q - z) would give 0 for the first
    out.backward(torch.tensor([2.0, 5.0]))
    assert z.grad is not None
    assert z.grad.tolist() == [2.0, 5.0]


def test_usage_is_the_entropy_of_the_codes() -> None:
    codes = torch.stack([torch.arange(16) % 4, torch.zeros(16, dtype=torch.long)], 1).view(2, 8, 2)
    found = usage(codes, 4)
    assert found.bits == pytest.approx((2 + 0) / 2)
    assert (found.nominal, found.used) == (2, pytest.approx((1 + 0.25) / 2))


# -- bits -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [1, 3, 4, 6, 8, 13, 31])
def test_packing_is_the_written_out_bit_string(width: int) -> None:
    codes = np.random.default_rng(width).integers(0, 2**width, 7)
    text = "".join(format(int(c), f"0{width}b") for c in codes)
    text += "0" * (-len(text) % 8)
    expected = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    data = pack(codes, width)
    assert data == expected
    assert len(data) == packed_bytes(7, width)
    assert unpack(data, width, 7).tolist() == codes.tolist()


def test_filling_bits_must_be_zero() -> None:
    data = pack(np.array([1, 2, 3]), 3)
    with pytest.raises(UserError, match="filling"):
        unpack(data[:-1] + bytes([data[-1] | 1]), 3, 3)


def test_width_of_an_alphabet() -> None:
    assert [width_of(n) for n in (1, 2, 3, 4, 5, 256, 257)] == [1, 1, 2, 2, 3, 8, 9]


# -- fp16 and integers ------------------------------------------------------------------------------------------------
def test_fp16_error_and_saturation() -> None:
    z = torch.randn(1, 50, D) * torch.logspace(-6, 4, 50).unsqueeze(1)
    error = (FP16(D)(z).values - z).abs()
    assert bool((error <= torch.maximum(z.abs() * 2**-11, torch.tensor(2.0**-25))).all())
    assert FP16(D)(torch.full((1, 1, D), -1e9)).values.unique().tolist() == [-65504.0]


def literal_integer(row: list[float], bits: int, group: int) -> tuple[list[float], list[float]]:
    """The docstring of `Integer`, number by number: values and scales of one slot."""
    n = 2 ** (bits - 1) - 1
    values, scales = [], []
    for start in range(0, len(row), group):
        part = row[start : start + group]
        exact = np.float32(max(abs(np.float32(x)) for x in part)) / np.float32(n)
        s = np.float16(exact)
        if np.float32(s) < exact:
            s = np.nextafter(s, np.float16(np.inf))
        scales.append(float(s))
        for x in part:
            q = 0.0 if s == 0 else np.round(np.float32(x) / np.float32(s))  # half to even, as torch
            values.append(float(np.float32(q) * np.float32(s)))
    return values, scales


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("group", [1, 4, D])
def test_integers_are_the_literal_transcription_within_half_a_step(bits: int, group: int) -> None:
    codec, z = Integer(D, bits=bits, group=group), latents(1, 6)
    values = codec(z).values[0]
    for row, got in zip(z[0], values, strict=True):
        expected, scales = literal_integer(row.tolist(), bits, group)
        assert got.tolist() == expected
        step = torch.tensor(scales).repeat_interleave(group)
        assert bool(((got - row).abs() <= step / 2 * (1 + 1e-6)).all())


@pytest.mark.parametrize(("bits", "codes"), [(8, 60), (6, 45), (4, 30)])
def test_integer_sizes_count_codes_and_scales(bits: int, codes: int) -> None:
    assert Integer(D, bits=bits, group=4).payload(5) == Payload(codes=codes, scales=30)


def test_scales_are_rounded_up() -> None:
    x = torch.cat([torch.rand(1000), torch.logspace(-9, 6, 200), torch.zeros(1)])
    up = half_up(x)
    assert bool((up >= x.clamp(max=65504)).all())
    assert bool((up <= x * (1 + 2**-10) + 2**-24).all())
    assert torch.equal(up, up.half().float())


def test_impossible_integers_are_refused() -> None:
    codec = Integer(4, bits=4, group=4)
    scale = np.array([1.0], dtype="<f2").tobytes()
    with pytest.raises(UserError, match="code 15"):
        codec.decode(scale + b"\xff\x77", 1)
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="scale"):
            codec.decode(np.array([wrong], dtype="<f2").tobytes() + b"\x77\x77", 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Integer(D, group=5),
        lambda: Integer(D, bits=5),
        lambda: FSQ(D, levels=[1]),
        lambda: FSQ(D, levels=[]),
        lambda: FSQ(D, levels=[8, 8], codes=1, project=False),
        lambda: FSQ(D, levels=[256] * 4),
        lambda: RVQ(D, size=1),
        lambda: RVQ(D, decay=1.0),
    ],
)
def test_impossible_settings_are_refused(call) -> None:
    with pytest.raises(UserError):
        call()


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
        with pytest.raises(UserError, match="stage codes"):
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
    codec, other = make("rvq"), RVQ(D, stages=3, size=11).eval()
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
    codec = make("rvq")  # 11 entries in 4 bits
    with pytest.raises(UserError, match="code 15"):
        codec.decode(b"\xff\xf0", 1)
