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
    convention on the model itself: one token, repeated, must have the same first-layer key everywhere once the rotation
    is undone.

    Args:
        lm: a model with one rotary embedding for all layers.

    Raises:
        UserError: the model has no rotary positions, several kinds, or another convention.
    """

    def __init__(self, lm: FrozenLM):
        self.lm = lm  # shared by deep copies; not a module, so in no state
        rotary = getattr(lm.decoder, "rotary_emb", None)
        parameters = list(inspect.signature(rotary.forward).parameters) if rotary is not None else []
        if parameters != ["x", "position_ids"]:
            raise self._refused("no rotary embedding that is the same for all layers")
        # three tokens are enough for a difference that grows with the position to show
        token = int(torch.tensor(lm.style.encode("a") or (0,))[0])
        keys = self.undo(lm.keys_and_values([token] * 3)[0][0].float(), torch.arange(3))
        spread = float((keys - keys[:, :, :1]).abs().max() / keys.abs().max())
        if spread > TOLERANCE.get(lm.model.dtype, 8e-2):
            raise self._refused(f"keys that differ by {spread:.2g} once the rotation of their halves is undone")

    def place(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Turn keys (B, H, M, D) without position to positions (M,), as the model caches them."""
        cos, sin = self._angles(keys, positions)
        return self._turn(keys, cos, sin)

    def undo(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Take the positions (M,) out of cached keys (B, H, M, D)."""
        cos, sin = self._angles(keys, positions)
        # a scaled rotation (attention_scaling): its inverse is its transpose over the squared scale
        return self._turn(keys, cos, -sin, divide=cos.pow(2) + sin.pow(2))

    @torch.no_grad()
    def of_text(self, text: str) -> list[KeysValues]:
        """Return a text's keys before RoPE and its values per layer, (1, kv_heads, T, head_dim) float32.

        The text is read behind the head, which is left out, and cut at the model's positions; adapters are off.

        Raises:
            UserError: layers with caches of different shapes.
        """
        head = self.lm.style.head
        ids = self.lm.style.encode(text)[: self.lm.max_tokens - len(head)]
        positions = torch.arange(len(head), len(head) + len(ids))
        found = []
        for layer, pair in enumerate(self.lm.keys_and_values((*head, *ids)) if ids else ()):
            keys, values = (x[:, :, len(head) :].float() for x in pair)
            heads, head_dim = self.lm.kv_shape
            if keys.shape[1:] != (heads, len(ids), head_dim) or keys.shape != values.shape:
                raise UserError(
                    f"injector=deep_prefix on {self.lm.name}",
                    f"a cache of {tuple(keys.shape)} and {tuple(values.shape)} in layer {layer}",
                    f"(1, {heads}, tokens, {head_dim}) in every layer",
                    "set injector=soft_prefix",
                )
            found.append((self.undo(keys, positions), values))
        return found

    def _angles(self, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.lm.decoder.rotary_emb(keys, positions.to(keys.device)[None])

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
