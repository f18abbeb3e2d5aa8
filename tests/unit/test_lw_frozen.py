"""FrozenLM: a batch is its rows, latents stand where text would stand, nothing of the model moves or is saved."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from lw_toys import FAMILIES, Family, byte_tokenizer, tiny_lm, tiny_model
from torch import Tensor, nn

from callbacks.errors import UserError
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import Prompt, render
from latentwire.train.batches import Rows

TEXTS = [
    ("a cat", "who?", "Bob"),
    ("the longer context of the two, by far", "what is the name of that?", "x"),
    ("b", "q", "a longer answer"),
]
M = 5
KINDS = ("none", "text", "embeds", "kv", "kv+embeds+text")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.1}


def prompted(lm: FrozenLM) -> list[Prompt]:
    return [render(lm.style, *row) for row in TEXTS]


def latents(lm: FrozenLM, kind: str, prompts: list[Prompt], batch: int = 3) -> Prefix:
    g = torch.Generator().manual_seed(1)
    heads, width = lm.kv_shape
    embeds = torch.randn(batch, M, lm.d_model, generator=g) / 2
    kv = [
        (torch.randn(batch, heads, M, width, generator=g), torch.randn(batch, heads, M, width, generator=g))
        for _ in range(lm.n_layers)
    ]
    return Prefix(
        embeds if "embeds" in kind else None,
        kv if "kv" in kind else None,
        [p.context for p in prompts] if "text" in kind else None,
    )


def row(prefix: Prefix, i: int) -> Prefix:
    return Prefix(
        None if prefix.embeds is None else prefix.embeds[i : i + 1],
        None if prefix.kv is None else [(k[i : i + 1], v[i : i + 1]) for k, v in prefix.kv],
        None if prefix.text_ids is None else prefix.text_ids[i : i + 1],
    )


def key_values(lm: FrozenLM, ids: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
    """The model's own keys and values of texts of one length, as they stand after the head."""
    head = len(lm.style.head)
    full = torch.tensor([[*lm.style.head, *row] for row in ids])
    cache = lm.model(input_ids=full, use_cache=True).past_key_values
    return [(k[:, :, head:], v[:, :, head:]) for k, v, _ in cache]


