"""Named studies of asgml (see `suite.study`).

python -m asgml.study demo                    # `make demo`
python -m asgml.study avdigits paths.data=…   # further overrides go to every run
"""

from __future__ import annotations

from asgml.run import Tree, dead, train
from suite.study import Program, Study, main

PROGRAM = Program("asgml", train, dead, Tree)
ASGML = ("asgml_staleness", "asgml_frequency", "asgml_adaptive")
STUDIES = {
    "demo": Study("cremad_mini", (0, 1), tuple((f"method={m}",) for m in ("joint", "ogm_ge", *ASGML))),
    "avdigits": Study(
        "avdigits",
        (0, 1, 2),
        (
            *((f"method={m}",) for m in ("joint", "uniform", "ogm_ge", *ASGML)),
            *(("method=unimodal", f"methods.unimodal.modality={m}") for m in ("audio", "visual")),
        ),
    ),
}


if __name__ == "__main__":
    main(PROGRAM, STUDIES)
