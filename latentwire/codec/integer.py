"""Group-quantised integers of 8, 6 or 4 bits with half-precision scales."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import Width
from latentwire.codec.base import Codec, Coded, Payload, bad_payload, straight_through
from latentwire.codec.bits import pack, packed_bytes, unpack
from latentwire.codec.fp16 import LARGEST


class Integer(Codec):
    """Rounds to q = round(x / s) in [-n, n], n = 2^(bits-1) - 1, with one scale s per `group` channels of a slot.

    s is max|x| / n, rounded **up** to half precision, so nothing clips and |x - s q| <= s / 2. Magnitudes beyond
    65504 n saturate. Payload: all scales (little-endian, slot by slot), then all q + n packed, `bits` each.

    Args:
        d_z: width of a latent, a multiple of `group`.
        bits: 8, 6 or 4 bits per value.
        group: number of channels that share a scale; a scale costs 16 / group bits per value.
    """

    def __init__(self, d_z: Width, bits: Literal[4, 6, 8] = 8, group: Width = 32):
        super().__init__(d_z)
        if d_z % group:
            raise UserError("codec.group", str(group), f"a divisor of d_z = {d_z}", f"set codec.group={d_z}")
        self.bits, self.group = bits, group
        self.largest = 2 ** (bits - 1) - 1

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return integers (…, d_z / group, group) as float32 and scales (…, d_z / group, 1) of (…, d_z) float32."""
        groups = z.unflatten(-1, (-1, self.group))
        scale = half_up(groups.abs().amax(-1, keepdim=True) / self.largest)
        q = torch.where(scale > 0, groups / scale, 0.0).round().clamp(-self.largest, self.largest)
        return q, scale

    def forward(self, z: Tensor) -> Coded:
        z = z.float()
        with torch.no_grad():
            q, scale = self.quantise(z)
        codes = (q + self.largest).long().flatten(-2)
        return Coded(straight_through(z, (q * scale).flatten(-2)), z.new_zeros(()), codes)

    def payload(self, slots: int) -> Payload:
        values = slots * self.d_z
        return Payload(codes=packed_bytes(values, self.bits), scales=2 * values // self.group)

    def to_bytes(self, z: Tensor) -> bytes:
        q, scale = self.quantise(z)
        codes = (q + self.largest).long().flatten().cpu().numpy()
        return scale.half().cpu().numpy().astype("<f2").tobytes() + pack(codes, self.bits)

    def from_bytes(self, data: bytes, slots: int) -> Tensor:
        size = self.payload(slots).scales
        scale = np.frombuffer(data[:size], dtype="<f2").astype(np.float32)
        codes = unpack(data[size:], self.bits, slots * self.d_z)
        if not (np.isfinite(scale).all() and (scale >= 0).all()):
            raise bad_payload("a scale that is negative or not finite", "scales of max|x| / n")
        if (codes > 2 * self.largest).any():
            raise bad_payload(f"code {codes.max()}", f"at most {2 * self.largest}")
        q = (codes - self.largest).astype(np.float32).reshape(-1, self.group)
        return torch.from_numpy((q * scale[:, None]).reshape(slots, self.d_z))

    def cut(self, data: bytes, slots: int, kept: int) -> bytes:
        self.decode(data, slots)
        scales, codes = self.payload(slots).scales, kept * self.d_z
        kept_codes = unpack(data[scales:], self.bits, slots * self.d_z)[:codes]
        return data[: self.payload(kept).scales] + pack(kept_codes, self.bits)


def half_up(x: Tensor) -> Tensor:
    """Return the smallest half-precision number >= x, as float32; x >= 0, at most 65504."""
    near = x.clamp(max=LARGEST).half()
    # the next half-precision number of a non-negative one is the next bit pattern
    above = (near.view(torch.int16) + 1).view(torch.float16)
    return torch.where(near.float() < x.clamp(max=LARGEST), above, near).float()
