"""Codecs: what training sees is what the receiver decodes, to the bit; sizes are exact; damage is an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lw_parts import CODECS, D, latents, make_codec
from torch import nn

from callbacks.errors import UserError
from latentwire.codec.base import Payload, straight_through
from latentwire.codec.bits import pack, packed_bytes, unpack, width_of
from latentwire.codec.fp16 import FP16
from latentwire.codec.fsq import FSQ
from latentwire.codec.integer import Integer, half_up


# -- all codecs -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("slots", [1, 5])
def test_the_receiver_gets_what_training_saw(name: str, slots: int) -> None:
    codec, z = make_codec(name), latents(slots)
    data = codec.encode(z)
    assert len(data) == codec.payload(slots).total
    assert torch.equal(codec.decode(data, slots), codec(z[None]).values[0])


@pytest.mark.parametrize("name", CODECS)
def test_a_payload_is_cut_to_that_of_its_first_slots(name: str) -> None:
    codec, z = make_codec(name), latents(5)
    for kept in range(1, 6):
        assert codec.cut(codec.encode(z), 5, kept) == codec.encode(z[:kept]), kept


@pytest.mark.parametrize("name", CODECS)
def test_a_batch_is_its_rows(name: str) -> None:
    codec, z = make_codec(name), latents(3, 4)
    coded = codec(z)
    for i in range(3):
        alone = codec(z[i : i + 1])
        torch.testing.assert_close(coded.values[i], alone.values[0])
        if coded.codes is not None and alone.codes is not None:
            assert torch.equal(coded.codes[i], alone.codes[0])


@pytest.mark.parametrize("name", ["fp16", "int8", "int6", "int4"])
def test_coding_twice_changes_nothing_on_a_grid(name: str) -> None:
    codec = make_codec(name)
    once = codec(latents(2, 4)).values
    torch.testing.assert_close(codec(once).values, once, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", CODECS)
def test_gradients_reach_the_latents_and_training_works_through_the_codec(name: str) -> None:
    codec = make_codec(name).train()
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
    codec = make_codec(name)
    z = latents(2, 3).bfloat16()
    assert codec(z).values.dtype == torch.float32
    assert torch.equal(codec.decode(codec.encode(z[0]), 3), codec(z[:1]).values[0])


@pytest.mark.parametrize("name", CODECS)
def test_nothing_but_finite_latents_of_the_right_width_is_sent(name: str) -> None:
    codec = make_codec(name)
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
        lambda: FSQ(D, levels=[8, 8], codes=1, project=False),
        lambda: FSQ(D, levels=[256] * 4),
    ],
)
def test_impossible_settings_are_refused(call) -> None:
    with pytest.raises(UserError):
        call()
