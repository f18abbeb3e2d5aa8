"""A long text in segments: whole units, as many as fit, and no character lost but white space at the borders."""

from __future__ import annotations

import pytest

from callbacks.errors import UserError
from latentwire.segments import Unit, segments

TEXT = """  One is here. Two is  there!

Three asks why? Four
goes on over a line. 3.14 is no end.

 \t
Five.\n"""


def words(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize("unit", ["paragraphs", "sentences", "words"])
@pytest.mark.parametrize("most", [13, 14, 100])
def test_segments_are_the_text_in_order(unit: Unit, most: int) -> None:
    found = segments(TEXT, unit, words, most)
    place = 0
    for part in found:
        assert part == part.strip() != ""
        assert words(part) <= most
        start = TEXT.index(part, place)
        assert TEXT[place:start].strip() == "", "nothing between two segments but white space"
        place = start + len(part)
    assert TEXT[place:].strip() == ""
    assert found == [TEXT.strip()] or most < 100


def test_as_many_whole_units_as_fit() -> None:
    assert segments(TEXT, "paragraphs", words, 13) == [
        "One is here. Two is  there!", "Three asks why? Four\ngoes on over a line. 3.14 is no end.", "Five.",
    ]  # fmt: skip
    assert segments(TEXT, "sentences", words, 6) == [
        "One is here. Two is  there!", "Three asks why?", "Four\ngoes on over a line.", "3.14 is no end.\n\n \t\nFive.",
    ]  # fmt: skip
    assert segments("a b c d e", "words", words, 2) == ["a b", "c d", "e"]


def test_a_unit_that_is_too_long_is_refused_and_never_cut() -> None:
    with pytest.raises(UserError, match=r"one of its paragraphs(.|\n)*13 tokens: 'Three") as told:
        segments(TEXT, "paragraphs", words, 12)
    assert told.value.remedy == "set --split sentences"
    with pytest.raises(UserError, match="one of its words") as told:
        segments("a bb", "words", len, 1)
    assert told.value.remedy == "set --segment-tokens 2"
    with pytest.raises(UserError, match="at least one token"):
        segments(" \n", "words", words, 5)
