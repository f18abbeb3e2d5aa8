"""Where a key stands: the language model's own rotary embedding, applied and undone."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from callbacks.errors import UserError
from latentwire.encoders.transformer import rotate
from latentwire.lm.frozen import FrozenLM

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}


class RotaryPlacement:
    """Turns keys without position into keys at given positions, as the model's attention caches them, and back.

    The angles come from the model's own rotary module, so any scaling of them is the model's. Construction checks
    the convention on the model itself: one token, repeated, must have the same first-layer key everywhere once
    the rotation is undone.

    Args:
        lm: a model with one rotary embedding for all layers.

    Raises:
        UserError: the model has no rotary positions, several kinds, or another convention.
    """

    def __init__(self, lm: FrozenLM):
        self.lm = lm  # shared by deep copies; not a module, so in no state
        rotary = getattr(self._decoder(), "rotary_emb", None)
        parameters = list(inspect.signature(rotary.forward).parameters) if rotary is not None else []
        if parameters != ["x", "position_ids"]:
            raise self._refused("no rotary embedding that is the same for all layers")
        # three tokens are enough for a difference that grows with the position to show
        token = int(torch.tensor(lm.style.encode("a") or (0,))[0])
        cache = read_cache(lm, [token] * 3)
        keys = self.undo(cache[0][0].float(), torch.arange(3))
        spread = float((keys - keys[:, :, :1]).abs().max() / keys.abs().max())
        if spread > TOLERANCE.get(lm.model.dtype, 8e-2):
            raise self._refused(f"keys that differ by {spread:.2g} once the rotation of their halves is undone")

    def place(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Keys (B, H, M, D) before RoPE, positions (M,) -> keys as cached."""
        cos, sin = self._angles(keys, positions)
        return self._turn(keys, cos, sin)

    def undo(self, keys: Tensor, positions: Tensor) -> Tensor:
        """Keys (B, H, M, D) as cached -> before RoPE. Inverse of `place`."""
        cos, sin = self._angles(keys, positions)
        # a scaled rotation (attention_scaling): its inverse is its transpose over the squared scale
        return self._turn(keys, cos, -sin, divide=cos.pow(2) + sin.pow(2))

    def _angles(self, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self._decoder().rotary_emb(keys, positions.to(keys.device)[None])

    @staticmethod
    def _turn(keys: Tensor, cos: Tensor, sin: Tensor, divide: Tensor | None = None) -> Tensor:
        width = cos.shape[-1]  # some families rotate only the first channels of a head
        turned = rotate(keys[..., :width], cos.unsqueeze(1), sin.unsqueeze(1))
        if divide is not None:
            turned = turned / divide.unsqueeze(1)
        return torch.cat([turned, keys[..., width:]], -1)

    def _decoder(self) -> Any:
        return decoder_of(self.lm)

    def _refused(self, found: str) -> UserError:
        return UserError(
            f"deep_prefix on {self.lm.name}",
            found,
            "rotary positions that turn halves, alike in all layers (Llama, Qwen2, Mistral, …)",
            "use injector=soft_prefix with this model",
        )


def decoder_of(lm: FrozenLM) -> Any:
    """The decoder stack of the model, below a PEFT adapter if there is one."""
    model = lm.model.get_base_model() if hasattr(lm.model, "get_base_model") else lm.model
    return model.get_decoder()


@torch.no_grad()
def read_cache(lm: FrozenLM, ids: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Keys (after RoPE) and values per layer, (1, kv_heads, T, head_dim), of ids at positions 0 … T-1; adapters
    off.
    """
    with lm.adapters_off():
        cache = DynamicCache(config=lm.model.config)
        decoder_of(lm)(input_ids=torch.tensor([ids], device=lm.input_device), past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]
