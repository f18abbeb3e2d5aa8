"""FrozenCLIP: the two towers of `transformers.CLIPModel`, run block by block, so that others may act between blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.clip.configuration_clip import CLIPConfig
from transformers.models.clip.modeling_clip import CLIPModel

from asgml.data.ranges import Pixels
from asgml.model.net import component_rng
from callbacks.errors import UserError
from callbacks.ranges import Count, Layers, Positive, Seed, Width
from suite.runs.reads import files_in, reads

START, END = "<|startoftext|>", "<|endoftext|>"
FILES = (".json", ".safetensors", ".txt")


class FrozenCLIP:
    """Wraps a CLIP that stays in eval mode and whose weights never move.

    It is no `nn.Module`: held as an attribute of a module it is in no `parameters()`, no `state_dict()` and no
    checkpoint, and a deep copy of the holder shares it. Devices and precision are the caller's matter: see `to`.

    Args:
        model: the model; all its parameters are set to `requires_grad=False`.
        tokenizer: its tokenizer.
        name: its name in tables and errors.

    Attributes:
        image_blocks: the number of blocks of the image tower.
        text_blocks: that of the text tower.
        image_dim: the width of the image tower.
        text_dim: the width of the text tower.
        projection_dim: the width of the space in which CLIP compares pictures and texts.
    """

    def __init__(self, model: CLIPModel, tokenizer: PreTrainedTokenizerBase, name: str):
        frozen: Any = model.eval().requires_grad_(False)
        self.model, self.tokenizer, self.name = frozen, tokenizer, name
        vision, text = model.config.vision_config, model.config.text_config
        self.image_blocks, self.text_blocks = int(vision.num_hidden_layers), int(text.num_hidden_layers)
        self.image_dim, self.text_dim = int(vision.hidden_size), int(text.hidden_size)
        self.projection_dim = int(model.config.projection_dim)
        self.patch_size, self.positions = int(vision.patch_size), int(text.max_position_embeddings)
        self._end = int(text.eos_token_id)
        self._given = self._held = self._digest()

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenCLIP:
        return self

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> FrozenCLIP:
        """Bring the weights to a device and a precision, and return itself."""
        other = any(p.dtype != dtype for p in self.model.parameters())
        self.model.to(device=device, dtype=dtype)
        self._held = self._digest() if other else self._held
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 of all weights, by name, as they were given."""
        return self._given

    def require(self, fingerprint: str, where: str, remedy: str = "set clip as it was in that run") -> None:
        """Refuse weights that were trained on another CLIP.

        Args:
            fingerprint: that of the CLIP they were trained on.
            where: what names them, for the error.
            remedy: how to get that CLIP.

        Raises:
            UserError: it is not this one.
        """
        if fingerprint != self._given:
            found = f"adapters of another CLIP ({fingerprint[:12]})"
            raise UserError(where, found, f"those of {self.name} ({self._given[:12]})", remedy)

    def moved(self) -> bool:
        """Return whether a weight has changed by anything but `to`."""
        return self._digest() != self._held

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    # -- image tower
    def image_start(self, pixels: Tensor) -> Tensor:
        """Return what the first block gets: the class token and the patches, (B, 1 + N, image_dim).

        Args:
            pixels: pictures (B, 3, H, W) of any size that the patches divide; positions are interpolated.

        Raises:
            UserError: a size that they do not divide.
        """
        height, width = pixels.shape[-2:]
        if height % self.patch_size or width % self.patch_size or height != width:
            side = max(1, round(height / self.patch_size)) * self.patch_size
            found, expected = f"{height} × {width} pixels", f"a square of patches of {self.patch_size}"
            raise UserError(f"pictures for {self.name}", found, expected, f"set the size of pictures to {side}")
        tower = self.model.vision_model
        return tower.pre_layrnorm(tower.embeddings(pixels, interpolate_pos_encoding=True))

    def image_block(self, number: int, x: Tensor) -> Tensor:
        """Return tokens (B, T, image_dim) behind block `number`, counted from 1."""
        return self.model.vision_model.encoder.layers[number - 1](x, None)

    def image_end(self, x: Tensor) -> Tensor:
        """Return normalised tokens (…, image_dim): CLIP's last LayerNorm of the image tower."""
        return self.model.vision_model.post_layernorm(x)

    def image_project(self, x: Tensor) -> Tensor:
        """Return normalised tokens (…, projection width) in the space that CLIP compares pictures and texts in."""
        return self.model.visual_projection(x)

    def value_value(self, number: int, x: Tensor) -> Tensor:
        """Return what block `number` adds where values attend to values, (B, T, image_dim).

        It is the consistent attention of CLIP Surgery (Li et al., 2023, arXiv 2304.05653): patches attend to patches
        that look like them, which keeps their places.
        """
        block = self.model.vision_model.encoder.layers[number - 1]
        attention = block.self_attn
        heads = (attention.num_heads, attention.head_dim)
        v = attention.v_proj(block.layer_norm1(x)).unflatten(2, heads).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(v, v, v)
        return attention.out_proj(mixed.transpose(1, 2).flatten(2))

    # -- text tower
    def tokenize(self, texts: list[str]) -> Tensor:
        """Return token ids (P, T) with start and end, padded to the longest.

        Raises:
            UserError: a text that is longer than the model's positions.
        """
        ids = self.tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
        if ids.shape[1] > self.positions:
            longest = max(texts, key=len)
            found = f"{ids.shape[1]} tokens: {longest!r}"
            remedy = "shorten the class name, which the prompts repeat"
            raise UserError(f"prompts for {self.name}", found, f"at most {self.positions}", remedy)
        return ids

    def text_start(self, ids: Tensor) -> Tensor:
        """Return what the first block gets, (P, T, text_dim), of ids (P, T)."""
        return self.model.text_model.embeddings(input_ids=ids)

    def text_block(self, number: int, x: Tensor) -> Tensor:
        """Return tokens (P, T, text_dim) behind block `number`, counted from 1; a token sees those before it."""
        size = x.shape[1]
        causal = torch.full((size, size), -torch.inf, dtype=x.dtype, device=x.device).triu(1)[None, None]
        return self.model.text_model.encoder.layers[number - 1](x, causal)

    def text_end(self, x: Tensor, ids: Tensor) -> Tensor:
        """Return the normalised token at the end of each text, (P, text_dim): what CLIP then projects."""
        return self.model.text_model.final_layer_norm(x[torch.arange(len(x), device=x.device), self.ends(ids)])

    def ends(self, ids: Tensor) -> Tensor:
        """Return where the end token of each text stands, (P,)."""
        # models from before the end token was configured right have 2 there, and the end as their largest id
        return ids.argmax(1) if self._end == 2 else (ids == self._end).int().argmax(1)


