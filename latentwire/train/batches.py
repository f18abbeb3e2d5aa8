"""Batches: texts for the encoder, and for every language model the rows that read the latents.

A row is a question (or the text itself) with the index of the encoded text that it reads; several rows read the same
text, which is encoded once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from callbacks.errors import UserError
from latentwire.data.base import Passage, Question
from latentwire.encoders.base import Encoder, Tokens
from latentwire.examples import is_continuation, prompt_of, whole_prompt_text
from latentwire.lm import prompts
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix, right_padded
from latentwire.lm.prompts import Prompt
from latentwire.lm.results import AnswerLogprobs
from latentwire.objectives.base import Needs, RowKind
from latentwire.train.stream import Stream

Ids = tuple[int, ...]
REMEMBERED = 65536  # prompts of questions, by model


@dataclass
class Rows:
    """Holds rows of one kind: row i reads text `source[i]`, then `question[i]`, and is scored on `answer[i]`."""

    source: list[int] = field(default_factory=list)
    question: list[Ids] = field(default_factory=list)
    answer: list[Ids] = field(default_factory=list)

    def add(self, source: int, question: Sequence[int], answer: Sequence[int]) -> None:
        """Append one row."""
        self.source.append(source)
        self.question.append(tuple(question))
        self.answer.append(tuple(answer))

    def __len__(self) -> int:
        return len(self.source)

    def size(self) -> int:
        """Return the positions of a forward pass on these rows alone, padding included, prefix not."""
        return len(self) * (max(map(len, self.question)) + max(map(len, self.answer)) - 1)


@dataclass
class Batch:
    """Holds what one step reads.

    Attributes:
        tokens: the encoder's tokens of the texts: B contexts, then the beginnings that are to be continued; with
            `whole_prompt` one text per question.
        passages: the B passages.
        asked: pairs (index of the passage, question) in the order of the rows `answer`.
        rows: rows by language model and kind.
        context: ids (B, T) of the contexts and their mask by language model, for reconstruction.
        continued: index of the passage of each beginning that is to be continued.
        whole_prompt: whether the question is encoded with its context.
        numbers: numbers of the passages within the epoch, which order what several ranks have found.
    """

    tokens: Tokens
    passages: list[Passage]
    asked: list[tuple[int, Question]]
    rows: dict[str, dict[RowKind, Rows]]
    context: dict[str, tuple[Tensor, Tensor]]
    continued: list[int] = field(default_factory=list)
    whole_prompt: bool = False
    numbers: list[int] = field(default_factory=list)

    @property
    def messages(self) -> int:
        """The number of texts that are sent: of the passages, or of whole prompts; beginnings come behind them."""
        return len(self.asked) if self.whole_prompt else len(self.passages)


class Renderer:
    """Renders prompts of one model without their contexts, with a memory for questions; the first answer is given."""

    def __init__(self, lm: FrozenLM):
        self.lm, self.style = lm, lm.style
        self._known: dict[tuple[str, str], Prompt] = {}

    def ask(self, asked: Sequence[tuple[Passage, Question]]) -> list[Prompt]:
        """Return what `prompt_of` does of each, except that contexts are left out where they are not needed."""
        texts = {(q.text, q.answers[0]) for _, q in asked if not is_continuation(q)}
        if len(self._known) > REMEMBERED:
            self._known.clear()
        new = [key for key in texts if key not in self._known]
        rendered = prompts.render_all(self.style, [(None, question, answer) for question, answer in new])
        self._known.update(zip(new, rendered, strict=True))
        return [prompt_of(self.lm, p, q) if is_continuation(q) else self._known[q.text, q.answers[0]] for p, q in asked]


class Contexts(Dataset[Batch]):
    """Makes training batches of what a `Stream` draws; everything in a batch is a function of (seed, epoch, indices).

    Args:
        passages: the split.
        encoder: the encoder whose tokenizer is used.
        lms: the models that read.
        questions: number of questions per context, drawn anew each time; all where a passage has fewer.
        needs: what the objectives ask of a batch.
        seed: seed of order and draws.
        per_epoch: number of contexts in an epoch; None: the split's length.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        encoder: Encoder,
        lms: Mapping[str, FrozenLM],
        questions: int,
        needs: Needs,
        seed: int,
        per_epoch: int | None = None,
    ):
        if len(passages) == 0 or questions < 1:
            raise UserError(
                "loader.questions, loader.eval_questions, corpus",
                f"{len(passages)} passages, {questions} questions",
                "1 or more each",
                "set loader.questions=1, loader.eval_questions=1 and loader.eval_passages=1 or more",
            )
        self.encoder, self.needs = encoder, needs
        self.stream = Stream(passages, questions, seed, per_epoch)
        self.renderers = {name: Renderer(lm) for name, lm in lms.items()}

    def __len__(self) -> int:
        return self.stream.per_epoch

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> Batch:
        passages, asked, draws = self.stream.draw(items)
        batch = make_batch(passages, asked, draws, self.encoder, self.renderers, self.needs)
        return replace(batch, numbers=[number for number, _ in items])


