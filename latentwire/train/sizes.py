"""Sizes that do not fit each other, as far as the configuration and the `config.json` of models tell them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError
from latentwire.encoders.interlingua import InterlinguaEncoder
from latentwire.encoders.lm_lora import LMLoRAEncoder
from latentwire.encoders.mixing import chosen_layers
from latentwire.encoders.pca import PCAEncoder, check_chunk
from latentwire.encoders.transformer import Transformer
from latentwire.encoders.transformer import check_heads as divide
from latentwire.footprint import source_of
from latentwire.injectors.combined import Combined, check_prefix
from latentwire.injectors.latent_adapters import LatentAdapters, check_heads, places
from latentwire.injectors.sized_prefix import SizedPrefix
from latentwire.lm import loading
from suite.config.instantiate import build_node
from suite.config.signature import locate
from suite.runs.inputs import all_files


@dataclass(frozen=True)
class Outline:
    """Holds what the files of a language model say of its size.

    Attributes:
        name: its name in the configuration.
        width: width of its embeddings and states.
        layers: number of its layers.
        positions: the longest input.
    """

    name: str
    width: int
    layers: int
    positions: int


def misfits(cfg: DictConfig) -> Iterator[UserError]:
    """Yield what is wrong with the sizes of a training; no weight is read and nothing is allocated.

    Models that lie in no folder of this machine are left to their loading.
    """
    width, heads = OmegaConf.select(cfg, "encoder.width"), OmegaConf.select(cfg, "encoder.heads")
    checks: list[Callable[[], object]] = [lambda: build_node(cfg.codec)(d_z=int(cfg.wire.d_z))]
    if width is not None and OmegaConf.select(cfg, "encoder.pooling") is not None:
        checks.append(lambda: build_node(cfg.encoder.pooling)(d=int(width), slices=1))
    if width is not None and heads is not None:
        own = cfg.encoder.get("layers")  # a number of layers, or the numbers of states of a frozen model
        depth = max(int(cfg.encoder.get("refiner_layers", 0)), own if isinstance(own, int) else 0)
        checks.append(lambda: Transformer(int(width), depth, int(heads)))
    outlines = _outlines(cfg)
    checks += [partial(_adapter, cfg, d_out) for d_out in _adapted_widths(cfg, outlines)]
    injector = locate(cfg.injector._target_)
    if injector is Combined:
        checks.append(lambda: check_prefix(locate(cfg.injector.prefix._target_)))
    if injector in (LatentAdapters, Combined):
        checks += [partial(_between_layers, cfg, outlines[n]) for n in map(str, cfg.lms) if n in outlines]
    if locate(_prefix(cfg)._target_) is SizedPrefix:
        checks.append(partial(_sized, cfg))
    if cfg.loader.get("text_warm_up") is not None:
        checks.append(partial(_among_text, cfg))
    first = next(iter(map(str, cfg.lms)), "")
    if (lm := outlines.get(first if cfg.encoder_lm is None else "encoder_lm")) is not None:
        checks.append(lambda: _encoder_on(cfg, lm))
    with torch.device("meta"):
        for check in checks:
            try:
                check()
            except UserError as error:
                yield error


def _adapter(cfg: DictConfig, d_out: int) -> None:
    build_node(cfg.adapter)(d_z=int(cfg.wire.d_z), d_out=d_out, target=1.0)


def _between_layers(cfg: DictConfig, lm: Outline) -> None:
    """Refuse cross-attention whose heads do not divide its width, or behind layers that a reader does not have."""
    check_heads(int(cfg.injector.get("width", 256)), int(cfg.injector.get("heads", 4)))
    places(cfg.injector.get("layers"), lm.layers, lm.name)


def _sized(cfg: DictConfig) -> None:
    """Refuse heads that cannot share the width, and prefixes of messages, whose slots' places nobody tells."""
    node = _prefix(cfg)
    key, group = ("injector", "injector") if node is cfg.injector else ("injector.prefix", "injector@injector.prefix")
    divide(int(node.get("width", 256)), int(node.get("heads", 4)), key, f"{key}.width")
    if cfg.wire.get("nested") is not None:
        found = "with wire.nested, where a slot's place in the text follows from the budget"
        remedy = f"set {group}=deep_prefix, or add ~wire.nested"
        raise UserError(f"{group}=sized_prefix", found, "messages that are read as a whole", remedy)


def _among_text(cfg: DictConfig) -> None:
    """Refuse text in the places of latents that have none, or whose part of a text follows from the budget."""
    if not getattr(locate(_prefix(cfg)._target_), "reads_text", False):
        found = f"{_prefix(cfg)._target_}, whose latents stand where no text could"
        remedy = "set injector=deep_prefix, or curriculum=single"
        raise UserError("loader.text_warm_up", found, "embeddings, or keys and values", remedy)
    nested = None if cfg.wire.get("nested") is None else build_node(cfg.wire.nested)
    if nested is not None and not nested.apart:
        found = "wire.nested, under which a prefix of slots stands for the whole text"
        remedy = "set curriculum=single, or add ~wire.nested"
        raise UserError("loader.text_warm_up", found, "slots that each have their part of the text", remedy)


def _prefix(cfg: DictConfig) -> DictConfig:
    """Return the node of what takes places before the question: the injector, or the prefix of a combined one."""
    return cfg.injector.prefix if locate(cfg.injector._target_) is Combined else cfg.injector


def _adapted_widths(cfg: DictConfig, outlines: dict[str, Outline]) -> list[int]:
    """Return the widths that the adapters map to: the injector's own, or those of the readers that are known."""
    own = cfg.injector.get("width")
    return [int(own)] if own is not None else sorted({outlines[n].width for n in map(str, cfg.lms) if n in outlines})


def _encoder_on(cfg: DictConfig, lm: Outline) -> None:
    """Refuse an encoder that its language model has no room for."""
    encoder = cfg.encoder
    kind = locate(encoder._target_)
    if kind is PCAEncoder:
        check_chunk(int(cfg.wire.d_z), int(encoder.get("chunk", 4)), lm.width)
    if isinstance(kind, type) and issubclass(kind, LMLoRAEncoder | InterlinguaEncoder):
        key = "anchor_layers" if issubclass(kind, InterlinguaEncoder) else "layers"
        if encoder.get("anchor_source") is None:
            chosen_layers(encoder.get(key), lm.layers, key)
        longest = int(encoder.get("max_tokens", 512))
        if longest >= lm.positions:  # one of them at least begins its prompt
            expected, remedy = f"less than the {lm.positions} positions of {lm.name}", lm.positions // 2
            raise UserError("encoder.max_tokens", str(longest), expected, f"set encoder.max_tokens={remedy}")


def _outlines(cfg: DictConfig) -> dict[str, Outline]:
    """Return the outlines of the readers and of `encoder_lm` by name, of those whose files lie here."""
    files, found = all_files(cfg), dict[str, Outline]()
    nodes = {f"lms.{name}": (str(name), node) for name, node in cfg.lms.items()}
    if cfg.encoder_lm is not None:
        nodes["encoder_lm"] = ("encoder_lm", cfg.encoder_lm)
    for key, (name, node) in nodes.items():
        source = source_of(files, key, node)
        if source is None or not (Path(source) / "config.json").is_file():
            continue
        try:
            config = loading.configuration(source).get_text_config(decoder=True)
            width, layers = int(config.hidden_size), int(config.num_hidden_layers)
        except (AttributeError, OSError, ValueError):
            continue  # its loading says what is wrong with it
        if getattr(config, "word_embed_proj_dim", width) == width:
            found[name] = Outline(name, width, layers, loading.positions(config, name))
    return found