def _given(arguments: Mapping[str, Any]) -> dict[str, Path]:
    return files_in(arguments["source"], "source", FILES)


@reads(given=_given)
def load_clip(source: str, local_files_only: bool = False) -> FrozenCLIP:
    """Load a CLIP and its tokenizer from a folder or the hub.

    Args:
        source: the folder, or an id such as `openai/clip-vit-large-patch14-336`.
        local_files_only: whether never to ask the network.

    Raises:
        UserError: it is not there, or is no CLIP.
    """
    folder = Path(source).expanduser()
    place = str(folder) if folder.is_dir() else source
    expected = "a folder or hub id with a CLIPModel and its tokenizer"
    remedy = "name a folder that has config.json, model.safetensors and tokenizer.json"
    try:
        model, told = CLIPModel.from_pretrained(place, local_files_only=local_files_only, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=local_files_only)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: weights of other shapes than config.json has
        raise UserError(f"clip {source}", str(error).splitlines()[0], expected, remedy) from error
    missing = sorted(told["missing_keys"])
    if missing:  # transformers would draw them at random: one tower alone, or another kind of model
        raise UserError(f"clip {source}", f"no weights for {missing[0]} ({len(missing)} in all)", expected, remedy)
    return FrozenCLIP(model, tokenizer, source)


def tiny_clip(
    image_size: Pixels = 64,
    patch_size: Pixels = 8,
    image_dim: Width = 64,
    text_dim: Width = 48,
    blocks: Layers = 4,
    heads: Count = 4,
    seed: Seed = 0,
    text_norm: Positive | None = None,
) -> FrozenCLIP:
    """Build a small CLIP of the same classes with random weights, and a tokenizer of bytes.

    It knows nothing: what a model on it learns is learnt by adapters and projections on random features.

    Args:
        image_size: the side of its pictures; other multiples of the patch are interpolated.
        patch_size: the side of a patch.
        image_dim: the width of the image tower.
        text_dim: the width of the text tower.
        blocks: the number of blocks of each tower.
        heads: the number of attention heads, a divisor of both widths.
        seed: the seed of the weights.
        text_norm: the L2 norm of every vector of the text's embedding, of tokens and of positions; null is what the
            initialisation gives, about 0.1. The text's tokens then have about this norm in all blocks, while those of
            a picture have about sqrt(image_dim).

    Raises:
        UserError: heads that do not divide a width, or pictures smaller than a patch.
    """
    if image_dim % heads or text_dim % heads:
        found = f"{heads} heads for widths of {image_dim} and {text_dim}"
        fitting = max(n for n in range(1, heads + 1) if image_dim % n == text_dim % n == 0)
        raise UserError("clip.heads", found, "a divisor of both", f"set clip.heads={fitting}")
    if image_size < patch_size:
        found = f"{patch_size}, of pictures of {image_size}"
        raise UserError("clip.patch_size", found, f"{image_size} at most", f"set clip.patch_size={image_size}")
    tokenizer = _byte_tokenizer()
    shared = {"num_hidden_layers": blocks, "num_attention_heads": heads}
    text = {
        "hidden_size": text_dim,
        "intermediate_size": 2 * text_dim,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": image_dim,
        "intermediate_size": 2 * image_dim,
        "image_size": image_size,
        "patch_size": patch_size,
    }
    config = CLIPConfig(text_config=text | shared, vision_config=vision | shared, projection_dim=text_dim)
    with component_rng(seed, "clip"):
        model = CLIPModel(config)
    if text_norm is not None:
        embedding = model.text_model.embeddings
        for table in (embedding.token_embedding, embedding.position_embedding):
            table.weight.data = text_norm * nn.functional.normalize(table.weight.data, dim=-1)
    return FrozenCLIP(model, tokenizer, "tiny CLIP")


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate([*alphabet, START, END])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [(START, vocabulary[START]), (END, vocabulary[END])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", pair=None, special_tokens=special
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END)
