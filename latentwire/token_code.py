"""A small code of tokens for studies: fewer numbers per token, no fewer tokens, and an adapter that alone is trained.

The encoder is principal components of single embeddings, the adapter that of a wire; the frozen reader gets one
embedding per token in the place of the text. An adapter learns from reconstruction (`embedding_loss`), from answers
through the reader, or from both, each with a weight over steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from callbacks.errors import UserError
from callbacks.stages.lr import LRSchedule
from latentwire.adapters.mlp import MLPAdapter
from latentwire.baselines.training import MAX_NORM, answer_rows, load_state, state
from latentwire.data.base import Corpus, Passage
from latentwire.encoders.base import Tokens
from latentwire.encoders.pca import PCAEncoder
from latentwire.encoders.slots import LatentLayout
from latentwire.examples import Example, context_ids, examples
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.objectives.reconstruction import embedding_loss
from latentwire.reader_study import scored
from latentwire.train import batches
from latentwire.train.batches import Renderer
from latentwire.train.curriculum import Schedule
from latentwire.train.stream import Stream

Start = Literal["text", "random"]
Metric = Literal["f1", "cosine"]
LOOKED_AT = 2000  # training passages of which those of the commonest length are read
MEASURED = 200  # of these, texts that components and scales are measured on


@dataclass(frozen=True)
class Lesson:
    """Says what an adapter learns from, and for how long.

    Attributes:
        reconstruction: weight of the reconstruction over steps.
        answers: weight of the answers' NLL over steps.
        metric: what chooses the weights that are kept: `f1` of validation (among equals the lowest NLL), or the
            `cosine` of its embeddings.
        steps: number of steps.
        contexts: number of texts in a step.
        questions: number of questions about each, asked while answers have a weight.
        lr: learning rate of Adam, before a cosine with warm-up.
        warmup: steps of the warm-up.
        validations: how often validation is read, the untrained adapter apart.
    """

    reconstruction: Schedule
    answers: Schedule
    metric: Metric = "f1"
    steps: int = 100
    contexts: int = 4
    questions: int = 3
    lr: float = 1e-3
    warmup: int = 10
    validations: int = 3

    def told(self) -> dict[str, Any]:
        """Return plain values of all that determines what is learned, for a cell's key (`latentwire.cells`)."""
        weights = {key: vars(getattr(self, key)) for key in ("reconstruction", "answers")}
        kinds = {f"{key} kind": type(getattr(self, key)).__name__ for key in weights}
        plain = ("metric", "steps", "contexts", "questions", "lr", "warmup", "validations")
        return {**weights, **kinds, **{key: getattr(self, key) for key in plain}}


@dataclass(frozen=True)
class Texts:
    """Holds what adapters of one reader learn from and are tested on.

    Attributes:
        train: training passages, all texts of one length in tokens: embeddings carry no mask.
        val: questions of validation.
        test: questions of the test.
    """

    train: Sequence[Passage]
    val: Sequence[Example]
    test: Sequence[Example]

    @classmethod
    def of(cls, lm: FrozenLM, corpus: Corpus, val: int, test: int) -> Texts:
        """Take them from a corpus: of the training's commonest length, so many of validation and test.

        Raises:
            UserError: too few texts of that length.
        """
        split = corpus.split("train")
        lengths = [_length(lm, split[i]) for i in range(min(LOOKED_AT, len(split)))]
        commonest = Counter(lengths).most_common(1)[0][0]
        train = [split[i] for i, n in enumerate(lengths) if n == commonest]
        held = _first(lm, corpus.split("val"), commonest, val)
        asked = _first(lm, corpus.split("test"), commonest, test)
        return cls(train, examples(lm, held), examples(lm, asked))


class TokenCode(nn.Module):
    """Sends d numbers per token and gives an embedding back for each: components, then an adapter.

    Args:
        lm: the reader, whose embeddings are sent.
        d: numbers per token.
        texts: passages of one length that components and scales are measured on.
        start: where the adapter starts: at the least-squares map (`text`), or at `random`.
    """

    def __init__(self, lm: FrozenLM, d: int, texts: Sequence[Passage], start: Start = "text"):
        super().__init__()
        self.lm = lm
        some = texts[:MEASURED]
        ids = torch.tensor([context_ids(lm, p, p.questions[0]) for p in some])
        own = lm.embed(ids).float()
        self.target = float(own.pow(2).mean().sqrt())
        self.encoder = PCAEncoder(lm, d, chunk=1, max_tokens=lm.max_tokens)
        self.encoder.fit([p.text.strip() + "\n" for p in some], LatentLayout(ids.shape[1]))
        self.adapter = MLPAdapter(d, lm.d_model, self.target)
        z = self.encode(ids)
        if start == "text":
            self.adapter.fit([(z, own)])
        self.adapter.calibrate(z)

    @torch.no_grad()
    def encode(self, ids: Tensor) -> Tensor:
        """Return what is sent of texts of equally many tokens, ids (B, T): (B, T, d), rounded to fp16."""
        tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), (0,) * len(ids))
        return self.encoder(tokens, LatentLayout(ids.shape[1])).half().float()

    def forward(self, ids: Tensor) -> Tensor:
        """Return embeddings (B, T, d_model) of texts (B, T)."""
        return self.adapter(self.encode(ids))

    def read(self, asked: Sequence[Example]) -> Tensor:
        """Return what a reader gets of examples of one length."""
        return self(torch.tensor([e.prompt.context for e in asked]))

    def linear(self, asked: Sequence[Example]) -> Tensor:
        """Return what components alone give back of examples of one length, without an adapter."""
        z = self.encode(torch.tensor([e.prompt.context for e in asked]))
        return self.encoder.reconstruct(z, torch.full((len(z),), z.shape[1]))


