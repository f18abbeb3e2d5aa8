"""`delayed: dominant` where the data set names no modality: the delay begins when the probes see who is ahead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from asgml_runs import compose, config, fit, overrides, rows, write_features
from toys import FixedProbe, asgml, differences, toy_batches, toy_spec, train

from callbacks.errors import UserError

DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
UNNAMED = toy_spec(2, dominant=None)
STEPS = 14


def from_step(begin: int, until: int = 10**9, rows: int = 10**9) -> FixedProbe:
    """Report that audio is ahead from committed step `begin` on, and visual from `until` on."""

    def utilisation(t: int) -> dict[str, float]:
        if t < begin:
            return {"audio": 0.5, "visual": 0.5}
        return {"audio": 0.9, "visual": 0.6} if t < until else {"audio": 0.6, "visual": 0.9}

    return FixedProbe(utilisation, rows)


def run(mode: str, probe: FixedProbe, **options):
    return train(asgml(mode, **options), toy_batches(STEPS, UNNAMED), spec=UNNAMED, probe=probe)


def test_the_delay_begins_when_a_gap_is_seen():
    """Before that the run is a plain one, bit for bit; a delay that begins waits tau steps for its first gradient."""
    delayed = run("staleness", from_step(5), tau=2)
    assert delayed.ages("audio") == [0] * 5 + [-1, -1] + [2] * (STEPS - 7)
    assert delayed.ages("visual") == [0] * STEPS
    plain = train(asgml(), toy_batches(STEPS, UNNAMED), spec=UNNAMED)
    assert not differences(plain.trace.states[:5], delayed.trace.states[:5])
    named = toy_spec(2, dominant="audio")
    assert train(asgml("staleness", tau=2), toy_batches(4, named), spec=named).ages("audio") == [-1, -1, 2, 2]


@pytest.mark.parametrize("masking", ["hard", "soft"])
def test_so_does_the_interval(masking):
    masked = run("frequency", from_step(5), k=3, masking=masking)
    between = {"hard": "hold", "soft": "soft"}[masking]
    assert masked.actions("audio") == ["update" if t < 5 or t % 3 == 0 else between for t in range(STEPS)]
    assert masked.actions("visual") == ["update"] * STEPS


@pytest.mark.parametrize(
    ("mode", "control", "before", "after"),
    [("staleness", "scale_only", 1.0, 1 / 1.2), ("frequency", "lr_matched", 1.0, None)],
)
def test_so_do_the_controls(mode, control, before, after):
    controlled = run(mode, from_step(5), tau=2, k=2, control=control).scales("audio")
    assert controlled[:5] == [before] * 5
    assert len(set(controlled[5:])) == 1
    assert controlled[5] == (pytest.approx(after) if after else pytest.approx(controlled[5], abs=0.5))
    assert controlled[5] < 1


def test_random_skips_begin_then_too():
    skipped = run("frequency", from_step(5), k=3, masking="hard", control="random_skip").actions("audio")
    assert skipped[:5] == ["update"] * 5
    assert "hold" in skipped[5:]


def test_who_is_found_first_is_kept():
    kept = run("staleness", from_step(3, until=8), tau=1)
    assert kept.ages("audio") == [0] * 3 + [-1] + [1] * (STEPS - 4)
    assert kept.ages("visual") == [0] * STEPS


def test_who_when_and_why_is_told(capsys):
    events = []
    probe = from_step(5, rows=100)
    seen = probe.after_commit
    probe.after_commit = lambda ctx: (seen(ctx), events.extend(ctx.events))  # type: ignore[method-assign]
    counters = run("staleness", probe, tau=2).pipeline.counters()
    assert (counters["dominant"], counters["dominant_since"]) == ("audio", 5)
    line = (
        "audio dominates: tau 2 from step 5 on, because U 0.900 against 0.600 of visual is a gap beyond its noise, "
        "0.117 on 100 held-out rows"
    )
    assert events == [("dominant", line)]
    printed = capsys.readouterr().out
    assert "No delay has begun yet; tau 2 begins when the probes first see a gap beyond its noise" in printed
    assert line in printed


def test_a_run_too_short_for_the_probes_says_that_they_saw_nothing():
    with pytest.warns(UserWarning, match="The probes never had rows to score. Name the modality"):
        run("staleness", from_step(99, rows=0), tau=2)


@pytest.mark.parametrize("probe", [from_step(99), from_step(0, rows=10)], ids=["no gap", "a gap within its noise"])
def test_a_run_in_which_nobody_is_found_is_a_plain_one_and_says_so(probe):
    with pytest.warns(UserWarning, match="nobody was delayed in the whole run") as warned:
        waited = run("staleness", probe, tau=2)
    assert sum("nobody was delayed" in str(w.message) for w in warned) == 1
    assert waited.pipeline.counters()["dominant"] is None
    plain = train(asgml(), toy_batches(STEPS, UNNAMED), spec=UNNAMED)
    assert not differences(plain.trace.states, waited.trace.states)


def test_without_probes_it_is_refused_with_a_remedy_that_works(tmp_path: Path):
    line = [*overrides(write_features(tmp_path / "data.npz"), tmp_path / "runs"), "data.dominant=null"]
    with pytest.raises(UserError, match=r"(?s)callbacks\.probe.*this data set names none") as refused:
        fit(compose([*line, "callbacks.probe=null"]))
    remedy = refused.value.remedy.rpartition("set ")[2]
    assert remedy == "asgml.delayed=audio"
    fit(compose([*line, "callbacks.probe=null", "trainer.max_epochs=1", remedy]))


@pytest.mark.slow
def test_speech_is_found_to_lead_lips(tmp_path: Path):
    """GRID digits without a word of who dominates: audio is found within six epochs and delayed from then on."""
    npz = DATA / "grid_digit" / "grid_digit.npz"
    if not npz.exists():
        pytest.skip(f"no {npz} (SUITE_DATA)")
    cfg = config(npz, tmp_path, "data.dominant=null", "callbacks.probe.every=10", "callbacks.probe.holdout_size=256",
                 "loader.batch_size=64", "trainer.max_epochs=6", "optimizer.momentum=0",
                 "model.encoder.dim=64")  # fmt: skip
    counters = fit(cfg).pipeline.counters()
    assert counters["dominant"] == "audio"
    assert {row[3] for row in rows(cfg, "timeline.csv")[1:] if row[1] == "lips"} == {"0"}
