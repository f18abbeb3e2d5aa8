"""Latents as keys and values of every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from callbacks.ranges import Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import AT_ONCE
from latentwire.adapters.ridge import Ridge
from latentwire.injectors.base import Injector, Start
from latentwire.injectors.fitting import pooled_kv, pooled_kv_of_batch
from latentwire.injectors.kv_statistics import measure_kv, unmeasured_kv
from latentwire.injectors.rotary import RotaryPlacement
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix


class DeepPrefix(Injector):
    """Makes keys and values of every layer (prefix tuning, Li and Liang, 2021; 500xCompressor, 2024).

        h = adapter(z),   r_l = W_l h + c_l per layer l, split into keys and values of kv_heads x head_dim
        k_l = RoPE(mean_kl + gain_kl * std_kl * r_kl / rms_kl),    v_l = mean_vl + gain_vl * std_vl * r_vl / rms_vl

    `calibrate` sets rms_l to the size of r_l on a training batch. Given its texts, it first sets W_l and c_l to the
    least-squares map from h to the model's own keys and values, pooled like the latents (`fitting`): the model then
    finds something of the text from the first step on, where a random start stays for long on the plateau of the
    answers' frequencies.

    Keys are generated **before** RoPE and turned to the positions len(head) … len(head) + M - 1 by the model's own
    rotary module, the places where M tokens would stand: what a latent says is then independent of where it stands, and
    its statistics can be compared with those of text, whose keys are measured before RoPE as well. mean and std per
    channel are the model's own on `texts`; gains start at 1. So at the start a latent's keys and values are distributed
    like those of text.

    State: mean, std, rms, gains and all weights; a loaded state needs no calibration.

    Args:
        d_z: width of a latent.
        lm: the model that reads; grouped-query shapes are its `kv_shape`.
        texts: real text to measure keys and values on; None: a saved state will bring what was measured.
        adapter: factory that is called with `d_z`, `d_out=width` and `target=1.0`.
        width: width of h.
        start: `text`, the least-squares map, or `random`.
    """

    has_states = True
    reads_text = True
    mean: Tensor
    std: Tensor
    rms: Tensor

    def __init__(
        self,
        d_z: Width,
        lm: FrozenLM,
        texts: Sequence[str] | None,
        adapter: Callable[..., Adapter],
        width: Width = 256,
        start: Start = "text",
    ):
        super().__init__(lm, start)
        self.placement = RotaryPlacement(lm)
        measured = unmeasured_kv(lm) if texts is None else measure_kv(lm, self.placement, texts)
        self.register_buffer("mean", measured.mean)
        self.register_buffer("std", measured.std)
        self.register_buffer("rms", torch.zeros(lm.n_layers, 2))
        self.gain = nn.Parameter(torch.ones(lm.n_layers, 2))
        self.adapter = adapter(d_z=d_z, d_out=width, target=1.0)
        heads, head_dim = lm.kv_shape
        self.layers = nn.ModuleList(nn.Linear(width, 2 * heads * head_dim) for _ in range(lm.n_layers))

    def hidden(self, z: Tensor) -> Tensor:
        """Turn (B, M, d_z) into h of every position, (B, positions(M), width)."""
        h: Tensor = self.adapter(z)
        return h

    def spread(self, of_slots: Tensor) -> Tensor:
        """Bring what is known of M slots (…, M, d) to positions (…, positions(M), d): the target of a position."""
        return of_slots

    def raw(self, z: Tensor) -> Tensor:
        """Turn (B, M, d_z) into r, (n_layers, 2, B, kv_heads, positions(M), head_dim), uncalibrated."""
        h = self.hidden(z)
        r = torch.stack([layer(h) for layer in self.layers])  # (L, B, M, 2 H D)
        return r.unflatten(-1, (2, *self.lm.kv_shape)).permute(0, 3, 1, 4, 2, 5)

    def forward(self, z: Tensor) -> Prefix:
        """Turn (B, M, d_z) into keys (after RoPE) and values per layer, (B, kv_heads, positions(M), head_dim)."""
        if not bool((self.rms > 0).all()):
            raise RuntimeError(
                "deep_prefix not calibrated: call calibrate(latents of a training batch) first, or load a state"
            )
        scale = (self.gain / self.rms)[:, :, None, None, None, None]
        kv = self.mean[:, :, None, :, None] + scale * self.std[:, :, None, :, None] * self.raw(z)
        head = len(self.lm.style.head)
        positions = torch.arange(head, head + kv.shape[-2], device=z.device)
        return Prefix(kv=[(self.placement.place(keys, positions, i), values) for i, (keys, values) in enumerate(kv)])

    def states(self, z: Tensor) -> Tensor:
        scaled = (self.gain / self.rms)[:, :, None, None, None, None] * self.raw(z)  # (L, 2, B, H, M, D)
        return scaled.permute(0, 2, 4, 1, 3, 5).flatten(3)

    @torch.no_grad()
    def text_states(self, ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Tensor:
        mean, std = (x.flatten(1)[:, None, None] for x in (self.mean, self.std.clamp(min=1e-6)))
        return self.spread((pooled_kv_of_batch(self.placement, ids, mask, counts).to(mean) - mean) / std)

    @torch.no_grad()
    def text_prefix(self, ids: Tensor, mask: Tensor, counts: Sequence[int]) -> Prefix:
        pooled = self.spread(pooled_kv_of_batch(self.placement, ids, mask, counts))  # (L, B, N, 2 H D)
        pairs = pooled.unflatten(-1, (2, *self.lm.kv_shape)).permute(3, 0, 1, 4, 2, 5)
        head = len(self.lm.style.head)
        positions = torch.arange(head, head + pooled.shape[2], device=pooled.device)
        return Prefix(
            kv=[(self.placement.place(k, positions, i), v) for i, (k, v) in enumerate(zip(*pairs, strict=True))]
        )

    @property
    def last_state(self) -> int:
        return self.lm.n_layers

    def text_rms(self) -> dict[str, Tensor]:
        rms = (self.mean.pow(2) + self.std.pow(2)).mean((2, 3)).sqrt()  # RoPE turns keys and keeps their length
        return {"keys": rms[:, 0], "values": rms[:, 1]}

    @torch.no_grad()
    def calibrate(self, z: Tensor, texts: Sequence[str] | None = None, counts: Sequence[int] | None = None) -> None:
        self.adapter.calibrate(z)
        self.refit(z, texts, counts)

    @torch.no_grad()
    def refit(self, z: Tensor, texts: Sequence[str] | None, counts: Sequence[int] | None = None) -> None:
        """Set W_l, c_l and rms_l for latents (B, M, d_z), the adapter as it is; see `calibrate`."""
        training = self.training
        self.eval()
        if texts is not None and self.start == "text":
            self._fit(z, texts, counts or [z.shape[1]])
        total = torch.zeros_like(self.rms, dtype=torch.float64)
        count = 0
        for part in z.split(AT_ONCE):
            squares = self.raw(part).double().pow(2)  # (L, 2, B, H, M, D)
            total += squares.sum((2, 3, 4, 5))
            count += squares[0, 0].numel()
        self.rms.copy_((total / count).sqrt())
        self.train(training)

    def _fit(self, z: Tensor, texts: Sequence[str], counts: Sequence[int]) -> None:
        least = [Ridge() for _ in self.layers]
        mean, std = (x.flatten(1)[:, None] for x in (self.mean, self.std.clamp(min=1e-6)))
        for row, text in zip(z.split(1), texts, strict=True):
            h = self.hidden(row)[0].float()
            kv = pooled_kv(self.lm, self.placement, text, counts).to(h)
            for layer, target in zip(least, self.spread((kv - mean) / std), strict=True):
                layer.add(h, target)
        for linear, solved in zip(self.layers, least, strict=True):
            solved.solve_into(linear)
