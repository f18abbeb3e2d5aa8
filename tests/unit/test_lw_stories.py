"""stories260K, a real checkpoint that nobody here trained: its own story, its own figures."""

from __future__ import annotations

import os
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from callbacks.errors import UserError
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.pocket.llama2c_files import convert, halves_from_pairs, read_model, read_tokenizer

DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "stories260k"
CHECKPOINT = DATA / "tinystories_260k__checkpoint_legacy.bin"
PIECES = DATA / "tinystories_260k__tokenizer.bin"
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high."
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (CHECKPOINT.is_file() and PIECES.is_file()):
        pytest.skip(f"no stories260k in {DATA.parent} (SUITE_DATA)")
    out = tmp_path_factory.mktemp("stories")
    convert(CHECKPOINT, PIECES, out)
    return out


def test_it_tells_its_documented_story(folder: Path) -> None:
    lm = FrozenLM.load(str(folder))
    # the empty prompt is BOS alone: no text at all behind the head
    ids = lm.generate(Prefix(), [[]], 70)[0]
    assert lm.style.decode(ids).startswith(STORY)
    assert (lm.d_model, lm.n_layers, lm.kv_shape, lm.vocab_size, lm.max_tokens) == (64, 5, (4, 8), 512, 512)
    assert lm.style.head == (1,)


def test_the_last_context_tokens_tell_more_than_the_first(folder: Path) -> None:
    """Context 128, continuation 32: about 1.5 nats per token with the last 32 tokens, 2.3 to 2.5 with the first."""
    lm = FrozenLM.load(str(folder))
    torch.manual_seed(0)
    bos = torch.full((48, 1), lm.style.head[0])
    stories = lm.model.generate(
        bos, attention_mask=torch.ones_like(bos), max_new_tokens=160, do_sample=True, top_k=0, temperature=1.0
    )
    stories = [s[1:].tolist() for s in stories if s.shape[0] == 161 and 1 not in s[1:].tolist()]
    assert len(stories) > 20
    none: list[list[int]] = [[] for _ in stories]

    def nll(kept: slice) -> float:
        prefix = Prefix(text_ids=[s[:128][kept] for s in stories])
        with torch.no_grad():
            return float(lm.answer_logprobs(prefix, none, [s[128:] for s in stories]).nll().mean())

    last, first, whole = nll(slice(96, 128)), nll(slice(0, 32)), nll(slice(0, 128))
    assert 1.3 < last < 1.7
    assert 2.2 < first < 2.6
    assert whole < last


def llama2c_encode(text: str, pieces: list[tuple[bytes, float]]) -> list[int]:
    """`encode` of llama2.c's run.c without BOS and EOS, written anew: join the best-scored pair until none is left."""
    ids = {piece: i for i, (piece, _) in reversed(list(enumerate(pieces)))}
    tokens = [ids[b" "]] if text else []
    for char in text:
        raw = char.encode()
        tokens += [ids[raw]] if raw in ids else [byte + 3 for byte in raw]
    while True:
        joins = [(ids.get(pieces[a][0] + pieces[b][0]), i) for i, (a, b) in enumerate(pairwise(tokens))]
        found = [(pieces[j][1], -i, j) for j, i in joins if j is not None]
        if not found:
            return tokens
        _, at, joined = max(found)
        tokens[-at : -at + 2] = [joined]


@pytest.mark.parametrize(
    "text",
    [STORY, 'Lily\'s mom said, "Hi!"\n\nThey  ran.', "é 日本 🙂 naïve", "A<s>b</s> <unk>", " x", "zzz", "she the he"],
)
def test_the_tokenizer_is_llama2c_s(folder: Path, text: str) -> None:
    raw, at, pieces = PIECES.read_bytes(), 4, []
    while at < len(raw):
        score, length = struct.unpack_from("<fi", raw, at)
        pieces.append((raw[at + 8 : at + 8 + length], score))
        at += 8 + length
    style = FrozenLM.load(str(folder)).style
    assert list(style.encode(text)) == llama2c_encode(text, pieces)
    assert style.tokenizer.decode(list(style.encode(text))) == text


# -- the format, without the data -------------------------------------------------------------------------------------
SIZES = (8, 12, 2, 2, 1, 300, 16)  # dim, hidden, layers, heads, kv heads, vocabulary, context


