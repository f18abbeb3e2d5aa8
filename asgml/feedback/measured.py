"""What `asgml.feedback.share` measures: systems that are drawn anew for every seed, each with one branch under test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asgml.data.spec import DataSpec, ModalitySpec
from asgml.feedback.data.generator import surface_with_defect
from asgml.feedback.losses import image_loss
from asgml.feedback.model.clip import tiny_clip
from asgml.feedback.model.system import FeedbackModel, Layers, Text
from asgml.model.encoders.small import MLP
from asgml.model.fusion.base import Fusion
from asgml.model.fusion.cross_attention import CrossAttention
from asgml.model.net import MultimodalNet
from asgml.model.variants import ContextName, VariantName
from callbacks.stages.branch import Branch, branches_of

WIDTH, CLASSES, ROWS = 16, 4, 32
SIDE, SURFACES = 32, ("weave", "granite", "wood", "leather")


class System(Protocol):
    """Describes what can be measured.

    Attributes:
        joins: the module whose branches are switched: where the context joins the image stream.
        under_test: the module in front of it whose gradient is measured.
    """

    joins: nn.Module
    under_test: nn.Module

    def loss(self, seed: int) -> Tensor:
        """Return the loss (0-d) of the seed's batch in the seed's weights, with the branches as they are switched."""
        ...


class Towers:
    """Two encoders of vectors and a fusion; the text feature comes at several times its size.

    In cross-attention the text has a branch of its own, which stays off: the encoder would get gradient through it.

    Args:
        fusion: the builder of the fusion.
        context: the factor on the text feature.
    """

    def __init__(self, fusion: Callable[..., Fusion], context: float):
        modalities = {m: ModalitySpec(m, "vector", (WIDTH,)) for m in ("image", "text")}
        self.spec, self.factory = DataSpec(modalities, [str(c) for c in range(CLASSES)]), fusion
        self.context, self.seed = context, 0
        self.net = self._build(0)
        own = self.net.fusion
        self.joins: nn.Module = own.branches["image"] if isinstance(own, CrossAttention) else own
        self.under_test: nn.Module = self.net.encoders["image"]
        for branch in _others(self.net, self.joins):
            branch.mode = "off"

    def _build(self, seed: int) -> MultimodalNet:
        return MultimodalNet(self.spec, partial(MLP, dim=32), {}, self.factory, seed)

    def loss(self, seed: int) -> Tensor:
        if seed != self.seed:
            self.net.load_state_dict(self._build(seed).state_dict())
            self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(CLASSES, (ROWS,), generator=generator)
        features = {}
        for m in self.net.modalities:
            x = torch.randn(ROWS, WIDTH, generator=generator) + F.one_hot(y, WIDTH)
            features[m] = self.net.encode(m, x)
        features["text"] = self.context * features["text"]
        return F.cross_entropy(self.net.fusion(features), y)


class AdaptedCLIP:
    """A small CLIP with adapters in stage 2, one loop: the image reads the frozen text, at several times its size.

    Pictures are generated surfaces, two with and two without a defect. Under test is the image adapter behind block 1.

    Args:
        variant: how what is read joins the stream.
        reads: the block behind which the image reads: 1 is in front of the adapter, as in the published system.
        image_context: whether the image reads all tokens or their mean.
        context: the factor on the tokens of the text.
        weight: the weight of the branch; None is the variant's own.
    """

    def __init__(
        self,
        variant: VariantName,
        reads: int,
        image_context: ContextName,
        context: float,
        weight: float | None = None,
    ):
        self.clip = tiny_clip(SIDE, 4, 48, 32, 3, 4)
        self.variant, self.image_context, self.context, self.weight = variant, image_context, context, weight
        self.layers = Layers((1,), (1,), (2, 3), image_reads=reads)
        self.model = self._build(0)
        self.seed, self.batch = -1, self._batch(0)
        self.joins: nn.Module = self.model.image_reads
        self.under_test: nn.Module = self.model.image_adapters

    def _build(self, seed: int) -> FeedbackModel:
        return FeedbackModel(
            self.clip,
            SURFACES,
            loops=1,
            layers=self.layers,
            variant=self.variant,
            image_weight=self.weight,
            seed=seed,
            image_context=self.image_context,
        )

    def _batch(self, seed: int) -> tuple[Tensor, Tensor, Text]:
        """Return pictures, masks and what the text tower makes of their classes."""
        defects = ("good", "scratch", "good", "spot")
        made = [surface_with_defect(c, d, SIDE, 0.3, (seed, i)) for i, (c, d) in enumerate(zip(SURFACES, defects))]
        pixels = torch.stack([torch.from_numpy(2 * s - 1).permute(2, 0, 1).float() for s, _ in made])
        mask = torch.from_numpy(np.stack([m for _, m in made]))
        with torch.no_grad():
            text = self.model.text(torch.arange(len(SURFACES)))
            text.tokens = self.context * text.tokens
        return pixels, mask, text

    def loss(self, seed: int) -> Tensor:
        if seed != self.seed:
            self.model.load_state_dict(self._build(seed).state_dict())
            self.seed, self.batch = seed, self._batch(seed)
        pixels, mask, text = self.batch
        loop = self.model.image(self.model.image_start(pixels), text)
        return image_loss(loop.patches, loop.logits, mask, mask.flatten(1).any(1).long())


def _others(net: nn.Module, joins: nn.Module) -> list[Branch]:
    own = {id(b) for b in branches_of(joins)}
    return [b for b in branches_of(net) if id(b) not in own]
