"""Encoders of CPU size, one per kind of input; any extent from 1 upwards is accepted."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asgml.data.spec import RANK
from asgml.model.encoders.base import Encoder, largest_id, resolve_kind
from asgml.model.encoders.norms import Norm, norm0d, norm1d, norm2d
from asgml.model.encoders.valid_steps import lengths_after, masked_norm, only_valid, valid_mask
from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, DropoutRate, Layers, Width


def _checked(name: str, sizes: list[int], example: str) -> list[int]:
    if not sizes or any(size < 2 for size in sizes):
        raise UserError(name, str(list(sizes)), "at least one size, each 2 or more", f"set {example}")
    return list(sizes)


class _Axis:
    """How stages cut one axis: halved while it is longer than the grid, then averaged in at most `grid` equal windows.

    Attributes:
        strides: the stride of each stage.
        window: the places that one cell of the grid averages.
        cells: the cells that are left.
    """

    def __init__(self, size: int, stages: int, grid: int):
        self.strides: list[int] = []
        for _ in range(stages):
            self.strides.append(2 if size > grid else 1)
            size = -(-size // self.strides[-1])  # kernel 3 with padding 1 rounds up
        self.window = -(-size // grid)
        self.cells = -(-size // self.window)


def _checked_grid(encoder: str, grid: int) -> int:
    if grid < 1:
        raise UserError(f"{encoder}.grid", str(grid), "1 (the mean over all places) or more", "set grid=4")
    return grid


class SmallCNN(Encoder):
    """Encodes images (C, H, W), spectrograms (C = 1) among them: strided convolutions, means over a grid, linear.

    The linear map sees each cell of the grid apart, so the feature depends on *where* in the image something is. A mean
    over the whole map (`grid` 1) leaves that to what the convolutions infer from the borders, and does not learn
    spectrograms, whose rows are frequencies.

    Args:
        shape: the shape of one sample, (C, H, W).
        dim: the width of the feature.
        channels: the channels of the 3×3 convolutions, each of stride 2 along an axis longer than `grid`; null is
            [16, 32, 64].
        norm: the normalisation; with `group` a row's feature is the same for any batch size and number of ranks.
        grid: the most cells per axis; the map is averaged inside each cell.
        kind: image, or null.

    Raises:
        UserError: another kind of modality, a stage of fewer than 2 channels, or a grid without a cell.
    """

    accepts = ("image",)

    def __init__(
        self,
        shape: tuple[Count, ...],
        dim: Width = 64,
        channels: Annotated[list[Width], NOT_EMPTY] | None = None,
        norm: Norm = "group",
        grid: Layers = 4,
        kind: str | None = None,
    ):
        super().__init__(shape, kind)
        self.out_dim = dim
        stages = _checked("SmallCNN.channels", [16, 32, 64] if channels is None else channels, "channels=[16,32,64]")
        rows, columns = (_Axis(size, len(stages), _checked_grid("SmallCNN", grid)) for size in self.shape[1:])
        layers: list[nn.Module] = []
        for (before, after), down, across in zip(pairwise([self.shape[0], *stages]), rows.strides, columns.strides):
            layers += [
                nn.Conv2d(before, after, 3, stride=(down, across), padding=1, bias=False),
                norm2d(norm, after),
                nn.ReLU(inplace=True),
            ]
        # Not AdaptiveAvgPool2d: its gradient on CUDA is not deterministic.
        pool = nn.AvgPool2d((rows.window, columns.window), ceil_mode=True)
        self.layers = nn.Sequential(*layers, pool, nn.Flatten())
        self.linear = nn.Linear(stages[-1] * rows.cells * columns.cells, dim)

    def encode_rows(self, x: Tensor) -> Tensor:
        return self.linear(self.layers(x))


class _OverTime(nn.Module):
    """Maps (n, width, steps) to (n, dim): convolutions, means over at most `grid` spans of time, linear.

    The spans lie where they lie in the longest sequence; one without a (valid) step gives 0.
    """

    def __init__(self, steps: int, width: int, stages: list[int], norm: Norm, grid: int, dim: int):
        super().__init__()
        time = _Axis(steps, len(stages), grid)
        self.layers = nn.Sequential()
        for (before, after), stride in zip(pairwise([width, *stages]), time.strides):
            self.layers.append(nn.Conv1d(before, after, 3, stride=stride, padding=1, bias=False))
            self.layers.append(norm1d(norm, after))
            self.layers.append(nn.ReLU(inplace=True))
        self.pool = nn.AvgPool1d(time.window, ceil_mode=True)
        self.cells = time.cells
        self.linear = nn.Linear(stages[-1] * time.cells, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self._out(self.pool(self.layers(x)))

    def padded(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return what `forward` gives for the first `lengths` (n,) steps of each row alone."""
        mask = valid_mask(lengths, x.shape[2])
        x = only_valid(x, mask)
        for layer in self.layers:
            if isinstance(layer, nn.Conv1d):
                x, lengths = layer(x), lengths_after(layer, lengths)
                mask = valid_mask(lengths, x.shape[2])
            elif isinstance(layer, nn.ReLU):
                x = layer(x)
            else:
                x = masked_norm(layer, x, mask)
        share = self.pool(mask.to(x.dtype))  # of valid steps in each span
        means = self.pool(only_valid(x, mask)) / torch.where(share > 0, share, 1.0)
        return self._out(means)

    def _out(self, means: Tensor) -> Tensor:
        return self.linear(F.pad(means, (0, self.cells - means.shape[2])).flatten(1))


