"""What an objective needs of a batch, what it sees of it, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from callbacks.errors import UserError
from latentwire.lm.results import AnswerLogprobs
from latentwire.train.curriculum import Schedule

# Rows of an LM forward: questions with the right latents, with those of another text, the text itself, its end.
RowKind = Literal["answer", "wrong", "text", "continuation"]
# What a mean can be over beside rows: the tokens of the texts, those of the answers, and the texts.
TOKENS, ANSWER_TOKENS, TEXTS = "tokens", "answer tokens", "texts"
# What a gradient through a language model's forward pass on latents reaches: kinds of parameter groups.
READING = frozenset({"encoder", "codec", "adapter", "injector", "lora"})


@dataclass(frozen=True)
class Needs:
    """Says what objectives ask of a batch.

    Args:
        kinds: kinds of rows to make.
        cue: the question that asks for the text (`text` rows); None: nobody asks.
        words: bounds of the share of a text's words that is encoded for a continuation; None: nothing is continued.
        context: whether the contexts come as ids as well.
        whole_prompt: whether the question is encoded with its context and only the cue is text.
    """

    kinds: frozenset[RowKind] = frozenset({"answer"})
    cue: str | None = None
    words: tuple[float, float] | None = None
    context: bool = False
    whole_prompt: bool = False


def together(needs: Mapping[str, Needs], whole_prompt: bool = False) -> Needs:
    """Merge the needs of all objectives of a run, by their names.

    Raises:
        UserError: two cues or two shares of words, or needs that a wire of whole prompts cannot meet.
    """
    found = Needs(frozenset(), whole_prompt=whole_prompt)
    for name, one in needs.items():
        if whole_prompt and (one.context or not one.kinds <= {"answer", "wrong"}):
            raise UserError(
                "wire.track=whole_prompt",
                f"objectives.{name}, which is about the text alone",
                "objectives on answers",
                f"add ~objectives.{name}, or set wire.track=question_text",
            )
        if (one.cue and found.cue) or (one.words and found.words):
            raise UserError(f"objectives.{name}", "a second one of its kind", "one of each", f"add ~objectives.{name}")
        found = replace(
            found,
            kinds=found.kinds | one.kinds,
            cue=found.cue or one.cue,
            words=found.words or one.words,
            context=found.context or one.context,
        )
    return found


@dataclass(frozen=True)
class TopK:
    """Holds a teacher's distribution at N positions: the k most probable tokens and the mass of all others.

    Attributes:
        ids: (N, k) long.
        logprobs: (N, k) float32.
        tail: (N,) float32, 1 - sum of the k probabilities, not negative.
    """

    ids: Tensor
    logprobs: Tensor
    tail: Tensor


@dataclass(frozen=True)
class ReaderShape:
    """Describes how one language model reads latents, for objectives with parameters of their own.

    Attributes:
        d_model: width of its embeddings.
        d_adapter: width of what its adapter makes of a latent.
        embeds: whether that is read as embeddings (`soft_prefix`), so that d_adapter is d_model.
        states: whether latents become states of its layers (`deep_prefix`).
        chunks: largest number of its tokens per slot, over all stages, for each slice that it reads: the shared slots,
            then its own; 0 for a slice without slots.
        penalised: whether its adapter has a penalty of its own (`Adapter.penalty`).
        layers: number of its layers.
        first_state: number of the first state that latents change, from 1 (`Injector.first_state`).
        last_state: number of the first state that all of its injector has had a part in (`Injector.last_state`).
    """

    d_model: int
    d_adapter: int
    embeds: bool
    chunks: tuple[int, ...]
    states: bool = False
    penalised: bool = False
    layers: int = 0
    first_state: int = 1
    last_state: int = 1


@dataclass
class Seen:
    """Holds what one language model made of one batch; only what some objective asked for.

    Attributes:
        rows: scored rows by kind; `answer` and `wrong` have the same questions and answers in the same order.
        latents: (B, M, d_z) values that this model reads, after the codec.
        embeddings: () -> embeddings (B, T, d_model) of the texts and mask (B, T), without gradient.
        scale: RMS of this model's embeddings of real text.
        teacher: distributions at the positions of `rows["answer"]`, in the same order.
        adapted: () -> (B, M, d_adapter) what this model's adapter makes of `latents`, in units of its calibration.
        counts: number of slots of each slice in M, the shared ones first; every slice covers the whole text.
        states: () -> the states that this model reads for `latents` and those that it makes of the texts, both
            (layers, B, M, width) in units of text (`Injector.states`, `Injector.text_states`).
        embed: ids (…) -> this model's embeddings of them, (…, d_model).
        penalty: () -> the penalty of this model's adapter, () or None.
        said: what the encoder says of the texts, (B, …) by name (`encoders.said.Saying`).
        taught: the teacher's states where the tokens of `rows["answer"]` are predicted, (N, d_hidden) by number, in the
            order of these rows' own (`AnswerLogprobs.states`).
    """

    rows: dict[RowKind, AnswerLogprobs]
    latents: Tensor
    embeddings: Callable[[], tuple[Tensor, Tensor]]
    scale: float
    teacher: TopK | None = None
    adapted: Callable[[], Tensor] | None = None
    counts: Sequence[int] = ()
    states: Callable[[], tuple[Tensor, Tensor]] | None = None
    embed: Callable[[Tensor], Tensor] | None = None
    penalty: Callable[[], Tensor | None] | None = None
    said: Mapping[str, Tensor] = field(default_factory=dict)
    taught: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass
class ObjectiveOutput:
    """Holds the loss, () float32, and numbers worth observing by name (0-d tensors without gradient)."""

    loss: Tensor
    observed: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """Says what latents are trained for; its rows are not computed at a step where it weighs 0.

    Attributes:
        needs: what it needs of a batch.
        teaches: whether it needs `Seen.teacher`.
        reaches: kinds of parameter groups that its gradient reaches, beside its own parameters. The audit holds it to
            this: a group that no objective of a stage reaches needs no gradient there, every other one does.
        partly: kinds of which its gradient reaches a part alone, known after `prepare`.
        likelihood: whether its loss is a mean negative log-probability of tokens, in nats.
        masked: share of the tokens of `text` rows that are read as masks.
        places: whether it holds each slot to the part of a text where it stands, as no prefix of a message can be.
        hears: names of what the encoder must say of the texts (`Seen.said`).
        observes: names of the metrics in `ObjectiveOutput.observed`, which gates and criteria of stages may read.
        compares: numbers of the states that it compares with the teacher's (`Seen.taught`), by reader, set in
            `prepare`.
        observed_over: what such a metric is a mean over, where that is not `mean_over`.

    Args:
        weight: its weight over time, see `latentwire.train.curriculum`.
    """

    needs = Needs()
    teaches = False
    likelihood = False
    places = False
    masked: float = 0.0
    hears: tuple[str, ...] = ()
    reaches: frozenset[str] = READING
    partly: frozenset[str] = frozenset()
    observes: tuple[str, ...] = ()
    observed_over: Mapping[str, str] = {}
    compares: Mapping[str, Sequence[int]] = {}

    def __init__(self, weight: Schedule):
        super().__init__()
        self.weight = weight

    @property
    def mean_over(self) -> str:
        """What its loss is a mean over, which weighs parts and ranks: a kind of rows, or tokens of the texts."""
        kinds: Sequence[RowKind] = ("answer", "text", "continuation")
        return next((kind for kind in kinds if kind in self.needs.kinds), TOKENS)

    def hear(self, widths: Mapping[str, int]) -> None:
        """Take in how wide what the encoder says is, by name; called before `prepare` where it `hears` something."""

    def prepare(self, readers: Mapping[str, ReaderShape], d_z: int) -> None:
        """Build parameters of its own, if it has any.

        Args:
            readers: the language models that read, by name.
            d_z: width of a latent.
        """

    def forward(self, seen: Seen, model: str) -> ObjectiveOutput:
        """Return the loss on what `model` made of a batch."""
        raise NotImplementedError
