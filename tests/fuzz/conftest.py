"""Says at the end how many examples of every class were run and refused."""

from __future__ import annotations

import pytest
from fuzzing import SECONDS, SEED, told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = told()
    if lines and SECONDS:
        terminalreporter.section(f"fuzzed, FUZZ_SEED={SEED}")
        for line in lines:
            terminalreporter.write_line(line)
