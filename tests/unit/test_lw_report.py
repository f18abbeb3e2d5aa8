"""Reports of wires: tables, capacity curve, answers, verdicts, from what an evaluation writes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from lw_toys import tiny_lm
from rich.console import Console
from synthetic_runs import as_read
from test_lw_evaluator import PASSAGES, FirstTokens

from callbacks.errors import UserError
from latentwire.baselines.budget import TokenBudget
from latentwire.baselines.text import NoContext, Text
from latentwire.report.evaluation_tables import result_table
from latentwire.report.stored import f1_of
from latentwire.scoring.evaluation import Evaluation
from latentwire.scoring.evaluator import Evaluator
from suite.report import group_runs, read_runs, terminal
from suite.report.html import render
from suite.report.summary import summary
from suite.report.verdict import verdict
from suite.statistics import hierarchical_bootstrap


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Toy answers with the correct ones put in, so that scores are neither all 0 nor all 1."""
    lms = {"tiny": tiny_lm()}
    baselines = {"text": Text(), "no_context": NoContext(), "token_budget": TokenBudget()}
    return Evaluator(lms, PASSAGES, baselines, 4, n_boot=100).run({"wire": FirstTokens(lms)})


def write(runs: Path, evaluation: Evaluation, m: int, seed: int) -> Path:
    folder = runs / "pocket" / f"m{m}s{seed}"
    folder.mkdir(parents=True)
    found = replace(evaluation, rows=[dict(r) for r in evaluation.rows])
    for i, r in enumerate(r for r in found.rows if r["method"] in ("wire", "text")):
        good = r["method"] == "text" or (i + seed) % (8 - m) > 0
        r.update(em=float(good), f1=float(good), prediction=r["gold"] if good else "<b>the</b>")
    found.write(folder)
    result = json.loads(json.dumps(found.result()))
    for name in ("wire", "text"):
        values = [r["f1"] for r in found.rows if r["method"] == name]
        result["methods"][name].update(f1=sum(values) / len(values), M=m, bytes=10.0 * m)
    result |= {
        "program": "latentwire",
        "experiment": "pocket",
        "hash": folder.name,
        "seed": seed,
        "status": "finished",
        "ratio": 30 / m,
        "acceptance": [
            {"stage": "evaluation", "rule": "f1", "what": "methods.wire.f1", "value": 0.5, "min": 0.9, "max": None}
            | {"passed": False},
            {"stage": "A", "rule": "gone", "what": "val/f1", "value": None, "min": 0.1, "max": 1.0, "passed": False},
        ],
    }
    (folder / "result.json").write_text(json.dumps(result))
    config = {"program": "latentwire", "name": "pocket", "seed": seed, "slots": m}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = ["step,epoch,name,value"]
    for step in range(1, 20):
        lines += [f"{step},0,share/answer,0.7", f"{step},0,share/kd,0.3"]
    for epoch in range(3):
        for name in ("val/f1", "val/nll", "collapse/distinct", "collapse/effective_rank"):
            lines.append(f"{6 * epoch + 6},{epoch},{name},{0.2 * epoch + 0.1}")
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, evaluation) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for m in (3, 6):
        for seed in (0, 1):
            write(folder, evaluation, m, seed)
    return folder


