"""Evaluation is not training: other questions to a finished run train nothing and change no other evaluation."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from damage import Damage, flipped, halved
from lw_runs import config
from omegaconf import DictConfig

from callbacks.errors import UserError
from latentwire import evaluate, restore
from latentwire import run as program
from latentwire.report.stored import evaluations, predictions
from suite.report import read_run
from suite.runs.identity import config_hash, evaluation_hash
from suite.runs.job import Outcome, execute
from suite.runs.ledger import Ledger, write_json
from suite.runs.provenance import read_result

FEW = ["trainer.max_epochs=1", "baseline=[text,no_context,token_budget]"]


def exact(methods: dict[str, Any]) -> dict[str, Any]:
    return {name: {k: v for k, v in m.items() if not k.endswith("_ms")} for name, m in methods.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


def run(cfg: DictConfig) -> Outcome:
    return execute(cfg, "latentwire", program.train, program.earlier, again=program.again)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    outcome = run(config(folder, *FEW))
    assert (outcome.status, outcome.error) == ("finished", "")
    return outcome.dir


def test_what_acts_on_finished_weights_makes_no_other_run(folder: Path) -> None:
    own = config(folder, *FEW)
    for more in ("evaluation.passages=2", "evaluation.split=val", "baseline=[text]"):
        asked = config(folder, *FEW, more)
        assert config_hash(asked) == config_hash(own), more
        assert evaluation_hash(asked) != evaluation_hash(own), more
    judged = config(folder, *FEW, "acceptance.evaluation.above_the_fair_budget.min=-1.0")
    assert (config_hash(judged), evaluation_hash(judged)) == (config_hash(own), evaluation_hash(own))
    other = config(folder, *FEW, "loader.eval_max_new_tokens=5")
    assert config_hash(other) != config_hash(own), "the length of a validation answer selects the weights"
    assert evaluation_hash(other) == evaluation_hash(own)


def test_the_command_with_other_questions_trains_nothing(
    folder: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_result(trained)
    weights = (trained / "checkpoints" / "best.ckpt").stat().st_mtime_ns

    def never(*_: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(program, "train", never)
    assert run(config(folder, *FEW)).status == "skipped", "what is there is not asked again"
    asked = config(folder, *FEW, "evaluation.passages=2", "evaluation.max_new_tokens=2")
    outcome = run(asked)
    assert (outcome.status, outcome.dir) == ("evaluated", trained)
    second = read_result(trained)
    assert second == outcome.result
    assert second["methods"]["wire"]["n"] < first["methods"]["wire"]["n"]
    assert second["evaluation"] == evaluation_hash(asked) != first["evaluation"]
    changed = {
        "methods",
        "kinds",
        "tests",
        "sizes",
        "evaluation",
        "test_best",
        "evaluation_notes",
        "acceptance",
        "ratio",
    }
    assert {k for k in first if first[k] != second[k]} <= changed, "the training's own record stays"
    assert (trained / "checkpoints" / "best.ckpt").stat().st_mtime_ns == weights
    newest = Ledger(trained.parent.parent / "ledger.jsonl").latest()[trained.name]
    assert newest["evaluation"] == second["evaluation"]
    assert len(predictions(read_run(trained))["wire", "tiny_llama"]) == second["methods"]["wire"]["n"]
    back = run(config(folder, *FEW))
    assert back.status == "evaluated"
    assert back.result["methods"] == first["methods"], "read, not measured again"


def test_rules_are_read_anew_without_measuring(folder: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config(folder, *FEW))
    monkeypatch.setattr("latentwire.restore.load", None)
    strict, mild = ({"rule": f"acceptance.evaluation.above_the_fair_budget.min={bound}"} for bound in (1.0, -2.0))
    assert not run(config(folder, *FEW, strict["rule"])).accepted
    assert run(config(folder, *FEW, mild["rule"])).accepted


def test_evaluating_again_gives_the_same_numbers_beside_the_others(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config(folder, *FEW))
    own = json.loads((trained / "result.json").read_text())
    rule = "_target_:latentwire.Rule,metric:methods.wire.f1,over:methods.no_context.f1,min:0.5"
    share = f"+acceptance.evaluation.share={{{rule}}}"
    assert evaluate.main([str(trained), "--again", share]) == 3, "a random model reaches nothing"
    assert "share = nan" in capsys.readouterr().out
    here = {e["evaluation"]: e for e in evaluations(trained)}
    assert exact(here[own["evaluation"]]["methods"]) == exact(own["methods"])
    capsys.readouterr()
    line = [str(trained), "baseline=[text,mean_pooled]", "evaluation.n_boot=50", "~acceptance.evaluation"]
    assert evaluate.main(line) == 0
    told = capsys.readouterr().out
    assert "mean_pooled" in told
    assert "positions" in told
    assert "bytes" in told
    assert "n_boot=50" in told
    assert json.loads((trained / "result.json").read_text()) == own, "the run's own evaluation stays"
    found = next(e for e in evaluations(trained) if e["asked"]["evaluation"]["n_boot"] == 50)
    assert {"text", "mean_pooled", "wire"} <= set(found["methods"])
    assert "token_budget" not in found["methods"]
    assert found["methods"]["wire"]["nll"] == own["methods"]["wire"]["nll"]
    for name in ("asked.yaml", "predictions.jsonl", "result.json", "table.md"):
        assert (trained / "evaluations" / found["evaluation"] / name).is_file()
    assert "Evaluations" in (trained / "report.html").read_text()


def test_a_rival_learns_once_per_run(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = [str(trained), "baseline=[static_prefix]", "~acceptance.evaluation"]
    assert evaluate.main(line) == 0

    def never(*_: Any) -> Any:
        raise AssertionError("fitted again")

    monkeypatch.setattr("latentwire.baselines.static.StaticPrefix.learn", never)
    assert evaluate.main([*line, "evaluation.n_boot=50", "evaluation.max_new_tokens=2"]) == 0
    both = [e["methods"]["static_prefix"]["nll"] for e in evaluations(trained) if "static_prefix" in e["methods"]]
    assert len(both) == 2
    assert both[0] == both[1]


def test_what_belongs_to_the_training_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, told in (
        ("wire.ratio=2", "belongs to the training"),
        ("evaluation.passage=2", "the run has no evaluation.passage"),
        ("+evaluation.passage=2", "evaluation.passage"),
        ("evaluation.split=tset", "did you mean evaluation.split=test?"),
        ("baseline=[texts]", "texts"),
        ("evaluation.n_boot=50,60", "several values"),
        ("baselines.gist.lr=1", "the run has no baselines.gist"),
    ):
        assert evaluate.main([str(trained), line]) == 2, line
        assert told in capsys.readouterr().err, line
    assert evaluate.main([str(trained), "evaluation.n_boot=77", "trainer.accelerator=tpu"]) == 2
    assert "set trainer.accelerator=auto" in capsys.readouterr().err, "no other device takes its place"
    with pytest.raises(UserError, match="a finished run"):
        evaluate.evaluate(trained / "checkpoints", evaluate.asked(trained, []))
    assert evaluate.main([str(trained.parent)]) == 2


def test_a_sweep_over_questions_trains_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from suite.runs.planned import job_of, join_twins

    jobs = [job_of(config(folder, *FEW, f"evaluation.passages={n}"), []) for n in (2, 3)]
    join_twins(jobs)
    assert jobs[0].hash == jobs[1].hash
    assert [job.same_as for job in jobs] == [None, None]
    with pytest.raises(UserError, match="the same run"):
        join_twins([jobs[0], job_of(config(folder, *FEW, "evaluation.passages=2"), [])])


@pytest.mark.parametrize("name", ["predictions.jsonl", "result.json", "asked.yaml"])
def test_a_damaged_evaluation_is_refused_and_asked_again(name: str, tmp_path: Path, trained: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "runs" / "pocket_smoke" / trained.name)
    place = run / "evaluations" / str(read_result(run)["evaluation"])
    flipped(0.4)(place / name)

    def read() -> None:
        predictions(read_run(run))
        evaluations(run)

    with pytest.raises(UserError, match=name) as told:
        read()
    assert told.value.remedy.startswith(f"rm -r {place}, then evaluate again: python -m latentwire.evaluate {run}")


@pytest.mark.parametrize("damage", [flipped(0.5), halved])
def test_a_damaged_checkpoint_is_not_evaluated(damage: Damage, tmp_path: Path, trained: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "runs" / "pocket_smoke" / trained.name)
    damage(run / "checkpoints" / "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt") as told:
        restore.load(run)
    assert "resume=never" in told.value.remedy


def test_a_run_with_its_only_evaluation_beside_its_result_can_be_asked(tmp_path: Path, trained: Path) -> None:
    """As runs of earlier versions lie: another name, the numbers in the result and the answers beside it."""
    old = tmp_path / "runs" / "pocket_smoke" / "of_an_earlier_version"
    shutil.copytree(trained, old, ignore=shutil.ignore_patterns("evaluations"))
    result = read_result(old)
    answers = trained / "evaluations" / result.pop("evaluation") / "predictions.jsonl"
    shutil.copy(answers, old)
    write_json(old / "result.json", result)
    assert predictions(read_run(old))["wire", "tiny_llama"]
    assert evaluate.main([str(old), "evaluation.passages=2"]) == 3
    assert [e["asked"]["evaluation"]["passages"] for e in evaluations(old)] == [2]
    assert predictions(read_run(old))["wire", "tiny_llama"]


def test_the_program_tells_its_options(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", "--help"])
    with pytest.raises(SystemExit):
        evaluate.main()
    told = capsys.readouterr().out
    assert "Exit codes" in told
    assert "3 a rule of acceptance is missed" in told
