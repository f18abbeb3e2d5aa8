"""What a training step costs, over what no wire can do without.

`python -m latentwire.bench [override …]` trains `experiment=pocket` for some steps and, after each, does on the same
batch the bare passes of the language models: the encoder's, without gradient, and the reader's, forward and backward
to its latents. They and the step take turns in one run, so that a slow minute of the machine hits all of them; numbers
are medians. `trained` is forward and backward of what is trained (encoder's own layers, codec, adapter, injector): with
a reader of some hundred thousand weights that is arithmetic of the same order, with one of billions it is nothing.
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
    """Measure, print the table, and return the exit code: 0, or that of a UserError."""
    parser = command_parser("python -m latentwire.bench", __doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("overrides", nargs="*", help="of the configuration, e.g. injector=soft_prefix")
    options = parser.parse_args(argv)

    from rich.console import Console

    from latentwire.step_costs import measure, table
    from suite.shell import quiet_lightning

    quiet_lightning()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        turns = measure(options.overrides, options.steps, Path(folder))
    Console(width=100).print(table(turns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
