"""`make encoders`: every default encoder against logistic regression on the kinds of data that it is the default for.

An encoder that loses to a linear map on its own input lets a study blame imbalance for what is a network that cannot
learn. Training is that of the experiments: SGD without momentum at one learning rate, nothing tuned per row.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from suite.runs.command import command, command_parser

if TYPE_CHECKING:
    from asgml.model.encoders.norms import Norm

NORMS: tuple[Norm, ...] = ("group", "batch")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the table, and return the exit code: 0, or that of a UserError."""
    parser = command_parser("python -m asgml.bench.encoders", __doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SUITE_DATA", "data")))
    parser.add_argument("--out", type=Path, default=Path("docs/results/encoders.md"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--norm", choices=NORMS, help="one normalisation; both without it")
    options = parser.parse_args(argv)

    from asgml.bench.encoder_table import write

    norms = NORMS if options.norm is None else (options.norm,)
    write(options.data, options.out, norms, options.seeds, options.epochs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
