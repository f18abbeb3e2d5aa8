"""Objectives beside cross-entropy and distillation: each against its formula written out, number by number."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_lw_objectives import answers, by_hand, seen
from torch import Tensor

from latentwire.objectives.base import ReaderShape, Seen
from latentwire.objectives.distillation import AnswerKD, kl_top_k, top_k
from latentwire.objectives.likelihood import AnswerCE, FirstTokenCE
from latentwire.objectives.matching import TextContrast, TokenAlignment, info_nce
from latentwire.objectives.meaning import AnswerEmbedding
from latentwire.objectives.shape import AnswerLength, FirstTokenEntropy
from latentwire.train.curriculum import Constant


def mean_of_answers(values: list[list[float]]) -> float:
    return sum(sum(v) / len(v) for v in values) / len(values)


def test_a_smoothed_target_gives_every_token_its_part() -> None:
    a, e = answers([3, 1]), 0.2
    rows: list[list[float]] = [[], []]
    for i in range(4):
        target = [e / 7 + (1 - e) * (v == int(a.tokens[i])) for v in range(7)]
        rows[int(a.row[i])].append(-sum(t * a.scores[i, v].item() for v, t in enumerate(target)))
    smoothed = AnswerCE(Constant(), smoothing=e)
    assert smoothed(seen(answer=a), "lm").loss.item() == pytest.approx(mean_of_answers(rows), rel=1e-5)
    assert AnswerCE(Constant()).likelihood
    assert not smoothed.likelihood  # no bound of a uniform guess holds for it


def test_first_tokens_weigh_more_as_long_as_they_are_far_from_what_is_tolerated() -> None:
    a = answers([3, 2])
    plain = by_hand(a, 1)
    for tolerated, factor in ((plain / 3, 3.0), (plain / 100, 8.0), (plain * 2, 1.0)):
        objective = FirstTokenCE(Constant(), tolerated=tolerated)
        loss = objective(seen(answer=a), "lm").loss
        assert float(loss) == pytest.approx(factor * plain, rel=1e-5)
        (grad,) = torch.autograd.grad(loss, a.scores)
        (once,) = torch.autograd.grad(FirstTokenCE(Constant())(seen(answer=a), "lm").loss, a.scores)
        assert torch.allclose(grad, factor * once, rtol=1e-5), "the factor itself has no gradient"


def test_distillation_at_a_temperature_is_that_of_the_flattened_distributions() -> None:
    teacher, a, T = answers([3, 2], 9, 1).scores.detach(), answers([3, 2], 9, 2), 2.5
    rows: list[list[float]] = [[], []]
    for i in range(5):
        p, q = ((x[i] / T).exp() / (x[i] / T).exp().sum() for x in (teacher, a.scores.detach()))
        rows[int(a.row[i])].append(T**2 * sum(float(p[v] * (p[v] / q[v]).log()) for v in range(9)))
    whole = replace(seen(answer=a), teacher=top_k(teacher, 9))
    assert float(AnswerKD(Constant(), temperature=T)(whole, "lm").loss) == pytest.approx(
        mean_of_answers(rows), rel=1e-4
    )
    some = replace(seen(answer=a), teacher=top_k(teacher, 3))
    same = replace(seen(answer=replace(a, scores=teacher)), teacher=top_k(teacher, 3))
    out = AnswerKD(Constant(), temperature=T)(some, "lm")
    assert float(out.observed["kl_to_text"]) == pytest.approx(float(kl_top_k(top_k(teacher, 3), a.scores).mean()))
    assert float(AnswerKD(Constant(), temperature=T)(same, "lm").loss) == pytest.approx(0, abs=1e-5)


def test_entropy_is_wanted_up_to_its_ceiling_and_its_margin_is_told() -> None:
    a = answers([3, 1])
    found = []
    for i in (0, 3):
        p = a.scores[i].exp()
        found.append(-sum(float(x) * math.log(float(x)) for x in p))
    out = FirstTokenEntropy(Constant(), ceiling=1.7)(seen(answer=a), "lm")
    assert float(out.loss) == pytest.approx(sum(max(0.0, 1.7 - h) for h in found) / 2, rel=1e-4)
    assert float(out.observed["first_token_entropy"]) == pytest.approx(sum(found) / 2, rel=1e-5)
    sure = replace(a, scores=torch.full((4, 7), -math.inf).index_fill(1, torch.tensor([0]), 0.0))
    assert float(FirstTokenEntropy(Constant(), ceiling=0.5)(seen(answer=sure), "lm").loss) == 0.5


def test_an_answer_that_goes_on_or_ends_early_pays() -> None:
    a = answers([3, 2])
    a = replace(a, tokens=torch.tensor([4, 5, 2, 3, 2]))  # 2 ends both
    p = a.scores.exp()[:, 2]
    ends = [[-math.log(1 - p[0]), -math.log(1 - p[1]), -math.log(p[2])], [-math.log(1 - p[3]), -math.log(p[4])]]
    out = AnswerLength(Constant())(seen(answer=a), "lm")
    assert float(out.loss) == pytest.approx(mean_of_answers(ends), rel=1e-5)
    assert float(out.observed["stop_nll"]) == pytest.approx(-(math.log(p[2]) + math.log(p[4])) / 2, rel=1e-5)
    sure = torch.full((5, 7), -20.0).index_fill(1, torch.tensor([2]), 0.0).requires_grad_(True)  # to stop, everywhere
    loss = AnswerLength(Constant())(seen(answer=replace(a, scores=sure.log_softmax(-1))), "lm").loss
    assert 0.01 < float(torch.autograd.grad(loss, sure)[0][0, 2]) < 1, "it still learns to go on"


def test_an_expected_embedding_is_that_of_the_likeliest_tokens() -> None:
    a, table = answers([2, 1]), torch.randn(7, 5)
    rows: list[list[float]] = [[], []]
    for i in range(3):
        best = sorted(range(7), key=lambda v: -float(a.scores[i, v]))[:3]
        mass = sum(float(a.scores[i, v].exp()) for v in best)
        expected = sum((float(a.scores[i, v].exp()) / mass * table[v] for v in best), torch.zeros(5))
        right = table[int(a.tokens[i])]
        rows[int(a.row[i])].append(1 - float(expected @ right / (expected.norm() * right.norm())))
    s = replace(seen(answer=a), embed=lambda ids: table[ids])
    assert float(AnswerEmbedding(Constant(), k=3)(s, "lm").loss) == pytest.approx(mean_of_answers(rows), rel=1e-4)


def test_pairs_are_told_apart_from_all_others_of_the_batch() -> None:
    u, v, t = torch.randn(4, 3), torch.randn(4, 3), 0.3
    s = [[float(torch.cosine_similarity(u[i], v[j], dim=0)) / t for j in range(4)] for i in range(4)]
    there = sum(-s[i][i] + math.log(sum(math.exp(x) for x in s[i])) for i in range(4)) / 4
    back = sum(-s[j][j] + math.log(sum(math.exp(s[i][j]) for i in range(4))) for j in range(4)) / 4
    loss, _ = info_nce(u, v, t)
    assert float(loss) == pytest.approx((there + back) / 2, rel=1e-5)
    assert [float(x) for x in info_nce(u, u, 1e-4)] == pytest.approx([0.0, 1.0], abs=1e-5)
    assert float(info_nce(u, u.flip(0), 1e-4)[1]) == 0.0
    assert float(info_nce(u[:1], v[:1], t)[0]) == 0.0


def matched(latents: Tensor, tokens: Tensor, lengths: list[int], counts: list[int]) -> Seen:
    mask = torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None]
    return Seen({}, latents, lambda: (tokens, mask), 2.0, adapted=lambda: latents, counts=counts)


def test_slots_and_texts_are_matched_by_their_own_chunks_whatever_the_padding() -> None:
    tokens, lengths, d = torch.randn(2, 6, 4), [6, 4], 4
    chunks = [[tokens[0, :3], tokens[0, 3:6], tokens[0]], [tokens[1, :2], tokens[1, 2:4], tokens[1, :4]]]
    latents = torch.stack([torch.stack([x.mean(0) for x in row]) for row in chunks])  # two shared slots, one private
    for objective in (TokenAlignment(Constant(), 1e-3, d), TextContrast(Constant(), 1e-3, d)):
        objective.prepare({"lm": ReaderShape(d, d, False, (3, 6))}, d_z=d)
        with torch.no_grad():
            maps: Any = (objective.of_slots["lm"], objective.of_text["lm"])
            for linear in maps:
                linear.weight.copy_(torch.eye(d))
            maps[1].bias.zero_()
        out = objective(matched(latents, tokens, lengths, [2, 1]), "lm")
        assert float(out.loss.detach()) == pytest.approx(0, abs=1e-4)
        noise = torch.where(torch.arange(6)[:, None] < torch.tensor(lengths)[:, None, None], tokens, 1e3)
        assert torch.equal(objective(matched(latents, noise, lengths, [2, 1]), "lm").loss, out.loss)
        wrong = objective(matched(latents.flip(0), tokens, lengths, [2, 1]), "lm")
        assert float(next(iter(wrong.observed.values()))) == 0.0
