"""Late fusion by a transformer over one token per modality."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asgml.model.encoders.base import no_rows
from asgml.model.fusion.base import Fusion
from asgml.model.modality_dict import ModalityDict
from callbacks.errors import UserError
from callbacks.ranges import Count, DropoutRate, Layers, Width


class LateTransformer(Fusion):
    """Fuses by a transformer encoder over one token per modality and a class token (SimBaMM: Rheude, Eils and Wild,
    "Fusion or Confusion? Multimodal Complexity Is Not All You Need", arXiv 2512.22991, with one token per modality).

        t_m = P_m f_m + e_m,    [h_0, h_1, …, h_M] = Encoder([c, t_1, …, t_M]),    logits = W h_0 + b

    with linear P_m, a learned embedding e_m of each modality and a learned class token c. Absent modalities are masked
    as keys in every layer, so that a row's logits are those of the modalities that it has; a row without any has c.

    Published, in the paper and its code: projection to a shared width, class token (normal, standard deviation 0.02)
    in front, mask for missing modalities, post-norm layers with ReLU as PyTorch has them, a linear head on the class
    token. Chosen here: e_m in place of sinusoidal positions, which makes the order of the modalities irrelevant; the
    usual initial weights of a linear layer in the head; and all sizes, which the paper tunes per data set. Without
    dropout the draws of a run do not depend on how often a method fuses in a step; PyTorch's layer has 0.1.

    Args:
        dims: the width of each modality's feature.
        classes: the number of classes.
        dim: the width of a token.
        heads: the number of attention heads, a divisor of `dim`.
        layers: the number of encoder layers.
        feedforward: the width of the hidden layer in each of them.
        dropout: the probability of dropout in the layers.

    Raises:
        UserError: a width that the heads do not divide, or no layer.
    """

    def __init__(
        self,
        dims: dict[str, Width],
        classes: Count,
        dim: Width = 128,
        heads: Layers = 4,
        layers: Layers = 2,
        feedforward: Width = 256,
        dropout: DropoutRate = 0.0,
    ):
        super().__init__(dims, classes)
        if heads < 1 or dim < 1 or dim % heads:
            near = max(1, round(dim / max(heads, 1))) * max(heads, 1)
            found = f"{heads} heads for tokens of width {dim}"
            expected, remedy = "a width that the heads divide", f"set model.fusion.dim={near} or model.fusion.heads=1"
            raise UserError("model.fusion.heads", found, expected, remedy)
        if layers < 1:
            raise UserError(
                "model.fusion.layers", str(layers), "at least 1", "set model.fusion.layers=1, or fusion=sum"
            )
        # The biases of the projections are the embeddings e_m.
        self.projections = ModalityDict({m: nn.Linear(d, dim) for m, d in dims.items()})
        self.class_token = nn.Parameter(0.02 * torch.randn(dim))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, feedforward, dropout, batch_first=True) for _ in range(layers)
        )
        self.linear = nn.Linear(dim, classes)

    def fuse(self, features: dict[str, Tensor], present: dict[str, Tensor] | None) -> Tensor:
        tokens = [self.projections[m](features[m]) for m in self.dims]
        size = tokens[0].shape[0]
        if size == 0:  # attention cannot be reshaped to no rows
            return no_rows(self, self.classes) + torch.cat(tokens).sum()
        start = self.class_token.to(tokens[0].dtype).expand(size, -1)
        everyone = torch.ones(size, dtype=torch.bool, device=start.device)
        there = [everyone, *(everyone if present is None else present[m] for m in self.dims)]
        absent = ~torch.stack(there, 1)  # also without masks, so that masks of True take the same kernel
        hidden = torch.stack([start, *tokens], 1)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=absent)
        return self.linear(hidden[:, 0])
