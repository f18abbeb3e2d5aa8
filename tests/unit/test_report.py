"""The report's page: what it shows of which runs, and the command that writes it."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from pathlib import Path

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs
from synthetic_runs import ADAPTIVE, JOINT, STALENESS, as_read, write_five, write_run

from asgml.report.multimodal import MULTIMODAL
from asgml.report.naming import groups, modalities
from callbacks.errors import UserError
from suite.report import (
    Item,
    ProgramReport,
    Section,
    compare_report,
    group_runs,
    read_run,
    read_runs,
    single_report,
)
from suite.report.__main__ import main
from suite.report.frames import MAX_SHOWN
from suite.report.html import render
from suite.report.library import library_name, library_of
from suite.report.registry import PROGRAMS
from suite.report.summary import summary


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return write_five(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def page(finished) -> str:
    return render(group_runs(read_runs([finished])))


def test_the_page_loads_nothing_but_the_library_beside_it(page):
    outside = re.sub(
        r"<script\b[^>]*>.*?</script>", lambda m: m.group(0)[: m.group(0).index(">") + 1], page, flags=re.S
    )
    assert re.findall(r"<(?:script|img|iframe|source)\b[^>]*\ssrc\s*=[^>]*>", outside) == [
        f'<script src="{library_name()}">'  # beside the page
    ]
    assert "<link" not in outside
    assert "@import" not in outside
    assert not re.search(r"url\(\s*['\"]?(?!data:)", outside)
    assert not re.search(r"https?://", outside)
    assert "default-src 'none'" in outside


def test_a_page_is_small_and_its_folder_holds_what_draws_its_figures(finished, tmp_path):
    """Wherever the folder is moved to: the library lies in it, once for all its pages, and unpacks to plotly.js."""
    pages = [compare_report([finished], tmp_path / name) for name in ("all.html", "report.html")]
    assert all(page.stat().st_size < 1_500_000 for page in pages)
    (library,) = library_of(tmp_path)
    assert library.name == library_name()
    packed = re.search(r'plotlyGzip="([^"]+)"', library.read_text()).group(1)
    script = gzip.decompress(base64.b64decode(packed)).decode()
    assert script == get_plotlyjs()


def test_a_page_without_figures_brings_no_library(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, history=False, predictions=False)
    page = single_report(folder).read_text()
    assert library_of(folder) == []
    assert "<script src" not in page


def test_every_section_is_there_when_its_data_are(page):
    plain = as_read(page)
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
    assert "Updates and staleness : no rows in timeline.csv." in re.sub(r"\s+", " ", as_read(page))
    assert "Fisher trace : no fisher/ in history.csv." in re.sub(r"\s+", " ", as_read(page))


def test_a_run_without_any_history_still_gets_a_report(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, history=False, predictions=False)
    plain = as_read(single_report(folder).read_text())
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
    plain = as_read(single_report(folder).read_text())
    assert "No run has finished yet" in plain


def test_a_report_written_by_the_run_itself_has_its_numbers(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "status": "running", "test": None, "test_best": None}))
    plain = as_read(single_report(folder, {"test": {"accuracy": 0.123456}, "test_best": None}).read_text())
    assert "12.35" in plain
    assert "1 finished" in plain
    assert read_run(folder).status == "running"


def test_the_fusion_group_is_not_taken_for_a_modality(tmp_path):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    with (folder / "history.csv").open("a") as history:
        history.write("5,0,fisher/fusion,1.0\n")
    (frames,) = group_runs([read_run(folder)])
    assert modalities(frames) == ["audio", "visual"]
    assert groups(frames) == ["audio", "visual", "fusion"]


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
        plain = as_read(single_report(folder).read_text())
        assert all(f"{m} head" in plain for m in names[:count])


def test_another_program_brings_its_own_sections(tmp_path, monkeypatch):
    folder = write_run(tmp_path, JOINT, 0, epochs=1)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "program": "other"}))
    own = Section("Capacity", lambda frames: [Item("F1 over bytes", f"<p>{len(frames.runs)} run</p>")], "nothing")
    monkeypatch.setitem(PROGRAMS, "other", ProgramReport([own]))
    plain = as_read(single_report(folder).read_text())
    assert "Capacity" in plain
    assert "1 run" in plain
    assert "Prime learning window" not in plain


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


def test_a_page_of_many_experiments_leaves_their_figures_to_a_page_each(tmp_path, monkeypatch):
    for experiment in ("one", "two"):
        for kind in (JOINT, STALENESS):
            write_run(tmp_path / "runs", kind, 0, epochs=2, experiment=experiment, predictions=False)
    monkeypatch.setattr("suite.report.html.LARGEST", 50_000)
    page = compare_report([tmp_path / "runs"], tmp_path / "report.html").read_text()
    assert '<div class="figure"' not in page
    assert page.count("Verdict") == page.count("Test results") == 2
    for name in ("report_1_one.html", "report_2_two.html"):
        assert f'<a href="{name}">' in page
        assert '<div class="figure"' in (tmp_path / name).read_text()
    assert [path.name for path in library_of(tmp_path)] == [library_name()]