# -- a batch is its rows ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_scores_as_its_rows(family: Family, dtype: torch.dtype, kind: str) -> None:
    lm = tiny_lm(family, dtype)
    ps = prompted(lm)
    prefix = latents(lm, kind, ps)
    with torch.no_grad():
        batch = lm.answer_logprobs(prefix, [p.question for p in ps], [p.answer for p in ps])
        rows = [lm.answer_logprobs(row(prefix, i), [p.question], [p.answer]) for i, p in enumerate(ps)]
    alone = torch.cat([r.scores for r in rows])
    assert batch.scores.shape == (sum(len(p.answer) for p in ps), lm.vocab_size)
    torch.testing.assert_close(batch.scores, alone, rtol=0, atol=TOLERANCE[dtype])
    torch.testing.assert_close(batch.nll(), torch.cat([r.nll() for r in rows]), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_generates_as_its_rows(family: Family, kind: str) -> None:
    lm = tiny_lm(family)
    ps = prompted(lm)
    prefix = latents(lm, kind, ps)
    batch = lm.generate_scored(prefix, [p.question for p in ps], 12)
    for i, p in enumerate(ps):
        alone = lm.generate_scored(row(prefix, i), [p.question], 12)
        assert batch.tokens[i] == alone.tokens[0]
        torch.testing.assert_close(torch.tensor(batch.logprobs[i]), torch.tensor(alone.logprobs[0]), rtol=0, atol=1e-5)
    assert len({tuple(t) for t in batch.tokens}) == 3, "toys that answer alike show nothing"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_a_batch_generates_as_its_rows_up_to_rounding(family: Family, kind: str) -> None:
    """Near ties may fall either way in bf16: every token of the batch is within rounding of the row's best."""
    lm = tiny_lm(family, torch.bfloat16)
    ps = prompted(lm)
    prefix = latents(lm, kind, ps)
    for i, tokens in enumerate(lm.generate(prefix, [p.question for p in ps], 12)):
        alone = lm.answer_logprobs(row(prefix, i), [ps[i].question], [tokens])
        assert float((alone.scores.max(1).values - alone.logprobs).max()) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_generation_is_the_greedy_path_of_the_scores(family: Family, kind: str) -> None:
    lm = tiny_lm(family)
    ps = prompted(lm)
    prefix = latents(lm, kind, ps)
    made = lm.generate_scored(prefix, [p.question for p in ps], 10)
    full = [i for i, t in enumerate(made.tokens) if len(t) == 10]
    assert full
    scored = lm.answer_logprobs(prefix, [p.question for p in ps], [t or [lm.style.eos] for t in made.tokens])
    for i in full:
        mine = scored.row == i
        assert scored.scores[mine].argmax(1).tolist() == made.tokens[i]
        torch.testing.assert_close(scored.logprobs[mine], torch.tensor(made.logprobs[i]), rtol=0, atol=1e-5)


# -- latents stand where text would stand -----------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chat", [False, True])
def test_replayed_embeddings_and_keys_are_the_text(family: Family, chat: bool) -> None:
    lm = tiny_lm(family, chat=chat)
    contexts = ["nine chars", "ten chars!"]
    ps = [render(lm.style, c, q, a) for c, (_, q, a) in zip(contexts, TEXTS, strict=False)]
    ids = [list(p.context) for p in ps]
    questions, answers = [p.question for p in ps], [p.answer for p in ps]
    as_text = Prefix(text_ids=ids)
    expected = lm.answer_logprobs(as_text, questions, answers)
    for prefix in (Prefix(embeds=lm.embed(torch.tensor(ids))), Prefix(kv=key_values(lm, ids))):
        found = lm.answer_logprobs(prefix, questions, answers)
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
        assert lm.generate(prefix, questions, 8) == lm.generate(as_text, questions, 8)
    # half of the context as latents, the other half as text behind them
    mixed = Prefix(kv=key_values(lm, [i[:4] for i in ids]), text_ids=[i[4:] for i in ids])
    torch.testing.assert_close(lm.answer_logprobs(mixed, questions, answers).scores, expected.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_bare_model(family: Family) -> None:
    lm = tiny_lm(family)
    p = prompted(lm)[1]
    logits = lm.model(input_ids=torch.tensor([p.ids])).logits[0].log_softmax(-1)
    n = len(p.answer)
    found = lm.answer_logprobs(Prefix(text_ids=[p.context]), [p.question], [p.answer])
    torch.testing.assert_close(found.scores, logits[-n - 1 : -1], rtol=0, atol=1e-5)
    torch.testing.assert_close(float(found.nll(1)[0]), -float(logits[-n - 1, p.answer[0]]))


def test_a_continuation_needs_no_question_behind_embeddings() -> None:
    lm = tiny_lm()
    text = [list(range(20, 40)), list(range(50, 70))]
    prefix = Prefix(embeds=lm.embed(torch.tensor([t[:8] for t in text])))
    found = lm.answer_logprobs(prefix, [[], []], [t[8:] for t in text])
    whole = lm.answer_logprobs(Prefix(text_ids=[t[:8] for t in text]), [[], []], [t[8:] for t in text])
    torch.testing.assert_close(found.scores, whole.scores, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="its cache alone predicts nothing"):
        lm.answer_logprobs(Prefix(kv=key_values(lm, [t[:8] for t in text])), [[], []], text)


@pytest.mark.parametrize("kind", ["embeds", "kv", "kv+embeds+text"])
def test_gradients_reach_the_latents_and_no_weight(kind: str) -> None:
    lm = tiny_lm("qwen2")
    ps = prompted(lm)
    prefix = latents(lm, kind, ps)
    given = [t for t in [prefix.embeds, *[x for pair in prefix.kv or [] for x in pair]] if t is not None]
    for t in given:
        t.requires_grad_(True)
    before = lm.fingerprint()
    with torch.inference_mode():  # a validation loop comes first, and may fill what is kept between calls
        lm.answer_logprobs(prefix, [p.question for p in ps], [p.answer for p in ps])
    lm.answer_logprobs(prefix, [p.question for p in ps], [p.answer for p in ps]).nll().sum().backward()
    assert all(t.grad is not None and bool((t.grad != 0).any()) for t in given)
    assert all(p.grad is None for p in lm.model.parameters())
    assert lm.fingerprint() == before


# -- states -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_do_not_depend_on_the_side_of_the_padding(family: Family) -> None:
    lm = tiny_lm(family)
    ids = torch.tensor([[1, 20, 21, 22, 0, 0], [1, 30, 31, 32, 33, 34]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    right = lm.hidden(ids, mask, (0, 1, 2))
    left = lm.hidden(torch.tensor([[0, 0, 1, 20, 21, 22], ids[1].tolist()]), mask.flip(1), (0, 1, 2))
    assert right.shape == (3, 2, 6, lm.d_model)
    torch.testing.assert_close(right[:, 0, :4], left[:, 0, 2:], rtol=0, atol=1e-5)
    assert bool((right[:, 0, 4:] == 0).all())
    assert bool((left[:, 0, :2] == 0).all())
    torch.testing.assert_close(right[0, 1], lm.embed(ids[1]), rtol=0, atol=0)
    last = lm.model.get_decoder()(input_ids=ids[1:]).last_hidden_state
    torch.testing.assert_close(right[2, 1:], last, rtol=0, atol=1e-5)


# -- frozen, and in no file -------------------------------------------------------------------------------------------
def test_the_holder_saves_trains_and_copies_nothing_of_it() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm = tiny_lm()
            self.adapter = nn.Linear(4, 4)

    holder = Holder()
    assert sorted(holder.state_dict()) == ["adapter.bias", "adapter.weight"]
    assert len(list(holder.parameters())) == 2
    assert copy.deepcopy(holder).lm is holder.lm
    holder.train()
    assert not holder.lm.model.training
    with pytest.raises(TypeError, match="belongs in no file"):
        pickle.dumps(holder.lm)


def test_training_mode_is_refused() -> None:
    lm = tiny_lm()
    lm.model.train()
    with pytest.raises(RuntimeError, match="training mode"):
        lm.generate(Prefix(), [[5]], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fingerprint_is_of_the_weights(dtype: torch.dtype) -> None:
    lm = tiny_lm(dtype=dtype)
    mark = lm.fingerprint()
    lm.verify(mark)
    assert tiny_lm(dtype=dtype).fingerprint() == mark
    other = FrozenLM(tiny_model("llama", dtype, seed=1), byte_tokenizer(), "other")
    assert other.fingerprint() != mark
    with torch.no_grad():
        lm.model.model.norm.weight[3] += 0.5
    with pytest.raises(UserError, match="the model that the run was made with"):
        lm.verify(mark)


# -- adapters ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["text", "kv"])
def test_with_adapters_off_the_model_is_its_own_teacher(kind: str, dtype: torch.dtype) -> None:
    from peft import LoraConfig

    lm = tiny_lm("llama", dtype)
    ps = prompted(lm)
    prefix = latents(lm, kind, ps)
    questions, answers = [p.question for p in ps], [p.answer for p in ps]

    def scores() -> Tensor:
        return lm.answer_logprobs(prefix, questions, answers).scores.detach()

    base, mark = scores(), lm.fingerprint()
    with lm.adapters_off():
        torch.testing.assert_close(scores(), base, rtol=0, atol=0)
    trainable = lm.adapt(LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5))
    assert len(trainable) == 8
    assert all(p.requires_grad for _, p in trainable)
    with torch.no_grad():
        for _, p in trainable:
            p.add_(0.1)
    adapted = scores()
    assert float((adapted - base).abs().max()) > 0.1
    torch.testing.assert_close(scores(), adapted, rtol=0, atol=0)  # no dropout: still in eval mode
    with lm.adapters_off():
        torch.testing.assert_close(scores(), base, rtol=0, atol=0)
    torch.testing.assert_close(scores(), adapted, rtol=0, atol=0)
    with pytest.raises(ValueError, match="at least one token"), lm.adapters_off():
        lm.answer_logprobs(prefix, questions, [[], [], []])
    torch.testing.assert_close(scores(), adapted, rtol=0, atol=0)
    assert lm.fingerprint() == mark
    lm.answer_logprobs(prefix, questions, answers).nll().sum().backward()
    assert all(p.grad is not None for _, p in trainable)
    assert lm.generate(prefix, questions, 3)
    assert lm.hidden(torch.tensor([[1, 5]]), torch.ones(1, 2), (1,)).shape == (1, 1, 2, 32)
    with pytest.raises(UserError, match="one adapter per model"):
        lm.adapt(LoraConfig(r=2, target_modules=["q_proj"]))


# -- what a user can get wrong ----------------------------------------------------------------------------------------
def test_nothing_longer_than_the_positions_is_read() -> None:
    lm = tiny_lm()
    lm.generate(Prefix(), [[9] * 245], 10)
    with pytest.raises(UserError, match="257 tokens"):
        lm.generate(Prefix(), [[9] * 245], 11)
    with pytest.raises(UserError, match="at most 256 positions"):
        lm.answer_logprobs(Prefix(embeds=torch.zeros(1, 200, 32)), [[9] * 50], [[9] * 7])


def test_sizes_that_do_not_fit_are_refused() -> None:
    lm = tiny_lm()
    for prefix in (Prefix(text_ids=[[5]]), Prefix(embeds=torch.zeros(2, 3, 31)), Prefix(embeds=torch.zeros(1, 3, 32))):
        with pytest.raises(ValueError):
            lm.generate(prefix, [[5], [6]], 1)
    with pytest.raises(ValueError, match="the model wants 2 of"):
        lm.generate(Prefix(kv=[(torch.zeros(2, 2, 3, 8),) * 2]), [[5], [6]], 1)
    with pytest.raises(ValueError, match="at least one token"):
        lm.answer_logprobs(Prefix(), [[5]], [[]])
    with pytest.raises(ValueError, match="neither context nor question"):
        lm.generate(Prefix(), [[5], []], 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bare", [False, True])
def test_a_folder_loads_as_it_was_saved(tmp_path: Path, family: Family, bare: bool) -> None:
    lm = tiny_lm(family)
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    if bare:  # a pocket model's folder
        (tmp_path / "tokenizer_config.json").unlink()
    back = FrozenLM.load(str(tmp_path), name="back")
    assert back.fingerprint() == lm.fingerprint()
    assert (back.d_model, back.n_layers, back.kv_shape, back.vocab_size) == (32, 2, (2, 8), 262)
    assert back.style.head == lm.style.head
    assert back.stop_ids == lm.stop_ids
    assert render(back.style, *TEXTS[0]) == render(lm.style, *TEXTS[0])
    half = FrozenLM.load(str(tmp_path), dtype="bfloat16")
    assert half.dtype == half.embed(torch.tensor([5])).dtype == torch.bfloat16


def test_what_cannot_be_loaded_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set lms\.<model>\.source"):
        FrozenLM.load(str(tmp_path / "nowhere"))
    lm = tiny_lm()
    state = {k: v for k, v in lm.model.state_dict().items() if k != "model.layers.1.mlp.up_proj.weight"}
    lm.model.save_pretrained(tmp_path, state_dict=state)
    lm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        FrozenLM.load(str(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_read_once_is_the_prefix_read_with_every_question(family) -> None:
    lm = tiny_lm(family, torch.float64)
    torch.manual_seed(0)
    embeds = torch.randn(2, 5, lm.d_model, dtype=torch.float64, requires_grad=True)
    rows = Rows([0, 1, 1, 0], [(10, 11), (12,), (13, 14, 15), (10,)], [(3, 4), (5,), (6, 7), (8,)])
    each = lm.answer_logprobs(Prefix(embeds=embeds).select(rows.source), rows.question, rows.answer).nll()
    once = lm.answer_logprobs(lm.cached(Prefix(embeds=embeds)).select(rows.source), rows.question, rows.answer).nll()
    torch.testing.assert_close(once, each, rtol=0, atol=1e-5)
    expected, found = (torch.autograd.grad(x.sum(), embeds)[0] for x in (each, once))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    untouched = Prefix(embeds=embeds, text_ids=[[3], [4]])
    assert lm.cached(untouched) is untouched
