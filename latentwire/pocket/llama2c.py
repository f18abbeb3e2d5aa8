"""llama2.c's legacy checkpoints and tokenizers as transformers models (github.com/karpathy/llama2.c, `export.py` v0).

python -m latentwire.pocket.llama2c checkpoint.bin tokenizer.bin folder
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from suite.runs.command import command, command_parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Convert what the command line names, and return the exit code: 0, or that of a UserError."""
    parser = command_parser("python -m latentwire.pocket.llama2c", __doc__)
    for name, meaning in (("checkpoint", "weights"), ("tokenizer", "tokens"), ("folder", "where the model goes")):
        parser.add_argument(name, type=Path, help=meaning)
    arguments = parser.parse_args(argv)

    from latentwire.pocket.llama2c_files import convert

    convert(**vars(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
