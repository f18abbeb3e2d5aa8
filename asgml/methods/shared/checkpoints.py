"""Names the checkpoints of teachers: the parameter `checkpoints` of every method that has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def given_files(arguments: Mapping[str, Any]) -> dict[str, Path]:
    """Return the checkpoints that are given as paths, by role (see `suite.runs.reads`)."""
    given = arguments["checkpoints"]
    named = {"checkpoints": given} if isinstance(given, str) else {f"checkpoints.{m}": p for m, p in given.items()}
    return {role: Path(path) for role, path in named.items() if path != "auto"}


def by_modality(checkpoints: str | Mapping[str, str], modalities: Sequence[str]) -> dict[str, str]:
    """Return the checkpoint (or `auto`) of each modality; a single one stands for all of them."""
    return dict.fromkeys(modalities, checkpoints) if isinstance(checkpoints, str) else dict(checkpoints)