def test_a_sweep_has_every_section_and_its_wires_between_their_ends(runs) -> None:
    (frames,) = group_runs(read_runs([runs]))
    page = render([frames])
    text = as_read(page)
    for title in (
        "Acceptance", "Capacity", "Bytes", "Paired tests", "Kinds of questions", "Answers side by side", "Loss shares",
        "Collapse indicators", "Validation",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in page, title
    assert "0 of 8 passed" in text
    assert "slots=3" in text
    assert "&lt;b&gt;the&lt;/b&gt;" in page, "answers are text, never HTML"
    (table,) = summary(frames)
    shown = {(row[0].text, row[1].text) for row in table.rows}
    assert shown == {(f"slots={m}", k) for m in (3, 6) for k in ("text", "wire", "token_budget", "no_context")}
    figures = [json.loads(f) for f in re.findall(r'<script type="application/json">(.*?)</script>', page, flags=re.S)]
    over = {f["layout"].get("xaxis", {}).get("title", {}).get("text"): f for f in figures}
    assert next(s["x0"] for s in over["bytes per text"]["layout"]["shapes"]) == 3.5, "the entropy of the facts"
    for title in ("bytes per text", "positions before the question"):
        names = {t["name"] for t in over[title]["data"]}
        assert names == {"wire", "text", "token_budget"}, "no_context sends nothing and takes no position"


def test_f1_over_seeds_is_the_bootstrap_over_seeds_and_passages(runs) -> None:
    (frames,) = group_runs(read_runs([runs]))
    runs_of = frames.configurations[0].finished
    rows = [[json.loads(line) for line in (r.path / "predictions.jsonl").read_text().splitlines()] for r in runs_of]
    wire = [[r for r in part if r["method"] == "wire"] for part in rows]
    expected = hierarchical_bootstrap(
        {seed: [r["f1"] for r in part] for seed, part in enumerate(wire)},
        groups=[r["group"] for r in wire[0]],
        n_boot=2000,
    )
    got = f1_of(runs_of, "wire")
    assert got is not None
    assert (got.mean, got.low, got.high) == (expected.estimate, expected.low, expected.high)


def test_one_configuration_shows_every_method(runs, evaluation) -> None:
    three = [r for r in read_runs([runs]) if r.config["slots"] == 3]
    for some in (three, three[:1]):
        (frames,) = group_runs(some)
        (table,) = summary(frames)
        assert {row[0].text for row in table.rows} == set(evaluation.methods)
        assert table.strong == {1}
        assert any("token_budget: M context tokens, question kept" in n for n in table.notes)
        assert "Capacity" in as_read(render([frames]))


def test_the_terminal_table_holds_the_numbers(evaluation) -> None:
    console = Console(width=250, record=True)
    with console.capture():
        console.print(terminal([result_table(evaluation.methods, evaluation.notes)], 250))
    table = result_table(evaluation.methods)
    assert table.rows[0][0].text == "text"
    wire = evaluation.methods["wire"]
    row = next(r for r in table.rows if r[0].text == "wire")
    assert f"{wire['nll']:.3f}" in [c.text for c in row]
    assert any("12 questions" in n for n in table.notes)


def test_a_run_without_an_evaluation_is_reported_too(tmp_path, evaluation) -> None:
    folder = write(tmp_path, evaluation, 3, 0)
    result = json.loads((folder / "result.json").read_text())
    for key in ("methods", "tests", "kinds", "sizes", "acceptance"):
        del result[key]
    (folder / "result.json").write_text(json.dumps(result))
    assert "No run has been evaluated yet" in as_read(render(group_runs(read_runs([tmp_path]))))


def test_a_broken_line_of_predictions_is_named(tmp_path, evaluation) -> None:
    folder = write(tmp_path, evaluation, 3, 0)
    with (folder / "predictions.jsonl").open("a") as out:
        out.write("{\n")
    with pytest.raises(UserError, match=r"predictions.jsonl:\d+"):
        render(group_runs(read_runs([tmp_path])))


def test_the_verdict_names_failed_rules_and_places_the_wire_between_its_ends(tmp_path, evaluation):
    write(tmp_path, evaluation, 2, 0)
    (frames,) = group_runs(read_runs([tmp_path]))
    first, level, *rivals = verdict(frames)
    assert first.kind == "failed"
    assert first.text.startswith("FAIL: 2 of 2 rules of acceptance are not met: f1 (")
    methods = frames.runs[0].result["methods"]
    assert f"wire: F1 {100 * methods['wire']['f1']:.1f}" in level.text
    assert "with 2 latents; text 100.0, no context" in level.text
    known = {t["against"]: t for t in frames.runs[0].result["tests"]}
    for s in rivals:  # over the questions of one seed, every rival where its interval lies
        for name in re.findall(r"(\w+) \([+−0]", s.text):
            low, high = known[name]["low"], known[name]["high"]
            assert s.kind == ("better" if low > 0 else "worse" if high < 0 else "open")
    assert {s.kind for s in rivals} <= {"better", "worse", "open"}


def test_over_seeds_the_verdict_compares_the_wire_with_each_rival_by_paired_tests(tmp_path, evaluation):
    for seed in range(3):
        write(tmp_path, evaluation, 2, seed)
    (frames,) = group_runs(read_runs([tmp_path]))
    told = [s for s in verdict(frames) if s.text.startswith("With 3 seeds")]
    assert told
    text, wire = ([run.result["methods"][name]["f1"] for run in frames.runs] for name in ("text", "wire"))
    lost = 100 * sum(w - t for w, t in zip(wire, text, strict=True)) / 3
    assert any(f"{lost:.1f}".replace("-", "−") in s.text and "text" in s.text for s in told)
