"""The wheel is complete: it runs from any directory, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_it_holds_what_the_packages_read(site: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    packages = ("asgml/", "callbacks/", "latentwire/", "suite/")
    expected = {f for f in tracked.splitlines() if f.startswith(packages)}
    expected |= {f"suite/{f}" for f in tracked.splitlines() if f.startswith("conf/")}
    held = {str(p.relative_to(site)) for p in site.rglob("*") if p.is_file()}
    assert {f for f in expected if (ROOT / f.removeprefix("suite/" if "/conf/" in f else "")).exists()} <= held
    assert not any(f.startswith("tests/") for f in held)


@pytest.mark.parametrize(
    ("module", "override"), [("asgml.run", "experiment=cremad"), ("latentwire.run", "experiment=pocket")]
)
def test_it_composes_from_any_directory(site: Path, tmp_path: Path, module: str, override: str) -> None:
    line = [sys.executable, "-c", f"import {module} as m; print(m.__file__); m.main()", override, "--cfg", "job"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where, *tree = done.stdout.splitlines()
    assert Path(where).is_relative_to(site)
    assert f"name: {override.partition('=')[2]}" in tree
