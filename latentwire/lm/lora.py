"""LoRA (Hu et al., 2021) on a language model that reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from latentwire.lm.frozen import FrozenLM

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass
class LoRA:
    """Adapts a reader: another track than a frozen one.

    Args:
        rank: inner width of the added matrices.
        alpha: numerator of their scale alpha / rank.
        layers: number of layers, from the first, that are adapted; None: all.
        targets: linear layers by the last part of their name; None: those of the attention.
    """

    rank: int = 8
    alpha: float = 16.0
    layers: int | None = None
    targets: list[str] | None = None

    def apply(self, lm: FrozenLM) -> list[tuple[str, nn.Parameter]]:
        """Put it on the model; return its parameters by name."""
        from peft import LoraConfig

        reach = lm.n_layers if self.layers is None else min(self.layers, lm.n_layers)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            target_modules=self.targets or list(ATTENTION),
            layers_to_transform=list(range(reach)),
        )
        return lm.adapt(config)
