"""Latents as embeddings, and as changes of what the model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import OpenShare, Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import AT_ONCE
from latentwire.injectors.base import Start
from latentwire.injectors.kv_statistics import measure_kv, unmeasured_kv
from latentwire.injectors.rotary import RotaryPlacement
from latentwire.injectors.soft_prefix import SoftPrefix
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix


class Coprocessor(SoftPrefix):
    """Augments the cache of a soft prefix (differentiable cache augmentation, Liu et al., 2024, arXiv 2412.17747).

        k_l, v_l = the model's own keys and values of the embeddings `SoftPrefix` makes,   r_l = W_l gelu(N z)
        k_l <- k_l + RoPE(g_kl std_kl r_kl / rms_l),      v_l <- v_l + g_vl std_vl r_vl / rms_l

    The paper's coprocessor is a copy of the model that reads its cache and adds embeddings; here latents are there
    already, and what is added are changes of keys and values in every layer, the size of which is measured: std by
    channel on text, rms_l that of r_l on a training batch, so that a gain g is the share of text's own spread. At
    g = 0 it is `soft_prefix`. It changes the cache of embeddings, so it takes the place of `deep_prefix`.

    State: that of the soft prefix, std, rms, gains and all weights; a loaded state needs no calibration.

    Args:
        d_z: width of a latent.
        lm: the model that reads.
        texts: real text to measure embeddings, keys and values on; None: a saved state will bring what was measured.
        adapter: factory that is called with `d_z`, `d_out=d_model` and `target`.
        hidden: width of N z.
        start: as of `SoftPrefix`.
        gate: the gains at the start.

    Raises:
        UserError: a model whose keys cannot be placed (`RotaryPlacement`), or whose layers lie in pieces on all ranks.
    """

    std: Tensor
    rms: Tensor

    def __init__(
        self,
        d_z: Width,
        lm: FrozenLM,
        texts: Sequence[str] | None,
        adapter: Callable[..., Adapter],
        hidden: Width = 256,
        start: Start = "text",
        gate: OpenShare = 0.1,
    ):
        super().__init__(d_z, lm, texts, adapter, start)
        self.placement = RotaryPlacement(lm)
        measured = unmeasured_kv(lm) if texts is None else measure_kv(lm, self.placement, texts)
        self.register_buffer("std", measured.std)
        self.register_buffer("rms", torch.zeros(lm.n_layers, 2))
        self.gain = nn.Parameter(torch.full((lm.n_layers, 2), gate))
        heads, head_dim = lm.kv_shape
        self.narrow = nn.Linear(d_z, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, 2 * heads * head_dim) for _ in range(lm.n_layers))

    def raw(self, z: Tensor) -> Tensor:
        """Turn (B, M, d_z) into r, (n_layers, 2, B, kv_heads, M, head_dim), uncalibrated."""
        h = nn.functional.gelu(self.narrow(z))
        r = torch.stack([layer(h) for layer in self.layers])  # (L, B, M, 2 H D)
        return r.unflatten(-1, (2, *self.lm.kv_shape)).permute(0, 3, 1, 4, 2, 5)

    def forward(self, z: Tensor) -> Prefix:
        """Turn (B, M, d_z) into keys (after RoPE) and values per layer, (B, kv_heads, M, head_dim)."""
        if not bool((self.rms > 0).all()):
            raise RuntimeError(
                "coprocessor not calibrated: call calibrate(latents of a training batch) first, or load a state"
            )
        if self.lm.sharded:
            expected = "whole layers: a cache of embeddings alone would not gather a layer in pieces"
            raise UserError(
                "placement.shard=true", "injector=coprocessor", expected, "set injector=soft_prefix, or "
                "placement.shard=false",
            )  # fmt: skip
        read = self.lm.cached(super().forward(z)).kv
        assert read is not None
        scale = (self.gain / self.rms)[:, :, None, None, None, None]
        delta = scale * self.std[:, :, None, :, None] * self.raw(z)
        head = len(self.lm.style.head)
        positions = torch.arange(head, head + z.shape[1], device=z.device)
        return Prefix(
            kv=[
                (keys + self.placement.place(k, positions, i).to(keys), values + v.to(values))
                for i, ((keys, values), (k, v)) in enumerate(zip(read, delta, strict=True))
            ]
        )

    @torch.no_grad()
    def text_prefix(self, ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Prefix:
        return self.lm.cached(super().text_prefix(ids, mask, counts))

    @property
    def last_state(self) -> int:
        return self.lm.n_layers

    def text_rms(self) -> dict[str, Tensor]:
        return {}  # what it changes are keys and values, whose means are not measured

    @torch.no_grad()
    def calibrate(self, z: Tensor, texts: Sequence[str] | None = None, counts: Sequence[int] | None = None) -> None:
        super().calibrate(z, texts, counts)
        self.refit(z, texts or ())

    @torch.no_grad()
    def refit(self, z: Tensor, texts: Sequence[str], counts: Sequence[int] | None = None) -> None:
        """Measure rms_l for latents (B, M, d_z), the weights as they are."""
        total, count = torch.zeros_like(self.rms, dtype=torch.float64), 0
        for part in z.split(AT_ONCE):
            squares = self.raw(part).double().pow(2)
            total += squares.sum((2, 3, 4, 5))
            count += squares[0, 0].numel()
        self.rms.copy_((total / count).sqrt())
