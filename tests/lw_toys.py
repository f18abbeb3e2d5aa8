"""Tiny seeded language models of two families and a tokenizer, in memory, for the tests of `latentwire`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from latentwire.lm.frozen import FrozenLM

Family = Literal["llama", "qwen2"]
FAMILIES: tuple[Family, ...] = ("llama", "qwen2")
PAD, BOS, EOS = 0, 1, 2
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer(chat: bool = False, adds_bos: bool = True) -> PreTrainedTokenizerFast:
    """One token per byte, 256 + 6 special ones; `adds_bos`: puts BOS first unless told not to, as Llama's."""
    special = ["<pad>", "<bos>", "<eos>", "<|user|>", "<|assistant|>", "<|end|>"]
    vocab = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=special[3:],
    )
    if chat:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_model(
    family: Family, dtype: torch.dtype = torch.float32, vocab: int = 262, positions: int = 256, seed: int = 0
) -> Any:
    """Two layers, width 32, four heads on two key/value heads; weights large enough for clear preferences."""
    sizes: dict[str, Any] = dict(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.2,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "llama":
            return torch.nn.Module.to(LlamaForCausalLM(LlamaConfig(**sizes)), dtype)
        model = Qwen2ForCausalLM(Qwen2Config(**sizes))
        for name, p in model.named_parameters():  # the family's mark: biases on queries, keys and values
            if name.endswith("bias"):
                torch.nn.init.normal_(p, std=0.3)
        return torch.nn.Module.to(model, dtype)


def save_sentence_model(folder: Path, seed: int = 0, positions: int = 256) -> str:
    """A tiny random BERT of two layers, with a tokenizer of bytes that puts <bos> and <eos> around a text, as files."""
    path = folder / f"bert_{seed}"
    if not path.exists():
        sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
        config = BertConfig(vocab_size=262, max_position_embeddings=positions, initializer_range=0.2, **sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            BertModel(config, add_pooling_layer=False).save_pretrained(path)
        tokenizer = byte_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
        )
        tokenizer.save_pretrained(path)
    return str(path)


def tiny_lm(family: Family = "llama", dtype: torch.dtype = torch.float32, chat: bool = False) -> FrozenLM:
    return FrozenLM(tiny_model(family, dtype), byte_tokenizer(chat), f"tiny_{family}")
