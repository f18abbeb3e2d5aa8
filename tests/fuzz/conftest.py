"""Divides the time of command lines among their tests; says at the end how many inputs of each class were drawn."""

from __future__ import annotations

import pytest
from fuzzing import SECONDS, SEED, told
from profiles import MINUTES, share


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Divide `FUZZ_MINUTES` among the tests that read it; see `profiles`."""
    here = [item for item in items if item.path.name == "test_configurations.py"]
    share["seconds"] = 60 * MINUTES / max(1, len(here))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = told()
    if lines and (SECONDS or MINUTES):
        terminalreporter.section(f"fuzzed, FUZZ_SEED={SEED}")
        for line in lines:
            terminalreporter.write_line(line)
