"""What a run of asgml was measured on: the settings and the files of its data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from suite.report.data import RunRecord
from suite.report.labels import portable

# Keys of the data node that change no sample: who is known to dominate, and where prepared files lie.
NO_DATA = ("dominant", "prepared")


@dataclass(frozen=True)
class FileContent:
    """A file by its content: the same wherever it lies.

    Attributes:
        sha256: the hash of its content.
        name: what it is called.
    """

    sha256: str
    name: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.name} [{self.sha256[:8]}]"


def measured_on(run: RunRecord) -> dict[str, Any]:
    """Return the settings of the data, simulated missingness, and the content of every data file that was recorded.

    Settings are told relative to the run's `paths`. A key that names a recorded file counts by the file's content.
    """
    config = run.config
    data = portable(config.get("data") or {}, config.get("paths") or {})
    facts: dict[str, Any] = {f"data.{key}": value for key, value in data.items() if key not in NO_DATA}
    rates = (config.get("loader") or {}).get("missing") or {}
    facts["loader.missing"] = {m: rate for m, rate in sorted(rates.items()) if rate}
    for role, entry in (run.result.get("inputs") or {}).items():
        if role.startswith("data."):
            facts[role] = FileContent(entry["sha256"], PurePath(entry["path"]).name)
    return facts


def debugging(run: RunRecord) -> str:
    """Return why a run is no result: `debug=overfit`; "" where it is one."""
    return f"debug={run.config['debug']}" if run.config.get("debug") else ""


def replaying(run: RunRecord) -> str:
    """Return which fault of earlier code a run replays: `fault=off_by_one`; "" for a run of the exact code."""
    return f"fault={run.config['fault']}" if run.config.get("fault") else ""


def aside(run: RunRecord) -> str:
    """Return why a run is no result to compare with others; "" where it is one."""
    return debugging(run) or replaying(run)
