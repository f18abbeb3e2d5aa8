"""`make bench`: what a step of every method costs relative to joint, with ResNet18 encoders and with MLPs on features.

Configurations are those of `conf/asgml/method`, built as `asgml.run` builds them. A joint block stands before and after
every few methods, and a ratio is taken to these two only: a slow minute of the machine hits all of them. What a method
does once per epoch (a survey of the training data, a re-initialisation) is not in a step's time; the run times of
`python -m asgml.compare` include it.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from suite.runs.command import command, command_parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and return the exit code: 0, or that of a UserError."""
    parser = command_parser("python -m asgml.bench.method_costs", __doc__)
    parser.add_argument("--encoder", choices=("resnet18", "mlp"), default="resnet18")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", help="comma-separated; all without it")
    options = parser.parse_args(argv)

    from rich.console import Console

    from asgml.bench.method_ratios import chosen, table
    from suite.shell import quiet_lightning

    methods = chosen(options.methods)
    quiet_lightning()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        found = table(options.encoder, methods, options.rounds, Path(folder))
    Console().print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
