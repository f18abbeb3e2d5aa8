"""`python -m asgml.feedback.share`: how much gradient each variant of a branch leaves to an encoder, over seeds.

Every branch joins what comes from an image with what comes from a text, whose size is multiplied by `--context`: in
the fusions of the suite between small encoders of vectors, and in a small CLIP with adapters on generated surfaces,
before the image adapters (`clip`, as published), behind the first (`clip_behind`), or there with the mean of the text's
tokens as the only one (`clip_mean`). Measured is the gradient of the
image encoder, or of the image adapters, with the branch over that without it: same weights, same batch, so that all
variants of a system have one denominator. Two controls tell what the branch does by its size from what it does by its
direction, which `callbacks.Branch` describes: *size alone* is the stream at the norm that it has with the branch,
*direction alone* the stream with the branch at the norm that it has without.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from callbacks.errors import UserError
from suite.runs.command import command, command_parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and return the exit code: 0, or that of a UserError."""
    parser = command_parser("python -m asgml.feedback.share", __doc__)
    parser.add_argument("--seeds", type=int, default=10, help="the number of seeds, at least 10")
    parser.add_argument(
        "--systems",
        nargs="+",
        default=["fusions"],
        metavar="SYSTEM",
        help="whose branches are measured: fusions, clip, clip_behind, clip_mean",
    )
    parser.add_argument("--branches", nargs="+", metavar="ROW", help="these in place of a system's: 'clip full', gated")
    parser.add_argument("--context", nargs="+", type=float, default=[1.0, 7.0], help="factors on what comes from text")
    parser.add_argument("--json", type=Path, default=None, help="also write the rows to this file")
    given = parser.parse_args(argv)

    from asgml.feedback.branch_shares import SYSTEMS, THRESHOLD, measure, table
    from callbacks.files.atomic import write_text

    for system in given.systems:
        if system not in SYSTEMS:
            raise UserError("--systems", system, f"some of {', '.join(SYSTEMS)}", f"--systems {next(iter(SYSTEMS))}")
    names = given.branches or [name for system in given.systems for name in SYSTEMS[system]]
    rows = [measure(name, context, range(given.seeds)) for context in given.context for name in names]
    print(table(rows), end="")
    print(f"! below {THRESHOLD:g}. Means over {given.seeds} seeds with 95 % intervals (Student's t).")
    if given.json is not None:
        write_text(given.json, json.dumps([asdict(r) for r in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
