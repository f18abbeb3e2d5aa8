"""Lines that a run prints for its user."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def rank_zero_print(line: str) -> None:
    """Print one line for the user on rank 0, whatever the logging level."""
    print(line, flush=True)
