"""Encoders of CPU size, one per kind of input; any extent from 1 upwards is accepted."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from asgml.model.encoders.base import RANKS, Encoder, mean_over_frames, resolve_kind
from asgml.model.encoders.norms import Norm, norm0d, norm1d, norm2d
from callbacks.errors import UserError


def _sizes(name: str, sizes: list[int]) -> list[int]:
    if not sizes or any(size < 2 for size in sizes):
        raise UserError(name, str(list(sizes)), "at least one size, each 2 or more", f"correct {name}")
    return list(sizes)


def _frame_cnn(channels: list[int], dim: int, norm: Norm) -> nn.Sequential:
    """(n, channels[0], H, W) -> (n, dim): per stage a 3×3 convolution of stride 2; then the mean over the map."""
    stages: list[nn.Module] = []
    for before, after in pairwise(channels):
        stages += [
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            norm2d(norm, after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], dim))


class SmallCNN(Encoder):
    """Images (C, H, W), spectrograms (C = 1) among them: strided convolutions, mean over the map, linear.

    Args:
        shape: (C, H, W).
        dim: width of the feature.
        channels: of the stages, each of stride 2; None is [16, 32, 64].
        norm: `group` gives the same result for any batch size, number of ranks and row; `batch` as usual.
        kind: image, or None.
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
        stages = _sizes("SmallCNN.channels", [16, 32, 64] if channels is None else channels)
        self.layers = _frame_cnn([self.shape[0], *stages], dim, norm)

    def encode_rows(self, x: Tensor) -> Tensor:
        return self.layers(x)


class FrameCNN(Encoder):
    """Frames (T, C, H, W): the small CNN on every frame, then the mean over T. Arguments as in `SmallCNN`."""

    accepts = ("frames",)

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
        stages = _sizes("FrameCNN.channels", [16, 32, 64] if channels is None else channels)
        self.layers = _frame_cnn([self.shape[1], *stages], dim, norm)

    def encode_rows(self, x: Tensor) -> Tensor:
        return mean_over_frames(self.layers, x)


class TemporalConv(Encoder):
    """Sequences (T, F) of features: convolutions over time (kernel 3, stride 2), mean over time, linear.

    Args:
        shape: (T, F).
        dim: width of the feature.
        channels: of the convolutions; None is [64, 64].
        norm: as in `SmallCNN`.
        kind: sequence, or None.
    """

    accepts = ("sequence",)

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
        sizes = [self.shape[1], *_sizes("TemporalConv.channels", [64, 64] if channels is None else channels)]
        stages: list[nn.Module] = []
        for before, after in pairwise(sizes):
            stages += [
                nn.Conv1d(before, after, 3, stride=2, padding=1, bias=False),
                norm1d(norm, after),
                nn.ReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*stages)
        self.linear = nn.Linear(sizes[-1], dim)

    def encode_rows(self, x: Tensor) -> Tensor:
        return self.linear(self.layers(x.transpose(1, 2)).mean(2))


class MLP(Encoder):
    """Vectors (F,), e.g. features extracted beforehand.

    Args:
        shape: (F,).
        dim: width of the feature.
        hidden: width of the hidden layers.
        layers: number of hidden layers; 0 leaves one linear map.
        dropout: probability, after each hidden layer.
        norm: `group` is LayerNorm here.
        kind: vector, or None.
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
        sizes = [self.shape[0], *_sizes("MLP.hidden", [hidden]) * layers]
        stages: list[nn.Module] = []
        for before, after in pairwise(sizes):
            stages += [nn.Linear(before, after), norm0d(norm, after), nn.ReLU(inplace=True)]
            if dropout > 0:
                stages.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*stages, nn.Linear(sizes[-1], dim))

    def encode_rows(self, x: Tensor) -> Tensor:
        return self.layers(x)


def auto_encoder(shape: tuple[int, ...], dim: int = 64, norm: Norm = "group", kind: str | None = None) -> Encoder:
    """The small encoder for this kind of input: vector → MLP, sequence → TemporalConv, image → SmallCNN, frames →
    FrameCNN.

    Args:
        shape: of one sample; its rank decides where `kind` is None.
        dim: width of the feature.
        norm: of the encoder.
        kind: vector, sequence, image or frames. Tokens are refused: their encoder needs a vocabulary.
    """
    if kind == "tokens":
        raise UserError(
            "auto_encoder",
            "a modality of kind tokens",
            "vector, sequence, image or frames",
            "set model.encoders.<modality> to asgml.model.encoders.hf_text.HFTextEncoder",
        )
    kind = resolve_kind(shape, kind, tuple(k for k in RANKS if k != "tokens"), "auto_encoder")
    if kind == "vector":
        return MLP(shape, dim=dim, norm=norm)
    if kind == "sequence":
        return TemporalConv(shape, dim=dim, norm=norm)
    return SmallCNN(shape, dim=dim, norm=norm) if kind == "image" else FrameCNN(shape, dim=dim, norm=norm)
