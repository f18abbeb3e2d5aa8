"""Encoders of CPU size, one per kind of input; any extent from 1 upwards is accepted."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from asgml.data.spec import RANK
from asgml.model.encoders.base import Encoder, mean_over_frames, resolve_kind
from asgml.model.encoders.norms import Norm, norm0d, norm1d, norm2d
from asgml.model.encoders.valid_steps import lengths_after, masked_norm, mean_over_valid, only_valid, valid_mask
from callbacks.errors import UserError


def _checked(name: str, sizes: list[int], example: str) -> list[int]:
    if not sizes or any(size < 2 for size in sizes):
        raise UserError(name, str(list(sizes)), "at least one size, each 2 or more", f"set {example}")
    return list(sizes)


def _frame_cnn(channels: list[int], dim: int, norm: Norm) -> nn.Sequential:
    """Build (n, channels[0], H, W) -> (n, dim): a 3×3 convolution of stride 2 per stage, then the mean over the map."""
    stages: list[nn.Module] = []
    for before, after in pairwise(channels):
        stages += [
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            norm2d(norm, after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], dim))


class SmallCNN(Encoder):
    """Encodes images (C, H, W), spectrograms (C = 1) among them: strided convolutions, mean over the map, linear.

    Args:
        shape: the shape of one sample, (C, H, W).
        dim: the width of the feature.
        channels: the channels of the stages, each of stride 2; null is [16, 32, 64].
        norm: the normalisation; with `group` a row's feature is the same for any batch size and number of ranks.
        kind: image, or null.

    Raises:
        UserError: another kind of modality, or a stage of fewer than 2 channels.
    """

    accepts = ("image",)

    def __init__(
        self,
        shape: tuple[int, ...],
        dim: int = 64,
        channels: list[int] | None = None,
        norm: Norm = "group",
        kind: str | None = None,
    ):
        super().__init__(shape, kind)
        self.out_dim = dim
        stages = [16, 32, 64] if channels is None else channels
        stages = _checked(f"{type(self).__name__}.channels", stages, "channels=[16,32,64]")
        self.layers = _frame_cnn([self.shape[-3], *stages], dim, norm)

    def encode_rows(self, x: Tensor) -> Tensor:
        return self.layers(x)


class FrameCNN(SmallCNN):
    """Encodes frames (T, C, H, W): the small CNN on every frame, then the mean over T. Arguments as in `SmallCNN`."""

    accepts = ("frames",)

    def encode_rows(self, x: Tensor) -> Tensor:
        return mean_over_frames(self.layers, x)


class TemporalConv(Encoder):
    """Encodes sequences (T, F) of features: convolutions over time (kernel 3, stride 2), mean over time, linear.

    Given lengths, it computes with the valid steps alone, also in its normalisation: a row's feature is that of the
    sequence without padding, however much of it there is and whatever it holds.

    Args:
        shape: the shape of one sample, (T, F).
        dim: the width of the feature.
        channels: the channels of the convolutions; null is [64, 64].
        norm: the normalisation, as in `SmallCNN`.
        kind: sequence, or null.

    Raises:
        UserError: another kind of modality, or a convolution of fewer than 2 channels.
    """

    accepts = ("sequence",)
    takes_lengths = True

    def __init__(
        self,
        shape: tuple[int, ...],
        dim: int = 64,
        channels: list[int] | None = None,
        norm: Norm = "group",
        kind: str | None = None,
    ):
        super().__init__(shape, kind)
        self.out_dim = dim
        convolutions = [64, 64] if channels is None else channels
        sizes = [self.shape[1], *_checked("TemporalConv.channels", convolutions, "channels=[64,64]")]
        stages: list[nn.Module] = []
        for before, after in pairwise(sizes):
            stages += [
                nn.Conv1d(before, after, 3, stride=2, padding=1, bias=False),
                norm1d(norm, after),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*stages)
        self.linear = nn.Linear(sizes[-1], dim)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the features (n, dim) of rows (n, T, F); n may be 0.

        Args:
            x: the rows.
            lengths: the number of valid steps of each row, (n,) int64, each 1 or more; None stands for all steps.
        """
        return super().forward(x) if lengths is None or x.shape[0] == 0 else self.encode_padded(x, lengths)

    def encode_rows(self, x: Tensor) -> Tensor:
        return self.linear(self.layers(x.transpose(1, 2)).mean(2))

    def encode_padded(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the features (n, dim) of the first `lengths` (n,) steps of each row, with n >= 1."""
        mask = valid_mask(lengths, x.shape[1])
        x = only_valid(x.transpose(1, 2), mask)
        for layer in self.layers:
            if isinstance(layer, nn.Conv1d):
                x, lengths = layer(x), lengths_after(layer, lengths)
                mask = valid_mask(lengths, x.shape[2])
            elif isinstance(layer, nn.ReLU):
                x = layer(x)
            else:
                x = masked_norm(layer, x, mask)
        return self.linear(mean_over_valid(x, mask))


class MLP(Encoder):
    """Encodes vectors (F,), e.g. features extracted beforehand: linear layers with ReLU between them.

    Args:
        shape: the shape of one sample, (F,).
        dim: the width of the feature.
        hidden: the width of the hidden layers.
        layers: the number of hidden layers; 0 leaves one linear map.
        dropout: the probability of dropout after each hidden layer.
        norm: the normalisation of the hidden layers; `group` is LayerNorm here.
        kind: vector, or null.

    Raises:
        UserError: another kind of modality, or fewer than 2 hidden units.
    """

    accepts = ("vector",)

    def __init__(
        self,
        shape: tuple[int, ...],
        dim: int = 64,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.0,
        norm: Norm = "group",
        kind: str | None = None,
    ):
        super().__init__(shape, kind)
        self.out_dim = dim
        sizes = [self.shape[0], *_checked("MLP.hidden", [hidden], "hidden=128") * layers]
        stages: list[nn.Module] = []
        for before, after in pairwise(sizes):
            stages += [nn.Linear(before, after), norm0d(norm, after), nn.ReLU(inplace=True)]
            if dropout > 0:
                stages.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*stages, nn.Linear(sizes[-1], dim))

    def encode_rows(self, x: Tensor) -> Tensor:
        return self.layers(x)


def auto_encoder(shape: tuple[int, ...], dim: int = 64, norm: Norm = "group", kind: str | None = None) -> Encoder:
    """Return the small encoder for a kind of input: MLP, TemporalConv, SmallCNN or FrameCNN.

    Args:
        shape: the shape of one sample; its rank decides where `kind` is None.
        dim: the width of the feature.
        norm: the encoder's normalisation.
        kind: the kind of the modality: vector, sequence, image or frames.

    Raises:
        UserError: tokens, whose encoder needs a vocabulary, or a shape that no kind has.
    """
    if kind == "tokens":
        raise UserError(
            "auto_encoder",
            "a modality of kind tokens",
            "vector, sequence, image or frames",
            "set model.encoders.<modality> to {_target_: asgml.model.HFTextEncoder, _partial_: true, config: …}",
        )
    kind = resolve_kind(shape, kind, tuple(k for k in RANK if k != "tokens"), "auto_encoder")
    if kind == "vector":
        return MLP(shape, dim=dim, norm=norm)
    if kind == "sequence":
        return TemporalConv(shape, dim=dim, norm=norm)
    return SmallCNN(shape, dim=dim, norm=norm) if kind == "image" else FrameCNN(shape, dim=dim, norm=norm)
