"""The `ladder` node of the configuration: how much each rung does, and where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from latentwire.run import Tree

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Rung = Annotated[int, Field(ge=0, le=6)]


@dataclass
class Parity:
    """Rung 0. passages: one question about each. words: of a text whose way to the latents is followed."""

    passages: Count
    words: Annotated[int, Field(ge=2)]


@dataclass
class Replay:
    """Rung 1. questions: replayed one by one, and read in one batch."""

    questions: Annotated[int, Field(ge=2)]


@dataclass
class Channel:
    """Rung 2.

    passages: with all their questions. lr: Adam's, in units of the spread of the encoder's latents. em: share of
    answers that optimised latents must reach within `steps`. scale_low, scale_high: RMS of a fresh prefix over that of
    text.
    """

    passages: Count
    steps: Count
    lr: Positive
    em: Share
    scale_low: Positive
    scale_high: Positive


@dataclass
class Overfit:
    """Rung 3. examples: questions to learn by heart. every: steps between two looks. em: share of them to answer
    (first token, where texts are continued).

    lr_share: of the configured learning rates; a few examples want less than a corpus.
    """

    examples: Annotated[int, Field(ge=2)]
    steps: Count
    lr_share: Positive
    every: Count
    em: Share


@dataclass
class Condition:
    """Rung 4.

    gap: least NLL(latents of another text) - NLL(right ones), nats per token, lower end of its 95 % interval.
    distinct: least different answers over different gold answers. rank: least effective rank of latents over texts.
    slot_rank: least effective rank of a message's slots, as a share of the largest possible, M - 1.
    """

    gap: float
    distinct: Share
    rank: Positive
    slot_rank: Share


@dataclass
class Budget:
    """Rung 5. passages: of the validation split. tolerance: of a metric that a checkpoint must give again."""

    passages: Annotated[int, Field(ge=2)]
    tolerance: Annotated[float, Field(ge=0.0)]


@dataclass
class Squeeze:
    """Rung 6. bits: integer codecs put on the trained wire without training, those that make its message smaller."""

    bits: list[Literal[8, 6, 4]]


@dataclass
class Ladder:
    """first, last: rungs to climb."""

    first: Rung
    last: Rung
    parity: Parity
    replay: Replay
    channel: Channel
    overfit: Overfit
    condition: Condition
    budget: Budget
    squeeze: Squeeze


@dataclass
class LadderTree(Tree):
    """The tree of `latentwire.run` and what is the ladder's own.

    run: directory of a run whose configuration is judged, and whose wire at rungs 5 and 6. train: train the
    configuration as `latentwire.run` does (or take that run, if it is finished) for rungs 5 and 6.
    """

    run: str | None
    train: bool
    ladder: Ladder
