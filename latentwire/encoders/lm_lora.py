"""Encoder on a pretrained language model's hidden states, with or without LoRA."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import torch
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, DropoutRate, Layers, Positive, Width
from latentwire.encoders.base import Encoder, Overflow, Tokens
from latentwire.encoders.bottleneck import Bottleneck
from latentwire.encoders.mixing import channel_statistics, chosen_layers, mixed
from latentwire.encoders.pooling import Pooling
from latentwire.encoders.slots import LatentLayout
from latentwire.encoders.states import frozen_states, headed, refuse_model
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.lora import lora_config
from latentwire.lm.recompute import recomputed

Self = TypeVar("Self", bound="LMLoRAEncoder")


class LMLoRAEncoder(Encoder):
    """Encodes a language model's hidden states: mix of layers -> Bottleneck.

        h_t = sum_l softmax(w)_l  (s_l,t − mean_l) / std_l        (layer mix of ELMo, Peters et al., 2018, Eq. 1)

    over the chosen layers l, mean and std per channel measured once on texts (`fit`): layers differ in scale by orders
    of magnitude, and what all tokens share, or a few huge channels, would drown what tells them apart (left in, five
    sixths of an untrained latent are the same for every text). The head of the prompt (BOS) is read by the model and
    left out of pooling and statistics.

    rank 0: the given model itself, without gradient and with its adapters off. rank > 0: LoRA (Hu et al., 2021) on a
    private copy of its decoder, so the model that reads the latents and the teacher stay what they are. The LoRA
    weights are parameters of this module and in its state; the frozen weights are neither. The copy moves and changes
    its type with this module; a deep copy of this module copies it, too.

    State: mean and std stand beside the weights; a loaded state needs no `fit`.

    Args:
        lm: the model, before any adapter is put on it.
        d_z: width of a latent.
        slices: names of the slices that layouts use.
        pooling: factory that is called with `d` and `slices`.
        layers: numbers of the states to mix, 0 (embeddings) to n_layers (last, normalised); None: all.
        rank: rank of the LoRA; 0: frozen.
        alpha: numerator of LoRA's scale alpha / rank.
        lora_dropout: dropout before the LoRA's first matrix.
        targets: linear layers with LoRA, by the last part of their name; None: those of the attention.
        lora_layers: number of layers, from the first, with LoRA; None: all whose result is mixed.
        width: width of the bottleneck.
        refiner_layers: number of transformer layers over the slots.
        heads: attention heads of the refiner.
        dropout: dropout of the refiner.
        max_tokens: longest text in tokens, its head not counted.
        overflow: what happens to a longer one, `refuse` or `count`.
        halting: whether every slot learns how many of the refiner's layers it goes through (`HaltingTransformer`).
    """

    lm: FrozenLM
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        lm: FrozenLM,
        d_z: Width,
        slices: Sequence[str],
        pooling: Callable[..., Pooling],
        layers: Annotated[list[Literal[0] | Layers], NOT_EMPTY] | None = None,
        rank: Literal[0] | Width = 8,
        alpha: Positive = 16.0,
        lora_dropout: DropoutRate = 0.0,
        targets: Annotated[list[str], NOT_EMPTY] | None = None,
        lora_layers: Layers | None = None,
        width: Width = 128,
        refiner_layers: Literal[0] | Layers = 3,
        heads: Layers = 4,
        dropout: DropoutRate = 0.0,
        max_tokens: Count = 512,
        overflow: Overflow = "refuse",
        halting: bool = False,
    ):
        super().__init__(d_z, max_tokens, overflow)
        self.lm = lm
        self.chosen = chosen_layers(layers, lm.n_layers)
        refuse_model(lm, max_tokens)
        self.mix = nn.Parameter(torch.zeros(len(self.chosen)))
        self.register_buffer("mean", torch.zeros(len(self.chosen), lm.d_model))
        self.register_buffer("std", torch.zeros(len(self.chosen), lm.d_model))
        self.bottleneck = Bottleneck(lm.d_model, d_z, slices, pooling, width, refiner_layers, heads, dropout, halting)
        # A plain list: the frozen weights are in no parameters() and no state_dict().
        self._copy: list[Any] = []
        self.lora = nn.ParameterDict()
        if rank > 0:
            reach = max(self.chosen) if lora_layers is None else min(lora_layers, max(self.chosen))
            self._add_lora(rank, alpha, lora_dropout, targets, reach)

    def _add_lora(self, rank: int, alpha: float, dropout: float, targets: list[str] | None, reach: int) -> None:
        if self.lm.adapted:
            raise UserError(
                f"encoder on {self.lm.name}",
                "a model with an adapter",
                "the bare model",
                f"leave out adaptation.{self.lm.name}, or set encoder.rank=0",
            )
        if reach < 1:
            raise UserError(
                "encoder.rank",
                "LoRA, but no layer whose result is mixed",
                "a layer of 1 or more",
                "set encoder.rank=0",
            )
        decoder = copy.deepcopy(self.lm.decoder)
        config = lora_config(self.lm, rank, alpha, "encoder", targets, reach, dropout)
        inject_adapter_in_model(config, decoder)
        for name, parameter in decoder.named_parameters():
            if parameter.requires_grad:
                self.lora[name.replace(".", "-")] = parameter
        self._copy.append(decoder)
        self.train(self.training)

    def ids(self, text: str) -> Sequence[int]:
        return self.lm.style.encode(text)

    @torch.no_grad()
    def fit(self, texts: Sequence[str], layout: LatentLayout) -> None:
        """Measure mean and std of the hidden states on texts."""
        device = self.mean.device
        mean, std = channel_statistics(self._states(self.tokenize([text]).to(device))[:, 0] for text in texts)
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, tokens: Tokens, layout: LatentLayout) -> Tensor:
        states = self._states(tokens).to(self.mix)  # (layers, B, T, d_model)
        return self.bottleneck(self.blended(states), tokens.mask, layout)

    def blended(self, states: Tensor) -> Tensor:
        """Make one sequence (B, T, d_model) of the states (layers, B, T, d_model), which may change in place."""
        return mixed(states, self.mean, self.std, self.mix)

    def _states(self, tokens: Tokens) -> Tensor:
        if not self._copy:
            return frozen_states(self.lm, tokens, self.chosen)
        ids, mask = headed(self.lm, tokens)
        # padding is on the right and attention causal: default positions are each token's own
        with recomputed(self._copy[0], self.lm.anatomy.layers, self.checkpointing):
            out = self._copy[0](input_ids=ids, attention_mask=mask.long(), use_cache=False, output_hidden_states=True)
        return torch.stack([out.hidden_states[layer] for layer in self.chosen])[:, :, len(self.lm.style.head) :]

    def train(self: Self, mode: bool = True) -> Self:
        super().train(mode)
        for decoder in self._copy:
            decoder.eval()
            for module in decoder.modules():
                if isinstance(module, LoraLayer):
                    module.lora_dropout.train(mode)
        return self

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for decoder in self._copy:
            decoder._apply(fn, recurse)
            moved = {name.replace(".", "-"): p for name, p in decoder.named_parameters()}
            if any(moved[name] is not p for name, p in self.lora.items()):
                raise RuntimeError("LoRA weights were replaced by the move and would no longer be trained")
        return self
