"""`python -m latentwire.ladder experiment=pocket_smoke`: which rung of a wire is broken, and what to do about it.

    python -m latentwire.ladder experiment=pocket [ladder.<rung>.<key>=…]    # rungs 0 to 4
    python -m latentwire.ladder experiment=pocket train=true       # trains, then climbs 5 and 6
    python -m latentwire.ladder run=<run directory> [ladder.…]     # all rungs of a run

Further overrides are those of `latentwire.run`. Verdicts stand in `<paths.runs>/ladder/<name>/<hash>/ladder.json`, and
in the run's directory where there is one.

Exit codes: 0 every rung that was climbed holds, 1 one failed, 2 the user's input is at fault.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from suite.runs.command import command, helped


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Climb the ladder, and return the exit code: 0, 1 where a rung failed, or that of a UserError."""
    if helped(argv, __doc__):
        return 0

    from latentwire.ladder.command import judge

    return 0 if judge(list(sys.argv[1:] if argv is None else argv)) else 1


if __name__ == "__main__":
    sys.exit(main())
