"""`latentwire.study family`: one more reader of finished wires, and what it took, read from the runs' own tables."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config, save_lm
from omegaconf import OmegaConf, open_dict

from callbacks.errors import UserError
from callbacks.files.sealed import read_json
from latentwire.added_reader import tree
from latentwire.family import LEVELS, add, cost_of, main
from latentwire.restore import load
from latentwire.run import train
from latentwire.scoring.own_text import own_text
from latentwire.study import PROGRAM
from suite.report import read_run
from suite.runs.job import execute
from suite.runs.ledger import write_json
from suite.runs.provenance import RESULT, read_result
from suite.runs.written import WRITTEN, written

POCKET = {"_target_": "latentwire.pocket.load", "name": "pocket_llama", "dtype": "float32", "device": "cpu"}
LINE = ["trainer.max_epochs=2", "loader.steps_per_epoch=3", "baseline=[text]"]


def sender(folder: Path, *more: str) -> Path:
    """Directory of a finished run of few steps with pocket_llama."""
    cfg = config(folder, *LINE, *more)
    with open_dict(cfg):
        cfg.lms, cfg.acceptance = {"pocket_llama": dict(POCKET)}, {}
    outcome = execute(cfg, "latentwire", train, tell=lambda _: None)
    assert outcome.status == "finished", outcome.error
    return outcome.dir


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("family")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return sender(folder)


@pytest.fixture(scope="module")
def found(run: Path, folder: Path) -> dict[str, Any]:
    """What the command leaves."""
    assert main(PROGRAM, [str(run), "--reader", "pocket_qwen", "-o", str(folder / "cost.json")]) == 0
    return read_json(folder / "cost.json", "", "")


def history(place: str, name: str) -> list[tuple[int, float]]:
    with (Path(place) / "history.csv").open(encoding="utf-8", newline="") as file:
        return [(int(row["step"]), float(row["value"])) for row in csv.DictReader(file) if row["name"] == name]


def test_the_added_reader_is_all_that_is_trained(run: Path, found: dict[str, Any]) -> None:
    first, added = found["costs"]
    assert [(c["reader"], c["role"]) for c in (first, added)] == [("pocket_llama", "first"), ("pocket_qwen", "added")]
    assert first["run"] == str(run)
    groups = read_run(Path(added["run"])).result["parameters"]
    assert set(groups) == {"adapter:pocket_qwen", "injector:pocket_qwen"}
    assert added["parameters"] == sum(groups.values()) < first["parameters"]
    assert load(Path(added["run"])).identity == load(run).identity, "it reads the sender's messages"


def test_a_reader_that_is_there_is_not_trained_again(run: Path, found: dict[str, Any]) -> None:
    checkpoint = Path(found["costs"][1]["run"]) / "checkpoints" / "last.ckpt"
    before = checkpoint.stat().st_mtime_ns
    assert add(PROGRAM, [run], "pocket_qwen", []) == (0, [checkpoint.parents[1]])
    assert checkpoint.stat().st_mtime_ns == before


def test_costs_are_those_of_the_runs_tables(found: dict[str, Any]) -> None:
    for c in found["costs"]:
        assert c["text_f1"] > 0.5, "a pocket model answers from the text"
        f1 = history(c["run"], "val/f1")
        assert [p["f1"] for p in c["points"]] == [value for _, value in f1]
        assert [p["questions"] for p in c["points"]] == [step * 3 * 2 for step, _ in f1], "contexts times questions"
        assert [p["share"] for p in c["points"]] == [p["f1"] / c["text_f1"] for p in c["points"]]
        minutes = [p["minutes"] for p in c["points"]]
        assert 0 < minutes[0] < minutes[1]
        methods = read_run(Path(c["run"])).result["methods"]
        assert c["test_share"] == methods["wire"]["f1"] / methods["text"]["f1"]


def test_own_text_is_the_text_on_the_questions_of_validation(run: Path) -> None:
    """Literally: each prompt by itself, as the no-frills generation of transformers has it."""
    from latentwire.build import held_out
    from latentwire.data.squad_metrics import best, f1
    from latentwire.lm.prompts import render

    loaded = load(run)
    (lm,) = loaded.inputs.lms.values()
    contexts = held_out(loaded.cfg, loaded.inputs, loaded.wire.encoder, False)
    values = []
    for index in range(len(contexts)):
        batch = contexts[index, 0]
        for b, question in batch.asked:
            prompt = render(lm.style, batch.passages[b].text, question.text)
            new = int(loaded.cfg.loader.eval_max_new_tokens)
            out = lm.model.generate(torch.tensor([prompt.ids]), max_new_tokens=new, do_sample=False)
            values.append(best(f1, lm.style.decode(out[0, len(prompt.ids) :].tolist()), question.answers))
    told = own_text(loaded.cfg, loaded.inputs, loaded.wire.encoder)
    assert told == {"pocket_llama": pytest.approx(sum(values) / len(values))}


def test_levels_are_reached_at_the_first_validation_that_has_the_share(run: Path, tmp_path: Path) -> None:
    place = shutil.copytree(run, tmp_path / "copy")
    lines = (place / "history.csv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if ",val/f1," not in line]
    scores = [0.5, 0.73, 0.7, 0.77, 0.74]
    made = [f"{3 * (i + 1)},{i},val/f1,{value}" for i, value in enumerate(scores)]
    (place / "history.csv").write_text("\n".join([*kept, *made]) + "\n", encoding="utf-8")
    write_json(place / RESULT, {**read_result(place), WRITTEN: written(place)})
    cost = cost_of(read_run(place), "pocket_llama", "first", "a", 0.8).plain()
    assert list(cost["reached"]) == [f"{level:.2f}" for level in LEVELS]
    assert [None if p is None else p["epoch"] for p in cost["reached"].values()] == [2, 4, None]
    assert cost["reached"]["0.95"]["questions"] == 12 * 3 * 2


def test_a_wire_that_goes_on_from_another_has_cost_both(run: Path) -> None:
    alone = read_run(run)
    own, seen = alone.result["training"]["own"], {"start_from": str(run)}
    both = {"own": own, "all": {**own, "asked": own["asked"] + 36}}
    later = replace(
        alone,
        result={**alone.result, "training": both},
        config={**alone.config, "wire": {**alone.config["wire"], **seen}},
    )
    first, added = (cost_of(later, "pocket_llama", role, "a", 1.0).points for role in ("first", "added"))
    (earlier,) = {p.minutes for p in cost_of(alone, "pocket_llama", "first", "a", 1.0).points[-1:]}
    for p, q in zip(first, added, strict=True):
        assert p.questions - q.questions == 36
        assert p.minutes == pytest.approx(q.minutes + earlier)  # type: ignore[operator]


# -- the tree ---------------------------------------------------------------------------------------------------------
def test_everything_else_is_the_senders(run: Path, folder: Path) -> None:
    before = OmegaConf.load(run / "config.yaml")
    cfg = tree(run, "hf", [f"hf.source={save_lm(folder)}", "trainer.max_epochs=5", "injector=soft_prefix"])
    assert list(cfg.lms) == ["hf"]
    assert cfg.lms.hf.source == save_lm(folder)
    assert cfg.encoder_lm == before.lms.pocket_llama, "the encoder stands on the first reader"
    assert (cfg.wire.from_run, cfg.wire.slots, cfg.trainer.max_epochs) == (str(run), None, 5)
    assert cfg.injector._target_ == "latentwire.injectors.SoftPrefix"
    (folder / "mine" / "readers").mkdir(parents=True)
    text = OmegaConf.to_yaml({"mine": dict(POCKET, name="pocket_qwen")})
    (folder / "mine" / "readers" / "mine.yaml").write_text(f"# @package lms\n{text}", encoding="utf-8")
    first = tree(run, "hf", [f"hf.source={save_lm(folder)}", "curriculum=states_first"])
    assert "state_regression" in first.objectives, "a curriculum brings the objectives that it weighs"
    assert list(tree(run, "mine", [], [folder / "mine"]).lms) == ["mine"], "a reader of the user's own"
    for key in ("corpus", "encoder", "codec", "objectives", "loader", "optimizer", "lr_schedule", "adapter", "seed"):
        assert cfg[key] == before[key], key


@pytest.mark.parametrize(
    ("reader", "words", "told"),
    [
        ("pocket_llama", [], "add --reader"),
        ("pocket_both", [], "one model that is added"),
        ("pocket_quen", [], "no such reader"),
        ("hf", [], "hf.source"),
        ("pocket_qwen", ["encoder.width=32"], "train another sender"),
        ("pocket_qwen", ["trainer.max_epoch=3"], "max_epoch"),
    ],
)
def test_what_cannot_be_added_is_refused_before_training(
    run: Path, reader: str, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(PROGRAM, [str(run), "--reader", reader, *words]) == UserError.EXIT_CODE
    error = capsys.readouterr().err
    assert told in error
    assert "remedy:" in error


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(PROGRAM, [str(tmp_path), "--reader", "pocket_qwen"]) == UserError.EXIT_CODE
    assert "no config.yaml" in capsys.readouterr().err


def test_a_reader_without_an_f1_of_its_own_is_said(run: Path) -> None:
    with pytest.raises(UserError, match="answers nothing right with the text"):
        cost_of(read_run(run), "pocket_llama", "first", "a", 0.0)
