"""Divides the time of `make fuzz` among the tests of this folder; see `profiles`."""

from __future__ import annotations

import pytest
from profiles import MINUTES, share


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Divide the time among the tests of this folder."""
    here = [item for item in items if "fuzz" in item.path.parts]
    share["seconds"] = 60 * MINUTES / max(1, len(here))
