"""Which families of language models are read, and how: measured on tiny random models, written to a page.

`python -m latentwire.families` builds the models of `latentwire.lm.zoo` offline, loads each as a reader, and reads a
text as embeddings, as keys and values that were moved, and through LoRA. Some seconds of a core.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from suite.runs.command import command, command_parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write `families.md`, and return 0."""
    parser = command_parser("python -m latentwire.families", __doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder (default: docs/results)")
    arguments = parser.parse_args(argv)

    from latentwire.family_table import write

    print(write(arguments.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
