"""ResNet18 (He et al., CVPR 2016) for images, spectrograms and frames, from scratch or from pretrained weights."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock

from asgml.model.encoders.base import Encoder, mean_over_frames
from asgml.model.encoders.norms import Norm, norm2d
from callbacks.errors import UserError
from callbacks.ranges import Count, Width

CLASSIFIER = ("fc.weight", "fc.bias")


class ResNet18(Encoder):
    """torchvision's ResNet18 without its classifier; `out_dim` is 8 * width (512).

    Parameter names are torchvision's, so that its state dicts load as they are.

    Args:
        shape: the shape (C, H, W) of an image or a spectrogram, or (T, C, H, W) of frames, which are encoded one by one
            and averaged over T.
        weights: where the weights come from: null draws them at random; `imagenet` fetches torchvision's published ones
            into torch's hub cache; anything else is the path of a state dict (`.pth` or `.safetensors`), of which the
            classifier `fc.*` is ignored. For C other than the checkpoint's number of channels the first convolution
            becomes `adapt_input_kernel` of the pretrained one: for a 1-channel spectrogram its mean over RGB.
        norm: the normalisation; `group` replaces every BatchNorm by a GroupNorm of 32 groups (fewer for small widths)
            and cannot take the weights of a batch-normalised network.
        width: the channels of the first stage (64 as published); the stages have 1, 2, 4 and 8 times as many.
        kind: image or frames; null reads it off the rank.

    Raises:
        UserError: weights that are not there, not readable or not those of such a network.
    """

    accepts = ("image", "frames")

    def __init__(
        self,
        shape: tuple[Count, ...],
        weights: str | None = None,
        norm: Norm = "batch",
        width: Width = 64,
        kind: str | None = None,
    ):
        super().__init__(shape, kind)
        if width < 2:
            raise UserError("ResNet18.width", str(width), "2 or more (64 as published)", "set width=64")
        self.out_dim = 8 * width
        layer = partial(norm2d, norm)
        self.conv1 = nn.Conv2d(self.shape[-3], width, 7, stride=2, padding=3, bias=False)
        self.bn1 = layer(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, 1, layer)
        self.layer2 = _stage(width, 2 * width, 2, layer)
        self.layer3 = _stage(2 * width, 4 * width, 2, layer)
        self.layer4 = _stage(4 * width, 8 * width, 2, layer)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if weights is not None:
            if norm == "group" and weights == "imagenet":
                raise _group_refused("torchvision's published weights")
            self._load(weights, read_state_dict(weights), norm)

    @staticmethod
    def input_files(arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Return the file of the weights, if they are given by one (see `suite.runs.reads`)."""
        weights = arguments["weights"]
        return {} if weights in (None, "imagenet") else {"weights": Path(weights)}

    def encode_rows(self, x: Tensor) -> Tensor:
        return mean_over_frames(self._encode_images, x) if self.kind == "frames" else self._encode_images(x)

    def _encode_images(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)

    def _load(self, source: str, state: dict[str, Tensor], norm: Norm) -> None:
        if norm == "group" and any(key.endswith(".running_mean") for key in state):
            raise _group_refused(source)
        state = {key: value for key, value in state.items() if key not in CLASSIFIER}
        own = self.state_dict()
        # Checkpoints of old torch versions do not count batches; torch itself reads them as 0.
        missing = sorted(key for key in own if key not in state and not key.endswith(".num_batches_tracked"))
        unexpected = sorted(key for key in state if key not in own)
        if missing or unexpected:
            raise UserError(
                f"ResNet18.weights={source}",
                f"missing {_some(missing)}; unexpected {_some(unexpected)}",
                "the keys of torchvision's resnet18 (fc.* is ignored)",
                "save torchvision.models.resnet18(…).state_dict() there, or set weights=null",
            )
        kernel = state["conv1.weight"]
        if kernel.ndim == 4 and kernel.shape[1] != self.shape[-3]:
            state["conv1.weight"] = adapt_input_kernel(kernel, self.shape[-3])
        wrong = [f"{k} {tuple(v.shape)} for {tuple(own[k].shape)}" for k, v in state.items() if v.shape != own[k].shape]
        if wrong:
            raise UserError(
                f"ResNet18.weights={source}",
                f"other sizes: {_some(wrong)}",
                f"a network of width {self.conv1.out_channels}",
                "set width=64 for the published weights, else to the length of the checkpoint's bn1.weight",
            )
        self.load_state_dict({**own, **state})


def _stage(before: int, after: int, stride: int, layer: partial[nn.Module]) -> nn.Sequential:
    """Build two basic blocks, of which the first changes the resolution and the width."""
    shortcut = None
    if stride != 1 or before != after:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), layer(after))
    return nn.Sequential(
        BasicBlock(before, after, stride, shortcut, norm_layer=layer), BasicBlock(after, after, norm_layer=layer)
    )


def adapt_input_kernel(kernel: Tensor, channels: int) -> Tensor:
    """Return a pretrained first kernel (out, c, h, w) for another number of input channels: (out, channels, h, w).

    Every input channel gets the mean of the kernel over its c channels, times min(1, c / channels). For c = 3 (RGB):
    one channel gets exactly the mean over RGB, so that 3 x through it is what the grey image (x, x, x) is through the
    pretrained one; more than three channels share the total weight of three, so that the scale of the activations does
    not grow with their number.
    """
    mean = kernel.mean(1, keepdim=True) * min(1.0, kernel.shape[1] / channels)
    return mean.expand(-1, channels, -1, -1).contiguous()


def read_state_dict(source: str) -> dict[str, Tensor]:
    """Read the state dict that `source` names: `imagenet`, or a path. Nothing is unpickled but tensors.

    Raises:
        UserError: no such file, no network, or a file that holds anything else.
    """
    if source == "imagenet":
        published = ResNet18_Weights.IMAGENET1K_V1
        try:
            return dict(published.get_state_dict(progress=True, check_hash=True))
        except (OSError, RuntimeError) as error:  # no network, no space, or a damaged download
            raise UserError(
                "ResNet18.weights=imagenet",
                f"{type(error).__name__}: {error}",
                "network access, or the file in torch's hub cache",
                f"download {published.url} on a connected machine and set weights to its path",
            ) from error
    path = Path(source)
    where = f"ResNet18.weights={source}"
    expected = "a state dict as .safetensors or as .pth (tensors only)"
    if not path.is_file():
        remedy = "set weights to the path of an existing file, to imagenet, or to null"
        raise UserError(where, "no such file", f"imagenet, or the path of {expected}", remedy)
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        safetensors.SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
    ) as error:
        first = str(error).splitlines()[0] if str(error) else "unreadable"
        raise UserError(
            where,
            f"{type(error).__name__}: {first}",
            expected,
            "write it again with torch.save(model.state_dict(), path)",
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            where,
            f"a {type(state).__name__} that is not a flat dict of tensors",
            expected,
            "write it again with torch.save(model.state_dict(), path), without anything around it",
        )
    return dict(state)


def _group_refused(source: str) -> UserError:
    return UserError(
        "ResNet18.norm=group",
        f"weights of a batch-normalised network ({source})",
        "norm=batch with these weights, or weights=null",
        "set norm=batch (the statistics that BatchNorm learned mean nothing to GroupNorm)",
    )


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f", … ({len(keys)})" if len(keys) > 4 else "") if keys else "none"
