"""How an evaluation decodes answers, where it is not plainly greedy: one object of options, none of which is on.

Every option acts on all methods of a table alike; the gain acts on latents, which only wires have.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, NonNegative, Positive, Seed, Steps
from latentwire.lm.layout import Prefix

Extract = Literal["none", "line", "sentence", "phrase"]
ENDS: dict[str, re.Pattern[str]] = {
    "line": re.compile(r"\n"),
    "sentence": re.compile(r"\n|[.!?](?=\s|$)"),
    "phrase": re.compile(r"\n|[.!?,;:](?=\s|$)"),
}
LEAD = re.compile(r"^\s*(?:(?:the\s+)?answer(?:\s+is)?\b\s*:?|it\s+is\b|it's\b)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Decoding:
    """Changes how answers are decoded; the defaults are greedy and change nothing.

    First-token sampling draws by the Gumbel maximum (softmax of scores / temperature); what is drawn depends on `seed`
    and on the question, and not on what else is in the batch. Bans set scores to minus infinity before anything is
    chosen; log-probabilities that are reported are the model's own.

    Attributes:
        first_temperature: of the first token's draw; 0 is greedy.
        first_top_k: number of tokens that the first one is drawn from; null: all.
        seed: of the draws.
        min_new_tokens: number of tokens before an answer may stop: stop tokens are banned until then.
        ban_punctuation: whether an answer may not begin with a token without letter or digit.
        stop: strings that an answer ends before; null: none.
        extract: what of an answer is scored: all of it (`none`), its first `line`, `sentence` or `phrase`. All but
            `none` leave out a lead such as "The answer is".
        gain: factors on latents (embeddings, or values of keys and values) for the first token, the second and so on;
            the last one holds on; null: 1.
    """

    first_temperature: NonNegative = 0.0
    first_top_k: Count | None = None
    seed: Seed = 0
    min_new_tokens: Steps = 0
    ban_punctuation: bool = False
    stop: list[str] | None = None
    extract: Extract = "none"
    gain: Annotated[list[Positive], NOT_EMPTY] | None = None

    @staticmethod
    def inert_keys(arguments: Mapping[str, Any]) -> dict[str, str]:
        """Return what a draw depends on, where none is made."""
        given = [key for key, nothing in (("first_top_k", None), ("seed", 0)) if arguments.get(key, nothing) != nothing]
        return {} if arguments.get("first_temperature") else dict.fromkeys(given, "first_temperature=0 draws nothing")

    def __post_init__(self) -> None:
        if "" in (self.stop or ()):
            raise UserError("evaluation.decode.stop", "an empty string", "strings", "set +evaluation.decode.stop=[]")

    def choose(
        self, scores: Tensor, step: int, stop_ids: Collection[int], dull: Tensor | None, of: Sequence[Sequence[int]]
    ) -> Tensor:
        """Return the ids (B,) that are taken after `step` tokens.

        Args:
            scores: (B, V) log-probabilities.
            step: number of tokens that are there.
            stop_ids: ids that end an answer.
            dull: (V,) true on tokens without letter or digit; stop tokens are none of them;
                None: none is banned.
            of: B questions as ids, which draws depend on.
        """
        banned = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)
        if step < self.min_new_tokens:
            banned[torch.tensor(sorted(stop_ids), device=scores.device)] = True
        if step == 0 and dull is not None:
            banned |= dull.to(scores.device)
        left = scores.masked_fill(banned, float("-inf"))
        if step or not self.first_temperature:
            return left.argmax(-1)
        if self.first_top_k is not None:
            least = left.topk(min(self.first_top_k, left.shape[1]), -1).values[:, -1:]
            left = left.masked_fill(left < least, float("-inf"))
        noise = torch.stack([_gumbel(self.seed, ids, left.shape[1]) for ids in of]).to(left)
        return (left / self.first_temperature + noise).argmax(-1)

    def gain_at(self, step: int) -> float:
        """Return the factor on latents for the token after `step` others."""
        return 1.0 if self.gain is None else float(self.gain[min(step, len(self.gain) - 1)])

    def answer(self, text: str) -> str:
        """Return what is scored of a decoded answer: cut at stop strings, then extracted."""
        for end in self.stop or ():
            text = text.partition(end)[0]
        if self.extract == "none":
            return text
        rest = LEAD.sub("", text.strip(), count=1)
        return ENDS[self.extract].split(rest, maxsplit=1)[0].strip()


class Reader(Protocol):
    """Is what a decoding needs to know of a model."""

    tokenizer: Any
    stop_ids: set[int]
    vocab_size: int
    style: Any


class Run:
    """Decodes one batch.

    Args:
        options: the options.
        lm: the model.
        prefix: what is read before the questions.
        questions: B questions as ids, which draws depend on.

    Attributes:
        prefix: the same, with the gain of the first token.
    """

    def __init__(self, options: Decoding, lm: Reader, prefix: Prefix, questions: Sequence[Sequence[int]]):
        self.options, self.questions, self.stop_ids = options, questions, lm.stop_ids
        self.dull = dull_tokens(lm.tokenizer, lm.vocab_size, lm.stop_ids) if options.ban_punctuation else None
        self.head, self.gained = len(lm.style.head), options.gain is not None and prefix.has_latents
        self.latents = prefix.latents if self.gained else 0
        self.prefix = amplified(prefix, options.gain_at(0)) if self.gained else prefix

    def choose(self, scores: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and ids, (B,) each, of what is taken after `step` tokens; scores are (B, V)."""
        chosen = self.options.choose(scores, step, self.stop_ids, self.dull, self.questions)
        return scores.gather(1, chosen[:, None])[:, 0], chosen

    def before(self, step: int, cache: Any) -> None:
        """Give the latents' cached values the gain of the token after `step` others."""
        factor = self.options.gain_at(step) / self.options.gain_at(step - 1)
        if self.gained and factor != 1:
            rescale(cache, self.head, self.latents, factor)


