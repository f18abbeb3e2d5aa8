"""Named studies of asgml (see `suite.runs.study`).

Example::

    python -m asgml.study demo     # `make demo`; further overrides go to every run
    python -m asgml.study faults   # `make faults`: what each fault of earlier code costs (asgml/faults)
"""

from __future__ import annotations

from asgml.faults.page import write_page
from asgml.faults.pairs import rows
from asgml.run import Tree, dead, train
from suite.runs.study import Program, Study, main

PROGRAM = Program("asgml", train, dead, Tree)
ASGML = ("asgml_staleness", "asgml_frequency", "asgml_adaptive")
STUDIES = {
    "demo": Study("cremad_mini", (0, 1), tuple((f"method={m}",) for m in ("joint", "ogm_ge", *ASGML))),
    "faults": Study("cremad_mini", (0, 1, 2, 3, 4), rows(), write_page),
}


if __name__ == "__main__":
    main(PROGRAM, STUDIES)
