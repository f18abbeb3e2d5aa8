"""Codec: latents to bytes and back, with the receiver's values in the forward pass of training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from callbacks.errors import UserError


class _StraightThrough(torch.autograd.Function):
    # z + (q - z).detach() rounds: the sum is not exactly q, and training would see other values than the receiver
    @staticmethod
    def forward(ctx, z: Tensor, quantised: Tensor) -> Tensor:
        return quantised.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """`quantised`, bit for bit; its gradient is passed to `z` unchanged (Bengio et al., 2013). Same shapes."""
    return _StraightThrough.apply(z, quantised)


@dataclass(frozen=True)
class Coded:
    """What leaves a codec in training.

    Attributes:
        values: (B, M, d_z) float32, what the receiver will decode; differentiable.
        loss: (), auxiliary loss of the codec (commitment), 0 where there is none.
        codes: (B, M, n) long, the symbols sent per slot; None for codecs without symbols (fp16).
    """

    values: Tensor
    loss: Tensor
    codes: Tensor | None = None


@dataclass(frozen=True)
class Payload:
    """Bytes of one message of `slots` latents, without header and checksum."""

    codes: int
    scales: int = 0

    @property
    def total(self) -> int:
        return self.codes + self.scales


class Codec(nn.Module):
    """Base of the codecs.

    Invariant: `decode(encode(z))` equals `forward(z[None]).values[0]` in evaluation mode, bit for bit.

    Args:
        d_z: width of a latent.
    """

    def __init__(self, d_z: int):
        super().__init__()
        if d_z < 1:
            raise UserError("codec d_z", str(d_z), "1 or more", "correct d_z")
        self.d_z = d_z

    @property
    def symbols(self) -> int | None:
        """Number of different symbols a code may take; None without symbols."""
        return None

    def take(self, codes: int | None) -> None:
        """How many codes per slot training takes from now on; None: as many as are sent.

        Raises:
            UserError: a codec that has no choice.
        """
        if codes is not None:
            raise UserError(
                f"stage codes with codec {type(self).__name__}", str(codes), "null", "use codec=fsq, or leave codes out"
            )

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        """Fits what a codec can fit to latents (B, M, d_z) of training texts, once, before training."""

    def forward(self, z: Tensor) -> Coded:
        """(B, M, d_z) -> Coded: the receiver's values, with straight-through gradients."""
        raise NotImplementedError

    def payload(self, slots: int) -> Payload:
        """Exact size in bytes of a message of `slots` latents."""
        raise NotImplementedError

    def encode(self, z: Tensor) -> bytes:
        """(M, d_z) -> payload. Raises UserError when a value is not finite."""
        if z.dim() != 2 or z.shape[1] != self.d_z:
            raise UserError("latents", f"shape {tuple(z.shape)}", f"(slots, {self.d_z})", "encode one text at a time")
        if not torch.isfinite(z).all():
            raise UserError("latents", "NaN or infinite values", "finite values", "repair the encoder first")
        with torch.no_grad():
            data = self.to_bytes(z.detach().float())
        if len(data) != self.payload(z.shape[0]).total:
            raise RuntimeError(f"{type(self).__name__} wrote {len(data)} bytes, announced {self.payload(z.shape[0])}")
        return data

    def decode(self, data: bytes, slots: int) -> Tensor:
        """Payload -> (M, d_z) float32, on the device of the codec's state; on the CPU where it has none.

        Raises:
            UserError: the payload cannot have come from `encode`.
        """
        expected = self.payload(slots).total
        if len(data) != expected:
            raise bad_payload(f"{len(data)} bytes", f"{expected} bytes for {slots} slots")
        with torch.no_grad():
            return self.from_bytes(data, slots)

    def to_bytes(self, z: Tensor) -> bytes:
        """`encode` for checked float32 input."""
        raise NotImplementedError

    def from_bytes(self, data: bytes, slots: int) -> Tensor:
        """`decode` for data of the right length."""
        raise NotImplementedError


def bad_payload(found: str, expected: str) -> UserError:
    return UserError("message payload", found, expected, "ask the sender for the message again")


@dataclass(frozen=True)
class Usage:
    """How much of a code's alphabet is used.

    Attributes:
        bits: empirical entropy per code, in bits, averaged over the code positions of a slot.
        nominal: log2 of the alphabet, the bits per code without entropy coding.
        used: share of the alphabet that occurs, averaged over positions.
    """

    bits: float
    nominal: float
    used: float


def usage(codes: Tensor, symbols: int) -> Usage:
    """Entropy of codes (B, M, n), each position of the last axis on its own: what an entropy coder would reach.

    Small samples bias it downwards: at most log2(B·M) bits can be seen.
    """
    bits, used = [], []
    for position in codes.reshape(-1, codes.shape[-1]).unbind(1):
        _, counts = position.unique(return_counts=True)
        p = counts.double() / counts.sum()
        bits.append(float(-(p * p.log2()).sum()))
        used.append(len(counts) / symbols)
    return Usage(sum(bits) / len(bits), math.log2(symbols), sum(used) / len(used))
