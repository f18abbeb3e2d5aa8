"""What the panels of a W&B workspace show of a run, by the names that it has logged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from wandb_files import OfflineRun

from suite.dashboard import Bars, Definition, Lines


def blank(definition: Definition, runs: list[OfflineRun]) -> list[str]:
    """Return the titles of the panels that show nothing of any of these runs."""
    found = []
    for panel in (p for section in definition.sections for p in section.panels):
        if isinstance(panel, Lines):
            logged = {name for run in runs for row in run.rows for name in row}
            shown = {*logged}.intersection(panel.metrics) | {n for n in logged if _fits(panel.pattern, n)}
        elif isinstance(panel, Bars):
            shown = {name for run in runs for name in run.summary}.intersection(panel.metrics)
        else:
            shown = {
                a.title
                for a in panel.columns
                if any(_has(run.config, a.config, run.summary, a.summary) for run in runs)
            }
            shown = shown if len(shown) == len(panel.columns) else set()
        if not shown:
            found.append(panel.title)
    return found


def _fits(pattern: str | None, name: str) -> bool:
    return pattern is not None and re.fullmatch(pattern, name) is not None


def _has(config: Mapping[str, Any], key: str | None, summary: Mapping[str, Any], other: str | None) -> bool:
    if key is None:
        return other in summary
    return OmegaConf.select(OmegaConf.create(dict(config)), key) is not None
