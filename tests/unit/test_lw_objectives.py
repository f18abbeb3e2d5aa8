"""Objectives: values against the formula written out, one forward pass for all, a teacher that is asked once."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lw_toys import tiny_lm
from torch import Tensor

from callbacks.errors import UserError
from latentwire.data.base import Passage, Question
from latentwire.data.biographies import Biographies
from latentwire.encoders.byte import ByteEncoder
from latentwire.encoders.pooling import ChunkMean
from latentwire.examples import prompt_of
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.results import AnswerLogprobs
from latentwire.objectives.base import Needs, ReaderShape, Seen, together
from latentwire.objectives.contrast import MismatchHinge, hinge
from latentwire.objectives.distillation import AnswerKD, kl_top_k, top_k
from latentwire.objectives.likelihood import AnswerCE, Continuation, FirstTokenCE, KTokenCE, TextReconstruction
from latentwire.objectives.reconstruction import EmbeddingReconstruction, embedding_loss
from latentwire.objectives.teacher import Teacher, ask, cache_key
from latentwire.train.batches import Contexts, Rows, forwards, read
from latentwire.train.curriculum import Constant


def answers(lengths: list[int], vocab: int = 7, seed: int = 0) -> AnswerLogprobs:
    g = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    position = torch.cat([torch.arange(k) for k in lengths])
    scores = torch.randn(n, vocab, generator=g).log_softmax(-1).requires_grad_(True)
    return AnswerLogprobs(scores, torch.randint(vocab, (n,), generator=g), row, position, len(lengths))


def seen(**rows: AnswerLogprobs) -> Seen:
    kinds: Any = rows
    return Seen(kinds, torch.zeros(1, 1, 1), lambda: (torch.zeros(1), torch.zeros(1)), 1.0)


def by_hand(a: AnswerLogprobs, first: int | None = None) -> float:
    per_row = []
    for b in range(a.batch):
        mine = [float(a.scores[i, a.tokens[i]]) for i in range(len(a.tokens)) if int(a.row[i]) == b][:first]
        per_row.append(-sum(mine) / len(mine))
    return sum(per_row) / len(per_row)


def test_cross_entropies_are_means_over_questions_of_means_over_their_tokens() -> None:
    a = answers([3, 1, 5])
    for objective, first in ((AnswerCE(Constant()), None), (FirstTokenCE(Constant()), 1), (KTokenCE(Constant(), 2), 2)):
        loss = objective(seen(answer=a), "lm").loss
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(by_hand(a, first), rel=1e-5)


def test_distillation_is_the_divergence_where_k_is_the_vocabulary_and_a_lower_bound_else() -> None:
    teacher, student = answers([4], 9, 1).scores.detach(), answers([4], 9, 2).scores.detach()
    full = (teacher.exp() * (teacher - student)).sum(-1)
    assert torch.allclose(kl_top_k(top_k(teacher, 9), student), full, atol=1e-5)
    bounds = [kl_top_k(top_k(teacher, k), student) for k in (1, 2, 4, 9)]
    for low, high in pairwise(bounds):
        assert (low <= high + 1e-5).all()
    assert torch.allclose(kl_top_k(top_k(teacher, 3), teacher), torch.zeros(4), atol=1e-5)
    assert (bounds[0] >= -1e-6).all()


def test_distillation_can_be_limited_to_the_first_tokens() -> None:
    a = answers([3, 2])
    other = answers([3, 2], seed=5).scores.detach()
    s = replace(seen(answer=a), teacher=top_k(other, 3))
    every = kl_top_k(top_k(other, 3), a.scores)
    assert float(AnswerKD(Constant(), first=1)(s, "lm").loss.detach()) == pytest.approx(
        float(every[[0, 3]].mean().detach()), rel=1e-5
    )


def test_the_hinge_is_zero_beyond_its_margin_and_costs_the_margin_where_latents_are_ignored() -> None:
    right, wrong = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.5])
    assert float(hinge(right, wrong, 1.0)) == 0.25
    a = answers([2, 2])
    assert float(MismatchHinge(Constant(), 0.7)(seen(answer=a, wrong=a), "lm").loss) == pytest.approx(0.7)


def copy_through(objective: EmbeddingReconstruction) -> None:
    """Let the numbers of a slot of the first slice be the embeddings of its chunk, one after the other."""
    with torch.no_grad():
        for p in objective.parameters():
            p.zero_()
        for layer in objective.heads["lm"][0]:  # type: ignore[union-attr, index]
            layer.weight.copy_(torch.eye(len(layer.weight)))


def test_reconstruction_gives_every_token_a_target_of_its_own() -> None:
    x = torch.randn(6, 4)
    assert float(embedding_loss(x, x, 1.0, 0.1)[0]) == pytest.approx(0.0, abs=1e-6)
    assert float(embedding_loss(-x, x, 1.0, 0.0)[0]) == pytest.approx(2.0, abs=1e-5)
    objective = EmbeddingReconstruction(Constant())
    objective.prepare({"lm": ReaderShape(3, 6, False, (2, 0))}, d_z=6)
    copy_through(objective)
    tokens = torch.randn(2, 4, 3)
    lengths = torch.tensor([4, 3])
    tokens[1, 3] = 0
    latents = torch.stack([tokens[0].reshape(2, 6), torch.cat([tokens[1, 0], torch.zeros(3), tokens[1, 1:3].flatten()])
                           .reshape(2, 6)])  # fmt: skip
    predicted = objective.predict(latents, (2, 0), lengths, "lm")
    assert torch.allclose(predicted[0], tokens[0])
    assert torch.allclose(predicted[1, :3], tokens[1, :3])


def corpus(n: int = 6) -> list[Passage]:
    return Biographies(people=1, facts_per_person=2, train=n).split("train")[:n]


def batch_of(lm: FrozenLM, *kinds: Any, questions: int = 2, n: int = 3) -> Any:
    encoder = ByteEncoder(4, ["shared"], pooling=lambda d, slices: ChunkMean(d, slices), width=8, heads=2)
    needs = Needs(frozenset(kinds), cue="Repeat.", words=(0.4, 0.6))
    return Contexts(corpus(), encoder, {"lm": lm}, questions, needs, seed=0).__getitems__([(i, 0) for i in range(n)])


def test_one_forward_serves_all_objectives_and_each_row_is_what_it_is_alone() -> None:
    lm = tiny_lm()
    batch = batch_of(lm, "answer", "wrong", "text", "continuation")
    rows = batch.rows["lm"]
    texts = len(batch.tokens.ids)
    prefix = Prefix(embeds=torch.randn(texts, 2, lm.d_model))
    calls: list[int] = []
    inner = lm.answer_logprobs

    def counted(p: Prefix, q: Any, a: Any, *more: Any) -> AnswerLogprobs:
        calls.append(len(q))
        return inner(p, q, a, *more)

    lm.answer_logprobs = counted  # type: ignore[method-assign, assignment]
    together = read(lm, prefix, rows, {"answer", "wrong", "text", "continuation"})
    assert len(calls) == len(forwards(rows)) <= 2
    calls.clear()
    read(lm, prefix, rows, {"answer", "wrong"})
    assert calls == [12], "right and wrong latents, two questions on each of three texts: one pass"
    lm.answer_logprobs = inner  # type: ignore[method-assign]
    for kind, found in together.items():
        r: Rows = rows[kind]
        for i in range(len(r)):
            alone = lm.answer_logprobs(
                Prefix(embeds=prefix.embeds[r.source[i]][None]),
                [r.question[i]],
                [r.answer[i]],  # type: ignore[index]
            )
            mine: Tensor = found.logprobs[found.row == i]
            assert torch.allclose(mine, alone.logprobs, atol=1e-5), kind


def test_long_rows_do_not_make_short_ones_expensive() -> None:
    short, long = Rows(), Rows()
    for _ in range(30):
        short.add(0, [1] * 8, [1, 2])
    for _ in range(2):
        long.add(0, [1], [1] * 100)
    assert forwards({"answer": short, "text": long}) == [["answer"], ["text"]]
    assert forwards({"answer": short, "text": short}) == [["answer", "text"]]
    assert forwards({"answer": short}) == [["answer"]]


def test_wrong_latents_belong_to_another_passage() -> None:
    batch = batch_of(tiny_lm(), "answer", "wrong")
    right, wrong = batch.rows["lm"]["answer"], batch.rows["lm"]["wrong"]
    assert right.question == wrong.question
    assert right.answer == wrong.answer
    assert all(a != b for a, b in zip(right.source, wrong.source, strict=True))


def test_training_rows_are_the_prompts_of_the_evaluation() -> None:
    lm = tiny_lm("qwen2", chat=True)
    batch = batch_of(lm, "answer")
    rows = batch.rows["lm"]["answer"]
    for i, (b, question) in enumerate(batch.asked):
        prompt = prompt_of(lm, batch.passages[b], question)
        assert (rows.source[i], rows.question[i], rows.answer[i]) == (b, prompt.question, prompt.answer)


def test_text_rows_ask_for_the_whole_text_and_its_end() -> None:
    lm = tiny_lm()
    batch = batch_of(lm, "text", "continuation")
    rows = batch.rows["lm"]["text"]
    assert [lm.style.decode(ids) for ids in rows.answer] == [p.text for p in batch.passages]
    assert all(ids[-1] == lm.style.eos for ids in rows.answer)
    rest = batch.rows["lm"]["continuation"]
    for i, source in enumerate(rest.source):
        head = bytes(batch.tokens.ids[source][batch.tokens.mask[source]].tolist()).decode()
        assert head + " " + lm.style.decode([*rest.question[i], *rest.answer[i]]) == batch.passages[i].text
    assert TextReconstruction(Constant(), "Again.").needs == Needs(frozenset({"text"}), cue="Again.")


def test_objectives_say_what_they_need_of_a_batch() -> None:
    weight = Constant()
    needs = {
        "answer_ce": AnswerCE(weight).needs,
        "hinge": MismatchHinge(weight).needs,
        "text": TextReconstruction(weight, "Again.").needs,
        "rest": Continuation(weight, 0.2, 0.4).needs,
        "embeddings": EmbeddingReconstruction(weight).needs,
    }
    every: Any = frozenset({"answer", "wrong", "text", "continuation"})
    assert together(needs) == Needs(every, "Again.", (0.2, 0.4), True)
    answers = {name: needs[name] for name in ("answer_ce", "hinge")}
    assert together(answers, whole_prompt=True) == Needs(frozenset({"answer", "wrong"}), whole_prompt=True)
    for name in ("text", "rest", "embeddings"):
        with pytest.raises(UserError, match=rf"~objectives\.{name}"):
            together({name: needs[name]}, whole_prompt=True)
    with pytest.raises(UserError, match=r"~objectives\.again"):
        together({**needs, "again": needs["text"]})


def test_batches_are_a_function_of_seed_epoch_and_index_and_epochs_go_on_in_the_split() -> None:
    encoder = ByteEncoder(4, ["shared"], pooling=lambda d, slices: ChunkMean(d, slices), width=8, heads=2)

    def data() -> Contexts:
        return Contexts(corpus(6), encoder, {"lm": tiny_lm()}, 1, Needs(), seed=3, per_epoch=2)

    items = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3)]
    first, second = data(), data()
    seen_ids = [first[i].passages[0].id for i in items]
    assert sorted(seen_ids[:6]) == sorted(p.id for p in corpus(6)), "every passage once before any comes again"
    for item in reversed(items):
        a, b = first[item], second[item]
        assert (a.asked, a.rows) == (b.asked, b.rows)


def test_the_teacher_is_asked_once_and_only_for_the_very_same_thing(tmp_path: Path, monkeypatch: Any) -> None:
    lm, passages = tiny_lm(), corpus(3)
    teacher = Teacher.cached(lm, passages, 5, tmp_path)
    asked = [(p, q) for p in passages for q in p.questions]
    live = ask(lm, [prompt_of(lm, p, q) for p, q in asked], 5)
    kept = teacher.of([q.id for _, q in asked], torch.device("cpu"))
    assert torch.equal(live.ids, kept.ids)
    assert torch.allclose(live.logprobs, kept.logprobs, atol=1e-5)
    assert torch.allclose(live.tail, kept.tail, atol=1e-5)

    monkeypatch.setattr("latentwire.objectives.teacher.ask", lambda *a: pytest.fail("asked again"))
    again = Teacher.cached(lm, passages, 5, tmp_path)
    assert all(torch.equal(again.rows[i].logprobs, teacher.rows[i].logprobs) for i in teacher.rows)

    changed = [replace(passages[0], text=passages[0].text + " "), *passages[1:]]
    reworded = [replace(passages[0], questions=(Question("q", "Who?", ("x",), "k"),)), *passages[1:]]
    chat = tiny_lm(chat=True)
    keys = [
        cache_key(lm, passages, 5),
        cache_key(lm, passages, 6),
        cache_key(lm, changed, 5),
        cache_key(lm, reworded, 5),
        cache_key(chat, passages, 5),
        cache_key(tiny_lm("qwen2"), passages, 5),
    ]
    assert len(set(keys)) == len(keys)


def test_the_teacher_has_its_adapters_off() -> None:
    from peft import LoraConfig

    lm, (passage, *_) = tiny_lm(), corpus(1)
    asked = [prompt_of(lm, passage, q) for q in passage.questions]
    before = ask(lm, asked, 4)
    for _, p in lm.adapt(LoraConfig(r=2, target_modules=["q_proj", "v_proj"])):
        torch.nn.init.normal_(p)
    after = ask(lm, asked, 4)
    assert torch.equal(before.ids, after.ids)
    assert torch.allclose(before.logprobs, after.logprobs, atol=1e-5)
