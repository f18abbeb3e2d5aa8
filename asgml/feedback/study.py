"""Named studies of the feedback system: tables of configurations over seeds, resumable, with a report at the end.

python -m asgml.feedback.study feedback      # with and without feedback on rendered surfaces
python -m asgml.feedback.study magnetic_tile paths.data=FOLDER    # the same on real ones
python -m asgml.feedback.study variants      # how what is read joins its stream
"""

from __future__ import annotations

from asgml.feedback.run import PROGRAM
from asgml.model.variants import VARIANTS
from suite.runs.study import Study, main

SEEDS = (0, 1, 2)
PAIR = (("label=base", "feedback=false"), ("label=feedback",))
STUDIES = {
    "feedback": Study("surfaces", SEEDS, PAIR),
    "magnetic_tile": Study("magnetic_tile", SEEDS, PAIR),
    "variants": Study("surfaces", SEEDS, (PAIR[0], *((f"label={name}", f"variant={name}") for name in VARIANTS))),
}


if __name__ == "__main__":
    main(PROGRAM, STUDIES, __doc__)
