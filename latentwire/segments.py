"""A long text as several texts, each short enough for a message of its own; nothing of it is cut off or lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from callbacks.errors import UserError

Unit = Literal["paragraphs", "sentences", "words"]
ENDS: dict[Unit, re.Pattern[str]] = {
    "paragraphs": re.compile(r"\n[^\S\n]*\n\s*"),
    "sentences": re.compile(r"(?<=[.!?])\s+"),
    "words": re.compile(r"\s+"),
}
FINER: dict[Unit, Unit] = {"paragraphs": "sentences", "sentences": "words"}


def segments(text: str, unit: Unit, tokens: Callable[[str], int], most: int) -> list[str]:
    """Split a text between units into segments of at most `most` tokens, each as long as whole units allow.

    Only white space at the borders is left out: that of the text within a segment stays as it is.

    Args:
        text: the text.
        unit: what stays whole; paragraphs end at an empty line, sentences behind `.`, `!` or `?` and white space.
        tokens: counts the tokens of a text.
        most: largest number of tokens of a segment.

    Raises:
        UserError: a single unit that is longer, or a text of white space alone.
    """
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    if start >= end:
        raise UserError("text to encode", repr(text), "at least one token", "give a text that says something")
    inside = [m for m in ENDS[unit].finditer(text, start, end)]
    bounds = [(a, b) for a, b in pairwise([start, *(i for m in inside for i in m.span()), end])][::2]
    found: list[tuple[int, int]] = []
    for first, last in bounds:
        if found and tokens(text[found[-1][0] : last]) <= most:
            found[-1] = (found[-1][0], last)
            continue
        if (count := tokens(text[first:last])) > most:
            raise UserError(
                f"text to encode, one of its {unit}",
                f"{count} tokens: {text[first:last][:60]!r}…",
                f"at most {most} in a message, as nothing is cut",
                f"set --split {FINER[unit]}" if unit in FINER else f"set --segment-tokens {count}",
            )
        found.append((first, last))
    return [text[first:last] for first, last in found]
