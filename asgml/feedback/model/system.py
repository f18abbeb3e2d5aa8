"""FeedbackModel: a frozen CLIP whose adapted towers read each other, loop after loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asgml.feedback.model.adapters import Adapter, Projection
from asgml.feedback.model.clip import FrozenCLIP
from asgml.feedback.model.prompts import prompts
from asgml.model.cross_attention import CrossAttentionBranch
from asgml.model.net import component_rng
from asgml.model.variants import ContextName, VariantName
from callbacks.errors import UserError
from callbacks.ranges import Count, NonNegative, Positive, Seed, Share, Steps

LOGIT_SCALE = 100.0  # of cosines, which that of CLIP ends at


@dataclass(frozen=True)
class Layers:
    """Says after which blocks something happens, counted from 1.

    Attributes:
        image_adapters: the blocks of the image tower with an adapter.
        text_adapters: those of the text tower.
        levels: the blocks of the image tower whose patches are compared with the texts, rising.
        image_reads: the block after which the image reads the text, before its adapter.
        text_reads: the block after which the text reads the image, before its adapter.
    """

    image_adapters: tuple[Count, ...]
    text_adapters: tuple[Count, ...]
    levels: tuple[Count, ...]
    image_reads: Count = 1
    text_reads: Count = 1

    @classmethod
    def of(cls, image_blocks: int, text_blocks: int) -> Layers:
        """Return the published places in proportion: of 24 and 12 blocks adapters 1–6 and 1–3, levels 6, 12, 18, 24."""
        levels = tuple(sorted({max(1, round(image_blocks * k / 4)) for k in (1, 2, 3, 4)}))
        text = max(1, round(text_blocks / 4))
        return cls(tuple(range(1, levels[0] + 1)), tuple(range(1, text + 1)), levels)


@dataclass
class Text:
    """Holds what the text tower makes of the prompts of each picture's class.

    Attributes:
        anchors: the directions of normal and damaged, (B, 2, text_dim), of norm 1.
        tokens: what the image may read, (B, P * T, text_dim).
        mask: which of them belong to a text, (B, P * T) bool.
    """

    anchors: Tensor
    tokens: Tensor
    mask: Tensor


@dataclass
class Loop:
    """Holds what one loop ends with.

    Attributes:
        patches: per level the logits of normal and damaged, (B, 2, h, w): scaled cosines with the anchors.
        logits: those of the whole picture, (B, 2).
        anchors: the anchors, (B, 2, text_dim).
        context: the patches that the text reads in the next loop, (B, h * w, image_dim).
    """

    patches: list[Tensor]
    logits: Tensor
    anchors: Tensor
    context: Tensor


class FeedbackModel(nn.Module):
    """Compares patches with texts about whole and damaged things, in towers that read each other in loops.

    The base is AA-CLIP (Ma et al., CVPR 2025, arXiv 2503.06661): adapters in the first blocks of both towers of a
    frozen CLIP; patches of four levels through CLIP's last LayerNorm and a projection each, compared with two anchors
    per class (prompts of one state: each normalised, mean, normalised); a picture's feature is the mean of its
    projected and normalised patches of the last level.

    Feedback: in loop 1 the image reads the tokens of its class's prompts, as the text tower has them after block
    `text_reads`. In every further loop the text first reads the patches of the loop before (of the first level), so
    that anchors and tokens are of this picture, and the image reads those. Both read through a `CrossAttentionBranch`,
    which is matched in norm and weighted. Without feedback (`loops=0`) there is one pass, in which nobody reads
    anybody.

    The CLIP is no submodule: `state_dict()` has what is trained, and nothing else.

    Args:
        clip: the frozen CLIP.
        classes: the names of the classes, which prompts are made of.
        loops: the number of loops; 0 is the base without feedback.
        layers: where things happen; None is as published, in proportion to the number of blocks.
        adapter_weight: the weight of the adapters.
        variant: how what is read joins the stream.
        image_weight: the weight of what the image reads; None is 0.1, and 1 in `full`.
        text_weight: that of what the text reads.
        heads: the number of heads of the attention between the towers.
        seed: the seed of the initial weights.
        image_context: what the image reads: all `tokens` of its class's prompts, or their `mean` as a single token,
            through which the attention sends the stream no gradient: with one token there is nothing to choose from.
        logit_scale: the factor on cosines. On a CLIP without knowledge, whose anchors lie far apart, 100 makes every
            probability 0 or 1 from the start, and training ends where everything is called normal.

    Raises:
        UserError: a block that the CLIP does not have, or what `CrossAttentionBranch` refuses.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        classes: Sequence[str],
        loops: Steps = 3,
        layers: Layers | None = None,
        adapter_weight: Share = 0.1,
        variant: VariantName = "norm_matched",
        image_weight: NonNegative | None = None,
        text_weight: NonNegative | None = None,
        heads: Count = 4,
        seed: Seed = 0,
        image_context: ContextName = "tokens",
        logit_scale: Positive = LOGIT_SCALE,
    ):
        super().__init__()
        self.clip, self.classes, self.loops = clip, list(classes), loops
        self.layers = layers or Layers.of(clip.image_blocks, clip.text_blocks)
        _check_layers(self.layers, clip)
        image, text = clip.image_dim, clip.text_dim
        width = min(image, text)
        if width % heads:
            found = f"{heads} heads for an attention of width {width}"
            fitting = max(n for n in range(1, heads + 1) if width % n == 0)
            raise UserError("heads", found, "a number of heads that divides it", f"set heads={fitting}")
        with component_rng(seed, "text_adapter"):
            self.text_adapters = nn.ModuleDict(
                {str(n): Adapter(text, adapter_weight) for n in self.layers.text_adapters}
            )
            self.text_projection = Projection(text, text)
        with component_rng(seed, "image_adapter"):
            self.image_adapters = nn.ModuleDict(
                {str(n): Adapter(image, adapter_weight) for n in self.layers.image_adapters}
            )
            self.patch_projections = nn.ModuleDict({str(n): Projection(image, text) for n in self.layers.levels})
            self.picture_projection = Projection(image, text)
        with component_rng(seed, "image_reads"):
            self.image_reads = CrossAttentionBranch(image, text, heads, None, variant, image_weight, "image_reads")
        with component_rng(seed, "text_reads"):
            self.text_reads = CrossAttentionBranch(text, image, heads, None, variant, text_weight, "text_reads")
        self.image_context, self.logit_scale = image_context, logit_scale
        self._tokenized: dict[str, Tensor] = {}

    def name_classes(self, classes: Sequence[str]) -> None:
        """Make the prompts of other classes: no weight belongs to one."""
        self.classes = list(classes)
        self._tokenized = {}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Return all parameters by group: what stage 1 trains (`text_adapter`), and stage 2 (the others)."""
        return {
            "text_adapter": [*self.text_adapters.parameters(), *self.text_projection.parameters()],
            "image_adapter": list(self.image_adapters.parameters()),
            "image_projection": [*self.patch_projections.parameters(), *self.picture_projection.parameters()],
            "image_reads": list(self.image_reads.parameters()),
            "text_reads": list(self.text_reads.parameters()),
        }

    def forward(self, pixels: Tensor, classes: Tensor, loops: int | None = None) -> list[Loop]:
        """Return what each loop ends with, first to last; of the base, its one pass.

        Args:
            pixels: the pictures, (B, 3, H, H).
            classes: the number of each one's class, (B,) int64.
            loops: the number of loops, in place of the model's own.
        """
        count = self.loops if loops is None else loops
        text, start = self.text(classes), self.image_start(pixels)
        if count == 0:
            return [self.image(start, text, reads=False)]
        found = [self.image(start, text)]
        for _ in range(count - 1):
            found.append(self.image(start, self.text(classes, found[-1].context)))
        return found

    # -- text
    def text(self, classes: Tensor, context: Tensor | None = None) -> Text:
        """Return anchors and tokens of each picture's class.

        Args:
            classes: the classes, (B,) int64.
            context: the patches that the text reads, (B, N, image_dim); None reads nothing, and runs each class once.
        """
        if context is None:
            present, place = classes.unique(return_inverse=True)
        else:
            present, place = classes, torch.arange(len(classes), device=classes.device)
        ids = self._ids().to(classes.device)[present]  # (C, P, T)
        flat = ids.flatten(0, 1)
        x, tokens = self.clip.text_start(flat), torch.empty(0)
        for n in range(1, self.clip.text_blocks + 1):
            x = self.clip.text_block(n, x)
            if n == self.layers.text_reads and context is not None:
                x = self.text_reads(x, context.repeat_interleave(ids.shape[1], dim=0))
            if str(n) in self.text_adapters:
                x = self.text_adapters[str(n)](x)
            if n == self.layers.text_reads:
                tokens = x
        features = F.normalize(self.text_projection(self.clip.text_end(x, flat)), dim=-1).unflatten(0, ids.shape[:2])
        normal = len(prompts(self.classes[0])[0])
        means = torch.stack([features[:, :normal].mean(1), features[:, normal:].mean(1)], 1)
        positions = torch.arange(ids.shape[2], device=ids.device)
        mask = positions <= self.clip.ends(flat).unsqueeze(1)
        anchors, tokens = F.normalize(means, dim=-1), tokens.unflatten(0, ids.shape[:2]).flatten(1, 2)
        return Text(anchors[place], tokens[place], mask.unflatten(0, ids.shape[:2]).flatten(1, 2)[place])

    def _ids(self) -> Tensor:
        """Return the ids of all classes' prompts, (classes, P, T): those of what is normal first."""
        if "ids" not in self._tokenized:
            states = [prompts(name) for name in self.classes]
            texts = [text for normal, damaged in states for text in (*normal, *damaged)]
            self._tokenized["ids"] = self.clip.tokenize(texts).unflatten(0, (len(self.classes), -1))
        return self._tokenized["ids"]

    # -- image
    def image_start(self, pixels: Tensor) -> Tensor:
        """Return the tokens behind the block after which the image reads, and before that: the same in every loop."""
        x = self.clip.image_start(pixels)
        for n in range(1, self.layers.image_reads + 1):
            x = self.clip.image_block(n, x)
            if n < self.layers.image_reads and str(n) in self.image_adapters:
                x = self.image_adapters[str(n)](x)
        return x

    def image(self, start: Tensor, text: Text, reads: bool = True) -> Loop:
        """Return one pass of the image tower.

        Args:
            start: the tokens from which a loop begins, of `image_start`.
            text: what it reads, and what its patches are compared with.
            reads: whether it reads the text's tokens.
        """
        x, levels = start, list[Tensor]()
        for n in range(self.layers.image_reads, self.clip.image_blocks + 1):
            if n > self.layers.image_reads:
                x = self.clip.image_block(n, x)
            elif reads:
                x = self.image_reads(x, *self.read(text))
            if str(n) in self.image_adapters:
                x = self.image_adapters[str(n)](x)
            if n in self.layers.levels:
                levels.append(x[:, 1:])
        return self.compare(levels, text.anchors)

    def read(self, text: Text) -> tuple[Tensor, Tensor]:
        """Return what the image reads, (B, K, text_dim), and which of it is there, (B, K)."""
        if self.image_context == "tokens":
            return text.tokens, text.mask
        there = text.mask.unsqueeze(2)
        mean = (text.tokens * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
        return mean, there.any(1)

    def compare(self, levels: Sequence[Tensor], anchors: Tensor) -> Loop:
        """Return the logits of patches (B, N, image_dim), one per level, against the anchors (B, 2, text_dim)."""
        side = round(levels[0].shape[1] ** 0.5)
        maps = []
        normalised = [self.clip.image_end(x) for x in levels]
        for n, x in zip(self.layers.levels, normalised, strict=True):
            patches = F.normalize(self.patch_projections[str(n)](x), dim=-1)
            maps.append(self._logits(patches, anchors).transpose(1, 2).unflatten(2, (side, side)))
        picture = F.normalize(self.picture_projection(normalised[-1]), dim=-1).mean(1, keepdim=True)
        return Loop(maps, self._logits(picture, anchors).squeeze(1), anchors, levels[0])

    def _logits(self, features: Tensor, anchors: Tensor) -> Tensor:
        """Return scaled cosines (B, N, 2) of normalised features (B, N, text_dim) and anchors (B, 2, text_dim).

        In fp32 at least, under autocast too: of a cosine near 1, bf16 tells steps of 1/256 apart, a third of a logit.
        """
        wide = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            return self.logit_scale * features.to(wide) @ anchors.to(wide).transpose(1, 2)

    def frozen_levels(self, pixels: Tensor, surgery: int | None = None) -> list[Tensor]:
        """Return the patches of each level of the frozen tower, (B, N, image_dim); arguments as in `frozen_tokens`."""
        return self.frozen_tokens(pixels, surgery)[0]

    def frozen_tokens(self, pixels: Tensor, surgery: int | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the patches of each level of the frozen tower, and its class token behind the last block.

        Args:
            pixels: the pictures, (B, 3, H, H).
            surgery: the block from which on a second path adds what values read of values, without the blocks' MLPs
                (CLIP Surgery, arXiv 2304.05653), and whose patches are returned in place of the tower's own; AA-CLIP
                has 20 of 24. None is the tower as it is.

        Returns:
            Per level (B, N, image_dim), and (B, image_dim).
        """
        with torch.no_grad():
            x = self.clip.image_start(pixels)
            path, levels = x, []
            for n in range(1, self.clip.image_blocks + 1):
                second = surgery is not None and n >= surgery
                added = self.clip.value_value(n, x) if second else None
                x = self.clip.image_block(n, x)
                path = path + added if added is not None else x
                if n in self.layers.levels:
                    levels.append(path[:, 1:])
        return levels, x[:, 0]

    def frozen_maps(self, pixels: Tensor, anchors: Tensor, surgery: int | None = None) -> list[Tensor]:
        """Return per level the logits (B, 2, h, w) of the frozen tower's patches: what stage 1 learns texts from.

        Patches go through CLIP's own projection and are normalised; the class token of the last block, normalised, is
        added to each, as AA-CLIP does (arXiv 2503.06661).

        Args:
            pixels: the pictures, (B, 3, H, H).
            anchors: the directions of normal and damaged, (B, 2, text_dim).
            surgery: as in `frozen_tokens`.

        Raises:
            UserError: a CLIP that compares in another width than that of its texts.
        """
        clip = self.clip
        if clip.projection_dim != clip.text_dim:
            found = f"texts of width {clip.text_dim} and a projection to {clip.projection_dim}"
            remedy = "choose such a CLIP (OpenAI's are), or set stages.text.epochs=0"
            raise UserError(f"stage text of {clip.name}", found, "equal widths", remedy)
        levels, token = self.frozen_tokens(pixels, surgery)
        with torch.no_grad():
            of_class = F.normalize(clip.image_project(clip.image_end(token)), dim=-1).unsqueeze(1)
            patches = [F.normalize(clip.image_project(clip.image_end(x)), dim=-1) + of_class for x in levels]
        side = round(levels[0].shape[1] ** 0.5)
        return [self._logits(p, anchors).transpose(1, 2).unflatten(2, (side, side)) for p in patches]


def _check_layers(layers: Layers, clip: FrozenCLIP) -> None:
    image = {"image_adapters": layers.image_adapters, "levels": layers.levels, "image_reads": (layers.image_reads,)}
    text = {"text_adapters": layers.text_adapters, "text_reads": (layers.text_reads,)}
    for numbers, depth in ((image, clip.image_blocks), (text, clip.text_blocks)):
        for key, blocks in numbers.items():
            wrong = [n for n in blocks if not 1 <= n <= depth]
            if wrong or not blocks:
                found = f"block {wrong[0]}" if wrong else "no block"
                raise UserError(f"layers.{key}", found, f"blocks from 1 to {depth}", f"write {key}: [{depth}]")
    if list(layers.levels) != sorted(set(layers.levels)) or layers.levels[0] < layers.image_reads:
        expected = f"rising numbers from image_reads ({layers.image_reads}) on"
        remedy = f"write levels: [{clip.image_blocks}]"
        raise UserError("layers.levels", str(list(layers.levels)), expected, remedy)
