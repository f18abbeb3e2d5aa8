"""Fuzzing: whatever a user gives is read or refused on one screen, in bounded time; damage to a sealed file is found.

`make test` runs the same few examples each time. `make fuzz` sets `FUZZ_SECONDS`, the time for every test, and draws
anew until it is over, from `FUZZ_SEED` on (default: the clock, printed). At the end each class says how many examples
it has run and how many of them were refused; `FUZZ_COUNTS=FILE` appends them as JSON lines.
"""

from __future__ import annotations

import json
import os
import signal
import time
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from asgml.data.media import MediaError
from callbacks.errors import UserError

T = TypeVar("T")
LIMIT = 10  # seconds for one example
LINES, CHARACTERS = 24, 6000  # of one screen
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("FUZZ_SEED") or time.time())
ROUND = 200  # examples between two looks at the clock
COUNTS: dict[str, Counter[str]] = {}


class Hangs(Exception):
    """Reports an example that takes longer than `LIMIT` seconds."""


def fuzz(name: str, examples: int, strategy: st.SearchStrategy[T], act: Callable[[T], object]) -> None:
    """Check that `act` reads every example, or refuses it on one screen.

    Args:
        name: the class of inputs.
        examples: how many of them `make test` draws.
        strategy: what they are drawn from.
        act: reads one; it asserts what must hold of what was read.
    """
    counts = COUNTS.setdefault(name, Counter())

    def check(value: T) -> None:
        counts["examples"] += 1
        try:
            _within(act, value)
        except (UserError, MediaError) as error:
            counts["refused"] += 1
            screen = str(error)
            assert len(screen.splitlines()) <= LINES, screen
            assert len(screen) <= CHARACTERS, screen[:CHARACTERS]

    common = settings(
        deadline=None,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    if not SECONDS:
        settings(common, max_examples=examples, derandomize=True)(given(strategy)(check))()
        return
    end, seed = time.monotonic() + SECONDS, SEED
    while time.monotonic() < end:
        drawn = given(strategy)(
            types.FunctionType(check.__code__, globals(), name.replace(" ", "_"), None, check.__closure__)
        )
        hypothesis.seed(seed)(settings(common, max_examples=ROUND)(drawn))()
        seed += 1


def _within(act: Callable[[T], object], value: T) -> None:
    """Call `act`, at most `LIMIT` seconds."""

    def late(*_: object) -> None:
        raise Hangs(f"more than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        act(value)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def told() -> list[str]:
    """Return a line for every class that was run; append the counts to `FUZZ_COUNTS`, if it is set."""
    lines = []
    for name, counts in sorted(COUNTS.items()):
        lines.append(f"{name}: {counts['examples']} examples, {counts['refused']} refused")
        if place := os.environ.get("FUZZ_COUNTS"):
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"class": name, "seed": SEED, **counts}) + "\n")
    return lines


# -- bytes ------------------------------------------------------------------------------------------------------------

Edit = tuple[str, float, int, bytes]


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """Return `good` with one to four changes: bits, cuts, gaps, insertions, repeats; half of them near its ends."""
    place = st.one_of(
        st.floats(0, 1),
        st.integers(0, min(160, len(good))).map(lambda i: i / max(1, len(good))),
        st.integers(0, min(96, len(good))).map(lambda i: 1 - i / max(1, len(good))),
    )
    kinds = st.sampled_from(["bit", "cut", "gap", "insert", "set", "repeat"])
    extremes = st.sampled_from([b"\0" * 8, b"\xff" * 4, b"\xff\xff\xff\x7f"])
    filling = st.one_of(st.binary(min_size=1, max_size=8), extremes)
    edits = st.lists(st.tuples(kinds, place, st.integers(0, 255), filling), min_size=1, max_size=4)
    return edits.map(lambda chosen: _edited(good, chosen))


def _edited(good: bytes, edits: list[Edit]) -> bytes:
    data = bytearray(good)
    for kind, share, number, filling in edits:
        at = min(int(share * len(data)), len(data) - 1)
        if at < 0:
            break
        if kind == "bit":
            data[at] ^= 1 << number % 8
        elif kind == "cut":
            del data[at:]
        elif kind == "gap":
            del data[at : at + 1 + number]
        elif kind == "insert":
            data[at:at] = filling
        elif kind == "set":
            data[at : at + len(filling)] = filling
        else:
            data[at:at] = data[at : at + 1 + number]
    return bytes(data)


def any_json(leaves: st.SearchStrategy[object] | None = None) -> st.SearchStrategy[object]:
    """Return any JSON value of few levels."""
    texts = st.one_of(st.text(max_size=8), st.sampled_from(["", "\ud800", "\0", "x" * 3000]))
    plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
    return st.recursive(
        plain if leaves is None else leaves | plain,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    )
