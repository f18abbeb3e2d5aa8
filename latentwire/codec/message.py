"""The message: a versioned header, the codec's payload, a checksum.

    offset  bytes  content
    0       2      "LW"
    2       1      format version: 1, a payload whose length follows from codec and slots; 2, entropy-coded
    3       4      first bytes of the configuration's fingerprint
    7       2      number of slots, little-endian
    9       n      payload, see the codec; in version 2 it is shorter than that of version 1
    9 + n   4      CRC-32 of the whole 32-byte fingerprint followed by everything before, little-endian

The checksum covers the fingerprint without sending it: a message of another configuration passes with probability
2^-64, damage within 32 neighbouring bits never.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from latentwire.codec.base import Codec

MAGIC = b"LW"
FIXED, SQUEEZED = 1, 2  # versions
HEADER = struct.Struct("<2sB4sH")
CHECKSUM = struct.Struct("<I")
MOST_SLOTS = 2**16 - 1  # what the header can count
AGAIN = "write it again with python -m latentwire.encode"


@dataclass(frozen=True)
class MessageBytes:
    """Counts the bytes of a message, by part."""

    header: int
    scales: int
    codes: int
    checksum: int

    @property
    def total(self) -> int:
        """The number of all bytes."""
        return self.header + self.scales + self.codes + self.checksum


def message_bytes(codec: Codec, slots: int) -> MessageBytes:
    """Return the size of a message of `slots` latents: of every one, or of the longest where they are entropy-coded."""
    payload = codec.payload(slots)
    return MessageBytes(HEADER.size, payload.scales, payload.codes, CHECKSUM.size)


def fingerprint(config: Mapping[str, Any], *modules: nn.Module) -> bytes:
    """Return the 32 bytes that sender and receiver must share: SHA-256 of what gives the latents their meaning.

    Args:
        config: plain values (encoder, layout, codec); hashed as JSON with sorted keys.
        modules: modules whose state decides what a message means (encoder and codec, not the adapters: a model trained
            later reads old messages with a new adapter). Every entry of their state dicts is hashed.

    Raises:
        UserError: a value of `config` is not plain JSON.
    """
    try:
        text = json.dumps(config, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError("wire configuration", str(error), "plain values", "leave objects out of `config`") from error
    digest = hashlib.sha256(text.encode())
    for number, module in enumerate(modules):
        for name, tensor in sorted(module.state_dict().items()):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"\n{number} {name} {plain.dtype} {tuple(plain.shape)}\n".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.digest()


def pack(z: Tensor, codec: Codec, identity: bytes) -> bytes:
    """Write the message of one text's latents (M, d_z), entropy-coded where the codec can and it is shorter.

    `identity`: from `fingerprint`. Raises UserError on NaN.
    """
    if z.dim() == 2 and not 1 <= z.shape[0] <= MOST_SLOTS:
        raise UserError("latents", f"{z.shape[0]} slots", f"1 to {MOST_SLOTS}", "set wire.slots=64")
    return _shortest(codec.encode(z), codec.squeeze(z), z.shape[0], identity)


def unpack(message: bytes, codec: Codec, identity: bytes, where: str = "message") -> Tensor:
    """Read the latents (M, d_z) float32 out of a message.

    Args:
        message: bytes that `pack` wrote.
        codec: the sender's codec, its state included.
        identity: the receiver's fingerprint.
        where: the message's name in errors, e.g. its file.

    Raises:
        UserError: not a message, another version, another configuration, or damaged in any byte.
    """
    version, slots, payload = _opened(message, codec, identity, where)
    return (codec.decode if version == FIXED else codec.expand)(payload, slots)


def cut(message: bytes, codec: Codec, identity: bytes, kept: int, where: str = "message") -> bytes:
    """Return the message of the first `kept` slots of a message, in what is then the shorter form.

    Its symbols and scales are those of the message. Neither the text nor its encoder is needed. Whether a reader can do
    with fewer slots is the wire's matter: one that was trained with nested budgets (`latentwire.train.Nested`) can. The
    other arguments and errors are those of `unpack`.

    Raises:
        UserError: more slots than the message has, or none.
    """
    version, slots, payload = _opened(message, codec, identity, where)
    if not 1 <= kept <= slots:
        raise UserError(f"slots of {where}", str(kept), f"1 to {slots}, as many as it has", f"set --slots {slots}")
    if codec.usage() is None:
        return _framed(codec.cut(payload, slots, kept), FIXED, kept, identity)
    symbols = (codec.unpacked if version == FIXED else codec.expanded)(payload, slots)[:kept]
    return _shortest(codec.packed(symbols), codec.squeezed(symbols), kept, identity)


def slots_of(message: bytes) -> int:
    """Return the number of slots that an intact message states."""
    return int(HEADER.unpack_from(message)[3])


def _shortest(fixed: bytes, squeezed: bytes | None, slots: int, identity: bytes) -> bytes:
    if squeezed is not None and len(squeezed) < len(fixed):
        return _framed(squeezed, SQUEEZED, slots, identity)
    return _framed(fixed, FIXED, slots, identity)


def _framed(payload: bytes, version: int, slots: int, identity: bytes) -> bytes:
    body = HEADER.pack(MAGIC, version, _checked(identity)[:4], slots) + payload
    return body + CHECKSUM.pack(zlib.crc32(identity + body))


def _opened(message: bytes, codec: Codec, identity: bytes, where: str) -> tuple[int, int, bytes]:
    """Return version, number of slots and payload of an intact message of this wire."""
    _checked(identity)
    smallest = HEADER.size + CHECKSUM.size
    if message[:2] != MAGIC:
        raise UserError(where, f"first bytes {message[:2]!r}", f"{MAGIC!r}", "pass a file that latentwire.encode wrote")
    if len(message) < smallest:
        raise UserError(where, f"{len(message)} bytes", f"{smallest} or more", AGAIN)
    _, version, start, slots = HEADER.unpack_from(message)
    if version not in (FIXED, SQUEEZED):
        known = f"version {FIXED} or {SQUEEZED}"
        raise UserError(where, f"format version {version}", known, "check out the release that wrote it")
    if start != identity[:4]:
        raise UserError(
            where,
            f"fingerprint {start.hex()}…",
            f"{identity[:4].hex()}…, the configuration and weights of this reader",
            "read it with the run that wrote it; if that is this run, the message is damaged",
        )
    expected = message_bytes(codec, slots).total
    fits = len(message) == expected if version == FIXED else len(message) < expected
    if slots < 1 or not fits:
        told = f"{expected} bytes" if version == FIXED else f"fewer than {expected} bytes"
        raise UserError(where, f"{len(message)} bytes, {slots} slots", told, AGAIN)
    body, (checksum,) = message[: -CHECKSUM.size], CHECKSUM.unpack(message[-CHECKSUM.size :])
    if zlib.crc32(identity + body) != checksum:
        raise UserError(where, "a checksum that does not match: the message is damaged", "an intact message", AGAIN)
    return version, slots, body[HEADER.size :]


def _checked(identity: bytes) -> bytes:
    if len(identity) != hashlib.sha256().digest_size:
        raise ValueError(f"a fingerprint has 32 bytes, not {len(identity)}")
    return identity
