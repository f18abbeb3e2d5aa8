"""The studies of media on tiny media in their published layouts: plans, shrunk runs, declarations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import media_trees
import pytest
from asgml_runs import compose

from asgml.report.tuned import read_tuned
from asgml.run import Tree, dead, judge, train
from asgml.study import DECLARED, STUDIES
from asgml.tune.options import StudyTree, read_options
from asgml.tune.studies import Declared
from callbacks.errors import UserError
from suite.config.compose import Composer
from suite.report import read_runs
from suite.runs.ledger import Ledger
from suite.runs.study import Program

MEDIA: dict[str, Callable[[Path], Path]] = {
    "cremad": lambda root: media_trees.cremad(root, takes=2),
    "ave": lambda root: media_trees.ave(root, videos=1),
    "kinetics_sounds": lambda root: media_trees.kinetics_sounds(root, clips=2),
}
# what makes a run short; rows, protocols and their settings stay the study's
SIZES = [
    "data.size=32",
    "data.store=[40,40]",
    "data.seconds=1.0",
    "model.encoder.width=4",
    "loader.batch_size=16",
    "loader.workers=0",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "callbacks.progress=null",
    "callbacks.stability=null",
    "seeds=[0]",
    "trials=2",
    "controls=false",
]
PROGRAM = Program("asgml", train, dead, Tree, judge=judge)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("asgml.tune.tuner.release_memory", lambda: None)
    monkeypatch.setattr("suite.report.single_report", lambda folder, result: folder / "report.html")


def finished(*folders: str) -> list[str]:
    rows = [row for folder in folders for row in Ledger(Path(folder) / "ledger.jsonl").rows()]
    return [row["hash"] for row in rows if row["status"] == "finished"]


@pytest.mark.slow
@pytest.mark.parametrize("study", list(MEDIA))
def test_a_study_runs_on_the_published_layout_and_repeats_nothing(
    study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = MEDIA[study](Path("media").absolute())
    rows = "rows=[joint,staleness_2_inverse,staleness_2_inverse/scale_only]"
    words = ["--data", str(root), "sets=[published_best_on_test,fair]", rows, *SIZES]
    assert STUDIES[study](PROGRAM, [*words, "plan=true"]) == 0  # type: ignore[operator]
    assert not Path("runs").exists(), "a plan runs nothing"
    told = capsys.readouterr().out
    assert f"Plan of {study}_published_best_on_test" in told
    assert f"Plan of {study}_fair" in told
    assert "This device is cpu" in told

    assert Declared(study)(PROGRAM, words) == 0
    told = capsys.readouterr().out
    assert "h left, " in told
    assert "0.0 h left, 0.0 h in all" in told
    names = ("joint", "staleness_2_inverse", "staleness_2_inverse/scale_only")
    published, fair = (
        {str(run.label): run for run in read_runs([Path(f"runs/{study}_{name}")])}
        for name in ("published_best_on_test", "fair")
    )
    assert set(published) == set(fair) == set(names)
    momenta = {name: run.config["optimizer"]["momentum"] for name, run in published.items()}
    assert momenta == {names[0]: 0.9, names[1]: 0.0, names[2]: 0.0}, "delayed rows are on the stable side"
    assert {run.config["optimizer"]["momentum"] for run in fair.values()} == {0.0}
    assert published["joint"].config["optimizer"]["lr"] == 0.001
    if study == "cremad":
        assert {run.config["data"]["split"] for run in published.values()} == {"published"}
        assert {run.config["data"]["split"] for run in fair.values()} == {"speaker_disjoint"}
    assert {row.budget for row in read_tuned(Path(f"runs/{study}_published_best_on_test")).values() if not row.of} == {
        "not tuned"
    }
    assert {row.budget for row in read_tuned(Path(f"runs/{study}_fair")).values() if not row.of} == {"2"}
    honest = Path(f"runs/{study}_fair/methods.md").read_text()
    assert "selected on test" not in honest
    assert "selected on test" in Path(f"runs/{study}_published_best_on_test/methods.md").read_text()
    assert "published_best_on_test" not in json.loads((fair["joint"].path / "result.json").read_text())

    done = finished("runs", "runs/trials")
    assert len(done) == len(set(done)) == 3 + 3 + 2 * 2
    assert Declared(study)(PROGRAM, words) == 0
    assert finished("runs", "runs/trials") == done, "nothing is repeated"
    assert Declared(study)(PROGRAM, [*words, "plan=true"]) == 0
    assert f"Measured on this device ({published['joint'].result['device']})" in capsys.readouterr().out


def test_a_plan_needs_no_media_and_a_study_without_them_says_what_to_fetch(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--data", "nowhere", "rows=[unimodal,joint,mmpareto]", "controls=false"]
    assert Declared("cremad")(PROGRAM, [*small, "plan=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sums = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│ all")]
    # by hand: half a joint run for each modality, one, and 1.6; 94 and 81 batches an epoch
    published, fair = ((2 * 0.5 + 1 + 1.6) * runs * steps * 0.09 / 3600 for runs, steps in ((5, 9400), (13, 8100)))
    assert sums == [["all", "20", "—", f"{published:.1f}"], ["all", "52", "—", f"{fair:.1f}"]]
    assert any("train.csv yet" in line for line in lines)
    for study in MEDIA:
        assert Declared(study)(PROGRAM, ["--data", "nowhere", "rows=[joint]", "sets=[fair]"]) == UserError.EXIT_CODE
        told = capsys.readouterr().err
        assert f"python -m asgml.data.prepare experiment={study} data.path=" in told
        for word in {"cremad": ("AudioWAV/<id>.wav", "train.csv"), "ave": ("trainSet.txt",)}.get(study, ("my_train",)):
            assert word in told
        assert len(told.splitlines()) < 25
    assert not Path("runs").exists()


@pytest.mark.parametrize("study", ["cremad", *(pytest.param(s, marks=pytest.mark.slow) for s in list(MEDIA)[1:])])
def test_what_the_studies_declare(study: str) -> None:
    options = read_options(Composer(f"asgml/{study}"), [], StudyTree)
    assert options.sets == ["published", "fair"], "no number is selected on test unless it is asked for"
    assert len(options.seeds) >= 5
    baselines = {"unimodal", "joint", "uniform", "ogm_ge", "agm", "pmr", "mla", "mmpareto", "reconboost", "relearn"}
    assert baselines <= set(options.rows or ()) <= set(options.space)
    assert set(STUDIES) >= set(DECLARED) >= set(MEDIA)
    declared_here = options.data_sets["published"].own(options).space
    delaying = 0
    for name in options.rows or ():
        cfg = compose([f"experiment={study}", *declared_here[name].use, "protocol=published"])
        adaptive = cfg.asgml.mode == "adaptive" and cfg.asgml.adaptive.kind == "staleness"
        delays = cfg.asgml.mode == "staleness" or adaptive
        assert (cfg.optimizer.momentum == 0.0) == delays, name
        assert cfg.optimizer.lr / (1 - cfg.optimizer.momentum) == pytest.approx(0.01), "one effective rate"
        delaying += delays
    assert delaying >= 3