class TemporalConv(Encoder):
    """Encodes sequences (T, F): a linear map of each step, convolutions over time, means over spans of it, linear.

    The last linear map sees each span apart, so the feature depends on *when* something happens. The first is shared by
    the taps of the first convolution, which would otherwise have three weights per feature to fit to few samples.

    Given lengths, it computes with the valid steps alone, also in its normalisation: a row's feature is that of the
    sequence without padding, however much of it there is and whatever it holds.

    Args:
        shape: the shape of one sample, (T, F).
        dim: the width of the feature.
        channels: the channels of the convolutions (kernel 3), each of stride 2 on more than `grid` steps; the first is
            also the width of the linear map before them. null is [64, 64].
        norm: the normalisation, as in `SmallCNN`.
        grid: the most spans; 1 is the mean over all time.
        kind: sequence, or null.

    Raises:
        UserError: another kind of modality, a convolution of fewer than 2 channels, or a grid without a span.
    """

    accepts = ("sequence",)
    takes_lengths = True

    def __init__(
        self,
        shape: tuple[Count, ...],
        dim: Width = 64,
        channels: Annotated[list[Width], NOT_EMPTY] | None = None,
        norm: Norm = "group",
        grid: Layers = 4,
        kind: str | None = None,
    ):
        super().__init__(shape, kind)
        self.out_dim = dim
        stages = _checked("TemporalConv.channels", [64, 64] if channels is None else channels, "channels=[64,64]")
        steps, features = self.shape
        self.project = nn.Linear(features, stages[0])
        self.time = _OverTime(steps, stages[0], stages, norm, _checked_grid("TemporalConv", grid), dim)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the features (n, dim) of rows (n, T, F); n may be 0.

        Args:
            x: the rows.
            lengths: the number of valid steps of each row, (n,) int64, each 1 or more; None stands for all steps.
        """
        return super().forward(x) if lengths is None or x.shape[0] == 0 else self.encode_padded(x, lengths)

    def encode_rows(self, x: Tensor) -> Tensor:
        return self.time(self.project(x).transpose(1, 2))

    def encode_padded(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the features (n, dim) of the first `lengths` (n,) steps of each row, with n >= 1."""
        return self.time.padded(self.project(x).transpose(1, 2), lengths)


class FrameCNN(Encoder):
    """Encodes frames (T, C, H, W): `SmallCNN` on every frame, then the convolutions of `TemporalConv` over time.

    The feature depends on where in a frame and in which order things happen; a mean over frames would forget the order.

    Args:
        shape: the shape of one sample, (T, C, H, W).
        dim: the width of the feature.
        channels: the channels of `SmallCNN`; null is [16, 32, 64]. The last is also the width of a frame's feature and
            of the two convolutions over time.
        norm: the normalisation, as in `SmallCNN`.
        grid: the most cells per axis of a frame, and the most spans of time.
        kind: frames, or null.

    Raises:
        UserError: another kind of modality, a stage of fewer than 2 channels, or a grid without a cell.
    """

    accepts = ("frames",)

    def __init__(
        self,
        shape: tuple[Count, ...],
        dim: Width = 64,
        channels: Annotated[list[Width], NOT_EMPTY] | None = None,
        norm: Norm = "group",
        grid: Layers = 4,
        kind: str | None = None,
    ):
        super().__init__(shape, kind)
        self.out_dim = dim
        stages = _checked("FrameCNN.channels", [16, 32, 64] if channels is None else channels, "channels=[16,32,64]")
        _checked_grid("FrameCNN", grid)
        width = stages[-1]
        self.frame = SmallCNN(self.shape[1:], width, stages, norm, grid)
        self.time = _OverTime(self.shape[0], width, [width, width], norm, grid, dim)

    def encode_rows(self, x: Tensor) -> Tensor:
        return self.time(self.frame(x.flatten(0, 1)).unflatten(0, x.shape[:2]).transpose(1, 2))


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
        shape: tuple[Count, ...],
        dim: Width = 64,
        hidden: Width = 128,
        layers: Layers = 1,
        dropout: DropoutRate = 0.0,
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


