"""The whole tree passes ruff and mypy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "tool", [["ruff", "check", ".", "--no-cache"], ["mypy", f"--cache-dir={os.devnull}"]], ids=["ruff", "mypy"]
)
def test_clean(tool):
    done = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
