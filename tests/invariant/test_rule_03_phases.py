"""Specification A2.3: phases are staggered, and intervals under which some step would idle everybody are refused."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from toys import asgml, toy_batches, toy_spec, train

from callbacks.errors import UserError
from callbacks.stages.frequency import Cadence, FrequencyMask, check_phases, covering_phases, covers


def coverable(ks: tuple[int, ...]) -> bool:
    """Return whether any phases cover every step of the period, by trying all."""
    period = range(math.lcm(*ks))
    return any(
        all(any((t - p) % k == 0 for k, p in zip(ks, phases, strict=True)) for t in period)
        for phases in itertools.product(*map(range, ks))
    )


def test_the_phases_found_cover_exactly_what_brute_force_can_cover():
    combinations = [
        *itertools.combinations_with_replacement(range(1, 8), 2),
        *itertools.combinations_with_replacement(range(1, 7), 3),
        *((2, 4, 6, 12), (3, 3, 6, 6), (2, 6, 6, 6), (4, 4, 4, 4), (3, 4, 4, 6), (2, 3, 4, 5), (2, 3, 6, 6)),
    ]
    covered = 0
    for ks in combinations:
        every = {f"m{i}": k for i, k in enumerate(random.Random(str(ks)).sample(ks, len(ks)))}
        found = covering_phases(every)
        assert (found is not None) == coverable(ks), ks
        if found is None:
            with pytest.raises(UserError, match=r"leave no step idle"):
                check_phases(every, None, "k")
            continue
        covered += 1
        assert list(found) == list(every)
        assert all(0 <= found[m] < every[m] for m in every)
        cadence = Cadence(every, "fixed", found)
        for t in range(2 * math.lcm(*ks)):
            assert cadence.due(t) == {m for m in every if (t - found[m]) % every[m] == 0} != set(), (every, t)
        assert cadence.forced == 0
    assert 20 < covered < len(combinations) - 20  # both sides were tried


@pytest.mark.parametrize(
    ("ks", "together"),
    [((2, 2, 1), 1), ((4, 4, 4, 4, 1), 1), ((3, 3, 3), 1), ((2, 4, 2, 1), 2), ((3, 3, 3, 3, 3, 3, 3), 3)],
)
def test_slow_encoders_do_not_bunch_in_one_step(ks, together):
    """`together`: the smallest possible number of slow encoders that update in the fullest step."""
    every = {f"m{i}": k for i, k in enumerate(ks)}
    phases = check_phases(every, None, "k")
    fullest = max(sum(k > 1 and (t - phases[m]) % k == 0 for m, k in every.items()) for t in range(math.lcm(*ks)))
    assert fullest == together


@pytest.mark.parametrize("ks", [(2, 3, 7, 9, 11, 13, 4), (1, 97, 89, 83, 79, 73, 71), (3, 4, 5, 7, 8, 9, 11)])
def test_seven_modalities_with_awkward_intervals_are_answered_at_once(ks):
    every = {f"m{i}": k for i, k in enumerate(ks)}
    found = covering_phases(every)
    assert (found is None) == (1 not in ks)
    assert found is None or covers(every, found)


def test_given_phases_are_checked():
    assert check_phases({"a": 2, "b": 2}, {"a": 1, "b": 0}, "k") == {"a": 1, "b": 0}
    with pytest.raises(UserError, match="phases that leave no step idle"):
        check_phases({"a": 2, "b": 2}, {"a": 1, "b": 1}, "k")
    with pytest.raises(UserError, match=r"one for each of \['a', 'b'\]"):
        check_phases({"a": 2, "b": 2}, {"a": 1}, "k")
    with pytest.raises(UserError, match="k >= 1"):
        check_phases({"a": 0, "b": 1}, None, "k")


@pytest.mark.parametrize("k", [{"audio": 2, "visual": 3}, {"audio": 4, "visual": 4}])
@pytest.mark.parametrize("control", ["none", "random_skip"])
def test_a_config_that_would_idle_everybody_is_refused_with_the_reason(k, control):
    with pytest.raises(UserError, match=r"asgml\.k") as refused:
        train(asgml("frequency", k=k, control=control))
    assert "asgml.k={audio:1," in refused.value.remedy


@pytest.mark.parametrize("masking", ["hard", "accumulate", "soft"])
def test_in_a_run_exactly_one_of_two_encoders_with_k_2_updates(masking):
    run = train(asgml("frequency", k=2, delayed="all", masking=masking))
    assert run.actions("audio").count("update") == run.actions("visual").count("update") == 4
    assert all(
        (a == "update") != (v == "update") for a, v in zip(run.actions("audio"), run.actions("visual"), strict=True)
    )


@pytest.mark.parametrize("mode", ["fixed", "elapsed", "random"])
def test_one_encoder_alone_is_exempt_and_really_skips(mode):
    mask = FrequencyMask({"audio": 3}, rule=mode)
    updates = 0
    for t in range(300):
        due = mask.cadence.due(t)
        mask.cadence.commit(t, due)
        updates += len(due)
    assert updates == 100 if mode != "random" else 70 < updates < 130


def test_one_encoder_alone_is_exempt_in_a_run():
    spec = toy_spec(1)
    run = train(asgml("frequency", k=2, masking="hard"), toy_batches(6, spec), spec=spec)
    assert run.actions("audio") == ["update", "hold"] * 3
    assert run.pipeline.t == 6


def test_changing_intervals_never_idle_everybody():
    """The adaptive rule: k walks at random, and whoever updates waits at least k steps unless nobody else is due."""
    for seed in range(20):
        draw = random.Random(seed)
        names = [f"m{i}" for i in range(draw.choice([2, 3, 7]))]
        cadence = Cadence(dict.fromkeys(names, 1), "elapsed", {})
        last: dict[str, int] = {}
        forced = 0
        for t in range(200):
            for m in names:
                if draw.random() < 0.1:
                    cadence.every[m] = draw.randint(1, 6)
            due = cadence.due(t)
            waited = {m for m in names if m not in last or t - last[m] >= cadence.every[m]}
            assert due == waited if waited else len(due) == 1
            forced += not waited
            cadence.commit(t, due)
            last.update(dict.fromkeys(due, t))
        assert cadence.forced == forced


@pytest.mark.parametrize("ks", [(4, 1), (2, 2), (2, 4, 4), (3, 2, 6, 5, 1, 9, 2)])
def test_random_skipping_has_the_exact_rate_and_never_idles_everybody(ks):
    every = {f"m{i}": k for i, k in enumerate(ks)}
    cadence = Cadence(every, "random", {}, seed=1)
    steps = 4000
    due = [cadence.due(t) for t in range(steps)]
    assert all(due)
    for m, k in every.items():
        share = sum(m in d for d in due) / steps
        assert abs(share - 1 / k) < 4 * math.sqrt(1 / k * (1 - 1 / k) / steps) + 1e-12
    assert due == [Cadence(every, "random", {}, seed=1).due(t) for t in range(steps)]  # of (seed, t) alone
    assert due != [Cadence(every, "random", {}, seed=2).due(t) for t in range(steps)] or set(ks) == {1}
