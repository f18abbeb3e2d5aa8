"""llama2.c's legacy checkpoints and tokenizers, read (github.com/karpathy/llama2.c, `export.py` v0)."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from callbacks.errors import UserError

UNK, BOS, EOS, FIRST_BYTE = 0, 1, 2, 3  # ids; bytes 0…255 follow from FIRST_BYTE


def read_model(path: str | Path) -> LlamaForCausalLM:
    """Read the model in float32.

    Layout: int32 dim, hidden, layers, heads, kv heads, vocabulary (negative: the classifier has its own matrix),
    context; float32 tensors: embedding; for all layers each: attention norm, wq, wk, wv, wo, ffn norm, w1, w2, w3;
    final norm; two RoPE tables (they follow from the sizes); the classifier where it is not shared. The format
    implies rms eps 1e-5 and RoPE's base 10000.

    Raises:
        UserError: the file is missing or its size does not follow from its header.
    """
    path = Path(path)
    raw = _bytes(path)
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack_from("<7i", raw)
    shared, vocab, head_dim = vocab > 0, abs(vocab), dim // max(heads, 1)
    kv = kv_heads * head_dim
    shapes = {
        "embedding": (vocab, dim),
        "attention_norm": (layers, dim),
        "wq": (layers, dim, dim),
        "wk": (layers, kv, dim),
        "wv": (layers, kv, dim),
        "wo": (layers, dim, dim),
        "ffn_norm": (layers, dim),
        "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim),
        "norm": (dim,),
        "rope": (2, context, head_dim // 2),
    }
    if not shared:
        shapes["classifier"] = (vocab, dim)
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    if min(sizes) <= 0 or len(raw) != 28 + 4 * sum(sizes):
        raise UserError(
            str(path),
            f"{len(raw)} bytes",
            f"{28 + 4 * sum(sizes)} bytes by its header (dim {dim}, hidden {hidden}, layers {layers}, "
            f"heads {heads}, kv heads {kv_heads}, vocabulary {vocab}, context {context})",
            "use a float32 checkpoint of llama2.c's version 0, e.g. stories260K's checkpoint",
        )
    pieces = np.split(np.frombuffer(raw, "<f4", offset=28), np.cumsum(sizes)[:-1])
    w = {
        name: torch.from_numpy(np.array(piece)).view(shape)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=dim,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=context,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=shared,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )
    state = {"model.embed_tokens.weight": w["embedding"], "model.norm.weight": w["norm"]}
    state["lm_head.weight"] = w["embedding"] if shared else w["classifier"]
    for i in range(layers):
        state |= {
            f"model.layers.{i}.{name}.weight": value
            for name, value in {
                "input_layernorm": w["attention_norm"][i],
                "self_attn.q_proj": halves_from_pairs(w["wq"][i], heads),
                "self_attn.k_proj": halves_from_pairs(w["wk"][i], kv_heads),
                "self_attn.v_proj": w["wv"][i],
                "self_attn.o_proj": w["wo"][i],
                "post_attention_layernorm": w["ffn_norm"][i],
                "mlp.gate_proj": w["w1"][i],
                "mlp.down_proj": w["w2"][i],
                "mlp.up_proj": w["w3"][i],
            }.items()
        }
    model.load_state_dict(state, strict=True)
    return model.eval()


def halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """Reorder rows (heads · d, dim) for RoPE on pairs (0,1), (2,3)… for RoPE on (0, d/2), (1, d/2 + 1)…"""
    rows, dim = weight.shape
    return weight.view(heads, rows // heads // 2, 2, dim).transpose(1, 2).reshape(rows, dim)


def read_tokenizer(path: str | Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Read the tokenizer as a fast one: BPE that always joins the best-scored pair, bytes for what has no piece.

    Like llama2.c it puts one space before every text. Special tokens: `<unk>` 0, BOS `<s>` 1, EOS `</s>` 2.

    Layout: int32 longest piece; then per piece float32 score, int32 length, UTF-8 bytes.

    Raises:
        UserError: the file is missing, damaged, or has another number of pieces than `vocab_size`.
    """
    path = Path(path)
    raw, at, scored = _bytes(path), 4, []
    try:
        while at < len(raw):
            score, length = struct.unpack_from("<fi", raw, at)
            at += 8 + length
            scored.append((raw[at - length : at].decode("utf-8"), score))
        damaged = at != len(raw)
    except (struct.error, UnicodeDecodeError):
        damaged = True
    if damaged or len(scored) != vocab_size:
        raise UserError(
            str(path),
            f"{len(scored)} readable pieces",
            f"{vocab_size} pieces, as in the model",
            "use the tokenizer.bin that belongs to the checkpoint",
        )
    # llama2.c writes BOS and EOS as "\n<s>\n"; spaces stand for themselves.
    special = {UNK: "<unk>", BOS: "<s>", EOS: "</s>"}
    names = [special.get(i, text.replace(" ", "▁")) for i, (text, _) in enumerate(scored)]
    vocab = {name: i for i, name in enumerate(names)}
    first_text = FIRST_BYTE + 256
    # Every way to halve a piece is a merge; the best-scored piece goes first, whatever its halves.
    order = sorted(range(first_text, len(names)), key=lambda i: -scored[i][1])
    merges = [
        (names[i][:cut], names[i][cut:])
        for i in order
        for cut in range(1, len(names[i]))
        if names[i][:cut] in vocab and names[i][cut:] in vocab
    ]
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def convert(checkpoint: str | Path, tokenizer: str | Path, folder: str | Path) -> None:
    """Write a folder that `FrozenLM.load` and `AutoModelForCausalLM.from_pretrained` read."""
    model = read_model(checkpoint)
    pieces = read_tokenizer(tokenizer, model.config.vocab_size)
    model.save_pretrained(folder)
    pieces.save_pretrained(folder)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(str(path), "no such file", "a file of llama2.c", "give the path of the downloaded file")
    raw = path.read_bytes()
    if len(raw) < 28:
        raise UserError(str(path), f"{len(raw)} bytes", "a header of 28 bytes", "fetch the file again")
    return raw
