"""What breaks inside a run ends it on one screen, and the same command comes to what it would have come to."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from asgml_runs import overrides, write_features

from asgml.run import PROGRAM
from suite.runs.study import start
from suite.torture.left import of_runs


class Breaks(L.Callback):
    """Raises an error of its own in one hook, as long as a file is there."""

    def __init__(self, hook: str, marker: str):
        self.hook, self.marker, self.calls = hook, Path(marker), 0
        setattr(self, hook, self._break)

    def _break(self, *_: Any, **__: Any) -> None:
        self.calls += 1
        if self.calls > 1 and self.marker.exists():
            raise RuntimeError(f"broken in {self.hook}")


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Refuse to let any file grow beyond so many bytes, as a full disk or `ulimit -f` does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    npz = write_features(tmp_path_factory.mktemp("faults") / "f.npz")
    return [*overrides(npz, Path("RUNS")), "callbacks.checkpoint.every_n_steps=3", "callbacks.diagnostics=null"]


def in_folder(line: list[str], folder: Path, *more: str) -> list[str]:
    return [word.replace("RUNS", str(folder / "runs")) for word in (*line, *more)]


@pytest.fixture(scope="module")
def undisturbed(line: list[str], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start(PROGRAM, in_folder(line, folder)) == 0
    return of_runs(folder)


def slowly(value: object) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize("size", [slowly(60), slowly(300), 3000, slowly(20_000), slowly(60_000)])
def test_files_that_cannot_grow(
    size: int, line: list[str], undisturbed: Mapping[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with no_file_above(size):
        code = start(PROGRAM, in_folder(line, tmp_path))
    seen = capsys.readouterr()
    assert code == 2, seen.err
    assert "Traceback" not in seen.out + seen.err
    for told in ("File too large", "remedy:"):
        assert told in seen.err
    assert start(PROGRAM, in_folder(line, tmp_path)) == 0, capsys.readouterr().err
    assert of_runs(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_epoch_end", "on_save_checkpoint"])
def test_a_callback_that_raises(hook: str, line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the callback in place, but silent, the run is what it is undisturbed."""
    (marker := tmp_path / "marker").touch()
    own = f"+callbacks.own={{_target_:{__name__}.Breaks,hook:{hook},marker:'{marker}'}}"
    words = in_folder(line, tmp_path, own)
    assert start(PROGRAM, words) == 1
    seen = capsys.readouterr()
    assert seen.err.count("Traceback") == 1
    assert f"RuntimeError: broken in {hook}" in seen.err
    (result,) = tmp_path.rglob("result.json")
    assert json.loads(result.read_text())["status"] == "failed"
    marker.unlink()
    assert start(PROGRAM, words) == 0, capsys.readouterr().err
    broken = of_runs(tmp_path)
    assert start(PROGRAM, [*words, "resume=never"]) == 0
    assert of_runs(tmp_path) == broken
