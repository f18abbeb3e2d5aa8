"""Residual vector quantisation with codebooks that follow the data."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import Bounds, Layers, NonNegative, ShareBelowOne, Width
from latentwire.codec.base import Codec, Coded, Payload, bad_payload, straight_through
from latentwire.codec.bits import pack, packed_bytes, unpack, width_of

EPS = 1e-5
ROUNDS = 12  # of k-means

Entries = Annotated[int, Bounds("2 to 1048576 entries", ge=2, le=2**20)]


class RVQ(Codec):
    """Sends entries of codebooks that follow the latents: residual vector quantisation (SoundStream, 2021, §III-C).

        r_1 = z,   e_q = nearest entry of codebook q to r_q,   r_{q+1} = r_q - e_q,   values = sum_q e_q

    In training mode every forward first uses the codebooks and then moves them (van den Oord et al., 2017, appendix
    A.1): n <- g n + (1-g) count, m <- g m + (1-g) sum of the residuals assigned, entry = m / n (Laplace-smoothed).
    `calibrate` fills the codebooks by k-means on the latents of training texts (SoundStream, §III-C), else the first
    batch does; an entry whose n falls below `dead` takes a random residual of the batch. Ranks of a process group share
    counts and sums, so their codebooks stay equal. All of it is state (buffers), none of it has gradients.

    Loss: commitment * mean over q of mean (r_q - sg e_q)^2; z gets the straight-through gradient besides.
    Payload: per slot `stages` indices of ceil(log2 size) bits; with `entropy` an arithmetic code of the indices with
    the frequencies n that training has left, one table per codebook, which both ends have.

    Args:
        d_z: width of a latent.
        stages: number of codebooks.
        size: number of entries per codebook, at least 2.
        decay: weight g of the past.
        commitment: weight of the loss.
        dead: smoothed count per batch below which an entry is replaced; 0 keeps all.
        entropy: whether messages are entropy-coded where that is shorter; it changes no value.
    """

    codebooks: Tensor
    counts: Tensor
    sums: Tensor
    filled: Tensor

    def __init__(
        self,
        d_z: Width,
        stages: Layers = 4,
        size: Entries = 256,
        decay: ShareBelowOne = 0.99,
        commitment: NonNegative = 0.25,
        dead: NonNegative = 0.01,
        entropy: bool = False,
    ):
        super().__init__(d_z)
        self.entropy = entropy
        self.stages, self.size, self.decay, self.commitment, self.dead = stages, size, decay, commitment, dead
        self.register_buffer("codebooks", torch.zeros(stages, size, d_z))
        self.register_buffer("counts", torch.ones(stages, size))
        self.register_buffer("sums", torch.zeros(stages, size, d_z))
        self.register_buffer("filled", torch.zeros((), dtype=torch.bool))

    def nearest(self, stage: int, residual: Tensor) -> Tensor:
        """Return the entries (n,) that are nearest to residuals (n, d_z); the first one of equally near entries."""
        book = self.codebooks[stage]
        distance = book.pow(2).sum(1) - 2 * residual @ book.T  # + |r|^2, the same for every entry
        return distance.argmin(1)

    def forward(self, z: Tensor) -> Coded:
        z = z.float()
        flat = z.reshape(-1, self.d_z)
        first = self.training and not bool(self.filled)
        if not first:
            self._must_be_filled()
        residual, total = flat, torch.zeros_like(flat)
        losses, codes = [], []
        for stage in range(self.stages):
            if first:
                self._fill(stage, residual.detach())
            index = self.nearest(stage, residual.detach())
            entry = self.codebooks[stage][index]
            if self.training:
                self._move(stage, residual.detach(), index)
            losses.append(F.mse_loss(residual, entry))
            codes.append(index)
            total = total + entry
            residual = residual - entry
        if first:
            self.filled.fill_(True)
        loss = self.commitment * torch.stack(losses).mean()
        return Coded(straight_through(z, total.view_as(z)), loss, torch.stack(codes, 1).view(*z.shape[:-1], -1))

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        residual = z.float().reshape(-1, self.d_z)
        for stage in range(self.stages):
            self._fill(stage, residual)
            for _ in range(ROUNDS):
                index = self.nearest(stage, residual)
                count, total = self._assigned(stage, residual, index)
                filled = count > 0  # an entry without any keeps its place
                self.codebooks[stage, filled] = total[filled] / count[filled].unsqueeze(1)
            self.sums[stage] = self.codebooks[stage]
            residual = residual - self.codebooks[stage][self.nearest(stage, residual)]
        self.filled.fill_(True)

    def payload(self, slots: int) -> Payload:
        return Payload(codes=packed_bytes(slots * self.stages, width_of(self.size)))

    def usage(self) -> Tensor | None:
        return self.counts if self.entropy else None

    def symbols(self, z: Tensor) -> Tensor:
        self._must_be_filled()
        residual, codes = z, []
        for stage in range(self.stages):
            codes.append(self.nearest(stage, residual))
            residual = residual - self.codebooks[stage][codes[-1]]
        return torch.stack(codes, 1)

    def values_of(self, symbols: Tensor) -> Tensor:
        self._must_be_filled()
        index = symbols.to(self.codebooks.device)
        total = self.codebooks.new_zeros(len(index), self.d_z)
        for stage in range(self.stages):
            total = total + self.codebooks[stage][index[:, stage]]
        return total

    def packed(self, symbols: Tensor) -> bytes:
        return pack(symbols.flatten().cpu().numpy(), width_of(self.size))

    def unpacked(self, data: bytes, slots: int) -> Tensor:
        codes = unpack(data, width_of(self.size), slots * self.stages)
        if (codes >= self.size).any():
            raise bad_payload(f"code {codes.max()}", f"less than {self.size}")
        return torch.from_numpy(codes).view(slots, self.stages)

    def to_bytes(self, z: Tensor) -> bytes:
        return self.packed(self.symbols(z))

    def from_bytes(self, data: bytes, slots: int) -> Tensor:
        return self.values_of(self.unpacked(data, slots))

    def cut(self, data: bytes, slots: int, kept: int) -> bytes:
        return self.packed(self.unpacked(data, slots)[:kept])

    def _must_be_filled(self) -> None:
        if not bool(self.filled):
            raise UserError(
                "codec=rvq", "codebooks that no batch has filled", "a trained codec", "call calibrate, or load a state"
            )

    @torch.no_grad()
    def _fill(self, stage: int, residual: Tensor) -> None:
        entries = _rank_zero(_sample(residual, self.size))
        self.codebooks[stage] = entries
        self.sums[stage] = entries
        self.counts[stage] = 1.0

    def _assigned(self, stage: int, residual: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return number and sum of the residuals of every entry, over all ranks."""
        count = torch.zeros_like(self.counts[stage]).index_add_(0, index, torch.ones_like(residual[:, 0]))
        total = torch.zeros_like(self.sums[stage]).index_add_(0, index, residual)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(count)
            dist.all_reduce(total)
        return count, total

    @torch.no_grad()
    def _move(self, stage: int, residual: Tensor, index: Tensor) -> None:
        count, total = self._assigned(stage, residual, index)
        self.counts[stage].mul_(self.decay).add_(count, alpha=1 - self.decay)
        self.sums[stage].mul_(self.decay).add_(total, alpha=1 - self.decay)
        if self.dead > 0:
            gone = self.counts[stage] < self.dead
            if bool(gone.any()):  # equal on all ranks: counts are
                fresh = _rank_zero(_sample(residual, int(gone.sum())))
                self.sums[stage, gone] = fresh
                self.counts[stage, gone] = 1.0
        n = self.counts[stage].sum()
        smoothed = (self.counts[stage] + EPS) / (n + self.size * EPS) * n
        self.codebooks[stage] = self.sums[stage] / smoothed.unsqueeze(1)


def _sample(rows: Tensor, count: int) -> Tensor:
    """Draw `count` rows of (n, d), each at most once while they last."""
    turns = [torch.randperm(len(rows), device=rows.device) for _ in range(-(-count // len(rows)))]
    return rows[torch.cat(turns)[:count]]


def _rank_zero(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        x = x.contiguous()
        dist.broadcast(x, src=0)
    return x