def learn(lm: FrozenLM, code: TokenCode, texts: Texts, lesson: Lesson, seed: int) -> dict[str, Any]:
    """Train the adapter, and leave it as it was at its best validation.

    Args:
        lm: the reader.
        code: whose adapter is trained; components stay.
        texts: what it learns from.
        lesson: from what, how long.
        seed: seed of the stream of passages and questions.

    Returns:
        `val`: the best validation, its `f1`, `nll`, `cosine` and `step`; `share`: of the answers in the loss, a mean
        over the last quarter of steps; `questions`: the number of questions read.
    """
    adapter = code.adapter
    optimiser = torch.optim.Adam(adapter.parameters(), lesson.lr)
    rate = LRSchedule("cosine", warmup_steps=lesson.warmup)(optimiser, lesson.steps, 1)
    renderer, stream = Renderer(lm), Stream(texts.train, lesson.questions, seed, lesson.steps * lesson.contexts)
    found = [_validated(lm, code, texts, 0)]
    kept = _copy(adapter)
    shares: list[float] = []
    read = 0
    for t, (passages, asked) in zip(range(lesson.steps), stream.batches(lesson.contexts), strict=False):
        adapter.train()
        ids = torch.tensor([context_ids(lm, p, p.questions[0]) for p in passages])
        y, own = code(ids), lm.embed(ids).float()
        weights = lesson.reconstruction.weight(t, {}), lesson.answers.weight(t, {})
        close, _ = embedding_loss(y.flatten(0, 1) / code.target, own.flatten(0, 1) / code.target, 1.0, 0.1)
        loss, part = weights[0] * close, 0.0
        if weights[1] > 0:
            rows = answer_rows(renderer, passages, asked)
            told = weights[1] * batches.read(lm, Prefix(embeds=y), {"answer": rows}, {"answer"})["answer"].nll().mean()
            loss, part, read = loss + told, float(told.detach()), read + len(asked)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(adapter.parameters(), MAX_NORM)
        optimiser.step()
        rate.step()
        shares.append(part / float(loss.detach()))
        if (t + 1) % max(1, lesson.steps // lesson.validations) == 0:
            found.append(_validated(lm, code, texts, t + 1))
            if found[-1] is max(found, key=lambda v: rank(v, lesson.metric)):
                kept = _copy(adapter)
    load_state(adapter, kept)
    adapter.eval()
    last = shares[-max(1, lesson.steps // 4) :]
    best = max(found, key=lambda v: rank(v, lesson.metric))
    return {"val": best, "share": sum(last) / len(last), "questions": read}


@torch.no_grad()
def closeness(lm: FrozenLM, asked: Sequence[Example], y: Tensor) -> dict[str, float]:
    """Compare embeddings y (n, d_model) of examples of one length, token by token, with their own.

    Returns:
        `cosine`: its mean; `nearest`: the share of tokens of whose vocabulary's embeddings their own lies nearest.
    """
    ids = torch.tensor([i for e in asked for i in e.prompt.context])
    cosine = nn.functional.cosine_similarity(y, lm.embed(ids).float(), dim=-1)
    every = lm.embed(torch.arange(lm.vocab_size)).float()
    near = torch.cdist(y.float(), every).argmin(1)
    return {"cosine": float(cosine.mean()), "nearest": float((near == ids).float().mean())}


def measured(lm: FrozenLM, asked: Sequence[Example], embeds: Any) -> dict[str, Any]:
    """Return what a reader makes of a code: `f1` and `nll` per question in order, `cosine` and `nearest` of tokens."""
    rows = scored(lm, asked, embeds)
    return {"f1": [r["f1"] for r in rows], "nll": [r["nll"] for r in rows]} | _close(lm, asked, embeds)


@torch.no_grad()
def _close(lm: FrozenLM, asked: Sequence[Example], embeds: Any) -> dict[str, float]:
    by_length: dict[int, dict[str, Example]] = {}
    for e in asked:
        by_length.setdefault(len(e.prompt.context), {})[e.passage.id] = e
    found, counts = [], []
    for one in by_length.values():
        same = list(one.values())
        found.append(closeness(lm, same, embeds(same).flatten(0, 1)))
        counts.append(sum(len(e.prompt.context) for e in same))
    return {key: sum(n * f[key] for n, f in zip(counts, found, strict=True)) / sum(counts) for key in found[0]}


def _validated(lm: FrozenLM, code: TokenCode, texts: Texts, step: int) -> dict[str, float]:
    code.adapter.eval()
    rows = scored(lm, texts.val, code.read)
    means = {key: sum(r[key] for r in rows) / len(rows) for key in ("f1", "nll")}
    return {"step": float(step), **means, **_close(lm, texts.val, code.read)}


def rank(validation: Mapping[str, float], metric: Metric) -> tuple[float, float]:
    """Return what orders validations by a metric, best last: of equal F1 the lower NLL."""
    return (validation[metric], -validation["nll"] if metric == "f1" else 0.0)


def _length(lm: FrozenLM, passage: Passage) -> int:
    return len(context_ids(lm, passage, passage.questions[0]))


def _first(lm: FrozenLM, split: Sequence[Passage], length: int, wanted: int) -> list[Passage]:
    found = []
    for passage in split:
        found += [passage] if _length(lm, passage) == length else []
        if len(found) == wanted:
            return found
    told = f"{len(found)} texts of {length} tokens among {len(split)}"
    raise UserError("--passages", told, f"{wanted}", f"add --passages {max(2, len(found))}")


def _copy(adapter: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in state(adapter).items()}
