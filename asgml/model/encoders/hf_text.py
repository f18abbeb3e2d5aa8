"""Text encoder: any Hugging Face `AutoModel`, pretrained or with random weights of any size."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from asgml.model.encoders.base import Encoder, largest_id
from callbacks.errors import UserError
from callbacks.ranges import Count, Width


class HFTextEncoder(Encoder):
    """Encodes token ids (n, L), padded with -1, by an `AutoModel`, pooled over the tokens that are there.

    A row without any token has the feature 0. Of an encoder-decoder model the encoder is used; an unused pooler is left
    out.

    Args:
        shape: the padded length in tokens, (L,).
        model: the id on the hub, or the folder, for `from_pretrained`. Exactly one of `model` and `config` is given.
        config: the settings of a model with random weights: `model_type`, and any others of that type, e.g.
            `{model_type: bert, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2}`.
        pooling: `mean` over the tokens, or `cls`, the state of the first.
        frozen: whether the model stays as it is and in eval mode (no dropout), with no graph built through it.
        dim: the width of a linear map behind the model, trained even when the model is frozen; null has no such map.
        local_files_only: whether never to ask the network.
        kind: tokens, or null.

    Raises:
        UserError: a model that is not there, unknown settings, sequences too long for it, or ids beyond its vocabulary.
    """

    accepts = ("tokens",)

    def __init__(
        self,
        shape: tuple[Count, ...],
        model: str | None = None,
        config: dict[str, Any] | None = None,
        pooling: Literal["mean", "cls"] = "mean",
        frozen: bool = False,
        dim: Width | None = None,
        local_files_only: bool = False,
        kind: str | None = None,
    ):
        super().__init__(shape, kind)
        if (model is None) == (config is None):
            raise UserError(
                "HFTextEncoder",
                "both model and config" if model is not None else "neither model nor config",
                "exactly one: model (pretrained), or config (random weights)",
                "set model to a hub id or a folder, or config={model_type:bert}",
            )
        network = _pretrained(model, local_files_only) if model is not None else _random(config or {})
        if network.config.is_encoder_decoder:
            network = network.get_encoder()
        if "add_pooling_layer" in inspect.signature(type(network).__init__).parameters:
            network.pooler = None  # its parameters would never see a gradient
        longest = getattr(network.config, "max_position_embeddings", None)
        if longest is not None and 0 < longest < self.shape[0]:
            raise UserError(
                "HFTextEncoder.shape",
                f"{self.shape[0]} tokens per sample",
                f"at most {longest} (max_position_embeddings of the model)",
                f"cut the stored sequences to {longest} tokens, or set model to one with more positions",
            )
        self.model: nn.Module = network
        self.pooling = pooling
        self.frozen = frozen
        pad = getattr(network.config, "pad_token_id", None)
        self.pad = 0 if pad is None or pad < 0 else pad
        self.vocabulary = int(network.config.vocab_size)
        hidden = int(network.config.hidden_size)
        self.projection = nn.Identity() if dim is None else nn.Linear(hidden, dim)
        self.out_dim = hidden if dim is None else dim
        if frozen:
            self.model.requires_grad_(False)
        self.train()

    @staticmethod
    def input_files(arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Return the files of the model, if it is given as a folder (see `suite.runs.reads`)."""
        folder = Path(arguments["model"] or "").expanduser()
        there = arguments["model"] is not None and folder.is_dir()
        return {f"model/{p.name}": p for p in sorted(folder.iterdir()) if p.is_file()} if there else {}

    def train(self, mode: bool = True) -> HFTextEncoder:
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def encode_rows(self, x: Tensor) -> Tensor:
        mask = x >= 0
        ids = torch.where(mask, x, self.pad).long()
        if (largest := largest_id(ids)) >= self.vocabulary:
            raise UserError(
                "HFTextEncoder input",
                f"token id {largest}",
                f"ids below the vocabulary size {self.vocabulary}, -1 for padding",
                "tokenise with the tokenizer of this very model",
            )
        # A row without tokens attends to its first position, else the softmax has nothing to normalise over.
        attended = mask.clone()
        attended[:, 0] |= ~mask.any(1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            states = self.model(input_ids=ids, attention_mask=attended.long()).last_hidden_state
        return self.projection(pool(states, mask, self.pooling))


def pool(states: Tensor, mask: Tensor, pooling: Literal["mean", "cls"]) -> Tensor:
    """Return one feature per row, (n, d): the mean over its tokens, or its first; 0 in rows without any.

    Args:
        states: the states of all positions, (n, L, d).
        mask: whether each position holds a token, (n, L) bool.
        pooling: `mean` or `cls`.
    """
    if pooling == "cls":
        return torch.where(mask.any(1, keepdim=True), states[:, 0], 0.0)
    total = torch.where(mask.unsqueeze(2), states, 0.0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1)


def _pretrained(model: str, local_files_only: bool) -> Any:
    try:
        # float32 whatever the checkpoint holds: mixed precision is the trainer's business.
        return AutoModel.from_pretrained(model, local_files_only=local_files_only, dtype=torch.float32)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"HFTextEncoder.model={model}",
            first,
            "a folder with config.json and weights, a model in the local cache, or a hub id with network access",
            f"run `hf download {model}` where there is a network and set model to the folder, or use config",
        ) from error


def _random(config: dict[str, Any]) -> Any:
    where = "HFTextEncoder.config"
    settings = dict(config)
    model_type = settings.pop("model_type", None)
    try:
        default = AutoConfig.for_model(str(model_type))
    except ValueError as error:
        raise UserError(
            f"{where}.model_type",
            str(model_type),
            "a model type of transformers, such as bert, roberta or distilbert",
            "set config.model_type=bert",
        ) from error
    known = {*default.to_dict(), *default.attribute_map}
    for key in settings:
        if key not in known:  # transformers would keep an unknown setting silently
            near = difflib.get_close_matches(key, known, 1)
            raise UserError(
                f"{where}.{key}",
                "an unknown setting",
                f"a setting of {type(default).__name__}",
                f"did you mean {near[0]}?" if near else f"leave {key} out",
            )
    return AutoModel.from_config(AutoConfig.for_model(str(model_type), **settings))
