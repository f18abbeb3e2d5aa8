"""The report: what it reads, how it groups and compares, and that terminal, HTML, Markdown and LaTeX agree."""

from __future__ import annotations

import html
import io
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from rich.console import Console
from synthetic_runs import ADAPTIVE, FIVE, JOINT, OGM_GE, STALENESS, config_of, write_run

from asgml.report.multimodal import MULTIMODAL, prime_window
from callbacks.errors import UserError
from suite.report import compare_report, group_runs, labels, latex, markdown, read_run, read_runs, single_report
from suite.report.__main__ import main
from suite.report.data import EVENTS, HISTORY, read_table
from suite.report.frames import MAX_SHOWN, band, thin
from suite.report.html import render
from suite.report.sections import SECTIONS, Item, Section
from suite.report.summary import summary
from suite.report.tables import ABSENT, Cell, Column, Table, terminal


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Five configurations, three seeds, everything logged."""
    runs = tmp_path_factory.mktemp("finished")
    for kind in FIVE:
        for seed in range(3):
            write_run(runs, kind, seed, epochs=6, per_epoch=10)
    return runs


@pytest.fixture(scope="module")
def page(finished) -> str:
    return render(group_runs(read_runs([finished])))


def _text(tables, width=200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal(tables, width))
    return console.export_text()


def _plain(page: str) -> str:
    """What a reader sees: no scripts, no tags."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


# ---------------------------------------------------------------- reading


def test_every_run_is_found_once_from_runs_folder_experiment_folder_and_run_folder(finished):
    everything = read_runs([finished])
    assert len(everything) == 15
    assert len(read_runs([finished / "cremad_mini"])) == 15
    one = everything[0]
    assert [r.hash for r in read_runs([one.path])] == [one.hash]
    assert len(read_runs([finished, one.path])) == 15


def test_a_name_that_no_experiment_has_lists_those_there_are(finished):
    with pytest.raises(UserError, match="cremad_mini"):
        read_runs([finished], name="cremad")


def test_a_folder_without_runs_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no run"):
        read_runs([tmp_path])
    with pytest.raises(UserError, match="no such directory"):
        read_runs([tmp_path / "absent"])


def test_a_deleted_run_directory_still_counts_by_its_ledger_row(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=2)
    write_run(tmp_path, JOINT, 1, epochs=2)
    shutil.rmtree(folder)
    runs = read_runs([tmp_path])
    assert sorted(r.seed for r in runs) == [0, 1]
    gone = next(r for r in runs if r.seed == 0)
    assert gone.finished
    assert "only its ledger row" in gone.notes[0]
    assert "only its ledger row is left" in _plain(render(group_runs(runs)))


@pytest.mark.parametrize(
    ("name", "line", "number"),
    [
        ("history.csv", "7,0,train/loss,high\n", 3),
        ("history.csv", "7,0\n", 3),
        ("timeline.csv", "x,audio,hold,-1,1\n", 3),
    ],
)
def test_a_malformed_line_is_named(tmp_path, name, line, number):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    path = folder / name
    head = path.read_text().splitlines(keepends=True)[:2]
    path.write_text("".join(head) + line)
    run = read_run(folder)
    with pytest.raises(UserError, match=rf"{re.escape(name)}:{number}"):
        _ = run.history if name == "history.csv" else run.timeline


