"""Decode a data set once: `python -m asgml.data.prepare experiment=cremad [--workers 4] [key=value …]`.

Takes the same overrides as `asgml.run` and prepares what that run would read. Stop it whenever you like: the same
command continues. It ends with a table of splits and modalities, or with exit code 2 if files are unusable.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from callbacks.errors import UserError
from suite.runs.command import command, command_parser, split_config_dirs

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from asgml.data.spec import Source


def summary(source: Source) -> RichTable:
    """Return a table of the samples per split, and of those in which each modality is present."""
    from rich.table import Table as RichTable

    from asgml.data.spec import SPLITS

    spec, tables = source.spec(), source.tables()
    out = RichTable("split", "samples", *spec.modalities, title=f"{len(spec.classes)} classes")
    for split in SPLITS:
        table = tables[split]
        out.add_row(split, str(len(table)), *(str(int(table.present[m].sum())) for m in spec.modalities))
    return out


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the source that the overrides describe and return the exit code."""
    parser = command_parser("python -m asgml.data.prepare", __doc__)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="decoding threads")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for asgml.run, e.g. experiment=cremad")
    folders, rest = split_config_dirs(sys.argv[1:] if argv is None else argv)
    args = parser.parse_intermixed_args(rest)
    from rich.console import Console

    from suite.config.check import check
    from suite.config.compose import Composer
    from suite.config.instantiate import build_node

    if args.workers < 1:
        raise UserError("--workers", str(args.workers), "1 or more", "give --workers 1, or leave it out")
    cfg = Composer("asgml", extra_dirs=folders).compose(args.overrides)
    check(cfg)
    source: Source = build_node(cfg.data)
    source.prepare(args.workers)
    Console().print(summary(source))
    return 0


if __name__ == "__main__":
    sys.exit(main())
