"""The vocabulary of ranges: what numbers a parameter takes, declared beside it as its type.

A type checker sees the plain number; `suite.config.check` refuses whatever lies outside, before anything is built, and
says so in the words that stand here. NaN and infinity lie outside of every range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Bounds:
    """Declares the range of a number, as metadata of `Annotated[int | float, Bounds(…)]`.

    Attributes:
        words: what is accepted, to complete "expected: …".
        gt: the bound that values exceed.
        ge: the smallest value.
        le: the largest value.
        lt: the bound that values stay below.
        example: a value for remedies where the parameter has no default.
    """

    words: str
    gt: float | None = None
    ge: float | None = None
    le: float | None = None
    lt: float | None = None
    example: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Return the number's schema with its limits: what pydantic asks of metadata."""
        limits = {"gt": self.gt, "ge": self.ge, "le": self.le, "lt": self.lt}
        return {**handler(source), **{name: limit for name, limit in limits.items() if limit is not None}}


@dataclass(frozen=True)
class NotEmpty:
    """Declares that a list, mapping or text holds something; empty, it would switch off what it is for."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Return the schema with the least length."""
        return {**handler(source), "min_length": 1}


MANY = 10**9
GREAT = 1e37  # float32, in which most of what a run multiplies is kept, ends at 3.4e38
NOT_EMPTY = NotEmpty()

Finite = Annotated[float, Bounds("a finite number, 1e37 at most in size", ge=-GREAT, le=GREAT)]
Positive = Annotated[float, Bounds("a finite number above 0, 1e37 at most", gt=0, le=GREAT)]
NonNegative = Annotated[float, Bounds("a finite number of 0 or more, 1e37 at most", ge=0, le=GREAT)]
Multiple = Annotated[float, Bounds("a finite factor of 1 or more, 1e37 at most", ge=1, le=GREAT)]
Rate = Annotated[float, Bounds("a learning rate above 0, 1000 at most", gt=0, le=1000, example=0.001)]
HeldRate = Annotated[float, Bounds("a learning rate from 0 (held) to 1000", ge=0, le=1000, example=0.001)]

Share = Annotated[float, Bounds("a share from 0 to 1", ge=0, le=1)]
PositiveShare = Annotated[float, Bounds("a share above 0, 1 at most", gt=0, le=1)]
ShareBelowOne = Annotated[float, Bounds("a share of 0 or more, below 1", ge=0, lt=1)]
OpenShare = Annotated[float, Bounds("a share above 0 and below 1", gt=0, lt=1)]
Probability = Annotated[float, Bounds("a probability from 0 to 1", ge=0, le=1)]
DropoutRate = Annotated[float, Bounds("a probability of 0 or more, below 1", ge=0, lt=1)]

Count = Annotated[int, Bounds("a whole number from 1 to a billion", ge=1, le=MANY)]
Several = Annotated[int, Bounds("a whole number from 2 to a billion", ge=2, le=MANY)]
Steps = Annotated[int, Bounds("a whole number from 0 to a billion", ge=0, le=MANY, example=0)]  # epochs too
Delay = Annotated[int, Bounds("a delay from 0 to 1000 steps", ge=0, le=1000)]  # as many gradients are stored
Width = Annotated[int, Bounds("a width from 1 to 65536", ge=1, le=65536)]
Slots = Annotated[int, Bounds("1 to 65535 slots", ge=1, le=2**16 - 1, example=64)]  # a message counts them in 16 bits
Layers = Annotated[int, Bounds("a whole number from 1 to 1000", ge=1, le=1000)]
Workers = Annotated[int, Bounds("0 to 256 processes", ge=0, le=256)]
Seed = Annotated[int, Bounds("a seed from 0 to 4294967295", ge=0, le=2**32 - 1, example=0)]
