"""Named studies of asgml (see `suite.runs.study`).

Example::

    python -m asgml.study demo                    # `make demo`; further overrides go to every run
    python -m asgml.study faults                  # `make faults`: what each fault of earlier code costs (asgml/faults)
    python -m asgml.study settle --data FOLDER    # equal tuning and ten seeds on every data set
    python -m asgml.study phases --data FOLDER    # how long each modality takes to be learned, against docs/theory.md
    python -m asgml.study cremad --data FOLDER plan=true    # rows, runs and hours; then without plan=true: the study
    # ave and kinetics_sounds likewise; what these run stands in conf/asgml/<study>.yaml (asgml/tune/studies.py)
"""

from __future__ import annotations

from asgml.faults.page import write_page
from asgml.faults.pairs import rows
from asgml.run import Tree, dead, judge, train
from asgml.tune.studies import Declared
from suite.runs.study import Command, Program, Study, main

PROGRAM = Program("asgml", train, dead, Tree, judge=judge)
DECLARED = ("settle", "phases", "cremad", "ave", "kinetics_sounds")
ASGML = ("asgml_staleness", "asgml_frequency", "asgml_adaptive")
STUDIES: dict[str, Study | Command] = {
    "demo": Study("cremad_mini", (0, 1), tuple((f"method={m}",) for m in ("joint", "ogm_ge", *ASGML))),
    "faults": Study("cremad_mini", (0, 1, 2, 3, 4), rows(), write_page),
    **{name: Declared(name) for name in DECLARED},
}


if __name__ == "__main__":
    main(PROGRAM, STUDIES)
