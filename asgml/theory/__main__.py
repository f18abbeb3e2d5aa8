"""The page of the law: `python -m asgml.theory` writes tables and figures in some seconds, without data.

The prime learning window in closed form and as simulated; the derivation is in docs/theory.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from suite.runs.command import command, command_parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and its figures, and return 0."""
    parser = command_parser("python -m asgml.theory", __doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="the folder of the page")
    options = parser.parse_args(argv)

    from asgml.theory.page import write

    write(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
