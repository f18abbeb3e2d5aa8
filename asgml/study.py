"""Named studies of asgml (see `suite.runs.study`).

Example::

    python -m asgml.study demo   # `make demo`; further overrides go to every run
"""

from __future__ import annotations

from asgml.run import Tree, dead, judge, train
from suite.runs.study import Program, Study, main

PROGRAM = Program("asgml", train, dead, Tree, judge=judge)
ASGML = ("asgml_staleness", "asgml_frequency", "asgml_adaptive")
STUDIES = {"demo": Study("cremad_mini", (0, 1), tuple((f"method={m}",) for m in ("joint", "ogm_ge", *ASGML)))}


if __name__ == "__main__":
    main(PROGRAM, STUDIES)
