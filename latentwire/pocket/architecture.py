"""The pocket language models: made from transformers configs, stored in the package, loaded by name and checked.

A folder `latentwire/pocket/weights/<name>/` holds `model.safetensors` (float16), `config.json` (special tokens
too), `tokenizer.json`, `card.md` (how it was made and what it can do) and `SHA256SUMS`, which `sha256sum -c` reads.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from callbacks.errors import UserError, quoted
from callbacks.files.atomic import write_text
from callbacks.ranges import Count, Layers, Width
from latentwire.lm import loading
from latentwire.lm.frozen import FrozenLM
from suite.runs.reads import Arguments, files_in, reads

ROOT = Path(__file__).parent / "weights"
SUMS = "SHA256SUMS"
CARD = "card.md"


@dataclass(frozen=True)
class Architecture:
    """Describes a small decoder; input and output embeddings are tied.

    Args:
        family: `llama` (no biases) or `qwen2` (biases on query, key and value).
        width: width of the residual stream, a multiple of `heads`.
        layers: number of layers.
        heads: number of attention heads.
        kv_heads: number of key-value heads, a divisor of `heads`.
        inner: width inside the feed-forward blocks.
        positions: longest input, in tokens.
    """

    family: Literal["llama", "qwen2"]
    width: Width = 128
    layers: Layers = 4
    heads: Layers = 4
    kv_heads: Layers = 4
    inner: Width = 256
    positions: Count = 512


def build(architecture: Architecture, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """Build a fresh model with `prepare_heads` applied. Raises UserError where the sizes do not fit together."""
    a = architecture
    if a.width % a.heads or a.heads % a.kv_heads or a.width // a.heads % 2:
        raise UserError(
            "pocket.architecture",
            f"width {a.width}, heads {a.heads}, kv_heads {a.kv_heads}",
            "kv_heads divides heads, heads divides width, an even width per head",
            "set pocket.architecture.width=128, pocket.architecture.heads=4 and pocket.architecture.kv_heads=4",
        )
    sizes = dict(
        vocab_size=len(tokenizer),
        hidden_size=a.width,
        intermediate_size=a.inner,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        max_position_embeddings=a.positions,
        initializer_range=0.06,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = (
            LlamaForCausalLM(LlamaConfig(**sizes)) if a.family == "llama" else Qwen2ForCausalLM(Qwen2Config(**sizes))
        )
        prepare_heads(model)
    return model


@torch.no_grad()
def prepare_heads(model: PreTrainedModel, gain: float = 1.5, sharp: int = 6) -> None:
    """Start attention where copying from the context begins (in place).

    All layers: keys as queries and outputs as transposed values, so that a head looks for what is like it and moves
    it unchanged ("mimetic", Trockman & Kolter 2023, https://arxiv.org/abs/2305.09828). First layer: head h looks h + 1
    tokens back. For that the embeddings share a constant component c, and q(c) = R(−h−1) k(c), where R is the rotary
    turn on the `sharp` fastest frequencies, which tell neighbours apart.
    """
    config = model.config
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.hidden_size
    size = width // heads
    layers: Any = model.model.layers
    for layer in layers:
        attention = layer.self_attn
        query = attention.q_proj.weight.view(heads, size, width)
        value = attention.v_proj.weight.view(kv_heads, size, width)
        attention.k_proj.weight.copy_(query[:: heads // kv_heads].reshape(-1, width))
        attention.o_proj.weight.copy_(value.repeat_interleave(heads // kv_heads, 0).reshape(-1, width).T)
    embedding = cast(nn.Embedding, model.get_input_embeddings()).weight.data
    constant = torch.randn(width)
    constant /= constant.norm()
    embedding += embedding.pow(2).mean().sqrt() * width**0.5 * constant
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2) / size)
    fast = (torch.arange(size // 2) < sharp).float()
    first = layers[0].self_attn
    for h in range(heads):
        turn = -(h + 1) * frequencies
        turned = torch.cat([fast * turn.cos(), fast * turn.sin()])
        first.q_proj.weight[h * size : (h + 1) * size] += gain * turned[:, None] * constant
    still = torch.cat([fast, torch.zeros(size // 2)]).repeat(kv_heads)
    first.k_proj.weight += gain * still[:, None] * constant


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights (rounded to float16) and tokenizer; `seal` completes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.to(torch.float16) for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for the owner alone
    # No tokenizer_config.json: for `qwen2` AutoTokenizer overrules it and splits words its own way (transformers 5.23).
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def read(folder: Path) -> PreTrainedModel:
    """Read the stored weights in float32, without the checks of `load`."""
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)


def seal(folder: Path, card: str) -> None:
    """Write the card and the checksums of all files."""
    write_text(folder / CARD, card)
    lines = [f"{_sha256(p)}  {p.name}\n" for p in sorted(folder.iterdir()) if p.is_file() and p.name != SUMS]
    write_text(folder / SUMS, "".join(lines))


def verify(folder: Path) -> None:
    """Raise UserError unless every file is the one that was sealed."""
    sums = folder / SUMS
    remedy = (
        f"git checkout {quoted(folder)}, or make it again: python -m latentwire.pretrain lm={folder.name} install=true"
    )
    if not sums.is_file():
        raise UserError(str(folder), f"no {SUMS}", "the folder of a pocket model", remedy)
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        found = _sha256(path) if path.is_file() else "no such file"
        if found != digest:
            raise UserError(str(path), found[:16], f"SHA-256 {digest[:16]}…", remedy)


def names() -> list[str]:
    """Return the names of the pocket models in the package."""
    return sorted(p.parent.name for p in ROOT.glob(f"*/{SUMS}"))


def _given(arguments: Arguments) -> dict[str, Path]:
    return {} if arguments["root"] is None else _files(Path(arguments["root"]), str(arguments["name"]))


def _own(arguments: Arguments) -> dict[str, Path]:
    return _files(ROOT, str(arguments["name"])) if arguments["root"] is None else {}


def _files(root: Path, name: str) -> dict[str, Path]:
    return files_in(root / name, "name", loading.FILES)


@reads(given=_given, derived=_own)
def load(name: str, dtype: str = "float32", device: str = "cpu", root: str | None = None) -> FrozenLM:
    """Load a pocket model by name, its files checked first.

    Args:
        name: name of the model, e.g. `pocket_llama`; see `names`.
        dtype: type to compute in, `float32`, `bfloat16` or `float16`.
        device: device to compute on.
        root: folder that holds `<name>/`; None: the package's own.

    Raises:
        UserError: no such model, or a file that is not the one that was sealed.
    """
    folder = (ROOT if root is None else Path(root)) / name
    if root is None and name not in names():
        raise UserError(f"lms.{name}.name", "no such pocket model", f"one of {names()}", f"set readers={names()[0]}")
    verify(folder)
    return FrozenLM.load(str(folder), dtype=dtype, device=device, is_chat=False, name=name)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
