"""Tables and figures that fit: constants in a line, long tables folded, few seeds and few points said as such."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from synthetic_runs import JOINT, STALENESS, as_read, write_run

from asgml.report.confusion import no_confusion
from suite.report import figures as fig
from suite.report import group_runs, read_runs, single_report, terminal
from suite.report.html import render
from suite.report.sections import dots_table
from suite.report.summary import summary
from suite.report.tables import FOLDED, INTERVALS, Cell, Column, Table, as_html, columns, difference, estimate, texts
from suite.statistics import mean_interval, paired_t


def printed(table: Table, width: int = 120, whole: str = "") -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(terminal([table], width, whole))
    return console.file.getvalue()


SWEEP = Table(
    "Sweep", columns("gamma", "data", numbers=["seeds", "score"]), [texts(g, "mini", 5, g * 2) for g in (1, 2)]
)


def test_what_all_rows_share_is_one_line_above_and_no_column():
    left, told = SWEEP.without_constants()
    assert [c.title for c in left.columns] == ["gamma", "score"]
    assert told == "The same in all rows: data mini; seeds 5."
    for shown in (as_read(as_html(SWEEP)), printed(SWEEP)):
        assert told in shown
        assert shown.count("mini") == 1
    assert len(SWEEP.columns) == 4  # Markdown and LaTeX have the whole table


def test_one_row_keeps_all_its_columns_and_the_first_column_names_rows_in_any_case():
    one = Table("", SWEEP.columns, SWEEP.rows[:1])
    assert one.without_constants() == (one, "")
    same = Table("", columns("name", "kind"), [texts("a", "x"), texts("a", "y")])
    assert same.without_constants() == (same, "")


def test_rows_of_reference_such_as_chance_do_not_make_a_constant_vary_but_must_not_contradict_it():
    rows = [*SWEEP.rows, texts("chance", "—", "—", 1)]
    left, told = Table("", SWEEP.columns, rows, outside={2}).without_constants()
    assert "data mini; seeds 5" in told
    assert [row[0].text for row in left.rows] == ["1", "2", "chance"]
    rows[2] = texts("chance", "maxi", "—", 1)
    assert "data" not in Table("", SWEEP.columns, rows, outside={2}).without_constants()[1]


def test_a_long_table_is_folded_where_it_stands_whole_elsewhere_and_says_so():
    table = Table("Rows", columns("name", numbers=["n"]), [texts(f"row{i}", i) for i in range(FOLDED + 7)])
    shown = printed(table, whole="runs/report.html")
    assert f"row{FOLDED - 1} " in shown
    assert f"row{FOLDED} " not in shown
    assert f"7 of {FOLDED + 7} rows are folded: all are in runs/report.html" in shown
    assert f"row{FOLDED + 6}" in printed(table)  # nowhere else: nothing is folded
    assert "folded" not in printed(Table("", table.columns, table.rows[:FOLDED]), whole="runs/report.html")


def test_a_judgement_is_said_by_word_and_sign_and_only_then_by_colour():
    cells = [Cell("✗ FAIL", look="bad"), Cell("✓ PASS", look="good")]
    page = as_html(Table("", columns("rule", "verdict"), [[Cell("a"), cells[0]], [Cell("b"), cells[1]]]))
    assert '<td class="txt bad brief">✗ FAIL</td>' in page
    assert '<td class="txt good brief">✓ PASS</td>' in page


@pytest.mark.parametrize("values", [[0.6], [0.6, 0.7], [0.6, 0.7, 0.65]])
def test_an_interval_is_shown_from_three_seeds_on_and_told_on_hover_for_two(values):
    cell = estimate(dict(enumerate(values)), 100.0)
    half = mean_interval([100 * v for v in values]).half_width
    assert (" ± " in cell.text) == (len(values) >= 3)
    assert (
        (f"± {half:.2f}" in cell.text + cell.hint) == (len(values) >= 2) if half is not None else "±" not in cell.hint
    )
    got = difference(paired_t(values, [0.5, 0.52, 0.51][: len(values)]).difference, 100.0)
    assert ("[" in got.text) == (len(values) >= 3)
    assert ("[" in got.hint) == (len(values) == 2)


def test_the_reason_for_missing_intervals_is_told_and_true(tmp_path):
    interval = mean_interval([0.0, 1.0])
    assert f"{interval.high - interval.low:.1f} times as wide as they lie apart" in INTERVALS
    for seed in range(2):
        for kind in (JOINT, STALENESS):
            write_run(tmp_path, kind, seed, history=False, predictions=False)
    (frames,) = group_runs(read_runs([tmp_path]))
    table = summary(frames)[0]
    assert all("±" not in cell.text and "[" not in cell.text for row in table.rows for cell in row)
    assert any(INTERVALS in note for note in table.notes)


def curve(points: int) -> fig.Figure:
    x = np.arange(1.0, points + 1)
    traces = [fig.trace_of(x, x / 10, "edge", hoverinfo="skip"), fig.trace_of(x, x / 8, "a & b")]
    return fig.style(traces, xaxis=fig.axis_of("epochs"), yaxis=fig.axis_of("loss (nats)"))


@pytest.mark.parametrize("points", [1, 3, 4])
def test_three_points_or_fewer_are_a_table_and_no_figure(points):
    told = dots_table([("", curve(points))])
    assert (told is None) == (points > 3)
    if told is not None:
        shown = as_read(told)
        assert "epochs" in shown
        assert "loss (nats)" in shown
        assert "a & b" in shown
        assert f"{points / 8:.4f}" in shown
        assert "edge" not in shown


def test_panels_are_told_together_and_maps_and_areas_are_always_drawn():
    assert as_read(dots_table([("one", curve(2)), ("two", curve(3))])).count("0.1250") == 2
    assert dots_table([("one", curve(2)), ("two", curve(9))]) is None
    assert fig.few_dots(fig.matrix(np.eye(2, dtype=int), ["a", "b"], "x", "y")) is None
    assert fig.few_dots(fig.bars(["a"], {"n": ([1.0], "#000000")}, "n")) is None


def test_a_run_of_two_epochs_tells_its_losses_in_a_table(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1, predictions=False)
    lines = ["step,epoch,name,value", "10,0,val/loss,0.75", "20,1,val/loss,0.5"]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    page = single_report(folder).read_text()
    section = page[page.index("<h2>Loss</h2>") :].partition("</section>")[0]
    assert "0.7500" in section
    assert 'class="figure"' not in section
    assert 'class="legend"' not in section


def _not_shown(page: str) -> dict[str, str]:
    return dict(re.findall(r"<li><b>([^<]+)</b>: ([^<]+)</li>", page[page.index("<h2>Not shown</h2>") :]))


def test_what_is_not_shown_is_told_with_a_reason_that_is_true(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=2)
    told = _not_shown(single_report(folder).read_text())
    assert told["Validation accuracy"] == "there is one configuration only; its accuracy is among the learning curves."
    text = (folder / "history.csv").read_text()
    kept = [line for line in text.splitlines(keepends=True) if ",val/accuracy" not in line]
    (folder / "history.csv").write_text("".join(kept))
    told = _not_shown(single_report(folder).read_text())
    assert told["Validation accuracy"] == "no val/accuracy in history.csv."


def test_a_missing_confusion_matrix_says_which_of_its_reasons_holds(tmp_path):
    def reason(runs: Path) -> str:
        return no_confusion(group_runs(read_runs([runs]))[0])

    write_run(tmp_path / "a", JOINT, 0, epochs=1, predictions=False)
    assert "no class predictions" in reason(tmp_path / "a")
    folder = write_run(tmp_path / "b", JOINT, 0, epochs=1)
    path = folder / "predictions_best.npz"
    arrays = dict(np.load(path))
    many = np.zeros((len(arrays["y"]), 60), arrays["prob"].dtype)
    many[:, : arrays["prob"].shape[1]] = arrays["prob"]
    np.savez(path, **(arrays | {"prob": many}))
    assert "60 classes are too many" in reason(tmp_path / "b")


def test_every_figure_can_be_saved_and_every_page_switched(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=6)
    page = single_report(folder).read_text()
    figures = page.count('<div class="figure"')
    assert figures > 5
    assert page.count('data-format="svg"') == page.count('data-format="png"') == figures
    assert page.count('<button id="theme"') == 1
    assert "color-scheme:light dark" in page


def test_every_table_stands_in_a_box_that_scrolls_and_says_so(tmp_path):
    write_run(tmp_path, JOINT, 0, epochs=6)
    page = render(group_runs(read_runs([tmp_path])))
    assert page.count("<table>") == len(
        re.findall(r'<div class="cue">[^<]+</div><div class="scroll[^>]*><table>', page)
    )


def test_hidden_numbers_stay_numbers(tmp_path):
    """A constant column is told with the same text as its cells: nothing is rounded again."""
    rows = [[Cell(n), Cell("3.14", 3.14159), Cell(v)] for n, v in (("a", "1"), ("b", "2"))]
    _, told = Table("", [Column("name", False), Column("pi\nrad"), Column("v")], rows).without_constants()
    assert told == "The same in all rows: pi rad 3.14."


@pytest.mark.parametrize(("low", "high"), [(4, 8.2), (0.003, 40), (1e-7, 1e4), (120, 900), (1, 1)])
def test_a_logarithmic_axis_has_some_readable_marks_within_its_values(low, high):
    axis = fig.log_ticks(low, high)
    inside = [v for v in axis["tickvals"] if low / 1.001 <= v <= high * 1.001]
    assert 1 <= len(inside) <= 10
    assert axis["tickvals"] == sorted(axis["tickvals"])
    for value, text in zip(axis["tickvals"], axis["ticktext"], strict=True):
        factor, _, power = text.partition("10<sup>")
        told = float(factor.rstrip("·") or 1) * 10.0 ** int(power.removesuffix("</sup>")) if power else float(text)
        assert told == pytest.approx(value)
