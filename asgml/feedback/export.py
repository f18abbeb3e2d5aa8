"""Get what was trained out of a finished run: `python -m asgml.feedback.export RUN -o FOLDER`.

    FOLDER/export.json          classes, SHA-256 of every file and of the CLIP's
                                weights, and the parity that was found
    FOLDER/weights.safetensors  adapters, projections, cross-attention
    FOLDER/config.yaml          the run's configuration

The CLIP itself is not in it: it is loaded from where the run had it, or from --clip PLACE of `predict`, and any other
is refused. `python -m asgml.feedback.predict FOLDER --class NAME --data …` needs nothing else: no run, no training
data. What was written is read back and compared with the run on drawn pictures; where they differ, nothing is left and
the command fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from asgml.feedback.finished import asked, told_of
from suite.runs.command import command, command_parser
from suite.runs.exported import require_new


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m asgml.feedback.export", __doc__)
    p.add_argument("run", type=Path, help="directory of a finished run")
    p.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    p.add_argument("--checkpoint", choices=["best", "last"], default="best", help="weights (default: best)")
    p.add_argument("--clip", metavar="PLACE", help="folder or hub id of the CLIP (default: as the run)")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)
    cfg = asked(args.run, (), "", ())
    told_of(args.run)
    require_new(args.out)

    from asgml.feedback.exported import export
    from asgml.feedback.restore import restore

    parity = export(restore(args.run, args.checkpoint, args.clip, cfg), args.out)
    for path in sorted(args.out.iterdir()):
        print(f"{path}  {path.stat().st_size} bytes")
    print(f"scores differ from the run's by {parity:.2g} at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