def test_an_unknown_action_a_wrong_header_and_a_broken_result_are_refused(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    (folder / "timeline.csv").write_text("step,modality,action,age,scale\n1,audio,sleep,-1,1.0\n")
    with pytest.raises(UserError, match="sleep"):
        _ = read_run(folder).timeline
    (folder / "history.csv").write_text("step,value\n1,2\n")
    with pytest.raises(UserError, match="step,epoch,name,value"):
        _ = read_run(folder).history
    (folder / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json"):
        read_run(folder)
    (folder / "result.json").write_text(json.dumps({"status": "happy", "seed": 0}))
    with pytest.raises(UserError, match="happy"):
        read_run(folder)


def test_a_line_still_being_written_is_left_out_and_said(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,epoch,name,value\n1,0,train/loss,2.0\n2,0,train/lo")
    table, note = read_table(path, HISTORY)
    assert len(table) == 1
    assert "incomplete" in note


def test_modality_names_and_details_survive_csv_quirks(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text('step,epoch,kind,detail\n3,0,NA,"a, ""quoted"" detail"\n')
    table, _ = read_table(path, EVENTS)
    assert table.iloc[0].to_dict() == {"step": 3, "epoch": 0, "kind": "NA", "detail": 'a, "quoted" detail'}


def test_rows_written_twice_by_a_resume_count_once(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1, per_epoch=4)
    path = folder / "history.csv"
    path.write_text("step,epoch,name,value\n1,0,train/loss,2.0\n2,0,train/loss,9.0\n2,0,train/loss,1.5\n")
    assert list(read_run(folder).series["train/loss"].value) == [2.0, 1.5]


# ---------------------------------------------------------------- labels and grouping


def test_labels_name_what_differs_and_never_the_seed():
    configs = [config_of(kind, seed) for kind in FIVE for seed in (0, 1)]
    assert labels(configs)[::2] == [
        "mode=sync",
        "method=ogm_ge",
        "mode=staleness tau=2",
        "mode=frequency tau=2",
        "mode=adaptive tau=2",
    ]
    assert labels(configs)[::2] == labels(configs)[1::2]


def test_labels_of_sweeps_targets_and_nested_keys():
    configs = [config_of(STALENESS, 0) for _ in range(3)]
    configs[1]["asgml"]["tau"] = {"audio": 4, "visual": 0}
    configs[2]["optimizer"] = {"_target_": "torch.optim.AdamW", "lr": 1e-4}
    configs[2]["trainer"]["devices"] = 4
    assert labels(configs) == [
        "optimizer=SGD tau=2",
        'optimizer=SGD tau={"audio":4,"visual":0}',
        "optimizer=AdamW tau=2",
    ]
    configs = [config_of(OGM_GE, 0) for _ in range(2)]
    configs[1]["methods"] = {"ogm_ge": {**OGM_GE["method"]["ogm_ge"], "alpha": 0.1}}
    assert labels(configs) == ["ogm_ge.alpha=0.8", "ogm_ge.alpha=0.1"]
    configs[1]["group_lr"] = {"audio": 1e-4}
    assert "group_lr.audio=0.0001" in labels(configs)[1]


def test_where_the_data_lie_is_no_difference():
    configs = [config_of(JOINT, seed) for seed in (0, 1)]
    for config, root in zip(configs, ["data", "/elsewhere/data"]):
        config["paths"]["data"] = root
        config["data"]["path"] = f"{root}/cremad_mini"
    assert len(set(labels(configs))) == 1
    configs[1]["data"]["path"] = "/elsewhere/data/other"
    assert labels(configs) == ["path=<data>/cremad_mini", "path=<data>/other"]


def test_a_given_label_is_used_but_never_pools_different_configurations():
    a, b, c = config_of(JOINT, 0), config_of(JOINT, 1), config_of(STALENESS, 0)
    assert labels([{**a, "label": "base"}, {**b, "label": "base"}, c]) == ["base", "base", "mode=staleness tau=2"]
    clash = labels([{**a, "label": "base"}, {**c, "label": "base"}])
    assert clash[0] != clash[1]
    assert all(text.startswith("base ") for text in clash)


def test_seeds_are_grouped_and_the_neutral_row_is_the_baseline(finished):
    (frames,) = group_runs(read_runs([finished]))
    assert frames.baseline == "mode=sync"
    assert frames.configurations[0].label == "mode=sync"
    assert [[r.seed for r in c.runs] for c in frames.configurations] == [[0, 1, 2]] * 5
    assert frames.modalities == ["audio", "visual"]


def test_a_baseline_can_be_named_and_a_wrong_one_lists_the_labels(finished):
    runs = read_runs([finished])
    assert group_runs(runs, "method=ogm_ge")[0].base.label == "method=ogm_ge"
    with pytest.raises(UserError, match="method=ogm_ge"):
        group_runs(runs, "method=none such")


def test_a_seed_run_twice_counts_once_and_this_is_said(tmp_path):
    write_run(tmp_path, JOINT, 0, epochs=1)
    other = write_run(tmp_path / "again", JOINT, 0, epochs=1)
    (frames,) = group_runs(read_runs([tmp_path, other]))
    assert [r.seed for r in frames.configurations[0].runs] == [0]
    assert "several runs of seed 0" in frames.notes[0]


# ---------------------------------------------------------------- numbers


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


def test_terminal_html_markdown_and_latex_show_the_same_numbers(finished, page):
    (frames,) = group_runs(read_runs([finished]))
    tables = summary(frames)
    shown = {"terminal": _text(tables), "html": _plain(page), "markdown": markdown(tables)}
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
    rows = [[Cell("the one"), Cell(m), *(Cell(str(i)) for i in range(9))] for m in ("text", "wire")]
    text = _text([Table("", columns, rows)], width=60)
    blocks = text.count("configuration")
    assert blocks > 1
    assert text.count("wire") == text.count("method") == blocks


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


# ---------------------------------------------------------------- curves


def test_a_nan_is_a_gap_in_the_mean_and_is_reported(tmp_path):
    for seed in (0, 1):
        folder = write_run(tmp_path, JOINT, seed, epochs=2, per_epoch=5)
        if seed:
            path = folder / "history.csv"
            path.write_text(re.sub(r"^4,0,train/loss,.*$", "4,0,train/loss,nan", path.read_text(), flags=re.M))
    (frames,) = group_runs(read_runs([tmp_path]))
    curve = band(frames.configurations[0].runs, "train/loss", "step")
    assert list(np.flatnonzero(~np.isfinite(curve.mean))) == [3]
    assert "train/loss is not finite from step 4" in _plain(render([frames]))


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
    runs = by_label["mode=frequency tau=2"].runs
    seconds = band(runs, "val/accuracy", "seconds").x[-1]
    assert seconds == pytest.approx(np.mean([r.series["time/step_ms"].value.sum() for r in runs]) / 1000)
    slow = band(runs, "val/accuracy", "updates").x[-1]
    full = band(by_label["mode=sync"].runs, "val/accuracy", "updates").x[-1]
    assert 0.6 < slow / full < 0.75
    assert band(runs, "val/accuracy", "step").x[-1] == 60


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
    from plotly.offline import get_plotlyjs

    size = len(single_report(folder).read_text()) - len(get_plotlyjs())
    assert size < 400_000


# ---------------------------------------------------------------- the page


def test_the_page_loads_nothing_from_anywhere(page):
    outside = re.sub(
        r"<script\b[^>]*>.*?</script>", lambda m: m.group(0)[: m.group(0).index(">") + 1], page, flags=re.S
    )
    assert not re.search(r"<(?:script|img|iframe|source)\b[^>]*\ssrc\s*=", outside)
    assert "<link" not in outside
    assert "@import" not in outside
    assert not re.search(r"url\(\s*['\"]?(?!data:)", outside)
    assert not re.search(r"https?://", outside)
    assert "default-src 'none'" in outside
    assert page.count("/*! For license information") <= 1
    assert page.count("Plotly.newPlot(el") == 1


def test_every_section_is_there_when_its_data_are(page):
    plain = _plain(page)
    for section in MULTIMODAL:
        assert re.search(rf"<h2>{re.escape(html.escape(section.title))}</h2>", page), section.title
    assert "Not shown" not in plain
    for word in ("delayed update", "modality missing", "holds still", "audio probe (EMA)", "visual head", "fused"):
        assert word in plain
    figures = re.findall(r'<script type="application/json">(.*?)</script>', page, flags=re.S)
    assert len(figures) > 40
    for text in figures[::4]:
        figure = json.loads(text)
        go.Figure(figure)  # Plotly's own schema: a misspelt property is an error
        layout = figure["layout"]
        for axis in ("xaxis", "yaxis"):
            title = layout[axis].get("title", {}).get("text")
            assert title or (axis == "yaxis" and "heatmap" in text), layout


def test_modalities_have_one_colour_in_all_figures(page):
    seen: dict[str, set[str]] = {}
    for text in re.findall(r'<script type="application/json">(.*?)</script>', page, flags=re.S):
        for trace in json.loads(text)["data"]:
            name = (trace.get("name") or "").split(" ")[0]
            if name in ("audio", "visual") and "color" in trace["line"]:  # the edges of a band have none
                seen.setdefault(name, set()).add(trace["line"]["color"])
    assert {name: len(colours) for name, colours in seen.items()} == {"audio": 1, "visual": 1}
    assert seen["audio"] != seen["visual"]


def test_a_section_without_data_is_one_line(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=2)
    (folder / "timeline.csv").unlink()
    text = (folder / "history.csv").read_text()
    (folder / "history.csv").write_text("".join(x for x in text.splitlines(keepends=True) if "fisher/" not in x))
    page = single_report(folder).read_text()
    assert "<h2>Updates and staleness</h2>" not in page
    assert "Updates and staleness : no timeline.csv." in re.sub(r"\s+", " ", _plain(page))
    assert "Fisher trace : no fisher/ in history.csv." in re.sub(r"\s+", " ", _plain(page))


def test_a_run_without_any_history_still_gets_a_report(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, history=False, predictions=False)
    plain = _plain(single_report(folder).read_text())
    assert "Not shown" in plain
    assert f"{100 * read_run(folder).result['test']['accuracy']:.2f}" in plain


def test_failed_and_running_runs_are_shown_as_such_and_do_not_count(tmp_path):
    for seed in range(3):
        write_run(tmp_path, JOINT, seed, epochs=2)
        write_run(tmp_path, STALENESS, seed, epochs=2, status=("finished", "failed", "running")[seed])
    (frames,) = group_runs(read_runs([tmp_path]))
    row = summary(frames)[0].rows[1]
    assert row[1].text == "1 of 3 (1 failed, 1 running)"
    assert "±" not in row[2].text
    page = render([frames])
    assert '<span class="status failed">failed</span>' in page
    assert '<span class="status running">running</span>' in page
    assert "ValueError: loss is NaN<br>at step 12" in page
    assert "<details open><summary>All runs" in page


def test_numbers_of_a_run_that_was_stopped_do_not_enter_the_mean(tmp_path):
    write_run(tmp_path, JOINT, 0, epochs=1)
    folder = write_run(tmp_path, JOINT, 1, epochs=1)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "status": "stopped"}))
    (frames,) = group_runs(read_runs([tmp_path]))
    row = summary(frames)[0].rows[0]
    assert row[1].text == "1 of 2 (1 stopped)"
    assert row[2].value == pytest.approx(100 * frames.configurations[0].runs[0].result["test"]["accuracy"])


def test_a_run_that_has_just_started_has_a_report(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, status="running", epochs=1, per_epoch=3)
    (tmp_path / "ledger.jsonl").unlink()
    assert read_run(folder).status == "running"
    plain = _plain(single_report(folder).read_text())
    assert "No run has finished yet" in plain


def test_a_report_written_by_the_run_itself_has_its_numbers(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "status": "running", "test": None, "test_best": None}))
    plain = _plain(single_report(folder, {"test": {"accuracy": 0.123456}, "test_best": None}).read_text())
    assert "12.35" in plain
    assert "1 finished" in plain
    assert read_run(folder).status == "running"


