"""How long the tests of this folder look: some examples, the same every time, or as long as `make fuzz` says.

`FUZZ_MINUTES` divides so many minutes evenly among the tests that run, each with examples of its own every time and
with those kept that once failed (`.hypothesis`). Without it a test takes the number of examples that it names itself:

    from profiles import examples

    @given(...)
    @examples(20)
    def test_…
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings

MINUTES = float(os.environ.get("FUZZ_MINUTES", 0))
ENDLESS = 10**7
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

share = {"seconds": 60 * MINUTES}  # of a test; known once all are collected

settings.register_profile("some", deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)
settings.register_profile("long", deadline=None, max_examples=ENDLESS, print_blob=True, suppress_health_check=QUIET)
settings.load_profile("long" if MINUTES else "some")


def examples(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator of a test, below `@given`: so many examples, or as many as its share of the time allows."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        if not MINUTES:
            return settings(max_examples=number, phases=(Phase.explicit, Phase.generate))(test)
        begun: list[float] = []

        @functools.wraps(test)
        def within(*arguments: Any, **named: Any) -> None:
            begun[:] = begun or [time.monotonic()]
            if time.monotonic() - begun[0] < share["seconds"]:
                test(*arguments, **named)

        return within

    return decorate