def make_batch(
    passages: list[Passage],
    asked: list[tuple[int, Question]],
    draws: Sequence[random.Random],
    encoder: Encoder,
    renderers: Mapping[str, Renderer],
    needs: Needs,
) -> Batch:
    """Make a batch of given passages and questions; `draws`: one source of randomness per passage."""
    whole = needs.whole_prompt
    texts = [whole_prompt_text(passages[b], q) for b, q in asked] if whole else [p.text for p in passages]
    cut: list[tuple[int, str, str]] = []
    if "continuation" in needs.kinds and needs.words is not None:
        for b, (passage, draw) in enumerate(zip(passages, draws, strict=True)):
            words = passage.text.split(" ")
            if len(words) >= 2:
                at = min(max(1, round(len(words) * draw.uniform(*needs.words))), len(words) - 1)
                cut.append((b, " ".join(words[:at]), " ".join(words[at:])))
    tokens = encoder.tokenize([*texts, *(head for _, head, _ in cut)])
    others = _elsewhere(asked, len(passages), whole)
    rows: dict[str, dict[RowKind, Rows]] = {}
    context: dict[str, tuple[Tensor, Tensor]] = {}
    for name, renderer in renderers.items():
        kinds: dict[RowKind, Rows] = {}
        if needs.kinds & {"answer", "wrong"}:
            answer, wrong = Rows(), Rows()
            rendered = renderer.ask([(passages[b], question) for b, question in asked])
            for i, ((b, _), prompt) in enumerate(zip(asked, rendered, strict=True)):
                follows = prompt.cue if whole else prompt.question
                answer.add(i if whole else b, follows, prompt.answer)
                wrong.add(others[i], follows, prompt.answer)
            kinds["answer"] = answer
            if "wrong" in needs.kinds:
                kinds["wrong"] = wrong
        if "text" in needs.kinds and needs.cue is not None:
            kinds["text"] = Rows()
            for b, passage in enumerate(passages):
                prompt = prompts.render(renderer.style, None, needs.cue, passage.text)
                kinds["text"].add(b, prompt.question, prompt.answer)
        if "continuation" in needs.kinds:
            kinds["continuation"] = Rows()
            for i, (_, _, rest) in enumerate(cut):
                ids = renderer.style.encode(rest)
                if len(ids) >= 2:
                    kinds["continuation"].add(len(passages) + i, ids[:1], ids[1:])
        rows[name] = kinds
        if needs.context:
            context[name] = right_padded(renderer.style.encode_all(texts))
    return Batch(tokens, passages, asked, rows, context, [b for b, _, _ in cut], whole)


def first(batch: Batch, n: int) -> Batch:
    """Return the batch of the first n passages alone, as `make_batch` makes it; the encoder's tokens may have more
    padding."""
    if n >= len(batch.passages):
        return batch
    asked = [pair for pair in batch.asked if pair[0] < n]
    encoded, texts = batch.messages, len(asked) if batch.whole_prompt else n
    kept = [*range(texts), *(encoded + i for i, b in enumerate(batch.continued) if b < n)]
    number = {old: new for new, old in enumerate(kept)}
    others = _elsewhere(asked, n, batch.whole_prompt)
    rows: dict[str, dict[RowKind, Rows]] = {}
    for name, kinds in batch.rows.items():
        rows[name] = {kind: _numbered(r, number) for kind, r in kinds.items() if kind != "wrong"}
        if "wrong" in kinds:
            rows[name]["wrong"] = replace(rows[name]["answer"], source=others)
    tokens = batch.tokens.select(kept)
    context = {}
    for name, (ids, mask) in batch.context.items():
        longest = int(mask[:texts].sum(1).max())
        context[name] = (ids[:texts, :longest], mask[:texts, :longest])
    continued = [b for b in batch.continued if b < n]
    return Batch(tokens, batch.passages[:n], asked, rows, context, continued, batch.whole_prompt, batch.numbers[:n])


