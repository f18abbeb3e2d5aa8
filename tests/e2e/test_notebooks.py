"""The notebooks run from a clean folder, and what is committed of them is pictures without a trace of a machine."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from notebook_runs import NOTEBOOKS, PNG, ROOT, cells, main_picture, picture, read, run_here, run_in_kernel

KILOBYTE = 1000
FAST = ("01",)  # 02 reads the study of test_study_and_notebook.py
MACHINE = re.compile(r"/(?:home|root|Users|tmp|work)/|[A-Z]:\\")
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])


def drawing(path: Path) -> list[str]:
    return [cell["id"] for cell in cells(path) if "plt.show()" in "".join(cell["source"])]


# -- what is committed ------------------------------------------------------------------------------------------------
def test_there_are_seven_in_the_order_in_which_they_are_read() -> None:
    assert [p.name[:3] for p in NOTEBOOKS] == [f"{number:02d}_" for number in range(1, 8)]
    for path, following in pairwise(NOTEBOOKS):
        last = "".join(read(path)["cells"][-1]["source"])
        assert f"]({following.name})" in last, f"{path.name} does not name the next one"


@every_notebook
def test_a_notebook_is_valid(path: Path) -> None:
    notebook = read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in ids)
    if importlib.util.find_spec("nbformat"):
        import nbformat

        nbformat.validate(nbformat.read(path, as_version=4))


@every_notebook
def test_what_came_out_is_pictures_and_nothing_of_the_machine(path: Path) -> None:
    notebook = read(path)
    assert path.stat().st_size < 300 * KILOBYTE
    assert notebook["metadata"]["language_info"] == {"name": "python"}, "renew it with make notebooks-run"
    assert [cell["execution_count"] for cell in cells(path)] == list(range(1, len(cells(path)) + 1))
    for cell in cells(path):
        assert set(cell["metadata"]) <= {"tags"}, "times of execution"
        for output in cell["outputs"]:
            assert output["output_type"] == "display_data", f"{cell['id']}: {output}"
            assert set(output["data"]) == {PNG, "text/plain"}
            assert re.fullmatch(r"<Figure size \d+x\d+ with \d+ Axes>", "".join(output["data"]["text/plain"]))
    for cell in notebook["cells"]:
        assert not MACHINE.search("".join(cell["source"]))
    assert [cell["id"] for cell in cells(path) if cell["outputs"]] == drawing(path)


@every_notebook
def test_the_readmes_picture_is_the_notebooks(path: Path) -> None:
    assert picture(path).read_bytes() == main_picture(path), "renew it with make notebooks-run"
    assert picture(path).stat().st_size < 60 * KILOBYTE


@every_notebook
def test_the_files_that_a_notebook_links_to_exist(path: Path) -> None:
    for cell in cells(path, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)\)", "".join(cell["source"])):
            assert (path.parent / target).exists(), target


# -- what they do -----------------------------------------------------------------------------------------------------
@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, another one for the runs, and the path of modules put back afterwards."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem[:2] in FAST], ids=FAST)
def test_a_short_notebook_runs(path: Path, clean: Path) -> None:
    pytest.importorskip("matplotlib", reason="make notebooks installs it")
    assert run_here(path) == len(drawing(path))
    assert not list(clean.iterdir()), "it writes where RUNS says, and nowhere else"


@pytest.mark.slow
@every_notebook
def test_a_notebook_runs_from_a_clean_folder(path: Path, clean: Path) -> None:
    """In a kernel where the extra `notebooks` is installed, else in this process."""
    pytest.importorskip("matplotlib", reason="make notebooks installs it")
    if importlib.util.find_spec("nbclient") and importlib.util.find_spec("ipykernel"):
        done = run_in_kernel(path, clean)
        assert [cell.id for cell in done.cells if cell.get("outputs")] == drawing(path)
    else:
        assert run_here(path) == len(drawing(path))
    assert not list(clean.iterdir()), "it writes where RUNS says, and nowhere else"
