"""What a loaded causal language model is made of, found by running it once: no family is known by its name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from callbacks.errors import UserError

# what `FrozenLM` gives to a forward
TAKEN = ("inputs_embeds", "attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep")
ANOTHER = "set readers=pocket_llama, or take a model whose row of docs/results/families.md says exact"
CANNOT_RUN = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)

Shape = tuple[int, int]  # heads, width of a head


@dataclass(frozen=True)
class Anatomy:
    """Describes the decoder of a model; all names are within the decoder.

    Attributes:
        layers: names of the layers in order, e.g. `layers.0`.
        kv_shapes: heads and width of the keys and of the values that each layer caches.
        projections: names of the linear maps in each layer's attention, in the order of their definition.
        unreached: names of weight matrices in the attention that belong to none of these; LoRA cannot reach them.
    """

    layers: tuple[str, ...]
    kv_shapes: tuple[tuple[Shape, Shape], ...]
    projections: tuple[tuple[str, ...], ...]
    unreached: tuple[str, ...]

    @property
    def kv_numbers(self) -> int:
        """The count of numbers that one token takes in the cache."""
        return sum(heads * width for pair in self.kv_shapes for heads, width in pair)

    def kv_shape(self, name: str) -> Shape:
        """Return heads and width of the keys and of the values of every layer of the model `name`.

        Raises:
            UserError: layers, or keys and values, differ.
        """
        shapes = sorted({shape for pair in self.kv_shapes for shape in pair})
        if len(shapes) > 1:
            raise UserError(
                f"keys and values of {name}",
                f"(heads, width) of {shapes}",
                "one shape for keys and values of all layers",
                "set injector=soft_prefix, and leave out baselines that write keys: add ~baselines.gist",
            )
        return shapes[0]


class _Watched(DynamicCache):
    """Notes which module is running when a layer writes its keys and values."""

    def __init__(self, config: Any):
        super().__init__(config=config)
        self.running: list[str] = []
        self.wrote: dict[int, tuple[str, Tensor, Tensor]] = {}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        self.wrote[layer_idx] = self.running[-1] if self.running else "", key_states, value_states
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def check_interface(model: Any, name: str) -> None:
    """Raise UserError where a model's forward does not take what full attention with positions takes."""
    missing = [p for p in TAKEN if p not in inspect.signature(model.forward).parameters]
    if missing:
        raise UserError(
            f"lm {name}",
            f"{type(model).__name__}, whose forward takes no {', '.join(missing)} "
            "(a recurrent state, or biases of the attention in place of positions)",
            f"a causal language model that takes {', '.join(TAKEN)}",
            ANOTHER,
        )
    if model.get_output_embeddings() is None:
        raise UserError(
            f"lm {name}", f"{type(model).__name__} without a language-model head", "a head over the vocabulary", ANOTHER
        )


@torch.no_grad()
def examine(model: Any, name: str, device: torch.device) -> Anatomy:
    """Read two tokens with a bare model (no adapter on it) and note what its layers do.

    Args:
        model: the model.
        name: its name in errors.
        device: where its ids are read.

    Raises:
        UserError: it does not run with a cache, or not every layer writes keys and values of its own.
    """
    decoder = model.get_decoder()
    try:
        cache = _Watched(model.config)
        with _running(decoder, cache.running) as ran:
            decoder(input_ids=torch.tensor([[0, 1]], device=device), past_key_values=cache, use_cache=True)
    except CANNOT_RUN as error:
        raise cannot_run(name, "two tokens with a cache", error) from error
    layers = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    shapes = {tuple(t.shape) for _, *pair in cache.wrote.values() for t in pair}
    if sorted(cache.wrote) != list(range(layers)) or any(len(s) != 4 or s[0] != 1 or s[2] != 2 for s in shapes):
        raise UserError(
            f"lm {name}",
            f"{len(cache.wrote)} of {layers} layers cache keys and values; shapes {sorted(shapes)[:4]}",
            "keys and values (1, heads, tokens, width) of every layer's own",
            ANOTHER,
        )
    wrote = [cache.wrote[i] for i in range(layers)]
    kv_shapes = tuple(((k.shape[1], k.shape[3]), (v.shape[1], v.shape[3])) for _, k, v in wrote)
    blocks = [_block(decoder, path, name) for path, _, _ in wrote]
    projections, unreached = [], []
    for block, (path, _, _) in zip(blocks, wrote, strict=True):
        found, rest = _linear_maps(decoder, block, path, ran)
        projections.append(found)
        unreached += rest
    return Anatomy(tuple(blocks), kv_shapes, tuple(projections), tuple(unreached))


def cannot_run(name: str, what: str, error: Exception) -> UserError:
    """Return what to tell a user whose model raised `error` when it was to read `what`."""
    lines = str(error).strip().splitlines()
    found = f"{type(error).__name__} while reading {what}: {lines[0][:160] if lines else ''}"
    return UserError(f"lm {name}", found, "a full-attention causal language model", ANOTHER)


@contextmanager
def _running(decoder: nn.Module, stack: list[str]) -> Iterator[set[str]]:
    """Keep the names of the modules that run, innermost last, in `stack`; yield the set of all that ran."""
    ran: set[str] = set()
    handles = []
    for path, module in decoder.named_modules():
        if path:

            def enters(_m: nn.Module, _a: Any, path: str = path) -> None:
                stack.append(path)
                ran.add(path)

            def leaves(_m: nn.Module, _a: Any, _o: Any) -> None:
                stack.pop()

            handles += [module.register_forward_pre_hook(enters), module.register_forward_hook(leaves)]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def _block(decoder: nn.Module, path: str, name: str) -> str:
    """Return the name of the layer, the entry of a `ModuleList`, that a module is in."""
    parts = path.split(".")
    for i in range(1, len(parts)):
        if isinstance(decoder.get_submodule(".".join(parts[:i])), nn.ModuleList):
            return ".".join(parts[: i + 1])
    raise UserError(
        f"lm {name}", f"keys and values written in {path or 'the decoder itself'}", "layers in a list", ANOTHER
    )


def _linear_maps(decoder: nn.Module, block: str, path: str, ran: set[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the linear maps of the part of a layer that caches, and its weight matrices outside of them."""
    if path == block:  # attention and the rest of the layer in one module: nothing tells their maps apart
        return (), [block]
    part = ".".join(path.split(".")[: block.count(".") + 2])
    inside = [(f"{part}.{n}" if n else part, m) for n, m in decoder.get_submodule(part).named_modules()]
    maps = tuple(n for n, m in inside if isinstance(m, (nn.Linear, Conv1D)) and n in ran)
    rest = [
        f"{n}.{leaf}"
        for n, m in inside
        if n not in maps
        for leaf, p in m.named_parameters(recurse=False)
        if p.dim() > 1
    ]
    return maps, rest
