"""Named studies of the feedback system (see `suite.runs.study`).

Example::

    python -m asgml.feedback.study feedback --data FOLDER    # all of these, and docs/results/feedback.md
    python -m asgml.feedback.study surfaces                  # with and without feedback on rendered surfaces
    python -m asgml.feedback.study magnetic_tile data.root=FOLDER/magnetic_tile    # the same on real ones
    python -m asgml.feedback.study variants                  # how what is read joins its stream, where it can starve
"""

from __future__ import annotations

from asgml.feedback.page.whole import Whole
from asgml.feedback.run import PROGRAM
from asgml.model.cross_attention import VARIANTS
from suite.runs.study import Command, Study, main

SEEDS = (0, 1, 2)
PAIR = (("label=base", "feedback=false"), ("label=feedback",))
# What starves an adapter: a text far larger than the picture, a single token to read, and the branch behind the
# adapter. Short stages show it.
STARVING = (
    "clip.text_norm=200",
    "image_context=mean",
    "layers={image_adapters:[1],text_adapters:[1],levels:[2,3],image_reads:2,text_reads:1}",
    "loops=1",
    "stages.text.epochs=1",
    "stages.image.epochs=2",
    "callbacks.share.every=10",
    "trainer.log_every_n_steps=1",
)
PARTS = {
    "surfaces": Study("surfaces", SEEDS, PAIR),
    "magnetic_tile": Study("magnetic_tile", SEEDS, PAIR),
    "variants": Study("surfaces", SEEDS, tuple((f"label={v}", f"variant={v}", *STARVING) for v in VARIANTS)),
}
STUDIES: dict[str, Study | Command] = {"feedback": Whole(PARTS), **PARTS}


if __name__ == "__main__":
    main(PROGRAM, STUDIES)
