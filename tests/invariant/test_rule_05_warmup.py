"""Specification A2.5: until a gradient of the wanted age exists, an encoder stands still or applies fresh ones once."""

from __future__ import annotations

import pytest
from toys import asgml, toy_batches, toy_spec, train


@pytest.mark.parametrize("tau", [1, 2, 4])
def test_skip_holds_still_until_the_first_gradient_is_old_enough(tau):
    run = train(asgml("staleness", tau=tau))
    assert run.actions("audio") == ["hold"] * tau + ["update"] * (8 - tau)
    assert run.ages("audio") == [-1] * tau + [tau] * (8 - tau)


@pytest.mark.parametrize("tau", [1, 2, 3])
def test_fresh_stamps_count_as_applied(tau):
    """Fresh at 0..tau-1; then the stamps 0..tau-1 come due and are not applied again; then stamp tau at step 2 tau."""
    run = train(asgml("staleness", tau=tau, warmup="fresh"))
    rest = 8 - 2 * tau
    assert run.actions("audio") == ["update"] * tau + ["hold"] * tau + ["update"] * rest
    assert run.ages("audio") == [0] * tau + [-1] * tau + [tau] * rest
    applied = [t - age for t, m, _, age, _ in run.timeline if m == "audio" and age >= 0]
    assert len(set(applied)) == len(applied)


def test_a_fresh_gradient_is_not_compensated():
    run = train(asgml("staleness", tau=2, warmup="fresh", lambda_comp=0.5))
    assert run.scales("audio") == [1.0, 1.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5]


def test_the_delay_counts_the_steps_and_not_the_batches_in_which_the_modality_was_there():
    """A stamp is a step: with audio missing at step 1 there is nothing of age 2 to apply at step 3."""
    spec = toy_spec()
    run = train(asgml("staleness", tau=2), toy_batches(6, spec, missing={1: ["audio"]}), spec=spec)
    assert run.actions("audio") == ["hold", "missing", "update", "hold", "update", "update"]


@pytest.mark.parametrize(
    ("mode", "options"),
    [("staleness", {"tau": 9}), ("frequency", {"k": 9, "masking": "hard", "phases": {"audio": 8, "visual": 0}})],
)
def test_an_encoder_that_was_held_back_in_every_step_is_named(mode, options):
    """Eight steps are too few for a delay of nine: nothing of audio was trained, and the loss does not show it."""
    with pytest.warns(UserWarning, match="encoder of audio never moved") as warned:
        run = train(asgml(mode, **options))
    assert run.actions("audio") == ["hold"] * 8
    assert sum("never moved" in str(w.message) for w in warned) == 1


@pytest.mark.parametrize("modes", [("sync", {}), ("staleness", {"tau": 7}), ("frequency", {"k": 9, "masking": "soft"})])
def test_one_that_moved_once_is_not(modes, recwarn):
    train(asgml(modes[0], **modes[1]))
    assert not [w for w in recwarn if "never moved" in str(w.message)]
