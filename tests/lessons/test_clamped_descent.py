"""`max(0, first - last)` loses the descent signal when losses rise: overfitting looks like standing still."""

from __future__ import annotations

import pytest

from asgml.rhythm.dynamics import DynamicsTracker
from asgml.rhythm.schedule import speed_delay


def overfitting(sign: float) -> DynamicsTracker:
    """Return a tracker for which the loss of `fast` changes five times as much as that of `slow`, up or down."""
    tracker = DynamicsTracker({"fast": 1, "slow": 1}, window=10)
    for step in range(11):
        tracker.observe({"fast": 1.0, "slow": 1.0}, {"fast": 1 + sign * 0.05 * step, "slow": 1 + sign * 0.01 * step})
    return tracker


@pytest.mark.parametrize("sign", [-1.0, 1.0], ids=["falling", "rising"])
def test_the_fast_one_is_found_whether_losses_fall_or_rise(sign):
    tracker = overfitting(sign)
    assert tracker.descent() == pytest.approx({"fast": 5 / 3, "slow": 1 / 3})
    assert speed_delay(tracker.score(0.0), tau_base=1, tau_min=0, tau_max=4) == {"fast": 2, "slow": 0}


def test_one_rising_and_one_falling_loss_do_not_cancel():
    tracker = DynamicsTracker({"up": 1, "down": 1}, window=2)
    for up, down in ((1.0, 1.0), (1.2, 0.8)):
        tracker.observe({"up": 1.0, "down": 1.0}, {"up": up, "down": down})
    assert tracker.descent() == pytest.approx({"up": 1.0, "down": 1.0})