class TokenConv(Encoder):
    """Encodes token numbers (L,), padded with -1: an embedding learned from scratch, `TemporalConv`, a mean over time.

    Padding is neither embedded nor counted. A row without any token has the feature of one step of zeros.

    Args:
        shape: the padded length in tokens, (L,).
        vocabulary: the number of tokens; ids are below it.
        dim: the width of the feature.
        width: the width of an embedding.
        norm: the normalisation, as in `SmallCNN`.
        grid: the most spans of `TemporalConv`; 1 is the mean over all time: in a text, what is said matters more than
            when.
        kind: tokens, or null.

    Raises:
        UserError: another kind of modality, no vocabulary, or an id beyond it.
    """

    accepts = ("tokens",)

    def __init__(
        self,
        shape: tuple[Count, ...],
        vocabulary: Count | None = None,
        dim: Width = 64,
        width: Width = 64,
        norm: Norm = "group",
        grid: Layers = 1,
        kind: str | None = None,
    ):
        super().__init__(shape, kind)
        if vocabulary is None:
            raise UserError(
                "TokenConv.vocabulary",
                "tokens of unknown number",
                "the number of tokens",
                "set model.encoders.<modality>={_target_: asgml.model.TokenConv, _partial_: true, vocabulary: 30000}",
            )
        self.out_dim, self.vocabulary = dim, vocabulary
        self.embedding = nn.Embedding(vocabulary, width)
        self.time = TemporalConv((*self.shape, width), dim, [width, width], norm, grid)

    def encode_rows(self, x: Tensor) -> Tensor:
        mask = x >= 0
        ids = torch.where(mask, x, 0).long()
        if (largest := largest_id(ids)) >= self.vocabulary:
            found, expected = f"token id {largest}", f"ids below {self.vocabulary}, -1 for padding"
            raise UserError("TokenConv input", found, expected, f"set vocabulary={largest + 1} or more")
        embedded = torch.where(mask.unsqueeze(2), self.embedding(ids), 0.0)
        return self.time.encode_padded(embedded, mask.sum(1).clamp(min=1))


def auto_encoder(
    shape: tuple[Count, ...],
    dim: Width = 64,
    norm: Norm = "group",
    kind: str | None = None,
    vocabulary: Count | None = None,
) -> Encoder:
    """Return the small encoder for a kind of input: MLP, TemporalConv, SmallCNN, FrameCNN or TokenConv.

    Args:
        shape: the shape of one sample; its rank decides where `kind` is None.
        dim: the width of the feature.
        norm: the encoder's normalisation.
        kind: the kind of the modality: vector, sequence, image, frames or tokens.
        vocabulary: the number of tokens, where the data say it.

    Raises:
        UserError: tokens of an unknown vocabulary, or a shape that no kind has.
    """
    if kind == "tokens" and vocabulary is not None:
        return TokenConv(shape, vocabulary, dim, norm=norm)
    if kind == "tokens":
        raise UserError(
            "auto_encoder",
            "a modality of kind tokens, whose vocabulary is not known",
            "vector, sequence, image or frames",
            "set model.encoders.<modality> to {_target_: asgml.model.HFTextEncoder, _partial_: true, config: …}",
        )
    kind = resolve_kind(shape, kind, tuple(k for k in RANK if k != "tokens"), "auto_encoder")
    if kind == "vector":
        return MLP(shape, dim=dim, norm=norm)
    if kind == "sequence":
        return TemporalConv(shape, dim=dim, norm=norm)
    return SmallCNN(shape, dim=dim, norm=norm) if kind == "image" else FrameCNN(shape, dim=dim, norm=norm)
