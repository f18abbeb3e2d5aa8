"""The wire: a message has exactly the announced bytes, and anything but an intact message of this run is an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lw_parts import CODECS, D, latents, make_codec
from torch import nn

from callbacks.errors import UserError
from latentwire.codec import message as wire

CONFIG = {"encoder": {"name": "byte", "width": 8}, "levels": [8, 5]}


@pytest.mark.parametrize("name", CODECS)
def test_a_message_brings_the_latents_and_has_the_announced_size(name: str) -> None:
    codec, z = make_codec(name), latents(5)
    identity = wire.fingerprint(CONFIG, codec)
    message = wire.pack(z, codec, identity)
    size = wire.message_bytes(codec, 5)
    assert len(message) == size.total == 13 + codec.payload(5).total
    assert (size.scales, size.codes) == (codec.payload(5).scales, codec.payload(5).codes)
    assert torch.equal(wire.unpack(message, codec, identity), codec(z[None]).values[0])


@pytest.mark.parametrize("name", ["int4", "fsq"])
def test_no_changed_byte_is_ever_read(name: str) -> None:
    codec = make_codec(name)
    identity = wire.fingerprint(CONFIG, codec)
    message = wire.pack(latents(2), codec, identity)
    wire.unpack(message, codec, identity)
    for i in range(len(message)):
        for change in range(1, 256):
            damaged = message[:i] + bytes([message[i] ^ change]) + message[i + 1 :]
            with pytest.raises(UserError):
                wire.unpack(damaged, codec, identity)


def test_no_shortened_lengthened_or_shuffled_message_is_ever_read() -> None:
    codec = make_codec("int6")
    identity = wire.fingerprint(CONFIG, codec)
    message = wire.pack(latents(3), codec, identity)
    rng = np.random.default_rng(0)
    wrong = [message[:n] for n in range(len(message))] + [message + b"\0", message * 2, b"\0" + message]
    wrong += [bytes(rng.permutation(list(message)).tolist()) for _ in range(50)]
    wrong += [rng.bytes(len(message)) for _ in range(50)] + [b"LW\x01" + rng.bytes(40) for _ in range(50)]
    for other in wrong:
        with pytest.raises(UserError):
            wire.unpack(other, codec, identity)


def test_the_error_says_what_is_wrong() -> None:
    codec = make_codec("int8")
    identity = wire.fingerprint(CONFIG, codec)
    message = wire.pack(latents(3), codec, identity)
    for damaged, text in (
        (b"PK" + message[2:], "latentwire.encode"),
        (b"", "latentwire.encode"),
        (message[:2] + b"\x03" + message[3:], "format version 3"),
        (message[:9], "bytes"),
        (message[:-8], "bytes"),
        (message[:-5] + bytes([message[-5] ^ 1]) + message[-4:], "damaged"),
    ):
        with pytest.raises(UserError, match=text):
            wire.unpack(damaged, codec, identity)


def test_a_message_of_another_configuration_or_other_weights_is_refused() -> None:
    codec = make_codec("fsq")
    identity = wire.fingerprint(CONFIG, codec)
    message = wire.pack(latents(3), codec, identity)
    others = [wire.fingerprint({**CONFIG, "levels": [8, 6]}, codec), wire.fingerprint(CONFIG)]
    with torch.no_grad():
        next(codec.parameters())[0, 0] += 1e-6
    others.append(wire.fingerprint(CONFIG, codec))
    for other in others:
        with pytest.raises(UserError, match="fingerprint"):
            wire.unpack(message, codec, other)
        # the four bytes that are sent may agree by chance: the checksum knows all thirty-two
        collision = identity[:4] + other[4:]
        with pytest.raises(UserError, match="damaged"):
            wire.unpack(message, codec, collision)


def test_fingerprints_depend_on_meaning_only() -> None:
    turned = {"levels": [8, 5], "encoder": {"width": 8, "name": "byte"}}
    assert wire.fingerprint(CONFIG) == wire.fingerprint(turned)
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    assert wire.fingerprint({}, a, b) != wire.fingerprint({}, b, a)
    b.load_state_dict(a.state_dict())
    assert wire.fingerprint({}, a) == wire.fingerprint({}, b)
    assert wire.fingerprint({}, a) != wire.fingerprint({}, a.double())
    with pytest.raises(UserError, match="plain values"):
        wire.fingerprint({"a": object()})


def test_a_message_has_a_slot_at_least() -> None:
    codec = make_codec("fp16")
    with pytest.raises(UserError, match="slots"):
        wire.pack(torch.zeros(0, D), codec, wire.fingerprint(CONFIG, codec))
