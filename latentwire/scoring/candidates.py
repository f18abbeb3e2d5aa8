"""Candidate answers of all readers to every question, and what each reader thinks of each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentwire.data.squad_metrics import best, exact_match, f1, normalize
from latentwire.scoring.metrics import by_example
from latentwire.scoring.two_readers import Reader, total_logprobs


@dataclass(frozen=True)
class Candidates:
    """Holds the candidates of N questions, C at most, and J readers' scores.

    Attributes:
        readers: names of the readers.
        texts: the candidates of each question, different after normalisation.
        scores: (J, N, C) float64 log P(candidate, stop) under each reader.
        mask: (N, C), true on candidates.
        right: (N, C), true where a candidate matches a reference exactly.
        f1: (N, C) float64 F1 against the reference that suits best.
        own: (J, N) the candidate that each reader answers greedily.
        groups: the group of each question's passage, for intervals.
    """

    readers: list[str]
    texts: list[list[str]]
    scores: Tensor
    mask: Tensor
    right: Tensor
    f1: Tensor
    own: Tensor
    groups: list[str]


@torch.no_grad()
def proposals(reader: Reader, count: int, max_new_tokens: int, batch_size: int) -> list[list[str]]:
    """Return `count` answers of one reader to each of its examples, the greedy one first.

    The others begin with its next likeliest first tokens and go on greedily.

    Args:
        reader: the reader.
        count: number of answers.
        max_new_tokens: longest answer, in tokens.
        batch_size: number of questions at a time.
    """
    found: list[list[str]] = []
    for start in range(0, len(reader.examples), batch_size):
        batch = list(reader.examples[start : start + batch_size])
        follows = [reader.follows(e) for e in batch]
        prefix = reader.read(batch)
        greedy = reader.lm.generate_scored(prefix, follows, max_new_tokens)
        scored = reader.lm.answer_logprobs(prefix, follows, [e.prompt.answer for e in batch])
        answers = [[reader.lm.style.decode(ids)] for ids in greedy.tokens]
        first = torch.stack([rows[0] for rows in by_example(scored)]).topk(count).indices.tolist()
        for rank in range(1, count):
            more = reader.lm.generate_scored(
                prefix, [(*f, ids[rank]) for f, ids in zip(follows, first, strict=True)], max_new_tokens
            )
            for text, ids, rest in zip(answers, first, more.tokens, strict=True):
                ends = ids[rank] in reader.lm.stop_ids
                text.append("" if ends else reader.lm.style.decode([ids[rank], *rest][:max_new_tokens]))
        found += answers
    return found


@torch.no_grad()
def gather(readers: Mapping[str, Reader], count: int, max_new_tokens: int, batch_size: int) -> Candidates:
    """Let every reader propose answers, and score all of them.

    Args:
        readers: readers by name, their examples in the same order.
        count: number of answers that each proposes to a question.
        max_new_tokens: longest answer, in tokens.
        batch_size: number of questions at a time.
    """
    names = list(readers)
    said = {name: proposals(reader, count, max_new_tokens, batch_size) for name, reader in readers.items()}
    examples = readers[names[0]].examples
    texts: list[list[str]] = []
    own = torch.zeros(len(names), len(examples), dtype=torch.long)
    for i in range(len(examples)):
        known: dict[str, str] = {}
        for name in names:
            for text in said[name][i]:
                known.setdefault(normalize(text), text)
        order = list(known)
        texts.append([known[key] for key in order])
        for j, name in enumerate(names):
            own[j, i] = order.index(normalize(said[name][i][0]))
    wide = max(map(len, texts))
    mask = torch.tensor([[c < len(row) for c in range(wide)] for row in texts])
    asked = [(i, text) for i, row in enumerate(texts) for text in row]
    scores = torch.zeros(len(names), *mask.shape, dtype=torch.double)
    for j, name in enumerate(names):
        judge = replace(readers[name], examples=[readers[name].examples[i] for i, _ in asked])
        found = total_logprobs(judge, [text for _, text in asked], batch_size)
        scores[j][mask] = torch.tensor(found, dtype=torch.double)

    def rated(metric: Sequence[Sequence[float]]) -> Tensor:
        values = torch.zeros(mask.shape, dtype=torch.double)
        values[mask] = torch.tensor([v for row in metric for v in row], dtype=torch.double)
        return values

    references = [e.question.answers for e in examples]
    pairs = list(zip(texts, references, strict=True))
    exact = rated([[best(exact_match, t, refs) for t in row] for row, refs in pairs])
    partly = rated([[best(f1, t, refs) for t in row] for row, refs in pairs])
    return Candidates(names, texts, scores, mask, exact > 0, partly, own, [e.passage.group for e in examples])
