"""Named studies of the feedback system: tables of configurations over seeds, resumable, with a report at the end.

    python -m asgml.feedback.study feedback --data FOLDER    # all, docs/results/feedback.md
    python -m asgml.feedback.study surfaces    # with and without feedback on rendered surfaces
    python -m asgml.feedback.study magnetic_tile data.root=FOLDER/magnetic_tile    # on real ones
    python -m asgml.feedback.study variants    # how what is read joins its stream

Each begins with what is missing; a single one ends with its tables and report.
"""

from __future__ import annotations

from asgml.feedback.page.whole import Part, Whole
from asgml.feedback.run import PROGRAM
from asgml.model.variants import VARIANTS
from asgml.run import Tree, dead, judge, train
from suite.runs.study import Command, Program, Study, main

SEEDS = (0, 1, 2)
PAIR = (("label=base", "feedback=false"), ("label=feedback",))
WEIGHTS = tuple((f"label=text_weight {w}", f"text_weight={w}") for w in (0.05, 0.2))
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
SHORT = ("method=joint", "trainer.max_epochs=12")
READS = (*SHORT, "fusion=cross_attention", "callbacks=[default,share]", "callbacks.share.every=10")
FUSIONS = (
    ("label=concat", "fusion=concat", *SHORT),
    ("label=cross_attention", *READS),
    ("label=cross_attention full", "model.fusion.variant=full", *READS),
)
TABLES = {
    "surfaces": Study("surfaces", SEEDS, (*PAIR, *WEIGHTS)),
    "magnetic_tile": Study("magnetic_tile", SEEDS, PAIR),
    "variants": Study("surfaces", SEEDS, tuple((f"label={v}", f"variant={v}", *STARVING) for v in VARIANTS)),
}
WHOLE = Whole(
    [
        Part("surfaces", TABLES["surfaces"], PROGRAM),
        Part("magnetic_tile", TABLES["magnetic_tile"], PROGRAM, "magnetic_tile", "data.root"),
        Part("variants", TABLES["variants"], PROGRAM),
        Part(
            "grid_digit",
            Study("features", SEEDS, FUSIONS),
            Program("asgml", train, dead, Tree, judge=judge),
            "grid_digit/grid_digit.npz",
            "data.path",
        ),
    ]
)
STUDIES: dict[str, Study | Command] = {"feedback": WHOLE, **TABLES}


if __name__ == "__main__":
    main(PROGRAM, STUDIES, __doc__)
