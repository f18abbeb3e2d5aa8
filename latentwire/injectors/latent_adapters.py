"""Latents that layers read by gated cross-attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import Layers, OpenShare, Width
from latentwire.adapters.base import Adapter
from latentwire.adapters.calibration import AT_ONCE
from latentwire.injectors.base import Injector
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix, right_padded
from latentwire.lm.reading import LayerRead


class LatentAdapters(Injector):
    """Lets the stream behind some layers read the latents by gated cross-attention (Flamingo, Alayrac et al., 2022).

        h = adapter(z) + E_j at slot j,   K_l = A_l h,   V_l = B_l h
        x <- x + tanh(g_l) s_l / r_l * O_l CrossAttention(Q_l x / rms(x), K_l, V_l)

    s_l is the RMS of the stream behind layer l on text, as measured, and r_l the RMS of O_l applied to the mean of a
    message's values on a training batch (`calibrate`), so that a gate is about the share of the stream that is read.
    Flamingo's gates start at 0, where nothing but the gates has a gradient; here they start at `gate`.

    Latents take no column of the model's input and no place in its cache: text is read where it would stand without
    them, and the head (BOS) reads nothing. Their M keys are attended to at the chosen layers alone. Tables count places
    that are attended to before a question, M as with every other injector: rivals at equal positions have M tokens.

    State: sizes, gates and all weights; a loaded state needs no calibration.

    Args:
        d_z: width of a latent.
        lm: the model that reads.
        texts: real text to measure the stream on; None: a saved state will bring what was measured.
        adapter: factory that is called with `d_z`, `d_out=width` and `target=1.0`.
        width: width of h, of keys and of values.
        heads: number of heads, a divisor of the width.
        layers: the layers behind which latents are read, counted from 1; None: behind a quarter, the half and three
            quarters of all.
        gate: the share of the stream that is read at the start.
        slots: the largest number of slots, each of which has an E_j.

    Raises:
        UserError: a layer that the model does not have, heads that do not divide the width, or a model whose embeddings
            are projected.
    """

    size: Tensor
    rms: Tensor

    def __init__(
        self,
        d_z: Width,
        lm: FrozenLM,
        texts: Sequence[str] | None,
        adapter: Callable[..., Adapter],
        width: Width = 256,
        heads: Width = 4,
        layers: Sequence[Layers] | None = None,
        gate: OpenShare = 0.1,
        slots: Width = 1024,
    ):
        super().__init__(lm, "random")
        check_heads(width, heads)
        if lm.d_model != lm.d_hidden:
            found = f"embeddings of width {lm.d_model} on a stream of {lm.d_hidden}"
            expected = "one width, that of the language-model head"
            raise UserError(f"injector=latent_adapters on {lm.name}", found, expected, "set injector=soft_prefix")
        self.at = places(layers, lm.n_layers, lm.name)
        self.heads = heads
        size = torch.zeros(len(self.at)) if texts is None else stream_rms(lm, texts, self.at)
        self.register_buffer("size", size)
        self.register_buffer("rms", torch.zeros(len(self.at)))
        self.adapter = adapter(d_z=d_z, d_out=width, target=1.0)
        self.place = nn.Parameter(0.02 * torch.randn(slots, width))
        self.gates = nn.Parameter(torch.full((len(self.at),), math.atanh(gate)))
        self.keys, self.values = (nn.ModuleList(nn.Linear(width, width) for _ in self.at) for _ in range(2))
        self.queries = nn.ModuleList(nn.Linear(lm.d_hidden, width, bias=False) for _ in self.at)
        self.outs = nn.ModuleList(nn.Linear(width, lm.d_hidden, bias=False) for _ in self.at)

    def _placed(self, adapted: Tensor) -> Tensor:
        count = adapted.shape[1]
        if count > len(self.place):
            raise UserError(
                "injector.slots", f"{len(self.place)}, fewer than a message has", f"{count} or more",
                f"set injector.slots={count}",
            )  # fmt: skip
        return adapted + self.place[:count]

    def forward(self, z: Tensor) -> Prefix:
        """Turn (B, M, d_z) into keys and values for the chosen layers."""
        return Prefix(reads=self.reads(self.adapter(z)))

    def reads(self, adapted: Tensor) -> list[LayerRead]:
        """Turn what the adapter makes of latents, (B, M, width), into what the chosen layers read of them."""
        if not bool((self.rms > 0).all()):
            raise RuntimeError("latent_adapters not calibrated: call calibrate(latents of a training batch) first")
        h, scale = self._placed(adapted), self.gates.tanh() * self.size / self.rms
        reads = []
        for i, layer in enumerate(self.at):
            keys, values = (of[i](h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for of in (self.keys, self.values))
            query, out = cast(nn.Linear, self.queries[i]), cast(nn.Linear, self.outs[i])
            reads.append(LayerRead(layer - 1, keys, values, query.weight, out.weight, scale[i]))
        return reads

    def columns(self, slots: int) -> int:
        return 0

    @property
    def first_state(self) -> int:
        return self.at[0]

    @property
    def last_state(self) -> int:
        return self.at[-1]

    def text_rms(self) -> dict[str, Tensor]:
        return {"reads": self.size}

    @torch.no_grad()
    def calibrate(self, z: Tensor, texts: Sequence[str] | None = None, counts: Sequence[int] | None = None) -> None:
        self.adapter.calibrate(z)
        self.refit(z, texts or (), counts)

    @torch.no_grad()
    def refit(self, z: Tensor, texts: Sequence[str], counts: Sequence[int] | None = None) -> None:
        """Measure r_l for latents (B, M, d_z), the weights as they are."""
        training = self.training
        self.eval()
        total = torch.zeros_like(self.rms, dtype=torch.float64)
        for part in z.split(AT_ONCE):
            h = self._placed(self.adapter(part))
            for i in range(len(self.at)):
                total[i] += self.outs[i](self.values[i](h).mean(1)).double().pow(2).mean(-1).sum()
        self.rms.copy_((total / len(z)).sqrt())
        self.train(training)


def check_heads(width: int, heads: int) -> None:
    """Raise UserError where heads do not divide the width."""
    if width % heads:
        raise UserError(
            "injector.heads", f"{heads}, which does not divide injector.width={width}", "a divisor of the width",
            f"set injector.heads={math.gcd(width, heads)}",
        )  # fmt: skip


def places(layers: Sequence[int] | None, n_layers: int, name: str) -> tuple[int, ...]:
    """Return the layers behind which latents are read, rising, from 1; by default at the quarters of a model.

    Raises:
        UserError: a layer that the model `name` does not have, one that is named twice, or none.
    """
    if layers is None:
        return tuple(sorted({max(1, round(n_layers * share / 4)) for share in (1, 2, 3)}))
    wrong = [n for n in layers if not 1 <= n <= n_layers]
    if wrong or len(set(layers)) < len(layers) or not layers:
        expected = f"different layers from 1 to {n_layers}, those of {name}"
        raise UserError("injector.layers", str(list(layers)), expected, "set injector.layers=null")
    return tuple(sorted(layers))


@torch.no_grad()
def stream_rms(lm: FrozenLM, texts: Sequence[str], layers: Sequence[int]) -> Tensor:
    """Measure the RMS of the stream behind layers (from 1) on texts, the head left out; (len(layers),) float32, CPU.

    Raises:
        UserError: no token at all.
    """
    head, total, count = lm.style.head, torch.zeros(len(layers), dtype=torch.float64), 0
    for i in range(0, len(texts), AT_ONCE):
        rows = [(*head, *lm.style.encode(text)[: lm.max_tokens - len(head)]) for text in texts[i : i + AT_ONCE]]
        ids, mask = right_padded(rows)
        mask[:, : len(head)] = False
        found = lm.hidden(ids, torch.arange(ids.shape[1]) < mask.sum(1, keepdim=True) + len(head), layers)
        total += found[:, mask.to(found.device)].double().pow(2).mean(-1).sum(1).cpu()
        count += int(mask.sum())
    if count == 0:
        raise UserError("texts to measure the stream on", "0 tokens", "1 at least", "set wire.measured_texts=256")
    return (total / count).sqrt().float()
