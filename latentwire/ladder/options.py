"""The `ladder` node of the configuration: how much each rung does, and where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from callbacks.ranges import NOT_EMPTY, Bounds, Count, Finite, NonNegative, Positive, Several, Share
from latentwire.run import Tree

Rung = Annotated[int, Bounds("a rung from 0 to 6", ge=0, le=6)]


@dataclass
class ParityOptions:
    """Says how much rung 0 does and where it fails.

    Attributes:
        passages: number of passages, with one question about each.
        words: number of words of a text whose way to the latents is followed.
    """

    passages: Count
    words: Several


@dataclass
class ReplayOptions:
    """Says how much rung 1 does and where it fails.

    Attributes:
        questions: number of questions, replayed one by one and read in one batch.
    """

    questions: Several


@dataclass
class ChannelOptions:
    """Says how much rung 2 does and where it fails.

    Attributes:
        passages: number of passages, with all their questions.
        steps: most steps of the optimised latents.
        lr: learning rate of Adam, in units of the spread of the encoder's latents.
        em: share of answers that optimised latents must reach.
        scale_low: least RMS of a fresh prefix over that of text.
        scale_high: largest RMS of a fresh prefix over that of text.
    """

    passages: Count
    steps: Count
    lr: Positive
    em: Share
    scale_low: Positive
    scale_high: Positive


@dataclass
class OverfitOptions:
    """Says how much rung 3 does and where it fails.

    Attributes:
        examples: number of questions to learn by heart.
        steps: most steps to train for.
        lr_share: share of the configured learning rates; a few examples want less than a corpus.
        every: number of steps between two looks.
        em: share of the examples to answer (first token, where texts are continued).
    """

    examples: Several
    steps: Count
    lr_share: Positive
    every: Count
    em: Share


@dataclass
class ConditionOptions:
    """Says how much rung 4 does and where it fails.

    Attributes:
        gap: least NLL(latents of another text) - NLL(right ones), nats per token, lower end of its 95 % interval.
        distinct: least number of different answers over that of different gold answers.
        rank: least effective rank of latents over texts.
        slot_rank: least effective rank of a message's slots, as a share of the largest possible, M - 1.
    """

    gap: Finite
    distinct: Share
    rank: Positive
    slot_rank: Share


@dataclass
class BudgetOptions:
    """Says how much rung 5 does and where it fails.

    Attributes:
        passages: number of passages of the validation split.
        tolerance: largest difference of a metric that a checkpoint must give again.
    """

    passages: Several
    tolerance: NonNegative


@dataclass
class SqueezeOptions:
    """Says how much rung 6 does and where it fails.

    Attributes:
        bits: integer codecs put on the trained wire without training, those that make its message smaller.
    """

    bits: Annotated[list[Literal[8, 6, 4]], NOT_EMPTY]


@dataclass
class LadderOptions:
    """Says how much the ladder does and where it fails.

    Attributes:
        first: first rung to climb.
        last: last rung to climb.
    """

    first: Rung
    last: Rung
    parity: ParityOptions
    replay: ReplayOptions
    channel: ChannelOptions
    overfit: OverfitOptions
    condition: ConditionOptions
    budget: BudgetOptions
    squeeze: SqueezeOptions


@dataclass
class LadderTree(Tree):
    """Adds what is the ladder's own to the tree of `latentwire.run`.

    Attributes:
        run: directory of a run whose configuration is judged, and whose wire at rungs 5 and 6.
        train: whether the configuration is trained as `latentwire.run` does (or that run is taken, if it is finished)
            for rungs 5 and 6.
        ladder: what the rungs do.
    """

    run: str | None
    train: bool
    ladder: LadderOptions
