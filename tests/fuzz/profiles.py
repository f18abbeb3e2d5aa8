"""How long the tests of command lines look: some examples, the same every time, or as long as `make fuzz` says.

`FUZZ_MINUTES` divides so many minutes evenly among these tests, each with other examples every time, and first
those that have failed before (`.hypothesis`). Without it a test takes the number of examples that it names itself:

    from profiles import examples

    @examples(20)
    @given(...)
    def test_…
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

# what names a model of the hub is refused at once, and not after five attempts to reach it
os.environ.setdefault("HF_HUB_OFFLINE", "1")

MINUTES = float(os.environ.get("FUZZ_MINUTES", 0))
AT_ONCE = 100  # examples, until it is asked whether the time is over
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

share = {"seconds": 60 * MINUTES}  # of a test; known once all are collected

settings.register_profile("some", deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)
settings.register_profile("long", deadline=None, print_blob=True, suppress_health_check=QUIET)
settings.load_profile("long" if MINUTES else "some")


def examples(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator of a test, above `@given`: so many examples, or as many as its share of the time allows."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        if not MINUTES:
            return settings(max_examples=number)(test)
        some = settings(max_examples=AT_ONCE)(test)

        @functools.wraps(some)
        def repeated(*arguments: Any, **named: Any) -> None:
            end = time.monotonic() + share["seconds"]
            while time.monotonic() < end:
                some(*arguments, **named)

        repeated.is_hypothesis_test = False  # type: ignore[attr-defined]  # for pytest it is a test like any other
        return repeated

    return decorate
