"""Monitors see a training as it is, leave it as it is, and bound what they look at."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config, fit, history, rows
from omegaconf import DictConfig

from callbacks.errors import UserError
from latentwire.build import Parts
from latentwire.data.squad_metrics import contains
from latentwire.lm.layout import Prefix
from latentwire.monitors import records
from latentwire.monitors.answers import commonest, rates_of
from latentwire.monitors.latents import compared
from suite.report.data import read_run
from suite.report.grouping import group_runs
from suite.report.html import render
from suite.runs.identity import run_dir

QUIET = ("callbacks.latents=null", "callbacks.answers=null", "callbacks.uniform_bound=null")
LMS: Any = ("llama", "qwen2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[DictConfig, Parts]:
    """Two validations of a wire that two models read as embeddings."""
    cfg = config(tmp_path_factory.mktemp("run"), "injector=soft_prefix", "callbacks.latents.samples=2", lms=LMS)
    return cfg, fit(cfg)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[DictConfig, Parts]:
    """The same, one model and keys and values, with a record of every second validation."""
    cfg = config(tmp_path_factory.mktemp("deep"), "callbacks.latents.every=2", "callbacks.answers.questions=3")
    return cfg, fit(cfg)


def last(cfg: DictConfig, kind: str) -> records.Record:
    return records.read(run_dir(cfg), kind)[-1]


# -- what is recorded -------------------------------------------------------------------------------------------------
def test_sizes_are_those_of_what_a_model_reads_beside_its_text(run: tuple[DictConfig, Parts]) -> None:
    cfg, parts = run
    module, found = parts.module, last(cfg, records.LATENTS)
    assert module.validated is not None
    z = torch.cat(module.validated.latents).view(-1, 3, 8)  # the last validation's, all four texts
    for name, lm in module.lms.items():
        size = found["models"][name]["sizes"]["embeddings"]
        with torch.no_grad():
            read = module.wire.eval().injectors[name].adapter(z)
        for slot in range(3):
            square = sum(float(x) ** 2 for row in read[:, slot] for x in row) / read[:, slot].numel()
            assert size["rms"][0][slot] == pytest.approx(math.sqrt(square), rel=1e-5)
        real = math.sqrt(float(lm.embedding_rms.double().pow(2).mean()))
        assert size["text"] == [pytest.approx(real, rel=1e-5)]
        assert size["ratio"] == [pytest.approx(value / real, rel=1e-5) for value in size["rms"][0]]
        logged = history(cfg, f"latents/rms_over_text/embeddings/{name}")
        assert len(logged) == 2
        assert logged[-1] == pytest.approx(sum(size["ratio"]) / 3)


def test_keys_and_values_are_compared_layer_by_layer(deep: tuple[DictConfig, Parts]) -> None:
    sizes = last(deep[0], records.LATENTS)["models"]["tiny_llama"]["sizes"]
    for part in ("keys", "values"):
        own, text = torch.tensor(sizes[part]["rms"]), torch.tensor(sizes[part]["text"])
        assert own.shape == (2, 3)
        expected = [math.sqrt(sum(float(own[i, m] / text[i]) ** 2 for i in range(2)) / 2) for m in range(3)]
        assert sizes[part]["ratio"] == pytest.approx(expected, rel=1e-5)


def test_text_itself_has_the_size_of_text(deep: tuple[DictConfig, Parts]) -> None:
    """What a model makes of the very texts that were measured is 1, whatever the layer: the two are one unit."""
    _, parts = deep
    injector, lm = parts.module.wire.injectors["tiny_llama"], parts.module.lms["tiny_llama"]
    squares, tokens = {"keys": 0.0, "values": 0.0}, 0
    for text in parts.inputs.texts:
        kv = [(k[:, :, 1:], v[:, :, 1:]) for k, v in lm.keys_and_values([*lm.style.head, *lm.style.encode(text)])]
        ratio = compared(Prefix(kv=kv), injector.text_rms())
        n = kv[0][0].shape[2]
        for part in squares:
            squares[part] += sum(r * r for r in ratio[part]["ratio"])
        tokens += n
    for part, total in squares.items():
        assert math.sqrt(total / tokens) == pytest.approx(1.0, rel=1e-3), part


def test_a_part_that_was_never_measured_has_no_ratio() -> None:
    found = compared(Prefix(embeds=torch.ones(2, 3, 4)), {})
    assert found == {"embeddings": {"rms": [[1.0] * 3], "text": None, "ratio": None}}


def test_spectrum_and_nearest_tokens_have_a_row_for_each(run: tuple[DictConfig, Parts]) -> None:
    cfg, parts = run
    found = last(cfg, records.LATENTS)
    assert len(found["latents"]["rms"]) == 3
    values = found["latents"]["spectrum"]
    assert values == sorted(values, reverse=True)
    assert len(values) == 8
    assert history(cfg, "latents/effective_rank")[-1] == found["latents"]["effective_rank"]
    assert 1 <= found["latents"]["effective_rank"] <= 8
    for model in parts.module.lms:
        nearest = found["models"][model]["nearest"]
        assert [[len(slot) for slot in message] for message in nearest] == [[3] * 3] * 2
        first = [slot[0] for message in nearest for slot in message]
        assert history(cfg, f"latents/nearest_cosine/{model}")[-1] == pytest.approx(sum(c for _, c in first) / 6)
        assert history(cfg, f"latents/nearest_distinct/{model}")[-1] == len({t for t, _ in first}) / 6


def test_answers_are_those_of_the_validation(run: tuple[DictConfig, Parts]) -> None:
    cfg, parts = run
    scores, found = parts.module.validated, last(cfg, records.ANSWERS)
    assert scores is not None
    assert len(found["samples"]) == 8  # of two questions each about four texts
    for i, sample in enumerate(found["samples"]):
        row, question = scores.asked[i]
        assert sample["text"] == scores.texts[row]
        assert (sample["question"], sample["gold"]) == (question.text, list(question.answers))
        assert sample["answers"] == {model: scores.outputs[model][i] for model in parts.module.lms}
    empty = [found["models"][model]["empty"] for model in parts.module.lms]
    assert history(cfg, "answers/empty")[-1] == pytest.approx(sum(empty) / 2)
    assert all(sum(e["count"] for e in m["top"]) == m["n"] == 8 for m in found["models"].values())


def test_of_few_validations_few_questions_are_recorded(deep: tuple[DictConfig, Parts]) -> None:
    cfg, _ = deep
    assert [r["step"] for r in records.read(run_dir(cfg), records.LATENTS)] == [6], "every second one from the first on"
    assert [r["step"] for r in records.read(run_dir(cfg), records.ANSWERS)] == [6, 12]
    assert len(last(cfg, records.ANSWERS)["samples"]) == 3


# -- rates ------------------------------------------------------------------------------------------------------------
def test_rates_of_answers() -> None:
    outputs = ["Oslo", "in Oslo, I think", "  ", "", "Osloite"]
    golden = [("Oslo",), ("Rome", "the Oslo"), ("Oslo",), ("Oslo",), ("Oslo",)]
    assert rates_of(outputs, golden) == {"empty": 0.4, "contains_gold": 0.4}
    assert [contains(o, "Oslo!") for o in outputs] == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_the_commonest_answers_stand_beside_how_often_they_are_right() -> None:
    outputs, golden = ["b", "a", "a", "c", "b", "a"], [("a", "z"), ("z",), ("a",), ("b",), ("a",), ("c",)]
    assert commonest(outputs, golden, 2) == [
        {"answer": "a", "count": 3, "gold": 3},
        {"answer": "b", "count": 2, "gold": 1},
    ]


# -- what they leave alone --------------------------------------------------------------------------------------------
def test_a_run_is_the_same_with_and_without_monitors(deep: tuple[DictConfig, Parts], tmp_path: Path) -> None:
    watched, parts = deep
    beside = config(Path(watched.paths.runs).parent, *QUIET)
    assert run_dir(beside) == run_dir(watched), "monitors make no other run"
    alone = config(tmp_path, *QUIET)
    other = fit(alone)
    a, b = parts.module.state_dict(), other.module.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    seen = [row for row in rows(watched) if not row[2].startswith(("latents/", "answers/"))]
    assert seen == rows(alone)
    assert not (run_dir(alone) / records.FOLDER).exists()


def test_a_run_that_starts_again_forgets_what_lies_ahead(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        records.write(tmp_path, records.LATENTS, step, 0, {})
    records.write(tmp_path, records.ANSWERS, 12, 0, {})
    records.forget(tmp_path, records.LATENTS, 8)
    assert [r["step"] for r in records.read(tmp_path, records.LATENTS)] == [4, 8]
    assert [r["step"] for r in records.read(tmp_path, records.ANSWERS)] == [12]


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_broken_record_is_named(tmp_path: Path, text: str) -> None:
    records.write(tmp_path, records.LATENTS, 4, 0, {})
    next((tmp_path / records.FOLDER).iterdir()).write_text(text)
    with pytest.raises(UserError, match=r"latents-00000004\.json"):
        records.read(tmp_path, records.LATENTS)


# -- the page ---------------------------------------------------------------------------------------------------------
SECTIONS = (
    "Size of latents",
    "Directions of latents",
    "Nearest tokens",
    "Answers over training",
    "Commonest answers",
)


def test_the_report_shows_what_was_recorded(run: tuple[DictConfig, Parts], deep: tuple[DictConfig, Parts]) -> None:
    for cfg, _ in (run, deep):
        folder = run_dir(cfg)
        (folder / "result.json").write_text(json.dumps({"program": "latentwire", "status": "finished", "seed": 0}))
        page = render(group_runs([read_run(folder)]))
        assert [title for title in SECTIONS if f"<h2>{title}</h2>" not in page] == []
        for sample in last(cfg, records.ANSWERS)["samples"]:
            assert sample["question"] in page
        (folder / "result.json").unlink()


def test_a_run_without_records_is_reported_too(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x" / "0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"program": "latentwire", "status": "finished", "seed": 0}))
    page = render(group_runs([read_run(folder)]))
    assert "no inside/latents-&lt;step&gt;.json" in page
