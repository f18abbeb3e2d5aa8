"""Finite scalar quantisation."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Bounds, Layers, Width
from latentwire.adapters.ridge import Ridge
from latentwire.codec.base import Codec, Coded, Payload, bad_payload, straight_through
from latentwire.codec.bits import pack, packed_bytes, unpack, width_of

EPS = 1e-3
DECAY = 0.99  # of the usage of codes, per batch
LARGEST_TABLE = 2**16

Level = Annotated[int, Bounds("a whole number from 2 to 256", ge=2, le=256)]


class FSQ(Codec):
    """Rounds a few bounded channels: finite scalar quantisation (Mentzer et al., ICLR 2024, §3 and appendix A.1).

    Channel i is bounded to L_i values and rounded, with a straight-through gradient around the rounding only:

        f(x) = h tanh(x + atanh(o / h)) - o,   h = (L - 1)(1 + eps) / 2,   o = 1/2 for even L, else 0,
        value = round(f(x)) / floor(L / 2)  in [-1, 1].

    The paper's listing writes tan where atanh makes f(0) = 0 exactly, and (1 - eps); with (1 + eps) L = 2 is defined as
    well. No auxiliary loss, no codebook. A slot is `codes` codes of len(levels) channels each; linear maps
    d_z -> codes * len(levels) -> d_z stand around them unless `project` is false.

    `calibrate` starts the maps from the principal components of latents, each scaled to variance 1 before the bound,
    and from the least-squares way back.

    `spare` codes behind the others are never sent: training may begin with them (`take`) and give them up one by one,
    which is how few bits are reached (nested dropout, Rippel et al., 2014, with a schedule in place of chance). The
    components stand in order, so the least important ones go first.

    Payload: one index sum_i c_i prod_{j<i} L_j per code, packed in ceil(log2 prod L) bits; with `entropy` an arithmetic
    code of the indices with their frequencies in training (a moving average over batches), one table per code.

    Args:
        d_z: width of a latent.
        levels: number of values of each channel, 2 to 256; [8, 6, 5] is about 2^8 codes, [8, 5, 5, 5] about 2^10.
        codes: number of codes per slot.
        project: whether learned maps stand around the quantiser; without them d_z must be codes * len(levels).
        spare: number of further codes for the beginning of training.
        entropy: whether messages are entropy-coded where that is shorter; it changes no value. A product of levels of
            at most 2^16.
    """

    levels: Tensor
    basis: Tensor
    used: Tensor

    def __init__(
        self,
        d_z: Width,
        levels: Annotated[list[Level], NOT_EMPTY],
        codes: Layers = 1,
        project: bool = True,
        spare: Literal[0] | Layers = 0,
        entropy: bool = False,
    ):
        super().__init__(d_z)
        channels = (codes + spare) * len(levels)
        if not project and spare:
            raise UserError("codec.spare", f"{spare} with project=false", "learned maps", "set codec.project=true")
        if not project and channels != d_z:
            raise UserError(
                "codec.project=false",
                f"d_z = {d_z}",
                f"codes * len(levels) = {channels}",
                f"set wire.d_z={channels}, or codec.project=true",
            )
        self.codes, self.spare, self.size = codes, spare, math.prod(levels)
        self.taken = codes
        if self.size >= 2**31:
            raise UserError(
                "codec.levels",
                f"a product of {self.size}",
                "less than 2^31",
                "set codec.levels=[8,6,5] and codec.codes=2",
            )
        self.entropy = entropy
        if entropy:
            if self.size > LARGEST_TABLE:
                raise UserError(
                    "codec.levels with codec.entropy=true",
                    f"a product of {self.size}",
                    f"at most {LARGEST_TABLE}",
                    "set codec.levels=[8,6,5], or codec.entropy=false",
                )
            self.register_buffer("used", torch.ones(codes, self.size))
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer(
            "basis", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]), persistent=False
        )
        self.project_in: nn.Module = nn.Linear(d_z, channels) if project else nn.Identity()
        self.project_out: nn.Module = nn.Linear(channels, d_z) if project else nn.Identity()

    def bound(self, x: Tensor) -> Tensor:
        """Bound (…, len(levels)) to values whose rounding takes L_i integers."""
        half = (self.levels - 1) * (1 + EPS) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(x + torch.atanh(offset / half)) * half - offset

    def take(self, codes: int | None) -> None:
        n = self.codes if codes is None else codes
        if not self.codes <= n <= self.codes + self.spare:
            raise UserError(
                "stages.<n>.codes",
                str(n),
                f"{self.codes} to {self.codes + self.spare}",
                f"set stages.<n>.codes=null, or codec.spare={max(0, n - self.codes)}",
            )
        self.taken = n

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        if not isinstance(self.project_in, nn.Linear):
            return
        flat = z.flatten(0, -2).double()
        mean = flat.mean(0)
        _, spread, components = torch.linalg.svd(flat - mean, full_matrices=False)
        n = min(len(components), self.project_in.out_features)
        scale = spread[:n] / len(flat) ** 0.5
        rows = components[:n] / scale.clamp(min=1e-6)[:, None]
        self.project_in.weight[:n] = rows.to(self.project_in.weight)
        self.project_in.bias[:n] = -(rows @ mean).to(self.project_in.bias)
        least = Ridge()
        channels = self.quantise(z.float())[0].flatten(-2)
        least.add(channels, z)
        weight, bias = least.solve()
        assert isinstance(self.project_out, nn.Linear)
        self.project_out.weight[:, : channels.shape[-1]] = weight
        self.project_out.bias.copy_(bias)

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return quantised channels (…, n, len(levels)) in [-1, 1] and indices (…, n) long of (…, d_z).

        n is `codes`, in training mode what was taken.
        """
        n = self.taken if self.training else self.codes
        x = self.bound(self.project_in(z).unflatten(-1, (self.codes + self.spare, -1))[..., :n, :])
        rounded = straight_through(x, x.round())
        half_width = self.levels // 2
        digits = rounded.detach().long() + half_width
        return rounded / half_width, (digits * self.basis).sum(-1)

    def values(self, indices: Tensor) -> Tensor:
        """Turn indices (…, codes) into quantised channels (…, codes, len(levels))."""
        digits = indices.unsqueeze(-1) // self.basis % self.levels
        half_width = self.levels // 2
        return (digits - half_width).float() / half_width

    def forward(self, z: Tensor) -> Coded:
        channels, indices = self.quantise(z.float())
        if self.entropy and self.training:
            self._count(indices)
        return Coded(self.restore(channels), channels.new_zeros(()), indices)

    def restore(self, channels: Tensor) -> Tensor:
        """Turn quantised channels (…, n, len(levels)) into (…, d_z); codes that were not sent count as zero."""
        missing = self.codes + self.spare - channels.shape[-2]
        if missing:
            channels = F.pad(channels, (0, 0, 0, missing))
        return self.project_out(channels.flatten(-2))

    def payload(self, slots: int) -> Payload:
        return Payload(codes=packed_bytes(slots * self.codes, width_of(self.size)))

    @torch.no_grad()
    def _count(self, indices: Tensor) -> None:
        """Move the usage of codes by the indices (…, n) of a batch, those of all ranks together."""
        sent = indices[..., : self.codes].reshape(-1, self.codes)
        counts = torch.stack([torch.bincount(column, minlength=self.size) for column in sent.T]).to(self.used)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        self.used.mul_(DECAY).add_(counts, alpha=1 - DECAY)

    def usage(self) -> Tensor | None:
        return self.used if self.entropy else None

    def symbols(self, z: Tensor) -> Tensor:
        return self.quantise(z)[1]

    def values_of(self, symbols: Tensor) -> Tensor:
        return self.restore(self.values(symbols.to(self.levels.device)))

    def packed(self, symbols: Tensor) -> bytes:
        return pack(symbols.flatten().cpu().numpy(), width_of(self.size))

    def unpacked(self, data: bytes, slots: int) -> Tensor:
        indices = unpack(data, width_of(self.size), slots * self.codes)
        if (indices >= self.size).any():
            raise bad_payload(f"code {indices.max()}", f"less than {self.size}")
        return torch.from_numpy(indices).view(slots, self.codes)

    def to_bytes(self, z: Tensor) -> bytes:
        return self.packed(self.symbols(z))

    def from_bytes(self, data: bytes, slots: int) -> Tensor:
        return self.values_of(self.unpacked(data, slots))

    def cut(self, data: bytes, slots: int, kept: int) -> bytes:
        return self.packed(self.unpacked(data, slots)[:kept])
