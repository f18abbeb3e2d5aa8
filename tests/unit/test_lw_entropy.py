"""Entropy-coded messages: shorter where usage is uneven, the same values to the bit, never accepted damaged."""

from __future__ import annotations

import math

import pytest
import torch
from lw_parts import D
from torch import Tensor

from callbacks.errors import UserError
from latentwire.codec import message
from latentwire.codec.base import Codec
from latentwire.codec.fp16 import FP16
from latentwire.codec.fsq import FSQ
from latentwire.codec.rvq import RVQ

SLOTS = 9
CODECS = {
    "rvq": lambda entropy: RVQ(D, stages=2, size=64, entropy=entropy, dead=0.0),
    "fsq": lambda entropy: FSQ(D, levels=[8, 6, 5], codes=2, entropy=entropy),
    "fsq_spare": lambda entropy: FSQ(D, levels=[4, 4], codes=3, spare=2, entropy=entropy),
}


def draw(batch: int, seed: int) -> Tensor:
    """Latents of a few kinds, one far more frequent than the others."""
    g = torch.Generator().manual_seed(seed)
    kinds = 3 * torch.randn(6, D, generator=torch.Generator().manual_seed(9))
    odds = torch.tensor([0.7, 0.1, 0.1, 0.05, 0.03, 0.02])
    which = torch.multinomial(odds, batch * SLOTS, replacement=True, generator=g)
    return kinds[which].view(batch, SLOTS, D)


def trained(name: str, entropy: bool = True) -> Codec:
    torch.manual_seed(0)
    codec = CODECS[name](entropy).train()
    if name == "rvq":
        codec.calibrate(draw(64, 100))
    for seed in range(40):
        codec(draw(16, seed))
    return codec.eval()


@pytest.mark.parametrize("name", CODECS)
def test_usage_makes_messages_shorter_and_changes_no_value(name: str) -> None:
    codec = trained(name)
    identity = message.fingerprint({}, codec)
    used = codec.usage()
    assert used is not None
    fixed = message.message_bytes(codec, SLOTS).total
    for z in draw(12, 1000):
        sent = message.pack(z, codec, identity)
        assert torch.equal(message.unpack(sent, codec, identity), codec(z[None]).values[0])
        assert len(sent) < fixed
        assert sent[2] == 2
        codes = codec(z[None]).codes[0]
        share = used / used.sum(1, keepdim=True)
        bits = -sum(math.log2(share[i, s]) for row in codes.tolist() for i, s in enumerate(row))
        assert len(sent) - 13 <= math.ceil((bits + 3) / 8), "no longer than the usage says"
        for at in range(2, len(sent)):
            with pytest.raises(UserError):
                message.unpack(sent[:at] + bytes([sent[at] ^ 5]) + sent[at + 1 :], codec, identity)
        for cut in (sent[:-1], sent + b"\0", sent[:13]):
            with pytest.raises(UserError):
                message.unpack(cut, codec, identity)


@pytest.mark.parametrize("name", CODECS)
def test_a_message_is_cut_to_the_symbols_of_its_first_slots(name: str) -> None:
    """Whether it was entropy-coded or not, in the form that is shorter for what is left."""
    codec, plain = trained(name), CODECS[name](entropy=False)
    plain.load_state_dict({k: v for k, v in codec.state_dict().items() if k != "used"})
    identity = message.fingerprint({}, codec)
    rare = 10 * torch.randn(SLOTS, D, generator=torch.Generator().manual_seed(5))
    for z in (*draw(2, 1000), rare):
        symbols = codec.symbols(z)
        for sent in (message.pack(z, codec, identity), message.pack(z, plain.eval(), identity)):
            whole = message.unpack(sent, codec, identity)
            for kept in range(1, SLOTS + 1):
                short = message.cut(sent, codec, identity, kept)
                forms = {1: codec.packed(symbols[:kept]), 2: codec.squeezed(symbols[:kept])}
                assert (short[9:-4], len(short) - 13) == (forms[short[2]], min(map(len, forms.values())))
                torch.testing.assert_close(message.unpack(short, codec, identity), whole[:kept])
            with pytest.raises(UserError, match="1 to 9, as many as it has"):
                message.cut(sent, codec, identity, SLOTS + 1)


@pytest.mark.parametrize("name", CODECS)
def test_a_message_of_rare_symbols_has_the_fixed_length_and_is_read_as_before(name: str) -> None:
    codec = trained(name)
    identity = message.fingerprint({}, codec)
    rare = 10 * torch.randn(SLOTS, D, generator=torch.Generator().manual_seed(5))
    sent = message.pack(rare, codec, identity)
    assert len(sent) <= message.message_bytes(codec, SLOTS).total
    assert torch.equal(message.unpack(sent, codec, identity), codec(rare[None]).values[0])
    plain = CODECS[name](entropy=False)
    plain.load_state_dict({k: v for k, v in codec.state_dict().items() if k != "used"})
    old = message.pack(rare, plain.eval(), identity)
    assert old[2] == 1
    assert torch.equal(message.unpack(old, codec, identity), codec(rare[None]).values[0]), "old messages are still read"


def test_usage_is_that_of_training_and_stays_in_evaluation() -> None:
    codec = CODECS["fsq"](True)
    assert torch.equal(codec.usage(), torch.ones(2, 240))
    codec.train()
    for _ in range(600):
        codes = codec(draw(8, 3)).codes
    seen = torch.stack([torch.bincount(c, minlength=240) for c in codes.reshape(-1, 2).T]).float()
    torch.testing.assert_close(codec.used, seen, atol=0.01, rtol=0.01)
    before = codec.eval().used.clone()
    codec(draw(8, 4))
    assert torch.equal(codec.used, before)


def test_codecs_without_symbols_have_no_short_form_and_tables_have_a_limit() -> None:
    codec = FP16(D)
    assert codec.squeeze(draw(1, 0)[0]) is None
    with pytest.raises(UserError, match="entropy-coded"):
        codec.expand(b"abc", SLOTS)
    with pytest.raises(UserError, match="entropy=false"):
        FSQ(D, levels=[16, 16, 16, 17], entropy=True)
