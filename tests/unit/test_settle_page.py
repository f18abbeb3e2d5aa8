"""The page of the study: numbers worked out by hand, words that follow from them, and what is missing named."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from asgml_runs import write_features
from settled import Row, write_study

from asgml.rhythm.config import Adaptive, Asgml
from asgml.tune.page.__main__ import main
from asgml.tune.page.passes import Passes, Work, encoder_passes, spent, updates, work_of
from asgml.tune.page.predictions import Held, joined
from asgml.tune.page.times import stretch
from asgml.tune.page.wording import answer, verdict
from callbacks.errors import UserError
from suite.report import read_runs
from suite.report.summary import Comparison
from suite.statistics import paired_t, tost

HARD = {"mode": "frequency", "masking": "hard", "k": 2}
HOLDS = {"audio": ["update", "hold"], "visual": ["update"]}
LATE = {"mode": "staleness", "tau": 2, "compensation": "inverse"}
ROWS = "rows=[unimodal,joint,uniform,frequency_hard,staleness_2_inverse]"
UNIFORM = (80.0, 81.0, 82.0, 83.0)


def plus(*differences: float) -> list[float]:
    """Return accuracies that differ from those of uniform by so many points."""
    return [u + d for u, d in zip(UNIFORM, differences, strict=True)]


STUDY = {
    "unimodal_audio": Row([70, 70, 71, 71], actions={"audio": ["update"]}),
    "unimodal_visual": Row([60, 60, 61, 61], actions={"visual": ["update"]}),
    "joint": Row(plus(-5, -6, -5, -6), curve=(0.2, 0.4, 0.6, 0.8)),
    "uniform": Row(UNIFORM, curve=(0.2, 0.4, 0.8, 0.7)),
    "frequency_hard": Row(plus(1.0, 0.8, 1.2, 1.0), HARD, curve=(0.3, 0.8, 0.85, 0.8), actions=HOLDS),
    "frequency_hard/lr_matched": Row(plus(0.9, 0.9, 1.1, 1.1), {**HARD, "control": "lr_matched"}, of="frequency_hard"),
    "frequency_hard/random_skip": Row(plus(0, -0.3, 0.1, 0.1), {**HARD, "control": "random_skip"}, of="frequency_hard"),
    "staleness_2_inverse": Row(plus(0.1, -0.1, 0.1, -0.1), LATE, load=0.1, probes={"audio": [24, 24, 26, 26]}),
    "staleness_2_inverse/scale_only": Row(
        UNIFORM, {**LATE, "control": "scale_only"}, of="staleness_2_inverse", probes={"audio": [20, 20, 20, 20]}
    ),
    "staleness_2_inverse/all_delayed": Row(
        plus(9, -9, 9, -9), {**LATE, "control": "all_delayed"}, of="staleness_2_inverse"
    ),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder / "runs", "grid_digit", STUDY, write_features(folder / "f.npz"))
    return folder


@pytest.fixture(scope="module")
def text(written: Path) -> str:
    words = ["sets=[grid_digit,grid_digit_noisy]", ROWS, "seeds=[0,1,2,3]"]
    assert main([str(written / "runs"), "--out", str(written), *words]) == 0
    return (written / "asgml.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """Return the part of a page from the heading that begins so to the next one of its level."""
    level, _, _ = title.partition(" ")
    _, _, rest = text.partition(f"\n{title}")
    assert rest, title
    return rest.split(f"\n{level} ")[0]


def cells(text: str, *first: str) -> list[str]:
    """Return the cells of the table row whose first cells are these."""
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return next(row for row in found if [cell.strip("*") for cell in row[: len(first)]] == list(first))


def test_the_short_table_has_the_accuracy_of_every_row(text: str) -> None:
    part = section(text, "## In short")
    assert "grid_digit<br>4 seeds" in part
    assert cells(part, "uniform") == ["uniform", f"81.50 ± {3.1824 * math.sqrt(5 / 3) / 2:.2f}"]
    rows = [line.split(" | ")[0] for line in part.splitlines()]
    assert rows.index("| — its lr_matched") == rows.index("| frequency_hard") + 1


# -- the numbers, by hand: four seeds, so t_{3, 0.975} = 3.1824
def test_holding_back_over_uniform(text: str) -> None:
    part = section(text, "### 1. ")
    # differences 1.0, 0.8, 1.2, 1.0: sd sqrt(0.08 / 3), half 3.1824 * sd / 2; Holm doubles the smaller of two p
    half = 3.1824 * math.sqrt(0.08 / 3) / 2
    hard = cells(part, "grid_digit", "frequency_hard", "uniform")
    assert hard[3:6] == ["4", "8", f"+1.00 [+{1 - half:.2f}, +{1 + half:.2f}]"]
    assert float(hard[7]) == pytest.approx(2 * float(hard[6]), rel=0.01)
    assert hard[8] == "0.5", "the margin is the mean, so either side is as likely"
    assert hard[-1] == "helps"
    late = cells(part, "grid_digit", "staleness_2_inverse", "uniform")
    assert late[5] == "0.00 [−0.18, +0.18]"
    assert late[-1] == "equivalent within ±1 point"
    assert "**It helps in 1 of 2 comparisons.**" in part
    assert "1 helps, none harms, 1 equivalent within ±1 point, none undecided" in part
    assert "4 seeds in pairs, 8 trials per tuned row" in part
    assert "all_delayed" not in part, "a control is no row that holds back"


def test_a_row_that_held_nobody_back_is_named(text: str, tmp_path: Path) -> None:
    assert "held nobody back" not in section(text, "### 1. ")
    rows = {name: STUDY[name] for name in ("joint", "uniform")}
    rows["adaptive"] = Row(UNIFORM, {"mode": "adaptive"})
    write_study(tmp_path / "runs", "grid_digit", rows, write_features(tmp_path / "f.npz"))
    words = ["sets=[grid_digit]", "rows=[joint,uniform,adaptive]", "controls=false", "seeds=[0,1,2,3]"]
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path), *words]) == 0
    part = section((tmp_path / "asgml.md").read_text(encoding="utf-8"), "### 1. ")
    assert "`adaptive` on grid_digit held nobody back at any step" in part


def test_a_row_is_beyond_its_controls_only_if_it_beats_every_one(text: str) -> None:
    part = section(text, "### 2. ")
    assert cells(part, "grid_digit", "frequency_hard", "frequency_hard/random_skip")[-1] == "helps"
    assert cells(part, "grid_digit", "frequency_hard", "frequency_hard/lr_matched")[-1] == "equivalent within ±1 point"
    wide = cells(part, "grid_digit", "staleness_2_inverse", "staleness_2_inverse/all_delayed")
    assert wide[-1].startswith("undecided: interval [−")
    assert "**No: no row is above every one of its controls.**" in part
    assert "2 do no more than some synchronous control" in part


def test_being_above_a_run_that_delays_everybody_is_no_gain_of_asynchrony(tmp_path: Path) -> None:
    bare = {**LATE, "compensation": "none"}
    rows = {name: STUDY[name] for name in ("joint", "uniform")}
    rows["staleness_2_none"] = Row(UNIFORM, bare)
    rows["staleness_2_none/all_delayed"] = Row(
        plus(-5, -5.1, -4.9, -5), {**bare, "control": "all_delayed"}, of="staleness_2_none"
    )
    write_study(tmp_path / "runs", "grid_digit", rows, write_features(tmp_path / "f.npz"))
    words = ["sets=[grid_digit]", "rows=[joint,uniform,staleness_2_none]", "seeds=[0,1,2,3]"]
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path), *words]) == 0
    part = section((tmp_path / "asgml.md").read_text(encoding="utf-8"), "### 2. ")
    assert "1 row has no synchronous control, and no part in this." in part
    assert "staleness_2_none" not in part


def test_three_axes_and_the_budget_against_a_hand_count(text: str) -> None:
    # MLPs 6-5-3 and 10-5-3 on 2 rows: 4 operations a weight forward; backward as many for each layer's weights, and
    # again for the input of the second: audio 180 and 240, visual 260 and 320. Hard saves 240 of 1000 in every other
    part = section(section(text, "## Three axes"), "### grid_digit")
    assert cells(part, "frequency_hard")[1:] == [
        "4 of 4",
        "0.50 (0.50–0.50)",
        "0.38 (0.38–0.38)",
        "0.44 (0.44–0.44)",
        "0.88",
    ]
    assert cells(part, "joint")[1:] == ["4 of 4", *["1.00 (1.00–1.00)"] * 3, "1.00"]
    assert cells(part, "uniform")[1:] == ["4 of 4", *["0.75 (0.75–0.75)"] * 3, "1.00"]
    assert cells(part, "unimodal_audio")[-1] == "0.42"
    answered = section(text, "### 3. ")
    # within 0.75 of 16 steps' compute: 13 steps of hard, three epochs; joint's best is 0.8, hard's by then 0.85
    assert "first has joint's best validation accuracy within 0.75 with 4 of 4 seeds, at 0.44 (0.44–0.44)" in answered
    assert "a whole run of it costs 0.88 of joint's" in answered
    row = cells(answered, "grid_digit", "frequency_hard", "joint")
    assert row[5] == "+5.00 [+5.00, +5.00]"
    assert row[-1] == "undecided: all differences are equal: no test"


def test_every_row_with_its_gap_and_its_differences(text: str) -> None:
    part = section(section(text, "## Every row"), "### grid_digit")
    row = cells(part, "frequency_hard")
    assert row[1:4] == ["4", "8", "lr 0.1"]
    assert row[4].startswith("82.50 ± ")
    assert row[5].startswith("41.25 ± "), "the weaker modality's head has half of the accuracy"
    assert row[6].startswith("12.50 ± "), "trained to 95 % in the best epoch, tested at 82.5 %"
    assert row[8] == "+1.00 [+0.74, +1.26]"
    assert cells(part, "frequency_hard/lr_matched")[2] == "as frequency_hard"
    assert cells(part, "uniform")[-1].strip("*") == "baseline"


def test_predictions_are_held_against_the_runs(text: str) -> None:
    part = section(text, "## The predictions")
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")][1:]
    verdicts = {row[1]: (row[2], row[3]) for row in rows}

    def of(words: str) -> tuple[str, str]:
        return next(found for predicted, found in verdicts.items() if words in predicted)

    # 24, 24, 26, 26 steps against 20: a geometric mean of sqrt(1.2 * 1.3)
    assert of("a delay of 2 alone")[0].startswith(f"grid_digit: {math.sqrt(1.2 * 1.3):.2f} [1.")
    assert of("a delay of 2 alone")[1] == "held"
    assert of("have equivalent accuracies")[1] == "held"
    assert of("is equivalent to c alone")[1] == "held"
    assert of("is below it at loads above")[1] == "not tested"
    assert of("gains more over `joint`")[1] == "held"
    assert of("no rhythm differs from `uniform`")[1] == "undecided", "hard is at the margin itself"
    assert of("under Adam")[1] == "not tested"


def test_a_control_that_was_added_later_stands_below_its_row(written: Path, tmp_path: Path) -> None:
    rows = {name: row for name, row in STUDY.items() if name != "frequency_hard/lr_matched"}
    path = write_study(tmp_path, "grid_digit", {**rows, "frequency_hard/lr_matched": STUDY["joint"]}, written / "f.npz")
    tuned = json.loads((path / "tuned.json").read_text())
    tuned["rows"]["frequency_hard/lr_matched"]["of"] = "frequency_hard"
    (path / "tuned.json").write_text(json.dumps(tuned))
    assert main([str(tmp_path), "--out", str(tmp_path), "sets=[grid_digit]", ROWS, "seeds=[0,1,2,3]"]) == 0
    part = section((tmp_path / "asgml.md").read_text(), "## In short")
    rows_there = [line.split(" | ")[0].strip("| ") for line in part.splitlines()]
    assert rows_there.index("— its lr_matched") == rows_there.index("frequency_hard") + 2


def test_what_is_missing_is_said(written: Path, text: str, tmp_path: Path) -> None:
    assert "Finished: grid_digit." in text
    assert "- grid_digit_noisy: not begun (left out" in text
    assert main([str(written / "runs"), "--out", str(tmp_path), "sets=[grid_digit]", ROWS]) == 0
    page = (tmp_path / "asgml.md").read_text()
    assert "- grid_digit: 9 of 9 rows tuned; 4 of 10 seeds of all of these evaluated (in the numbers below)" in page
    assert "### grid_digit (not finished)" in page
    few = tmp_path / "runs"
    two = {name: Row(STUDY[name].test[:2]) for name in ("joint", "uniform")}
    write_study(few, "grid_digit", two, written / "f.npz")
    assert main([str(few), "--out", str(tmp_path), "sets=[grid_digit]", ROWS, "seeds=[0,1]"]) == 0
    page = (tmp_path / "asgml.md").read_text()
    assert "- grid_digit: 2 of 9 rows tuned; 2 of 2 seeds of all of these evaluated (left out: fewer than 3" in page
    assert page.count("**Not answered: nothing to compare has finished.**") == 3


def test_rows_that_chose_the_same_settings_share_their_runs(written: Path, tmp_path: Path) -> None:
    rows = {name: STUDY["uniform"] for name in ("joint", "uniform", "gamma_1")}
    path = write_study(tmp_path, "grid_digit", rows, written / "f.npz") / "tuned.json"
    tuned = json.loads(path.read_text())
    tuned["rows"]["gamma_1"]["runs"] = tuned["rows"]["uniform"]["runs"]
    path.write_text(json.dumps(tuned))
    assert main([str(tmp_path), "--out", str(tmp_path), "sets=[grid_digit]"]) == 0
    part = section((tmp_path / "asgml.md").read_text(), "## Every row")
    assert cells(part, "gamma_1")[4:] == [*cells(part, "uniform")[4:-1], "0.00 [0.00, 0.00]"]


def test_without_the_data_only_compute_is_missing(written: Path, tmp_path: Path) -> None:
    write_study(tmp_path / "runs", "grid_digit", STUDY, tmp_path / "gone.npz")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path), "sets=[grid_digit]", ROWS, "seeds=[0,1,2,3]"]) == 0
    page = (tmp_path / "asgml.md").read_text()
    assert "Compute is not counted on grid_digit: data.path" in page
    assert "**It helps in 1 of 2 comparisons.**" in page
    assert cells(section(page, "## Three axes"), "frequency_hard")[1:] == [
        "4 of 4",
        "0.50 (0.50–0.50)",
        "0.38 (0.38–0.38)",
    ]


def test_the_figure_has_a_row_for_every_comparison(written: Path, text: str) -> None:
    drawn = (written / "asgml.svg").read_text()
    assert "(asgml.svg)" in text
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert drawn.count("<circle") == 2
    assert {name for name in STUDY if f">{name}</text>" in drawn} == {"frequency_hard", "staleness_2_inverse"}


def test_words_of_the_command_line_are_understood_or_refused(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        ([str(tmp_path / "none")], "no such directory"),
        ([str(written / "runs"), "optimizer.lr=1"], "not a key of the study"),
        ([str(written / "runs"), "--margin", "0"], "--margin 1"),
    ):
        assert main(words) == UserError.EXIT_CODE
        assert said in capsys.readouterr().err


# -- words
def compared(differences: Sequence[float], adjusted: float | None = None) -> Comparison:
    """Return a comparison with these differences in points; `adjusted` is p after Holm, else p itself."""
    a, zero = [d / 100 for d in differences], [0.0] * len(differences)
    test = paired_t(a, zero)
    return Comparison(test, test.p if adjusted is None else adjusted, tost(a, zero, 0.01))


@pytest.mark.parametrize(
    ("differences", "adjusted", "kind", "words"),
    [
        ((3.0, 3.1, 2.9, 3.2), None, "helps", "helps"),
        ((-3.0, -3.1, -2.9, -3.2), None, "harms", "harms"),
        ((0.3, 0.4, 0.35, 0.4), None, "helps", "helps, by less than 1 point"),
        ((-0.3, -0.4, -0.35, -0.4), None, "harms", "harms, by less than 1 point"),
        ((0.3, 0.4, 0.35, 0.4), 0.2, "equivalent", "equivalent within ±1 point"),
        ((3.0, 3.1, 2.9, 3.2), 0.06, "undecided", "undecided: interval [+2.84, +3.26]"),
        ((4.0, -4.0, 3.0, -2.0), None, "undecided", "undecided: interval [−5.90, +6.40]"),
        ((0.0, 0.0, 0.0), None, "undecided", "undecided: the same number with every seed, no test"),
        ((2.0, 2.0, 2.0), None, "undecided", "undecided: all differences are equal: no test"),
        ((2.0,), None, "undecided", "undecided: one pair: no test"),
    ],
)
def test_words_follow_from_the_numbers(differences: Sequence[float], adjusted: float, kind: str, words: str) -> None:
    found = verdict(compared(differences, adjusted), 1.0)
    assert (found.kind, found.words) == (kind, words)


def test_an_answer_claims_no_more_than_its_comparisons() -> None:
    helps, harms = compared((3.0, 3.1, 2.9)), compared((-3.0, -3.1, -2.9))
    same, wide = compared((0.1, -0.1, 0.05)), compared((4.0, -4.0, 3.0))

    def said(*found: Comparison) -> str:
        return answer([verdict(c, 1.0) for c in found], 1.0)

    assert said(helps, helps) == "It helps in all 2 comparisons"
    assert said(helps, harms, wide) == "It helps in 1 of 3 comparisons and harms in 1"
    assert said(harms, same) == "It harms in 1 of 2 comparisons, and helps in none"
    assert said(same, same) == "No: equivalent within ±1 point in all 2 comparisons"
    assert said(same, wide) == "Undecided in 1 of 2 comparisons, and shown to help in none"
    assert said() == "Not answered: nothing to compare has finished"


def test_a_prediction_is_held_by_all_and_refuted_by_one() -> None:
    assert joined(["held", "held", "not tested"]) == "held"
    assert joined(["held", "undecided"]) == "undecided"
    assert joined(["held", "undecided", "refuted"]) == "refuted"
    assert joined([]) == "not tested"
    assert Held("1", "", "", "held").verdict == "held"
    found = stretch({0: 20.0, 1: 40.0}, {0: 10.0, 1: 10.0, 2: 1.0})
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx(math.sqrt(8)), 2)


# -- what a step costs
def test_only_a_hold_without_gradient_is_cheaper() -> None:
    encoder = Passes(10.0, 20.0)
    table = pd.DataFrame(
        [
            (0, "a", "update"),
            (1, "a", "hold"),
            (2, "a", "soft"),
            (3, "a", "fusion"),
            (4, "a", "missing"),
            (5, "a", "veto"),
        ],
        columns=["step", "modality", "action"],
    )
    free = Work(free=frozenset({"hold"}))
    assert spent(table, free, {"a": encoder}).tolist() == [30, 40, 70, 100, 100, 130]
    assert spent(table, Work(), {"a": encoder}).tolist() == [30, 60, 90, 120, 120, 150]
    assert spent(table, Work(2, 2), {"a": encoder}).tolist() == [60, 120, 180, 240, 240, 300]
    assert updates(table).tolist() == [1, 1, 1, 1, 1, 1]


def test_what_a_row_does_in_a_step() -> None:
    def method(name: str, **more: object) -> dict[str, dict[str, object]]:
        return {name.lower(): {"_target_": f"asgml.methods.{name}", **more}}

    def holds(rhythm: Asgml) -> bool:
        return bool(work_of({}, rhythm).free)

    assert work_of(method("PCGrad"), Asgml()).backwards == work_of(method("MMPareto"), Asgml()).backwards == 2
    assert work_of(method("UMT"), Asgml()).forwards == 2
    assert work_of(method("Uniform"), Asgml()) == Work()
    assert work_of(method("AMST"), Asgml()).free == {"hold"}
    assert holds(Asgml(mode="frequency", masking="hard"))
    assert holds(Asgml(mode="frequency", masking="hard", control="random_skip"))
    assert holds(Asgml(mode="adaptive", masking="hard", adaptive=Adaptive(kind="frequency")))
    assert not holds(Asgml(mode="frequency", masking="accumulate"))
    assert not holds(Asgml(mode="frequency", masking="hard", control="lr_matched"))
    assert not holds(Asgml(mode="staleness", masking="hard")), "a delayed gradient is computed, and applied later"


def test_operations_are_those_of_matrix_products(written: Path) -> None:
    config = read_runs([written / "runs" / "settle_grid_digit"])[0].config
    assert encoder_passes(config) == {"audio": Passes(180, 240), "visual": Passes(260, 320)}
