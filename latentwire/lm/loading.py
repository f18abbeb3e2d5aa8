"""Reads a causal language model and its tokenizer from a folder or the hub, whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DynamicCache,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from callbacks.errors import UserError

FILES = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja")  # of a folder that a model is read from
ATTENTIONS = ("eager", "sdpa", "flash_attention_2")
QUANTIZED = ("nf4", "fp4")  # types of weights in 4 bits
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    source: str,
    dtype: str,
    device_map: str | dict[str, Any] | None,
    attn: str | None = None,
    name: str = "<model>",
    quantize: str | None = None,
    max_memory: dict[str, str] | None = None,
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Return model and tokenizer; arguments and errors are those of `FrozenLM.load`."""
    if dtype not in DTYPES:
        raise UserError(f"lms.{name}.dtype", dtype, " | ".join(DTYPES), f"set lms.{name}.dtype=float32")
    if attn not in (None, *ATTENTIONS):
        raise UserError(f"lms.{name}.attn", str(attn), " | ".join(ATTENTIONS), f"set lms.{name}.attn=sdpa")
    chosen: dict[str, Any] = {} if attn is None else {"attn_implementation": attn}
    if max_memory is not None:
        if device_map is None:
            found, remedy = "a bound without a device_map, which keeps to it", f"set lms.{name}.device_map=auto"
            raise UserError(f"lms.{name}.max_memory", found, "both or neither", remedy)
        chosen["max_memory"] = {int(k) if str(k).isdigit() else k: v for k, v in max_memory.items()}
    if quantize is not None:
        chosen["quantization_config"] = quantization(quantize, dtype, name)
        device_map = {"": torch.cuda.current_device()} if device_map is None else device_map  # it loads nowhere else
    try:
        config = configuration(source)
        tokenizer = tokenizer_of(source, config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=DTYPES[dtype], device_map=device_map, output_loading_info=True, **chosen
        )
        model, report = loaded
    except (OSError, ValueError, ImportError, SafetensorError) as error:  # the last: a file that is cut off
        raise UserError(
            f"lms.{name}.source {source}",
            str(error).strip().splitlines()[0],
            "a folder (or hub id) with config.json, tokenizer.json and model.safetensors",
            f"set lms.{name}.source to such a folder; a hub model must be downloaded or reachable",
        ) from error
    # transformers only warns and draws missing weights at random
    wrong = {k: sorted(map(str, report[k])) for k in ("missing_keys", "mismatched_keys") if report.get(k)}
    if wrong:
        raise UserError(
            f"lms.{name}.source {source}", str(wrong)[:300], "all weights", f"fetch the files of {source} again"
        )
    return model, tokenizer


def quantization(kind: str, dtype: str, name: str) -> BitsAndBytesConfig:
    """Return how bitsandbytes loads weights in 4 bits (QLoRA, Dettmers et al., 2023, arXiv 2305.14314).

    Args:
        kind: `nf4` or `fp4`, the type of a stored weight.
        dtype: type that it is computed in.
        name: the model's name in errors.

    Raises:
        UserError: another type, no bitsandbytes, or no accelerator.
    """
    key, whole = f"lms.{name}.quantize", f"set lms.{name}.quantize=null"
    if kind not in QUANTIZED:
        raise UserError(key, kind, " | ".join(QUANTIZED), f"set {key}=nf4")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(key, f"{kind} without bitsandbytes", "the package", f"pip install bitsandbytes, or {whole}")
    if not torch.cuda.is_available():
        raise UserError(key, f"{kind} without an accelerator", "an NVIDIA GPU", whole)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=DTYPES[dtype])


def configuration(source: str) -> Any:
    """Return the configuration of a model in a folder or on the hub; raises OSError or ValueError without one."""
    return AutoConfig.from_pretrained(source)


def positions(config: Any, name: str) -> int:
    """Return the length of the longest input that the model reads exactly as laid out here."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds - {"full_attention", "sliding_attention"}:
        raise UserError(
            f"lm {name}",
            f"layers of the kinds {sorted(kinds)}",
            "attention layers",
            "set lms.<model>.source to a Llama- or Qwen2-class model",
        )
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        raise UserError(
            f"lm {name}",
            "no max_position_embeddings",
            "the number of its positions",
            "write max_position_embeddings into the model's config.json",
        )
    width = window(config)
    return int(limit) if width is None else min(int(limit), width)


def window(config: Any) -> int | None:
    """Return how many columns of input and cache, padding included, every layer sees; None: all.

    A layer's window is that of the cache that transformers makes for it, whether the configuration lists kinds of
    layers or not. The cache of GPT-Neo's local attention is whole; its `window_size` is the one name known here.
    """
    layers: list[Any] = DynamicCache(config=config).layers
    widths = [int(layer.sliding_window) for layer in layers if layer.is_sliding]
    if getattr(config, "window_size", None) is not None:
        widths.append(int(config.window_size))
    return min(widths, default=None)


def tokenizer_of(source: str, config: Any) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or hub id; `tokenizer.json` alone gets its special tokens from `config`."""
    folder = Path(source)
    if not (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(source)
    bare = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    names: dict[str, Any] = {
        f"{role}_token": bare.convert_ids_to_tokens(getattr(config, f"{role}_token_id"))
        for role in ("bos", "eos", "pad")
        if getattr(config, f"{role}_token_id", None) is not None
    }
    bare.add_special_tokens(names)
    return bare


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, name: str) -> None:
    """Refuse a tokenizer that can turn a text into ids without an embedding.

    Special tokens do not count: no text becomes one, and padding is never read.

    Args:
        tokenizer: the tokenizer.
        rows: number of embeddings of the model.
        name: the model's name in errors.

    Raises:
        UserError: tokens beyond the last embedding, which would end a run at the first text that has one.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    beyond = sorted((i, t) for t, i in tokenizer.get_vocab().items() if i >= rows and i not in special)
    if beyond:
        raise UserError(
            f"tokenizer of {name}",
            f"{len(beyond)} tokens without an embedding, of which {beyond[0][1]!r} has the id {beyond[0][0]}",
            f"ids below {rows}, the model's number of embeddings",
            "put the tokenizer that belongs to these weights into the model's folder",
        )


def fingerprint(weights: Iterable[tuple[str, Tensor]]) -> str:
    """Return SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, weight in weights:
        p = weight.full_tensor() if isinstance(weight, DTensor) else weight  # all ranks' pieces
        digest.update(f"{name} {p.dtype} {tuple(p.shape)}\n".encode())
        digest.update(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checked_device(name: str, key: str) -> torch.device:
    """Return a device of this machine. Raises UserError, which names `key`, where there is none of that name."""
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    also = [*(["cuda"] if len(here) > 1 else []), *(["mps"] if torch.backends.mps.is_available() else [])]
    if name not in (*here, *also):
        raise UserError(key, name, " | ".join([*here, *also]), f"set {key}={here[-1]}")
    return torch.device(name)


def device_of(module: nn.Module) -> torch.device:
    """Return where a module computes; with accelerate's offloading its weights lie elsewhere until then."""
    execution = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if execution is None else torch.device(execution)