def test_the_fusion_group_is_not_taken_for_a_modality(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    with (folder / "history.csv").open("a") as history:
        history.write("5,0,fisher/fusion,1.0\n")
    (frames,) = group_runs([read_run(folder)])
    assert frames.modalities == ["audio", "visual"]
    assert frames.groups == ["audio", "visual", "fusion"]


def test_user_text_is_escaped(tmp_path):
    write_run(tmp_path, JOINT, 0, epochs=1, label="<b>bold</b> & co")
    folder = write_run(tmp_path, STALENESS, 0, epochs=1, status="failed")
    result = json.loads((folder / "result.json").read_text())
    result["error"] = "</script><script>alert(1)</script>"
    (folder / "result.json").write_text(json.dumps(result))
    page = render(group_runs(read_runs([tmp_path])))
    assert "<b>bold" not in page
    assert "<script>alert" not in page


def test_many_configurations_keep_all_rows_but_few_panels(tmp_path):
    for i in range(12):
        kind = {**STALENESS, "tau": i, "level": 0.5 + 0.01 * i}
        write_run(tmp_path, kind, 0, epochs=2, per_epoch=4, predictions=False)
    write_run(tmp_path, JOINT, 0, epochs=2, per_epoch=4, predictions=False)
    (frames,) = group_runs(read_runs([tmp_path]))
    assert len(summary(frames)[0].rows) == 13
    assert [c.label for c in frames.configurations][1:4] == [
        "mode=staleness tau=0",
        "mode=staleness tau=1",
        "mode=staleness tau=2",
    ]
    shown, sentence = frames.shown(lambda run: True)
    assert len(shown) == MAX_SHOWN
    assert shown[0].label == frames.baseline == "mode=sync"
    assert "8 of 13" in sentence


def test_experiments_are_chapters_and_are_never_compared_with_each_other(tmp_path):
    for experiment in ("cremad_mini", "avdigits"):
        for kind in (JOINT, ADAPTIVE):
            write_run(tmp_path, kind, 0, epochs=1, experiment=experiment)
    out = compare_report([tmp_path], tmp_path / "all.html")
    page = out.read_text()
    assert "cremad_mini: summary" in page
    assert "avdigits: summary" in page
    assert all(len(f.configurations) == 2 for f in group_runs(read_runs([tmp_path])))


def test_one_or_seven_modalities_are_drawn(tmp_path):
    names = tuple(f"m{i}" for i in range(7))
    for count in (1, 7):
        folder = write_run(tmp_path / str(count), JOINT, 0, epochs=2, per_epoch=5, modalities=names[:count])
        plain = _plain(single_report(folder).read_text())
        assert all(f"{m} head" in plain for m in names[:count])


def test_another_program_brings_its_own_sections(tmp_path, monkeypatch):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "program": "wire"}))
    own = Section("Capacity", lambda frames: [Item("F1 over bytes", f"<p>{len(frames.runs)} run</p>")], "nothing")
    monkeypatch.setitem(SECTIONS, "wire", [own])
    plain = _plain(single_report(folder).read_text())
    assert "Capacity" in plain
    assert "1 run" in plain
    assert "Prime learning window" not in plain


# ---------------------------------------------------------------- the command


def test_the_command_prints_the_table_and_writes_the_page(finished, tmp_path, capsys):
    out = tmp_path / "deep" / "report.html"
    assert main([str(finished), "--name", "cremad_mini", "--out", str(out), "--baseline", "method=ogm_ge"]) == 0
    printed = capsys.readouterr().out
    assert "Test results" in printed
    assert "mode=staleness tau=2" in printed
    assert out.is_file()
    assert "against “method=ogm_ge”" in out.read_text()
    assert not list(out.parent.glob("*.part"))
    assert main([str(finished), "--table", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("**Test results**")


def test_the_command_tells_a_user_error_in_one_screen(finished, capsys):
    assert main([str(finished), "--baseline", "nobody"]) == UserError.EXIT_CODE
    assert "remedy" in capsys.readouterr().err


def test_a_run_links_to_its_own_report_by_a_relative_path(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    write_run(tmp_path, STALENESS, 0, epochs=1)
    single_report(folder)
    page = compare_report([tmp_path], tmp_path / "report.html").read_text()
    assert f'<a href="cremad_mini/{folder.name}/report.html">' in page
    assert str(tmp_path) not in page
