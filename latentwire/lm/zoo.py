"""Tiny random models of many families, built from transformers' own configuration classes; no download.

Sizes differ from those of the real models, shapes of attention and kinds of positions do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<bos>", "<eos>"]
COMMON: dict[str, Any] = dict(
    vocab_size=259, initializer_range=0.2, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2
)
# widths of the usual names; four heads on two key/value heads
USUAL: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
)
ONE_HEAD_EACH = {k: v for k, v in USUAL.items() if k not in ("num_key_value_heads", "head_dim")}
GPT = dict(n_embd=32, n_layer=2, n_head=4, n_positions=64)
EXPERTS = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
MLA = dict(
    kv_lora_rank=8,
    q_lora_rank=12,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=8,
    n_routed_experts=4,
    n_shared_experts=1,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    first_k_dense_replace=1,
    n_group=1,
    topk_group=1,
)


@dataclass(frozen=True)
class Species:
    """Names one tiny model.

    Attributes:
        name: its name in the table.
        kind: transformers' `model_type`.
        sizes: arguments of the configuration, beside those that all share.
    """

    name: str
    kind: str
    sizes: dict[str, Any]


def _usual(name: str, kind: str, **more: Any) -> Species:
    return Species(name, kind, USUAL | more)


SPECIES: tuple[Species, ...] = (
    _usual("Llama", "llama"),
    _usual("Mistral, no window", "mistral", sliding_window=None),
    _usual("Mistral, window", "mistral", sliding_window=24),
    _usual("Mixtral", "mixtral", **EXPERTS),
    _usual("Ministral", "ministral", sliding_window=24, layer_types=["sliding_attention", "full_attention"]),
    _usual("Qwen2", "qwen2"),
    _usual("Qwen2-MoE", "qwen2_moe", **EXPERTS, shared_expert_intermediate_size=16),
    _usual("Qwen3", "qwen3"),
    _usual("Qwen3-MoE", "qwen3_moe", **EXPERTS),
    _usual("Qwen3-Next", "qwen3_next", **EXPERTS),
    _usual("SmolLM3", "smollm3", no_rope_layers=[1, 0]),
    Species("Phi-1, Phi-2", "phi", ONE_HEAD_EACH),
    Species("Phi-3", "phi3", ONE_HEAD_EACH),
    Species("Phi-3, window", "phi3", ONE_HEAD_EACH | dict(sliding_window=24)),
    _usual("Gemma", "gemma"),
    _usual("Gemma 2", "gemma2", sliding_window=24),
    _usual("Gemma 3", "gemma3_text", sliding_window=24, layer_types=["sliding_attention", "full_attention"]),
    _usual("OLMo", "olmo"),
    _usual("OLMo 2", "olmo2"),
    _usual("OLMoE", "olmoe", **EXPERTS),
    _usual("Granite", "granite"),
    _usual("StableLM", "stablelm"),
    _usual("Starcoder2", "starcoder2"),
    _usual("Starcoder2, window", "starcoder2", sliding_window=24),
    _usual("Cohere", "cohere"),
    _usual("Cohere 2", "cohere2", sliding_window=24, layer_types=["sliding_attention", "full_attention"]),
    _usual("GLM", "glm"),
    _usual("GLM-4", "glm4"),
    _usual("Nemotron", "nemotron"),
    _usual("Helium", "helium"),
    _usual("EXAONE 4", "exaone4", sliding_window=24, layer_types=["sliding_attention", "full_attention"]),
    _usual("Arcee", "arcee"),
    _usual("ERNIE 4.5", "ernie4_5"),
    _usual("Seed-OSS", "seed_oss"),
    _usual("gpt-oss", "gpt_oss", **EXPERTS, sliding_window=24),
    Species("DeepSeek-V2", "deepseek_v2", ONE_HEAD_EACH | MLA),
    Species("DeepSeek-V3", "deepseek_v3", ONE_HEAD_EACH | MLA | dict(num_key_value_heads=4)),
    Species("GPT-2", "gpt2", GPT),
    Species("GPT-J", "gptj", GPT | dict(rotary_dim=4)),
    Species(
        "GPT-Neo",
        "gpt_neo",
        dict(
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            max_position_embeddings=64,
            attention_types=[[["global", "local"], 1]],
            window_size=24,
        ),
    ),
    Species("GPT-NeoX, Pythia", "gpt_neox", ONE_HEAD_EACH),
    Species("GPT-BigCode, StarCoder", "gpt_bigcode", GPT),
    Species("CodeGen", "codegen", GPT | dict(rotary_dim=4)),
    Species("Falcon, multi-query", "falcon", ONE_HEAD_EACH),
    Species("Falcon, new", "falcon", ONE_HEAD_EACH | dict(new_decoder_architecture=True, num_kv_heads=2)),
    Species("Falcon, ALiBi", "falcon", ONE_HEAD_EACH | dict(alibi=True)),
    Species("OPT", "opt", ONE_HEAD_EACH | dict(ffn_dim=48, word_embed_proj_dim=32, init_std=0.2)),
    Species("OPT-350m, projected", "opt", ONE_HEAD_EACH | dict(ffn_dim=48, word_embed_proj_dim=16, init_std=0.2)),
    Species("BioGPT", "biogpt", ONE_HEAD_EACH),
    Species(
        "XGLM",
        "xglm",
        dict(d_model=32, ffn_dim=48, num_layers=2, attention_heads=4, init_std=0.2, max_position_embeddings=64),
    ),
    Species("BLOOM", "bloom", dict(hidden_size=32, n_layer=2, n_head=4)),
    Species("MPT", "mpt", dict(d_model=32, n_layers=2, n_heads=4, max_seq_len=64)),
    Species("Mamba", "mamba", dict(hidden_size=32, num_hidden_layers=2, state_size=4)),
    Species(
        "Mamba 2",
        "mamba2",
        dict(hidden_size=32, num_hidden_layers=2, state_size=4, num_heads=8, head_dim=8, n_groups=1),
    ),
    Species("RWKV", "rwkv", dict(hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, context_length=64)),
    Species(
        "RecurrentGemma",
        "recurrent_gemma",
        dict(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            lru_width=32,
            attention_window_size=24,
        ),
    ),
    _usual(
        "Jamba", "jamba", **EXPERTS, mamba_d_state=4, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False
    ),
)


def build(species: Species, dtype: torch.dtype = torch.float32, seed: int = 0, **more: Any) -> Any:
    """Return a tiny random model, its biases and norms random as well; same seed, same weights.

    Args:
        species: which one.
        dtype: type of its weights.
        seed: seed of the weights.
        more: arguments of the configuration that replace the species' own.
    """
    config = AutoConfig.for_model(species.kind, **(COMMON | species.sizes | more))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for name, p in model.named_parameters():
            if p.dim() == 1 and name.endswith("bias"):
                nn.init.normal_(p, std=0.1)
    return model.to(dtype).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of the 256 bytes with padding, beginning and end before them."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    pad, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, bos_token=bos, eos_token=eos)