def _numbered(rows: Rows, number: Mapping[int, int]) -> Rows:
    """Return the rows whose texts have a new number, with that."""
    kept = [i for i, source in enumerate(rows.source) if source in number]
    return Rows(
        [number[rows.source[i]] for i in kept], [rows.question[i] for i in kept], [rows.answer[i] for i in kept]
    )


def _elsewhere(asked: Sequence[tuple[int, Question]], passages: int, whole: bool) -> list[int]:
    """Return, for each question, the index of a text about another passage: the next one, in a circle."""
    if not whole:
        return [(b + 1) % passages for b, _ in asked]
    found = []
    for i, (passage, _) in enumerate(asked):
        after = [*range(i + 1, len(asked)), *range(i)]
        found.append(next((j for j in after if asked[j][0] != passage), i))
    return found


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return the same with the encoder's tokens on a device; models move what they read by themselves."""
    return replace(batch, tokens=batch.tokens.to(device))


def forwards(rows: Mapping[RowKind, Rows], waste: float = 1.25) -> list[list[RowKind]]:
    """Say which kinds go through the model together.

    All go in one pass, unless padding short rows to the length of long ones costs more than `waste` times the
    positions; then short ones and long ones go apart.
    """
    kinds: list[RowKind] = [kind for kind, r in rows.items() if len(r)]
    if not kinds:
        return []
    short: list[RowKind] = [k for k in kinds if k in ("answer", "wrong")]
    long: list[RowKind] = [k for k in kinds if k not in short]
    if not short or not long:
        return [kinds]
    apart = joined([rows[k] for k in short]).size() + joined([rows[k] for k in long]).size()
    return [kinds] if joined([rows[k] for k in kinds]).size() <= waste * apart else [short, long]


def joined(parts: Sequence[Rows]) -> Rows:
    """Return all rows, one part after the other."""
    return Rows(*([x for part in parts for x in getattr(part, name)] for name in ("source", "question", "answer")))


def read(
    lm: FrozenLM,
    prefix: Prefix,
    rows: Mapping[RowKind, Rows],
    wanted: Collection[RowKind],
    instead: Callable[[Prefix, Mapping[RowKind, Rows]], Mapping[RowKind, Sequence[Ids]]] | None = None,
    layers: Sequence[int] = (),
) -> dict[RowKind, AnswerLogprobs]:
    """Score the wanted kinds of rows in as few forward passes as `forwards` says.

    Args:
        lm: the model.
        prefix: what it reads of the texts.
        rows: rows by kind.
        wanted: the kinds to score.
        instead: says, of kinds of rows, what is read in the places of their answers; None: all read their answers.
        layers: numbers of the states to keep of rows `answer` (`AnswerLogprobs.states`).
    """
    chosen: dict[RowKind, Rows] = {kind: r for kind, r in rows.items() if kind in wanted}
    found: dict[RowKind, AnswerLogprobs] = {}
    # where something is read after the prefix; a gradient by the cache alone would not gather a layer in pieces
    if not lm.sharded and all(question for r in chosen.values() for question in r.question):
        prefix = lm.cached(prefix)
    other = {} if instead is None else instead(prefix, chosen)
    for kinds in forwards(chosen, math.inf if lm.sharded else 1.25):  # all ranks make as many passes
        everything = joined([chosen[k] for k in kinds])
        said = [ids for k in kinds for ids in other.get(k, chosen[k].answer)] if other else None
        of = layers if "answer" in kinds else ()
        result = lm.answer_logprobs(prefix.select(everything.source), everything.question, everything.answer, said, of)
        start = 0
        for kind in kinds:
            end = start + len(chosen[kind])
            found[kind] = _part(result, start, end)
            start = end
    return found


def _part(result: AnswerLogprobs, start: int, end: int) -> AnswerLogprobs:
    if (start, end) == (0, result.batch):
        return result
    here = (result.row >= start) & (result.row < end)
    states = {number: x[here] for number, x in result.states.items()}
    return AnswerLogprobs(
        result.scores[here], result.tokens[here], result.row[here] - start, result.position[here], end - start, states
    )