def write(path: Path, shared: bool = True, seed: int = 0) -> Path:
    dim, hidden, layers, _, _, vocab, context = SIZES
    kv = dim // 2
    count = vocab * dim + layers * (2 * dim + 2 * dim * dim + 2 * kv * dim + 3 * dim * hidden) + dim + context * 4
    count += 0 if shared else vocab * dim
    values = np.random.default_rng(seed).normal(0, 0.3, count).astype("<f4")
    sizes = (*SIZES[:5], vocab if shared else -vocab, context)
    path.write_bytes(struct.pack("<7i", *sizes) + values.tobytes())
    return path


def test_rope_on_pairs_becomes_rope_on_halves() -> None:
    weight = torch.arange(8.0)[:, None]
    assert halves_from_pairs(weight, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def reference(path: Path, tokens: list[int]) -> torch.Tensor:
    """Logits of the last token by the forward pass of llama2.c's run.c, RoPE on interleaved pairs."""
    raw = torch.from_numpy(np.frombuffer(path.read_bytes(), "<f4", offset=28).copy())
    dim, hidden, layers, heads, kv_heads, vocab, _ = SIZES
    d, at = dim // heads, 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        at += int(np.prod(shape))
        return raw[at - int(np.prod(shape)) : at].view(*shape)

    def norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return w * x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    def rope(x: torch.Tensor) -> torch.Tensor:  # (tokens, heads, d)
        angle = torch.arange(len(tokens))[:, None, None] / 10000.0 ** (torch.arange(0, d, 2) / d)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)

    embedding, an = take(vocab, dim), take(layers, dim)
    wq, wk, wv = take(layers, dim, dim), take(layers, kv_heads * d, dim), take(layers, kv_heads * d, dim)
    wo, fn = take(layers, dim, dim), take(layers, dim)
    w1, w2, w3, last = take(layers, hidden, dim), take(layers, dim, hidden), take(layers, hidden, dim), take(dim)
    x = embedding[tokens]
    causal = torch.full((len(tokens), len(tokens)), -torch.inf).triu(1)
    for i in range(layers):
        y = norm(x, an[i])
        q = rope((y @ wq[i].T).view(-1, heads, d))
        k = rope((y @ wk[i].T).view(-1, kv_heads, d)).repeat_interleave(heads // kv_heads, 1)
        v = (y @ wv[i].T).view(-1, kv_heads, d).repeat_interleave(heads // kv_heads, 1)
        weights = (torch.einsum("qhd,khd->hqk", q, k) / d**0.5 + causal).softmax(-1)
        x = x + torch.einsum("hqk,khd->qhd", weights, v).flatten(1) @ wo[i].T
        y = norm(x, fn[i])
        x = x + (torch.nn.functional.silu(y @ w1[i].T) * (y @ w3[i].T)) @ w2[i].T
    return norm(x, last)[-1] @ embedding.T


def test_the_converted_model_computes_what_llama2c_computes(tmp_path: Path) -> None:
    path, tokens = write(tmp_path / "m.bin"), [1, 7, 9, 200, 9, 31]
    found = read_model(path)(torch.tensor([tokens])).logits[0, -1]
    torch.testing.assert_close(found, reference(path, tokens), rtol=0, atol=1e-5)


def test_the_classifier_is_shared_or_its_own(tmp_path: Path) -> None:
    shared = read_model(write(tmp_path / "a.bin"))
    own = read_model(write(tmp_path / "b.bin", shared=False))
    assert shared.lm_head.weight is shared.model.embed_tokens.weight
    assert not torch.equal(own.lm_head.weight, own.model.embed_tokens.weight)
    own.save_pretrained(tmp_path)
    back = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[1, 7, 9]])
    torch.testing.assert_close(back(ids).logits, own(ids).logits, rtol=0, atol=0)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.bin")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="by its header"):
        read_model(path)
    with pytest.raises(UserError, match="no such file"):
        read_model(tmp_path / "none.bin")
    pieces = tmp_path / "t.bin"
    pieces.write_bytes(struct.pack("<i", 4) + b"".join(struct.pack("<fi", 0, 1) + b"a" for _ in range(5)))
    with pytest.raises(UserError, match="5 readable pieces"):
        read_tokenizer(pieces, 6)
    pieces.write_bytes(pieces.read_bytes()[:-1])
    with pytest.raises(UserError, match="readable pieces"):
        read_tokenizer(pieces, 5)
