"""Yoked controls replay one side effect of a finished adaptive run, and nothing else of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from asgml_runs import compose, finish_treated, fit, overrides, rows, write_features
from omegaconf import DictConfig
from toys import asgml

from asgml.rhythm.config import Asgml
from asgml.rhythm.yoked import moved, piecewise, rotated, share, window_means
from asgml.run import Tree, dead, train
from callbacks.errors import UserError
from suite.runs.launch import launch

WINDOW = 4
ADAPTIVE = ["method=asgml_adaptive", "asgml.adaptive.signal=speed", "asgml.adaptive.tau_base=1",
            "asgml.adaptive.tau_max=3", f"asgml.adaptive.update_every={WINDOW}", "asgml.adaptive.window=3",
            "asgml.adaptive.ema=0.9"]  # fmt: skip
FREQUENCY = ["asgml.adaptive.kind=frequency", "asgml.masking=hard"]
Row = tuple[str, int, float]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("yoked")
    data = write_features(folder / "data.npz")
    return [*overrides(data, folder / "runs"), "callbacks.probe=null", "loader.batch_size=4", *ADAPTIVE]


def timeline(cfg: DictConfig) -> dict[str, list[Row]]:
    """Return action, age and scale of every step, by modality."""
    out: dict[str, list[Row]] = {"audio": [], "visual": []}
    for _, m, action, age, scale in rows(cfg, "timeline.csv")[1:]:
        out[m].append((action, int(age), float(scale)))
    return out


def pair(line: list[str], control: str, *more: str) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """Return the timelines of the treated run and of its control."""
    cfg = compose([*line, *more, f"asgml.control={control}"])
    treated = timeline(finish_treated(cfg))
    fit(cfg)
    control_rows = timeline(cfg)
    assert {len(r) for r in treated.values()} == {len(r) for r in control_rows.values()} == {40}
    return treated, control_rows


def test_scale_has_every_factor_and_no_delay(line):
    treated, control = pair(line, "yoked_scale")
    for m, done in treated.items():
        assert [(a, s) for a, _, s in control[m]] == [(a, s) for a, _, s in done]
        assert {age for a, age, _ in control[m] if a == "update"} == {0}
    assert {age for done in treated.values() for _, age, _ in done} >= {-1, 0, 1, 2}, "the schedule must have acted"


def test_skip_has_as_many_skips_at_other_steps(line):
    treated, control = pair(line, "yoked_skip", *FREQUENCY)
    for m, done in treated.items():
        for begin in range(0, 40, WINDOW):
            part = slice(begin, begin + WINDOW)
            assert Counter(a for a, _, _ in done[part]) == Counter(a for a, _, _ in control[m][part])
    assert any([a for a, _, _ in control[m]] != [a for a, _, _ in done] for m, done in treated.items())
    together = [[r["audio"][t][0] + r["visual"][t][0] for t in range(40)] for r in (treated, control)]
    assert "holdhold" not in together[1] or "holdhold" in together[0]


@pytest.mark.parametrize("kind", [[], FREQUENCY], ids=["staleness", "frequency"])
def test_lr_has_the_mean_factor_of_every_window(line, kind):
    treated, control = pair(line, "yoked_lr", *kind)
    for m, done in treated.items():
        assert {(a, age) for a, age, _ in control[m]} == {("update", 0)}
        for begin in range(0, 40, WINDOW):
            part = [s for _, _, s in control[m][begin : begin + WINDOW]]
            assert part == pytest.approx([sum(s for _, _, s in done[begin : begin + WINDOW]) / WINDOW] * WINDOW)


@pytest.mark.parametrize("kind", [[], FREQUENCY], ids=["staleness", "frequency"])
def test_swap_gives_each_modality_the_rhythm_of_the_other(line, kind):
    treated, control = pair(line, "yoked_swap", *kind)
    assert control == {"audio": treated["visual"], "visual": treated["audio"]}
    assert treated["audio"] != treated["visual"]


def test_without_a_finished_treated_run_it_is_refused_with_a_command_that_works(tmp_path: Path):
    line = [*overrides(write_features(tmp_path / "data.npz"), tmp_path / "runs"), "callbacks.probe=null", *ADAPTIVE]
    control = [*line, "trainer.max_epochs=1", "asgml.control=yoked_scale"]
    with pytest.raises(UserError, match="no finished treated run") as refused:
        fit(compose(control))
    remedy = refused.value.remedy.rpartition("with ")[2]
    launch("asgml", train, dead, schema=Tree, argv=[*control[:-1], remedy])
    fit(compose(control))
    with pytest.raises(UserError, match="no finished treated run"):
        fit(compose([*control, "seed=1"]))


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("staleness", {"control": "yoked_scale"}),
        ("adaptive", {"control": "yoked_scale", "adaptive": {"kind": "frequency"}}),
        ("adaptive", {"control": "yoked_scale", "compensation": "none"}),
        ("adaptive", {"control": "yoked_skip"}),
        ("adaptive", {"control": "yoked_skip", "adaptive": {"kind": "frequency", "update_every": 1}}),
        ("adaptive", {"control": "yoked_lr", "boost": {"enabled": True}}),
    ],
)
def test_what_it_cannot_replay_is_refused(mode, options):
    with pytest.raises(UserError, match=r"asgml\.control"):
        asgml(mode, **options)


# -- what is kept, on its own
def test_the_share_of_an_update():
    config = Asgml(lambda_comp=0.5, soft_scale=0.2)
    done = [("update", 0), ("update", 2), ("soft", 0), ("fusion", 0), ("hold", -1), ("accumulate", -1)]
    assert [share(*d, config) for d in done] == [1.0, 0.5, 0.2, 1.0, 0.0, 0.0]
    assert share("missing", -1, config) is None
    assert share("update", 2, Asgml(compensation="none")) == 1.0


def test_windows_leave_missing_steps_out():
    assert window_means([1.0, 0.0, None, 0.5, 0.5, None], 3) == [0.5] * 3 + [0.5] * 3
    assert window_means([None, None, 0.25], 2) == [1.0, 1.0, 0.25]


def test_moved_steps_stay_together_and_within_their_window():
    due = {"a": [True, False] * 6, "b": [False, True, True] * 4}
    one, other = moved(due, 6, seed=0), moved(due, 6, seed=1)
    assert one == moved(due, 6, seed=0) != other
    for begin in (0, 6):
        part = slice(begin, begin + 6)
        assert Counter(zip(due["a"][part], due["b"][part], strict=True)) == Counter(
            zip(one["a"][part], one["b"][part], strict=True)
        )


def test_more_than_two_modalities_rotate():
    assert rotated({"a": 1, "b": 2, "c": 3}) == {"a": 3, "b": 1, "c": 2}
    assert rotated({"a": 1, "b": 2}) == {"a": 2, "b": 1}
    assert piecewise({2: 3, 4: 1}, 0, 6) == [0, 0, 3, 3, 1, 1]
