"""Scores of the wire during training: answers on held-out passages, first tokens, NLL. No baselines, no intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from callbacks.step.ranks import world_size
from latentwire.data.base import Question
from latentwire.data.squad_metrics import best, exact_match, f1
from latentwire.examples import whole_prompt_text
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.metrics import first_token
from latentwire.train.batches import Batch, Rows

QUESTION, TEXT = 0, 1


@dataclass
class Scores:
    """Collects numbers per question and language model, in the order of the batches.

    Attributes:
        f1, em, nll, top1, top5: one number per question, by model; top1 and top5 are those of `lm.metrics.first_token`.
        margin, entropy: the same for the first token's distribution, by model.
        outputs: answers given, by model.
        references: first reference of each question, by model.
        latents: (texts, slots * d_z) values sent, one tensor per batch.
        texts: what each row of `latents` was made of.
        asked: each question, with the row of `latents` that answers it; the order is that of `outputs`.
        places: for each question, then for each text, in the order of the batches, what it is (`QUESTION`, `TEXT`) and
            the number of its passage in the split.
    """

    f1: dict[str, list[float]] = field(default_factory=dict)
    em: dict[str, list[float]] = field(default_factory=dict)
    nll: dict[str, list[float]] = field(default_factory=dict)
    top1: dict[str, list[float]] = field(default_factory=dict)
    top5: dict[str, list[float]] = field(default_factory=dict)
    margin: dict[str, list[float]] = field(default_factory=dict)
    entropy: dict[str, list[float]] = field(default_factory=dict)
    outputs: dict[str, list[str]] = field(default_factory=dict)
    references: dict[str, list[str]] = field(default_factory=dict)
    latents: list[Tensor] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    asked: list[tuple[int, Question]] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)

    def sent(self, batch: Batch, values: Tensor) -> None:
        """Add what was sent for one batch: values (texts, slots, d_z), after the codec."""
        before = len(self.texts)
        if batch.whole_prompt:
            self.texts += [whole_prompt_text(batch.passages[b], question) for b, question in batch.asked]
            self.asked += [(before + i, question) for i, (_, question) in enumerate(batch.asked)]
        else:
            self.texts += [passage.text for passage in batch.passages]
            self.asked += [(before + b, question) for b, question in batch.asked]
        self.latents.append(values.flatten(1).float().cpu())

    def over_ranks(self) -> Scores:
        """Return the scores of all ranks, questions and texts in the order of the split; on one rank, itself."""
        if world_size() == 1:
            return self
        everyone: list[Any] = [None] * world_size()
        dist.all_gather_object(everyone, self)
        questions, texts = (_order([s.places for s in everyone], kind) for kind in (QUESTION, TEXT))
        found = Scores(latents=_taken([list(torch.cat(s.latents)[:, None]) for s in everyone], texts))
        found.texts = _taken([s.texts for s in everyone], texts)
        rows = {there: row for row, there in enumerate(texts)}
        for rank, place in questions:
            row, question = everyone[rank].asked[place]
            found.asked.append((rows[rank, row], question))
        for name in ("f1", "em", "nll", "top1", "top5", "margin", "entropy", "outputs", "references"):
            for lm in getattr(self, name):
                getattr(found, name)[lm] = _taken([getattr(s, name)[lm] for s in everyone], questions)
        return found

    def metrics(self) -> dict[str, float]:
        """Average over questions and models, and with several models over each one's own as `<metric>/<lm>`.

        `loss` is the NLL.
        """
        out: dict[str, float] = {}
        for name in ("f1", "em", "nll", "top1", "top5"):
            values: dict[str, list[float]] = getattr(self, name)
            label = {"top1": "first_token_top1", "top5": "first_token_top5"}.get(name, name)
            each = {lm: sum(v) / len(v) for lm, v in values.items()}
            out[label] = sum(each.values()) / len(each)
            if len(each) > 1:
                out.update({f"{label}/{lm}": v for lm, v in each.items()})
        return {"loss": out["nll"], **out}


@torch.no_grad()
def score(
    scores: Scores, batch: Batch, prefixes: Mapping[str, Prefix], lms: Mapping[str, FrozenLM], max_new_tokens: int
) -> None:
    """Add one batch: greedy answers and teacher-forced log-probabilities of every question, for each model."""
    questions = [(QUESTION, batch.numbers[b]) for b, _ in batch.asked]
    texts = questions if batch.whole_prompt else [(QUESTION, number) for number in batch.numbers]
    scores.places += [*questions, *((TEXT, number) for _, number in texts)]
    for name, prefix in prefixes.items():
        lm, rows = lms[name], batch.rows[name]["answer"]
        mine = prefix.select(rows.source)
        _forced(scores, name, lm, mine, rows)
        produced = [lm.style.decode(ids) for ids in lm.generate(mine, rows.question, max_new_tokens)]
        golden = [question.answers for _, question in batch.asked]
        _extend(scores.f1, name, [best(f1, p, g) for p, g in zip(produced, golden, strict=True)])
        _extend(scores.em, name, [best(exact_match, p, g) for p, g in zip(produced, golden, strict=True)])
        scores.outputs.setdefault(name, []).extend(produced)
        scores.references.setdefault(name, []).extend(g[0] for g in golden)


def _forced(scores: Scores, name: str, lm: FrozenLM, prefix: Prefix, rows: Rows) -> None:
    result = lm.answer_logprobs(prefix, rows.question, rows.answer)
    first = first_token(result)
    _extend(scores.nll, name, result.nll().tolist())
    for key in ("top1", "top5", "margin", "entropy"):
        _extend(getattr(scores, key), name, getattr(first, key).tolist())


def _extend(where: dict[str, list[float]], name: str, values: list[float]) -> None:
    where.setdefault(name, []).extend(values)


def _order(places: Sequence[Sequence[tuple[int, int]]], kind: int) -> list[tuple[int, int]]:
    """Return (rank, place on that rank) of everything of a kind by the number of its passage."""
    own = [[number for what, number in of if what == kind] for of in places]
    found = [(number, rank, place) for rank, of in enumerate(own) for place, number in enumerate(of)]
    return [(rank, place) for _, rank, place in sorted(found)]


def _taken(values: Sequence[Sequence[Any]], order: Sequence[tuple[int, int]]) -> list[Any]:
    return [values[rank][place] for rank, place in order]
