"""Messages of an evaluation: written, sent as bytes and read again, with what that takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from callbacks.errors import UserError
from latentwire.baselines.controls import Control, control
from latentwire.codec.message import CHECKSUM, HEADER
from latentwire.lm.layout import Prefix
from latentwire.scoring.messages import CONTROLS


class Wire(Protocol):
    """Is what an evaluation needs of a wire."""

    @property
    def slots(self) -> int:
        """The number of latents of a message."""
        ...

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return the values that the receiver of texts decodes, (B, slots, d_z)."""
        ...

    def prefix(self, values: Tensor, model: str) -> Prefix:
        """Return what `model` reads for values."""
        ...

    def message_bytes(self) -> int:
        """Return the bytes of a message, header, scales and checksum included; of the longest where they differ."""
        ...


@runtime_checkable
class ByteWire(Protocol):
    """Is a wire whose messages can be written and read; `latentwire.wire.LatentWire` is one."""

    def latents_of(self, texts: Sequence[str], batch: int) -> Tensor:
        """Return the encoder's latents of texts, (B, slots, d_z)."""
        ...

    def identity(self) -> bytes:
        """Return the wire's fingerprint."""
        ...

    def pack(self, z: Tensor, identity: bytes) -> list[bytes]:
        """Write the messages of latents."""
        ...

    def unpack(self, messages: Sequence[bytes], identity: bytes) -> Tensor:
        """Read messages: the values that `encode` returns."""
        ...


@dataclass(frozen=True)
class Messages:
    """Holds the different messages of an evaluation.

    Attributes:
        values: (N, slots, d_z) values that the receiver has.
        of: the number of the message that each question reads.
        sizes: bytes of each message, its frame included.
        frame: bytes of header and checksum; 0 for a wire that writes no bytes.
        encode_ms: milliseconds per message from text to latents.
        send_ms: milliseconds per message to write the bytes and to read them again; None for a wire without bytes.
        shuffled: values (N, slots, d_z) that say the same of another passage; None where all passages are one.
    """

    values: Tensor
    of: list[int]
    sizes: list[int]
    frame: int
    encode_ms: float
    send_ms: float | None
    shuffled: Tensor | None = None

    def controls(self, seed: int) -> dict[Control, Tensor]:
        """Return values (N, slots, d_z) by control, none where all passages are one."""
        if self.shuffled is None:
            return {}
        others: dict[Control, Tensor] = {k: control(self.values, k, seed) for k in CONTROLS if k != "shuffled"}
        return {"shuffled": self.shuffled, **others}


def send(name: str, wire: Wire, texts: Sequence[str], of: list[int], batch_size: int) -> Messages:
    """Send texts. Raises UserError where latents are not finite."""
    identity = wire.identity() if isinstance(wire, ByteWire) else b""
    start = time.perf_counter()
    if isinstance(wire, ByteWire):
        values = wire.latents_of(texts, batch_size)
    else:
        values = torch.cat([wire.encode(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)])
    wait(values)
    encoded = time.perf_counter()
    if not bool(torch.isfinite(values).all()):
        remedy = "train again with lower rates: group_lr.encoder, group_lr.adapter, group_lr.injector"
        raise UserError(f"latents of {name}", "NaN or infinite values", "finite values", remedy)
    sizes, frame, send_ms = [wire.message_bytes()] * len(texts), 0, None
    if isinstance(wire, ByteWire):
        messages = wire.pack(values, identity)
        values = wire.unpack(messages, identity)
        wait(values)
        send_ms = 1000 * (time.perf_counter() - encoded) / len(texts)
        sizes, frame = [len(m) for m in messages], HEADER.size + CHECKSUM.size
    return Messages(values, of, sizes, frame, 1000 * (encoded - start) / len(texts), send_ms)


def wait(values: Tensor) -> None:
    """Wait for an accelerator, which computes on after the call, so that the clock is right."""
    if values.device.type == "cuda":
        torch.cuda.synchronize(values.device)
