"""Named studies of asgml (see `suite.runs.study`).

Example::

    python -m asgml.study demo                    # `make demo`; further overrides go to every run
    python -m asgml.study settle --data FOLDER    # equal tuning and ten seeds on every data set (asgml/tune/settle.py)
"""

from __future__ import annotations

from asgml.run import Tree, dead, judge, train
from asgml.tune.settle import STUDY, settle
from suite.runs.study import Command, Program, Study, main

PROGRAM = Program("asgml", train, dead, Tree, judge=judge)
ASGML = ("asgml_staleness", "asgml_frequency", "asgml_adaptive")
STUDIES: dict[str, Study | Command] = {
    "demo": Study("cremad_mini", (0, 1), tuple((f"method={m}",) for m in ("joint", "ogm_ge", *ASGML))),
    STUDY: settle,
}


if __name__ == "__main__":
    main(PROGRAM, STUDIES)
