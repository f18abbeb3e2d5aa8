"""The report's numbers: tables against scipy, curves against the logged values, one text in every rendering."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from synthetic_runs import FREQUENCY, JOINT, STALENESS, as_read, write_five, write_run

from asgml.report.multimodal import prime_window
from asgml.report.timeline import UPDATES
from callbacks.run.history import ActionCounts
from suite.report import group_runs, latex, markdown, read_run, read_runs, single_report
from suite.report.frames import SECONDS, STEPS, band, thin
from suite.report.html import render
from suite.report.summary import summary
from suite.report.tables import ABSENT, Cell, Column, Table, terminal


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return write_five(tmp_path_factory.mktemp("finished"))


def _text(tables, width=200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal(tables, width))
    return console.export_text()


def test_the_table_has_the_t_interval_and_the_paired_difference(finished):
    from scipy import stats

    (frames,) = group_runs(read_runs([finished]))
    table = summary(frames)[0]
    titles = [c.title.replace("\n", " ") for c in table.columns]
    rows = {row[0].text: dict(zip(titles, row)) for row in table.rows}

    def accuracy(label):
        c = next(c for c in frames.configurations if c.label == label)
        return np.array([100 * r.result["test_best"]["accuracy"] for r in c.runs])

    a, b = accuracy("method=ogm_ge"), accuracy("mode=sync")
    low, high = stats.t.interval(0.95, 2, loc=a.mean(), scale=stats.sem(a))
    cell = rows["method=ogm_ge"]["accuracy % best val. epoch"]
    assert cell.text == f"{a.mean():.2f} ± {(high - low) / 2:.2f}"
    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval()
    delta = rows["method=ogm_ge"]["Δ accuracy best val. [95 %]"].text.replace("−", "-")
    shown = [float(x) for x in re.findall(r"[-+]?\d+\.\d+", delta)]
    assert shown == pytest.approx([(a - b).mean(), interval.low, interval.high], abs=0.0051)
    assert rows["method=ogm_ge"]["p paired t"].text == f"{test.pvalue:.3g}"
    raw = [rows[c.label]["p paired t"].value for c in frames.configurations[1:]]
    adjusted = [rows[c.label]["p Holm"].value for c in frames.configurations[1:]]
    assert min(adjusted) == pytest.approx(min(1.0, 4 * min(raw)))
    assert rows["mode=sync"]["p paired t"].text == ABSENT
    assert "*" not in _text([table])


def test_terminal_html_markdown_and_latex_show_the_same_numbers(finished):
    (frames,) = group_runs(read_runs([finished]))
    tables = summary(frames)
    shown = {"terminal": _text(tables), "html": as_read(render([frames])), "markdown": markdown(tables)}
    as_latex = latex(tables)
    for table in tables:
        for row in table.rows:
            for cell in row[1:]:
                for part in cell.text.split("\n"):
                    for name, text in shown.items():
                        assert part in text, (name, part)
                    plain = as_latex.replace("$-$", "−").replace(r"$\pm$", "±").replace("---", "—")
                    assert part in plain, ("latex", part)
        for note in table.notes:
            assert re.sub(r"\s+", "", note) in re.sub(r"\s+", "", shown["terminal"])
            assert note in shown["html"]


def test_a_narrow_terminal_breaks_the_table_into_blocks_without_losing_a_number(finished):
    (frames,) = group_runs(read_runs([finished]))
    tables = summary(frames)
    text = _text(tables, width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(part in text for row in tables[0].rows for cell in row for part in cell.text.split("\n"))


def test_every_block_of_a_broken_table_says_which_row_is_which():
    columns = [Column("configuration", False), Column("method", False), *(Column(f"number {i}") for i in range(9))]
    rows = [[Cell("the one"), Cell(m), *(Cell(f"{m}{i}") for i in range(9))] for m in ("a", "b")]
    text = _text([Table("", columns, rows)], width=60)
    blocks = text.count("configuration")
    assert blocks > 1
    assert text.count("│ b ") == text.count("method") == blocks


def test_one_seed_has_no_interval_no_test_and_says_why(tmp_path):
    write_run(tmp_path, JOINT, 0, epochs=2)
    write_run(tmp_path, STALENESS, 0, epochs=2)
    (frames,) = group_runs(read_runs([tmp_path]))
    table, samples, _ = summary(frames)
    assert "±" not in "".join(cell.text for row in table.rows for cell in row)
    assert "p\nHolm" not in [c.title for c in table.columns]
    assert any("1 seed: no interval" in note for note in table.notes)
    assert samples.title == "Over test samples"
    assert any("McNemar" in c.title for c in samples.columns)


def test_a_metric_that_a_run_lacks_is_a_dash_and_never_zero(tmp_path):
    write_run(tmp_path, JOINT, 0, epochs=1)
    folder = write_run(tmp_path, STALENESS, 0, epochs=1)
    result = json.loads((folder / "result.json").read_text())
    del result["test_best"]["map"]
    result["test_best"]["macro_f1"] = math.nan
    (folder / "result.json").write_text(json.dumps(result))
    (frames,) = group_runs(read_runs([tmp_path]))
    table = summary(frames)[0]
    row = dict(zip([c.title.split(" %")[0] for c in table.columns], table.rows[1]))
    assert row["mAP"].text == ABSENT
    assert row["macro F1"].text == "not finite (seed 0)"


def test_counters_may_be_nested_or_flat(tmp_path):
    folder = write_run(tmp_path, STALENESS, 0, epochs=1)
    nested = read_run(folder)
    assert set(nested.counter("held")) == {"audio", "visual"}
    nested.result["counters"] = {"held/audio": 3, "skipped": 2}
    assert nested.counter("held") == {"audio": 3.0}
    assert nested.counter("skipped") == {"": 2.0}
    assert nested.counter("dropped") == {}


def test_runs_with_other_test_samples_are_not_paired(tmp_path):
    write_run(tmp_path, JOINT, 0, epochs=1)
    folder = write_run(tmp_path, STALENESS, 0, epochs=1)
    path = folder / "predictions_best.npz"
    arrays = dict(np.load(path))
    arrays["index"] = arrays["index"] + 1000
    np.savez(path, **arrays)
    (frames,) = group_runs(read_runs([tmp_path]))
    samples = summary(frames)[1]
    assert "different" in samples.notes[0]
    assert all(ABSENT in row[-1].text or "baseline" in row[-1].text or "[" in row[-1].text for row in samples.rows)


def test_the_prime_window_is_where_the_fisher_trace_is_half_its_peak(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    lines = ["step,epoch,name,value"]
    trace = [1.0, 4.0, 8.0, 8.0, 8.0, 7.0, 6.0, 3.9, 3.0, 2.0, 1.0, 1.0]
    for i, value in enumerate(trace):
        step = 10 * (i + 1)
        lines += [
            f"{step},{i},fisher/visual,{value}",
            f"{step},{i},val/loss,1.0",
            f"{step},{i},probe/accuracy/visual,0.{i:02d}",
        ]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    run = read_run(folder)
    # Running median of 5: the first value at or below 4 after the peak is that of epoch index 7 (3.9).
    assert prime_window(run, "visual") == (8.0, 0.07)
    assert prime_window(run, "audio") is None


def test_a_nan_is_a_gap_in_the_mean_and_is_reported(tmp_path):
    for seed in (0, 1):
        folder = write_run(tmp_path, JOINT, seed, epochs=2, per_epoch=5)
        if seed:
            path = folder / "history.csv"
            path.write_text(re.sub(r"^4,0,train/loss,.*$", "4,0,train/loss,nan", path.read_text(), flags=re.M))
    (frames,) = group_runs(read_runs([tmp_path]))
    curve = band(frames.configurations[0].runs, "train/loss", STEPS)
    assert list(np.flatnonzero(~np.isfinite(curve.mean))) == [3]
    assert "train/loss is not finite from step 4" in as_read(render([frames]))


def test_the_band_is_the_range_over_seeds_and_the_line_their_mean(finished):
    (frames,) = group_runs(read_runs([finished]))
    runs = frames.configurations[0].runs
    curve = band(runs, "val/accuracy")
    table = np.stack([r.series["val/accuracy"].value for r in runs])
    np.testing.assert_allclose(curve.mean, table.mean(0))
    np.testing.assert_allclose(curve.low, table.min(0))
    np.testing.assert_allclose(curve.high, table.max(0))
    np.testing.assert_allclose(curve.x, np.arange(1, 7))


def test_the_axes_count_steps_updates_and_seconds(finished):
    (frames,) = group_runs(read_runs([finished]))
    by_label = {c.label: c for c in frames.configurations}
    runs = by_label["mode=frequency"].runs
    seconds = band(runs, "val/accuracy", SECONDS).x[-1]
    assert seconds == pytest.approx(np.mean([r.series["time/step_ms"].value.sum() for r in runs]) / 1000)
    slow = band(runs, "val/accuracy", UPDATES).x[-1]
    full = band(by_label["mode=sync"].runs, "val/accuracy", UPDATES).x[-1]
    assert 0.6 < slow / full < 0.75
    assert band(runs, "val/accuracy", STEPS).x[-1] == 60


def test_soft_and_fusion_only_steps_are_no_updates_on_the_axis_or_in_the_table(tmp_path):
    """In 3 of 4 steps audio moves in part; the mean over two encoders is (1 + 4) / 2 updates per 4 steps."""
    folder = write_run(tmp_path, FREQUENCY, 0, epochs=2, per_epoch=10)
    done = ActionCounts(["audio", "visual"])
    rows = ["step,modality,action,age,scale"]
    for t in range(20):
        for m, action in (("audio", ["update", "soft", "fusion", "soft"][t % 4]), ("visual", "update")):
            done.book(m, action)
            rows.append(f"{t + 1},{m},{action},0,1.0")
    (folder / "timeline.csv").write_text("\n".join(rows) + "\n")
    result = json.loads((folder / "result.json").read_text())
    result["counters"] = done.table()
    (folder / "result.json").write_text(json.dumps(result))
    (frames,) = group_runs([read_run(folder)])
    steps, updates = UPDATES.table(frames.runs[0]) or ((), ())
    assert steps[-1] == 20
    assert updates[-1] == 5 * (1 + 4) / 2
    table = next(t for t in summary(frames) if t.title == "Cost and schedule")
    titles = [c.title for c in table.columns]
    assert table.rows[0][titles.index("steps: updates / soft / fusion")].text.split("\n") == [
        "audio 5 / 10 / 5",
        "visual 20 / 0 / 0",
    ]


def test_thinning_keeps_peaks_gaps_and_ends():
    y = np.random.default_rng(0).normal(size=50_000)
    y[777], y[30_000], y[40_000] = 99.0, -99.0, np.nan
    kept = thin(y, y, 1500)
    assert kept.size <= 1500
    assert {0, 777, 30_000, 40_000, 49_999} <= set(kept.tolist())


def test_long_series_are_thinned_in_the_page(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=2, per_epoch=10)
    rows = "".join(f"{i},0,train/loss,{1 / i}\n" for i in range(1, 40_001))
    (folder / "history.csv").write_text("step,epoch,name,value\n" + rows)
    assert single_report(folder).stat().st_size < 400_000
