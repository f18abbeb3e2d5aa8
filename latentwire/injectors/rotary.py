"""Where a key stands: the language model's own rotary embedding, applied and undone."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from callbacks.errors import UserError
from latentwire.encoders.transformer import rotate
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import KeysValues

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}


class RotaryPlacement:
    """Turns keys without position into keys at given positions, as the model's attention caches them, and back.

    The angles come from the model's own rotary module, so any scaling of them is the model's. Construction checks the
    convention on the model itself, in every layer. One token, repeated, has the same state everywhere, as attention
    over equal values gives that value; so its keys must be the same everywhere once the rotation is undone. In a layer
    without rotation (some layers of SmolLM3) they are the same as they stand, and such keys stay as they are.

    Attributes:
        turns: whether a layer rotates its keys, by layer.

    Args:
        lm: a model with one rotary embedding for all layers that rotate.

    Raises:
        UserError: the model has no rotary positions, several kinds, or another convention.
    """

    def __init__(self, lm: FrozenLM):
        self.lm = lm  # shared by deep copies; not a module, so in no state
        rotary = getattr(lm.decoder, "rotary_emb", None)
        if rotary is None or list(inspect.signature(rotary.forward).parameters) != ["x", "position_ids"]:
            raise self._refused("no rotary embedding that is the same for all layers")
        lm.kv_shape  # noqa: B018 - refuses layers that differ
        # three tokens are enough for a difference that grows with the position to show
        token = int(torch.tensor(lm.style.encode("a") or (0,))[0])
        positions = torch.arange(3)
        cached = [keys.float() for keys, _ in lm.keys_and_values([token] * 3)]
        angles = rotary(cached[0], positions.to(cached[0].device)[None])
        if not isinstance(angles, tuple) or angles[0].shape[-1] > lm.kv_shape[1]:
            raise self._refused("a rotary embedding that is no cosine and sine of a key's width")
        self.turns = tuple(self._rotates(layer, keys, positions) for layer, keys in enumerate(cached))

    def _rotates(self, layer: int, keys: Tensor, positions: Tensor) -> bool:
        undone = _spread(self._rotate(keys, positions, back=True))
        as_cached = _spread(keys)
        better, worse = sorted((undone, as_cached))
        # rounding adds up over the layers, so that later ones are judged by comparison
        if better > TOLERANCE.get(self.lm.model.dtype, 8e-2) and (layer == 0 or better > worse / 4):
            raise self._refused(f"keys of layer {layer} that differ by {undone:.2g} once rotated back in halves")
        return undone <= as_cached

    def place(self, keys: Tensor, positions: Tensor, layer: int) -> Tensor:
        """Turn keys (B, H, M, D) without position to positions (M,), as the model caches them in `layer`."""
        return self._rotate(keys, positions, back=False) if self.turns[layer] else keys

    def undo(self, keys: Tensor, positions: Tensor, layer: int) -> Tensor:
        """Take the positions (M,) out of keys (B, H, M, D) that were cached in `layer`."""
        return self._rotate(keys, positions, back=True) if self.turns[layer] else keys

    @torch.no_grad()
    def of_text(self, text: str) -> list[KeysValues]:
        """Return a text's keys before RoPE and its values per layer, (1, kv_heads, T, head_dim) float32.

        The text is read behind the head, which is left out, and cut at the model's positions; adapters are off.
        """
        head = self.lm.style.head
        ids = self.lm.style.encode(text)[: self.lm.max_tokens - len(head) - (self.lm.window is not None)]
        positions = torch.arange(len(head), len(head) + len(ids))
        found = []
        for layer, pair in enumerate(self.lm.keys_and_values((*head, *ids)) if ids else ()):
            keys, values = (x[:, :, len(head) :].float() for x in pair)
            found.append((self.undo(keys, positions, layer), values))
        return found

    @torch.no_grad()
    def of_batch(self, ids: Tensor, mask: Tensor) -> list[KeysValues]:
        """Return what `of_text` does of ids (B, T), padded on the right with a mask (B, T): (B, kv_heads, T, head_dim).

        What is returned for padding means nothing.
        """
        head = self.lm.style.head
        positions = torch.arange(len(head), len(head) + ids.shape[1])
        rows = [(*head, *row[real].tolist()) for row, real in zip(ids, mask, strict=True)]
        states = [
            (k[:, :, len(head) :].float(), v[:, :, len(head) :].float()) for k, v in self.lm.keys_and_values(*rows)
        ]
        return [(self.undo(k, positions, layer), v) for layer, (k, v) in enumerate(states)]

    def _rotate(self, keys: Tensor, positions: Tensor, back: bool) -> Tensor:
        with torch.no_grad():
            cos, sin = self.lm.decoder.rotary_emb(keys, positions.to(keys.device)[None])
        if not back:
            return self._turn(keys, cos, sin)
        # a scaled rotation (attention_scaling): its inverse is its transpose over the squared scale
        return self._turn(keys, cos, -sin, divide=cos.pow(2) + sin.pow(2))

    @staticmethod
    def _turn(keys: Tensor, cos: Tensor, sin: Tensor, divide: Tensor | None = None) -> Tensor:
        width = cos.shape[-1]  # some families rotate only the first channels of a head
        turned = rotate(keys[..., :width], cos.unsqueeze(1), sin.unsqueeze(1))
        if divide is not None:
            turned = turned / divide.unsqueeze(1)
        return torch.cat([turned, keys[..., width:]], -1)

    def _refused(self, found: str) -> UserError:
        return UserError(
            f"injector=deep_prefix on {self.lm.name}",
            found,
            "rotary positions that turn halves, alike in all layers (Llama, Qwen2, Mistral, …)",
            "set injector=soft_prefix",
        )


def _spread(keys: Tensor) -> float:
    return float((keys - keys[:, :, :1]).abs().max() / keys.abs().max())