def dull_tokens(tokenizer: Any, size: int, stop_ids: Collection[int]) -> Tensor:
    """Return which of `size` tokens are written without letter or digit, (size,); stop tokens are not.

    Rows of a vocabulary beyond the tokenizer are written as nothing.
    """
    written = [str(tokenizer.decode([i])) if i < len(tokenizer) else "" for i in range(size)]
    return torch.tensor([not any(c.isalnum() for c in text) and i not in stop_ids for i, text in enumerate(written)])


def amplified(prefix: Prefix, factor: float) -> Prefix:
    """Return a prefix whose embeddings, or values of keys and values, are so many times as large.

    Raises:
        UserError: latents that are read beside, in no column.
    """
    if prefix.reads is not None:
        raise gainless("latents that layers read beside")
    embeds = None if prefix.embeds is None else prefix.embeds * factor
    kv = None if prefix.kv is None else [(k, v * factor) for k, v in prefix.kv]
    return Prefix(embeds, kv, prefix.text_ids, prefix.bias, prefix.stands_for, None)


def gainless(found: str) -> UserError:
    """Return the error of a gain on latents that have no column."""
    expected = "latents in columns: soft_prefix, deep_prefix, sized_prefix, coprocessor"
    return UserError("evaluation.decode.gain", found, expected, "leave out evaluation.decode.gain")


def rescale(cache: Any, head: int, latents: int, factor: float) -> None:
    """Multiply the cached values of `latents` columns behind the head, in place, in every layer."""
    for layer in cache.layers:
        layer.values[:, :, head : head + latents] *= factor


def _gumbel(seed: int, ids: Sequence[int], size: int) -> Tensor:
    name = hashlib.sha256(f"{seed}/{','.join(map(str, ids))}".encode()).digest()[:8]
    uniform = torch.rand(size, generator=torch.Generator().manual_seed(int.from_bytes(name, "big") >> 1))
    return -(-uniform.clamp(min=1e-12, max=1 - 1e-7).log()).log()
