"""`1 + lambda * tau` would make a stale gradient larger the older it is; `1 / (1 + lambda * tau)` makes it smaller."""

from __future__ import annotations

from itertools import pairwise

import pytest
from toys import asgml, train

from callbacks.stages.staleness import compensation


def test_compensation_never_amplifies_and_falls_with_age():
    for lambda_comp in (0.01, 0.1, 1.0, 10.0):
        values = [compensation(tau, lambda_comp) for tau in range(20)]
        assert values[0] == 1.0
        assert all(later < earlier for earlier, later in pairwise(values))
        assert min(values) > 0


@pytest.mark.parametrize(("tau", "factor"), [(2, 0.833), (4, 0.714)])
def test_the_numbers_of_the_design(tau, factor):
    run = train(asgml("staleness", tau=tau))
    assert run.scales("audio")[tau:] == pytest.approx([factor] * (8 - tau), abs=5e-4)
