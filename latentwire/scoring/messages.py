"""What wires send in an evaluation: a message per text, which all its questions read, and messages of other texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from callbacks.errors import UserError
from latentwire.baselines.controls import Control, control, derangement
from latentwire.data.base import Passage
from latentwire.examples import whole_prompt_text

CONTROLS: tuple[Control, ...] = ("shuffled", "mean", "random")
Encode = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Messages:
    """Holds what one wire sends.

    Attributes:
        values: values (N, slots, d_z) of the different messages.
        of: the message of each question, in the order of the passages.
        shuffled: values (N, slots, d_z) that say the same of another passage; None where all passages are one.
        encode_ms: time per message.
    """

    values: Tensor
    of: list[int]
    shuffled: Tensor | None
    encode_ms: float

    def controls(self, seed: int) -> dict[Control, Tensor]:
        """Return values (N, slots, d_z) by control, none where all passages are one."""
        if self.shuffled is None:
            return {}
        others: dict[Control, Tensor] = {k: control(self.values, k, seed) for k in CONTROLS if k != "shuffled"}
        return {"shuffled": self.shuffled, **others}


def texts_of(passages: Sequence[Passage], whole: bool) -> tuple[list[str], list[int]]:
    """Return the different texts to encode, and the text of each question.

    Args:
        passages: passages with their questions.
        whole: whether the question is encoded as well.
    """
    texts: dict[str, int] = {}
    of: list[int] = []
    for p in passages:
        for q in p.questions:
            of.append(texts.setdefault(whole_prompt_text(p, q) if whole else p.text, len(texts)))
    return list(texts), of


def other_texts(passages: Sequence[Passage], seed: int) -> list[str]:
    """Return, for each of the `texts_of` whole prompts, another passage with the same question.

    A message of another passage *and* another question would show that a wire needs the question, not that it reads the
    passage. There are none where all passages are one.
    """
    distinct = list(dict.fromkeys(p.text for p in passages if p.questions))
    if len(distinct) < 2:
        return []
    first = {text: next(p for p in passages if p.text == text) for text in distinct}
    other = {text: first[distinct[i]] for text, i in zip(distinct, derangement(len(distinct), seed), strict=True)}
    found: dict[str, str] = {}
    for p in passages:
        for q in p.questions:
            found.setdefault(whole_prompt_text(p, q), whole_prompt_text(other[p.text], q))
    return list(found.values())


def send(name: str, encode: Encode, passages: Sequence[Passage], whole: bool, batch_size: int, seed: int) -> Messages:
    """Encode what a wire sends for passages.

    Args:
        name: the wire's name.
        encode: texts to values (B, slots, d_z).
        passages: the passages with their questions.
        whole: whether the question is encoded as well.
        batch_size: number of texts at a time.
        seed: seed of the order in which passages change places.

    Raises:
        UserError: latents that are not finite.
    """
    texts, of = texts_of(passages, whole)
    start = time.perf_counter()
    values = _encoded(encode, texts, batch_size)
    _wait(values)
    elapsed = time.perf_counter() - start
    if not bool(torch.isfinite(values).all()):
        remedy = "train again with lower rates: group_lr.encoder, group_lr.adapter, group_lr.injector"
        raise UserError(f"latents of {name}", "NaN or infinite values", "finite values", remedy)
    shuffled: Tensor | None = None
    if whole:
        others = other_texts(passages, seed)
        shuffled = _encoded(encode, others, batch_size) if others else None
    elif len(values) > 1:
        shuffled = control(values, "shuffled", seed)
    return Messages(values, of, shuffled, 1000 * elapsed / len(texts))


def _encoded(encode: Encode, texts: Sequence[str], batch_size: int) -> Tensor:
    return torch.cat([encode(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)])


def _wait(values: Tensor) -> None:
    """Wait for an accelerator, which computes on after the call, so that the clock is right."""
    if values.device.type == "cuda":
        torch.cuda.synchronize(values.device)
