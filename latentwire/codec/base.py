"""Codec: latents to bytes and back, with the receiver's values in the forward pass of training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import Width
from latentwire.codec import arithmetic

TOTAL_BITS = 24  # of the frequencies of symbols


class _StraightThrough(torch.autograd.Function):
    # z + (q - z).detach() rounds: the sum is not exactly q, and training would see other values than the receiver
    @staticmethod
    def forward(ctx, z: Tensor, quantised: Tensor) -> Tensor:
        return quantised.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """Return `quantised`, bit for bit; its gradient is passed to `z` unchanged (Bengio et al., 2013). Same shapes."""
    return _StraightThrough.apply(z, quantised)


@dataclass(frozen=True)
class Coded:
    """Holds what leaves a codec in training.

    Attributes:
        values: (B, M, d_z) float32 values that the receiver will decode; differentiable.
        loss: () auxiliary loss of the codec (commitment), 0 where there is none.
        codes: (B, M, n) long, the symbols sent per slot; None for codecs without symbols (fp16).
    """

    values: Tensor
    loss: Tensor
    codes: Tensor | None = None

    def first(self, slots: int) -> Coded:
        """Return the same of a message that is cut behind `slots`; the loss is that of the whole message."""
        codes = None if self.codes is None else self.codes[:, :slots]
        return self if slots == self.values.shape[1] else replace(self, values=self.values[:, :slots], codes=codes)


@dataclass(frozen=True)
class Payload:
    """Counts the bytes of a message of `slots` latents, without header and checksum."""

    codes: int
    scales: int = 0

    @property
    def total(self) -> int:
        """The number of all bytes."""
        return self.codes + self.scales


class Codec(nn.Module):
    """Turns latents into bytes and back; base of all codecs.

    Invariant: `decode(encode(z))` equals `forward(z[None]).values[0]` in evaluation mode, bit for bit.

    Args:
        d_z: width of a latent.
    """

    def __init__(self, d_z: Width):
        super().__init__()
        self.d_z = d_z

    def take(self, codes: int | None) -> None:
        """Set how many codes per slot training takes from now on; None: as many as are sent.

        Raises:
            UserError: a codec that has no choice.
        """
        if codes is not None:
            raise UserError(
                f"stages.<n>.codes with codec {type(self).__name__}",
                str(codes),
                "null",
                "set codec=fsq, or stages.<n>.codes=null",
            )

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        """Fit what can be fitted to latents (B, M, d_z) of training texts, once, before training."""

    def forward(self, z: Tensor) -> Coded:
        """Return the receiver's values of latents (B, M, d_z), with straight-through gradients."""
        raise NotImplementedError

    def payload(self, slots: int) -> Payload:
        """Return the exact size of the payload of `slots` latents."""
        raise NotImplementedError

    def encode(self, z: Tensor) -> bytes:
        """Turn latents (M, d_z) into a payload. Raises UserError when a value is not finite."""
        if z.dim() != 2 or z.shape[1] != self.d_z:
            raise UserError(
                "latents", f"shape {tuple(z.shape)}", f"(slots, {self.d_z})", "call encode for one text at a time"
            )
        if not torch.isfinite(z).all():
            raise UserError(
                "latents", "NaN or infinite values", "finite values", "train again with group_lr.encoder=1e-5"
            )
        with torch.no_grad():
            data = self.to_bytes(z.detach().float())
        if len(data) != self.payload(z.shape[0]).total:
            raise RuntimeError(f"{type(self).__name__} wrote {len(data)} bytes, announced {self.payload(z.shape[0])}")
        return data

    def decode(self, data: bytes, slots: int) -> Tensor:
        """Turn a payload into latents (M, d_z) float32, on the device of the codec's state; on the CPU without any.

        Raises:
            UserError: the payload cannot have come from `encode`.
        """
        expected = self.payload(slots).total
        if len(data) != expected:
            raise bad_payload(f"{len(data)} bytes", f"{expected} bytes for {slots} slots")
        with torch.no_grad():
            return self.from_bytes(data, slots)

    def cut(self, data: bytes, slots: int, kept: int) -> bytes:
        """Return the payload of the first `kept` slots of a payload of `slots`, without the latents it was made of.

        Its symbols and scales are the first ones of the payload, so it is `encode(z[:k])` but for a latent that is
        equally near to two codes, and may get the other one when it is coded in other company. Here the values are
        encoded again, which is right where that gives the same values; other codecs override it.

        Raises:
            UserError: values that change when they are encoded again, or a payload that `decode` refuses.
        """
        values = self.decode(data, slots)[:kept]
        again = self.encode(values)
        if not torch.equal(self.decode(again, kept), values):
            raise UserError(
                f"message payload of codec {type(self).__name__}",
                "values that change when they are encoded again",
                "a codec whose messages can be cut",
                f"write the short message itself: python -m latentwire.encode … --slots {kept}",
            )
        return again

    # -- entropy coding
    def usage(self) -> Tensor | None:
        """Return how often each symbol is used at each place of a slot, (n, symbols); None: no entropy coding."""
        return None

    def symbols(self, z: Tensor) -> Tensor:
        """Return the symbols (M, n) of latents (M, d_z); of codecs with a `usage`."""
        raise NotImplementedError

    def packed(self, symbols: Tensor) -> bytes:
        """Return the payload of symbols (M, n) that `encode` writes; of codecs with a `usage`."""
        raise NotImplementedError

    def unpacked(self, data: bytes, slots: int) -> Tensor:
        """Return the symbols (slots, n) of a payload that `encode` wrote; of codecs with a `usage`."""
        raise NotImplementedError

    def values_of(self, symbols: Tensor) -> Tensor:
        """Return the latents (M, d_z) of symbols (M, n); of codecs with a `usage`."""
        raise NotImplementedError

    def squeeze(self, z: Tensor) -> bytes | None:
        """Turn latents (M, d_z) into a payload whose length follows from the symbols' usage; None without a usage.

        Invariant: `expand(squeeze(z))` equals `decode(encode(z))`.
        """
        if self.usage() is None:
            return None
        with torch.no_grad():
            return self.squeezed(self.symbols(z.detach().float()))

    def expand(self, data: bytes, slots: int) -> Tensor:
        """Undo `squeeze`. Raises UserError where the payload cannot have come from it."""
        with torch.no_grad():
            return self.values_of(self.expanded(data, slots))

    def squeezed(self, symbols: Tensor) -> bytes:
        """Return the entropy-coded payload of symbols (M, n); of codecs with a `usage`."""
        return arithmetic.encode(symbols.flatten().tolist(), self._tables() * len(symbols))

    def expanded(self, data: bytes, slots: int) -> Tensor:
        """Undo `squeezed`: symbols (slots, n). Raises UserError where the payload cannot have come from it."""
        if self.usage() is None:
            raise bad_payload("entropy-coded symbols", f"what {type(self).__name__} writes")
        tables = self._tables() * slots
        codes = arithmetic.decode(data, tables)
        if arithmetic.encode(codes, tables) != data:
            raise bad_payload(f"{len(data)} bytes that code no message", f"the symbols of {slots} slots")
        return torch.tensor(codes).view(slots, -1)

    def _tables(self) -> list[arithmetic.Cumulative]:
        used = self.usage()
        assert used is not None
        return [arithmetic.cumulative(row, 1 << TOTAL_BITS) for row in used.detach().double().cpu().numpy()]

    def to_bytes(self, z: Tensor) -> bytes:
        """Encode checked float32 input."""
        raise NotImplementedError

    def from_bytes(self, data: bytes, slots: int) -> Tensor:
        """Decode data of the right length."""
        raise NotImplementedError


def bad_payload(found: str, expected: str) -> UserError:
    """Return the error about a payload that `encode` has not written."""
    return UserError("message payload", found, expected, "write it again with python -m latentwire.encode")
