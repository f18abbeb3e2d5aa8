"""The teacher: a frozen model reading the text, asked once and kept.

Only answer positions are ever computed. What is kept are the k best tokens and the mass of the rest, keyed by
everything that decides them: weights, tokenizer, template, data and k.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from callbacks.errors import UserError, quoted
from latentwire.data.base import Passage
from latentwire.examples import prompt_of
from latentwire.lm import prompts
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import Prompt
from latentwire.objectives.base import TopK
from latentwire.objectives.distillation import top_k
from suite.tensors import read_tensors, write_tensors


def ask(lm: FrozenLM, asked: Sequence[Prompt], k: int) -> TopK:
    """Return what the model itself expects at each answer token of full-text prompts, in order; adapters off."""
    return ask_all(lm, asked, k, ())[0]


@torch.no_grad()
def ask_all(lm: FrozenLM, asked: Sequence[Prompt], k: int, layers: Sequence[int]) -> tuple[TopK, Mapping[int, Tensor]]:
    """Return what `ask` does, and the model's states there, (N, d_hidden) by number, from one pass.

    Args:
        lm: the model.
        asked: prompts with their contexts.
        k: number of tokens that are kept apart.
        layers: numbers of the states, see `lm.kept`.
    """
    with lm.adapters_off():
        result = lm.answer_logprobs(
            Prefix(text_ids=[p.context for p in asked]),
            [p.question for p in asked],
            [p.answer for p in asked],
            layers=layers,
        )
    return top_k(result.scores, k), result.states


def cache_key(lm: FrozenLM, passages: Sequence[Passage], k: int) -> str:
    """Return SHA-256 over weights, vocabulary, a rendered sample, data and k, as 64 hexadecimal digits."""
    digest = hashlib.sha256(f"{lm.fingerprint()} {k}\n".encode())
    digest.update(repr(sorted(lm.tokenizer.get_vocab().items())).encode())
    sample = prompts.render(lm.style, "A text. Another one.", "What is it?", "this")
    digest.update(repr((sample.ids, lm.style.head, lm.style.tail, lm.style.eos)).encode())  # an instruction is in ids
    for passage in passages:
        digest.update(repr((passage.id, passage.text)).encode())
        digest.update(repr([(q.id, q.text, q.answers[0]) for q in passage.questions]).encode())
    return digest.hexdigest()


class Teacher:
    """Holds top-k distributions of one model on the first answers of all questions of some passages.

    Args:
        rows: distributions by question id.
    """

    def __init__(self, rows: Mapping[str, TopK]):
        self.rows = rows

    @classmethod
    def cached(cls, lm: FrozenLM, passages: Sequence[Passage], k: int, folder: Path, batch: int = 32) -> Teacher:
        """Read the cache of exactly this model, template, data and k from `folder`, or ask the model and write it.

        Raises:
            UserError: two questions with one id, or a damaged file.
        """
        key = cache_key(lm, passages, k)
        path = folder / f"{key[:16]}.safetensors"
        names = [q.id for p in passages for q in p.questions]
        if len(set(names)) != len(names):
            raise UserError("corpus", "two questions with the same id", "unique ids", "set teacher.cache=false")
        if not path.exists():
            _write(path, key, _ask_all(lm, passages, k, batch))
        return cls(_read(path, key, names))

    def of(self, ids: Sequence[str], device: torch.device) -> TopK:
        """Return the distributions of these questions, one after the other."""
        found = [self.rows[i] for i in ids]
        return TopK(
            torch.cat([r.ids for r in found]).to(device, torch.long),
            torch.cat([r.logprobs for r in found]).to(device),
            torch.cat([r.tail for r in found]).to(device),
        )


def _ask_all(lm: FrozenLM, passages: Sequence[Passage], k: int, batch: int) -> Iterator[tuple[int, TopK]]:
    """Yield (tokens of the answer, its distributions) of every question, in order."""
    rendered = [prompt_of(lm, p, q) for p in passages for q in p.questions]
    for start in range(0, len(rendered), batch):
        part = rendered[start : start + batch]
        sizes = [len(p.answer) for p in part]
        answer = ask(lm, part, k)
        for n, ids, logprobs, tail in zip(
            sizes, answer.ids.split(sizes), answer.logprobs.split(sizes), answer.tail.split(sizes), strict=True
        ):
            yield n, TopK(ids.cpu(), logprobs.cpu(), tail.cpu())


def _write(path: Path, key: str, rows: Iterator[tuple[int, TopK]]) -> None:
    sizes, parts = [], []
    for n, part in rows:
        sizes.append(n)
        parts.append(part)
    tensors: dict[str, Tensor] = {
        "sizes": torch.tensor(sizes, dtype=torch.int64),
        "ids": torch.cat([p.ids for p in parts]).to(torch.int32),
        "logprobs": torch.cat([p.logprobs for p in parts]),
        "tail": torch.cat([p.tail for p in parts]),
    }
    write_tensors(path, tensors, {"key": key})


def _read(path: Path, key: str, names: Sequence[str]) -> dict[str, TopK]:
    remedy = f"rm {quoted(path)}, and the teacher is asked again"
    tensors, about = read_tensors(path, "a teacher's answers as they were written", remedy)
    if about.get("key") != key:
        raise UserError(str(path), "another teacher", f"key {key[:16]}…", remedy)
    sizes = tensors["sizes"].tolist()
    if len(sizes) != len(names) or sum(sizes) != len(tensors["tail"]):
        raise UserError(str(path), f"{len(sizes)} answers", f"{len(names)}", remedy)
    columns = [tensors[name].split(sizes) for name in ("ids", "logprobs", "tail")]
    return {n: TopK(*row) for n, row in zip(names, zip(*columns, strict=True), strict=True)}
