"""Half precision: two bytes per value."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from callbacks.ranges import Width
from latentwire.codec.base import Codec, Coded, Payload, bad_payload, straight_through

LARGEST = 65504.0


class FP16(Codec):
    """Sends IEEE half precision, little-endian; magnitudes beyond 65504 saturate there.

    Error: at most 2^-11 of the magnitude (2^-25 below 2^-14).

    Args:
        d_z: width of a latent.
    """

    def __init__(self, d_z: Width):
        super().__init__(d_z)

    def forward(self, z: Tensor) -> Coded:
        z = z.float()
        return Coded(straight_through(z, z.clamp(-LARGEST, LARGEST).half().float()), z.new_zeros(()))

    def payload(self, slots: int) -> Payload:
        return Payload(codes=2 * slots * self.d_z)

    def to_bytes(self, z: Tensor) -> bytes:
        return z.clamp(-LARGEST, LARGEST).half().cpu().numpy().astype("<f2").tobytes()

    def from_bytes(self, data: bytes, slots: int) -> Tensor:
        values = np.frombuffer(data, dtype="<f2").astype(np.float32).reshape(slots, self.d_z)
        if not np.isfinite(values).all():
            raise bad_payload("NaN or infinite values", "finite half-precision values")
        return torch.from_numpy(values)
