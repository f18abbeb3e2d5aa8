"""`python -m asgml.tune experiment=E`: equal tuning of every row, then the comparison.

    python -m asgml.tune experiment=E [plan=true] [trials=8] [seeds=[0,1,2]] [tune_seeds=[1000]]
                         [rows=[…]] [overrides of asgml.run]

    python -m asgml.tune experiment=avdigits rows=[joint,uniform,ogm_ge]
    python -m asgml.tune experiment=avdigits rows=[joint,ogm_ge] plan=true    # runs and hours

Every row has the same number of trials from the same distribution (`conf/asgml/tune.yaml`), is chosen on validation,
and runs at its chosen point with every seed. Runs that the ledger has are not repeated: after a stop, or with more
trials or seeds, start the same command again. In `<paths.runs>/<name>` it leaves `tuned.json`, `tuning.md` and the
tables of `asgml.compare`; the trials lie in `<paths.runs>/trials`. The name is `<experiment>_tuned` unless `name=` is
given.

Exit codes: 0 all has finished, 1 a run or a row failed, 2 the user's input is at fault, 130 and 143 when stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from callbacks.errors import UserError
from suite.runs.command import command, helped


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Tune and evaluate the rows that the command line names, and return the exit code."""
    if helped(argv, __doc__):
        return 0
    from rich.console import Console

    from asgml.study import PROGRAM
    from asgml.tune.command import asked, compare, report
    from asgml.tune.options import TuneTree
    from asgml.tune.trees import Trees
    from asgml.tune.tuner import Tuner
    from suite.report.tables import terminal

    wanted = asked("asgml/tune", sys.argv[1:] if argv is None else argv, TuneTree)
    experiment = next((o for o in wanted.line if o.startswith("experiment=")), None)
    if experiment is None:
        remedy = "python -m asgml.tune experiment=avdigits rows=[joint,uniform]"
        raise UserError("experiment", "no experiment", "the experiment whose rows are compared", remedy)
    named = [] if any(o.startswith("name=") for o in wanted.line) else [f"name={experiment.partition('=')[2]}_tuned"]
    rest = [o for o in wanted.line if o is not experiment]
    tuner = Tuner(Trees(PROGRAM, wanted.composer, [experiment, *named, *rest], wanted.options.lr), wanted.options)
    if wanted.options.plan:
        shown = Console()
        shown.print(terminal([tuner.plan.table()], shown.width))
        return 0
    tuner.tune()
    tuner.evaluate()
    compare(tuner)
    return report([tuner])


if __name__ == "__main__":
    sys.exit(main())
