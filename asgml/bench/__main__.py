"""`make bench`: what the suite, its monitors and staleness cost, and what a skipped encoder saves, in one run.

Every configuration is a whole run built as `asgml.run` builds it, with its callbacks, logs and checkpoints. What is
reported is the mean over whole epochs (every step, with loading, whatever comes at intervals, and the checkpoint of the
last step) and beside it the median over cycles of four steps (the period of k = 4), which hides all that is rare.
Validation is not in a step and is stated by itself. Configurations take turns, so that a slow minute of the machine
hits all of them.

`StabilityGuard` measures at steps 20 and 80 and later every 500, so a short epoch would hold too many of its
measurements or none. It is off in the delayed row, and its cost is taken apart: what step 20 of further runs takes
beyond their usual step, over 500 steps.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from suite.runs.command import command, command_parser

WIDTH = 100  # of the tables, also where no terminal is


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print both tables and the targets, and return 0."""
    parser = command_parser("python -m asgml.bench", __doc__)
    parser.add_argument("--encoder", choices=("resnet18", "small"), default="resnet18")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=48, help="steps of an epoch, above 20")
    parser.add_argument("--epochs", type=int, default=1, help="measured epochs of a run, after one that warms up")
    options = parser.parse_args(argv)

    from rich.console import Console

    from asgml.bench.step_costs import tables
    from suite.shell import quiet_lightning

    quiet_lightning()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        found = tables(**vars(options), folder=Path(folder))
    console = Console(width=WIDTH)
    for part in found:
        console.print(part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
