"""Two models on one wire: each proposes an answer, and scores decide between them.

A candidate's score under a model is the log-probability of its whole text and of stopping after it, so that models
with different tokenizers are on one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from latentwire.data.squad_metrics import best, exact_match, f1
from latentwire.examples import Example
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import render
from latentwire.scoring.metrics import Row


@dataclass(frozen=True)
class Reader:
    """Holds one model that reads the wire; `examples` stand in the order of their numbers."""

    lm: FrozenLM
    read: Callable[[list[Example]], Prefix]
    follows: Callable[[Example], tuple[int, ...]]
    examples: Sequence[Example]


@torch.no_grad()
def total_logprobs(reader: Reader, answers: Sequence[str], batch_size: int) -> list[float]:
    """Return log P(answer, stop) of one answer per example."""
    found: list[float] = []
    for start in range(0, len(answers), batch_size):
        batch = list(reader.examples[start : start + batch_size])
        ids = [
            render(reader.lm.style, None, e.question.text, a).answer
            for e, a in zip(batch, answers[start : start + batch_size], strict=True)
        ]
        out = reader.lm.answer_logprobs(reader.read(batch), [reader.follows(e) for e in batch], ids)
        found += [-float(n) * len(i) for n, i in zip(out.nll().tolist(), ids, strict=True)]
    return found


def choose(
    wire: str, readers: Mapping[str, Reader], answers: Mapping[str, Sequence[Row]], batch_size: int
) -> dict[str, list[Row]]:
    """Return rows of `<wire>/joint` (sum of all models' scores), `<wire>/rescored by <model>` and `<wire>/oracle`.

    Args:
        wire: name of the wire.
        readers: readers by model.
        answers: each model's own rows of this wire, in the order of the examples.
        batch_size: number of questions at a time.
    """
    models = list(readers)
    # score[judge][author]: one number per example
    score = {
        judge: {
            author: total_logprobs(readers[judge], [r["prediction"] for r in answers[author]], batch_size)
            for author in models
        }
        for judge in models
    }
    found: dict[str, list[Row]] = {f"{wire}/joint": [], f"{wire}/oracle": []}
    found |= {f"{wire}/rescored by {judge}": [] for judge in models}
    for i, example in enumerate(readers[models[0]].examples):
        candidates = {author: answers[author][i] for author in models}
        picks = {f"{wire}/joint": max(models, key=lambda a: sum(score[judge][a][i] for judge in models))}
        picks |= {f"{wire}/rescored by {j}": max(models, key=lambda a: score[j][a][i]) for j in models}
        picks[f"{wire}/oracle"] = max(models, key=lambda a: (candidates[a]["f1"], candidates[a]["em"]))
        for label, author in picks.items():
            text, references = candidates[author]["prediction"], example.question.answers
            found[label].append(
                {
                    "method": label,
                    "model": "+".join(models),
                    "author": author,
                    **{k: candidates[author][k] for k in ("passage", "group", "question", "text", "kind", "gold")},
                    "prediction": text,
                    "em": best(exact_match, text, references),
                    "f1": best(f1, text, references),
                }
            )
    return found


def remark(label: str) -> str:
    """Say what such a row means."""
    if label.endswith("/oracle"):
        return "the better of the models' answers, chosen with the gold answer: a bound"
    return "candidates of all models, chosen by " + ("all scores" if label.endswith("/joint") else "one model's scores")
