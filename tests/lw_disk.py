"""Tiny random models of two families as they lie on a disk: Llama 3's 128 256 tokens, Qwen 2.5's padded vocabulary.

What makes the families differ is as in the released models: grouped queries, rotation, biases, tied embeddings, special
tokens, templates; sizes are not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from latentwire.data.biographies import Biographies

LLAMA3_PIECES, LLAMA3_TOKENS = 128_000, 128_256
QWEN25_ROWS = 2176  # a multiple of 128, beyond all tokens
PIECES = 2000
LLAMA3_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(4)),
                  "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"]  # fmt: skip
LLAMA3_TEMPLATE = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN25_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USUAL: dict[str, Any] = dict(
    intermediate_size=48, num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.2
)


def bpe(sample: Sequence[str]) -> Tokenizer:
    """A byte-level BPE of some hundred pieces of the sample."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        sample, trainers.BpeTrainer(vocab_size=PIECES, initial_alphabet=alphabet, show_progress=False)
    )
    return backend


def spread(backend: Tokenizer, count: int) -> Tokenizer:
    """Give the pieces of a BPE ids from 0 to `count`, evenly, between pieces that no text has."""
    told = json.loads(backend.to_str())
    pieces = sorted(told["model"]["vocab"], key=told["model"]["vocab"].get)
    step = count // len(pieces)
    vocab = {piece: i * step for i, piece in enumerate(pieces)}
    taken = set(vocab.values())
    vocab |= {f"<piece {i}>": i for i in range(count) if i not in taken}
    told["model"]["vocab"] = vocab
    found: Tokenizer = Tokenizer.from_str(json.dumps(told))
    return found


def llama3_tokenizer(sample: Sequence[str]) -> PreTrainedTokenizerFast:
    """As Llama 3's: BOS in front, no padding token, 256 special tokens behind 128 000 pieces."""
    backend = spread(bpe(sample), LLAMA3_PIECES)
    rest = [f"<|reserved_special_token_{i}|>" for i in range(4, LLAMA3_TOKENS - LLAMA3_PIECES - 6)]
    backend.add_special_tokens([AddedToken(t, special=True) for t in [*LLAMA3_SPECIAL, *rest]])
    bos = LLAMA3_SPECIAL[0]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    found = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token="<|eot_id|>")
    found.chat_template = LLAMA3_TEMPLATE
    return found


def qwen25_tokenizer(sample: Sequence[str]) -> PreTrainedTokenizerFast:
    """As Qwen 2.5's: no BOS, texts in NFC."""
    backend = bpe(sample)
    backend.normalizer = normalizers.NFC()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend.add_special_tokens([AddedToken(t, special=True) for t in special])
    found = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=special[2], pad_token=special[0])
    found.chat_template = QWEN25_TEMPLATE
    return found


def llama3(tokenizer: PreTrainedTokenizerFast, **sizes: Any) -> LlamaForCausalLM:
    """Grouped queries, scaled rotation, embeddings and head apart, three tokens that end an answer."""
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 128}  # fmt: skip
    ends = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"])
    given = USUAL | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4} | sizes
    config = LlamaConfig(
        vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, rope_parameters=rope,
        tie_word_embeddings=False, **given,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def qwen25(tokenizer: PreTrainedTokenizerFast, **sizes: Any) -> Qwen2ForCausalLM:
    """Grouped queries, biases that are not 0, a head tied to embeddings of which the last belong to no token."""
    given = (
        USUAL | {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "vocab_size": QWEN25_ROWS} | sizes
    )
    config = Qwen2Config(
        bos_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True, **given
    )
    model = Qwen2ForCausalLM(config)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.3)
    return model


def sample_texts() -> list[str]:
    """Texts of the generated corpus with their questions."""
    passages = Biographies(train=100).split("train")
    asked = [f"Question: {q.text}\nAnswer: {q.answers[0]}" for p in passages for q in p.questions]
    return [p.text for p in passages] + asked


def save_disk_models(folder: Path, sample: Sequence[str] | None = None, seed: int = 0) -> dict[str, str]:
    """Write both models, once, as `save_pretrained` does; return their folders, `llama3` and `qwen25`."""
    made = {"llama3": (llama3_tokenizer, llama3), "qwen25": (qwen25_tokenizer, qwen25)}
    for name, (tokenizer_of, model_of) in made.items():
        if not (folder / name).exists():
            tokenizer = tokenizer_of(sample or sample_texts())
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model_of(tokenizer).save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in made}
