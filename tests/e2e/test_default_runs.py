"""The default run of every experiment on media, on data in its published layout: nothing is set but sizes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import media_trees
import pytest

from asgml.run import Tree, dead, judge, train
from suite.runs.launch import launch

DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
GRID = DATA / "grid_digit" / "grid_digit.npz"

# what makes a run short; what it is (method, rhythm, optimiser, schedule, audio profile, frames) stays the experiment's
SIZES = [
    "data.size=32",
    "data.store=[40,40]",
    "data.seconds=1.0",
    "model.encoder.width=8",
    "loader.batch_size=8",
    "loader.workers=0",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "write", "classes", "dominant"),
    [
        ("cremad", lambda root: media_trees.cremad(root, takes=2), 6, "audio"),
        ("ave", lambda root: media_trees.ave(root, videos=1), 28, None),
        ("kinetics_sounds", lambda root: media_trees.kinetics_sounds(root, clips=2), 31, None),
    ],
)
def test_default_run_on_the_published_layout(
    experiment: str,
    write: Callable[[Path], Path],
    classes: int,
    dominant: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = write(tmp_path / "data")
    argv = [f"experiment={experiment}", f"data.path={root}", *SIZES, f"paths.runs={tmp_path / 'runs'}"]
    launch("asgml", train, dead, schema=Tree, judge=judge, argv=argv)  # raises SystemExit unless all is well
    told = capsys.readouterr().out
    (path,) = (tmp_path / "runs" / experiment).glob("*/result.json")
    result = json.loads(path.read_text())
    assert result["status"] == "finished"
    assert len(result["classes"]) == classes
    assert {"audio", "visual"} == {name.partition("/")[2] for name in result["test"] if name.startswith("accuracy/")}
    counters = result["counters"]
    assert counters["committed"] >= 6
    assert counters["vetoed"] == 0
    assert counters["updates"]["visual"] == counters["committed"], "nobody holds the weaker modality back"
    if dominant:
        held = counters["held"][dominant]
        assert held == 2, "the default delay of two steps"
        assert counters["updates"][dominant] == counters["committed"] - held
    else:
        assert "the data set does not name it" in told
        assert "dominant" in counters
    assert f"test: accuracy {result['test']['accuracy']:.4f}" in told, "a run ends with its numbers"
    assert str(path.parent / "report.html") in told
    assert (path.parent / "report.html").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "needs"),
    [
        (["experiment=cremad_mini", "data.path={tmp}/mini"], None),
        (["experiment=avdigits", "paths.data={data}"], DATA / "fsdd"),
        (["experiment=features", "data.path={data}/grid_digit/grid_digit.npz", "data.dominant=audio"], GRID),
    ],
)
def test_the_guard_has_nothing_to_say_about_a_default_run(line: list[str], needs: Path | None, tmp_path: Path) -> None:
    """A warning about settings that nobody has chosen would teach users to pass it over."""
    if needs is not None and not needs.exists():
        pytest.skip(f"no {needs} (SUITE_DATA)")
    argv = [o.format(tmp=tmp_path, data=DATA) for o in line]
    argv += ["trainer.max_epochs=6", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    launch("asgml", train, dead, schema=Tree, judge=judge, argv=[*argv, f"paths.runs={tmp_path / 'runs'}"])
    (path,) = (tmp_path / "runs").glob("*/*/result.json")
    guard = json.loads(path.read_text())["counters"]["stability"]
    assert guard["confirmed"] == []
    assert 0 < guard["worst"]["audio"]["load"] < 3
