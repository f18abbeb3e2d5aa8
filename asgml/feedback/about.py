"""What `python -m asgml.feedback.run` says of itself: `--help` and `list`."""

from __future__ import annotations

from suite.runs.about import About

ABOUT = About(
    command="python -m asgml.feedback.run",
    what="Train adapters and feedback between the towers of a frozen CLIP to find defects on surfaces.",
    groups={
        "experiment": "pictures, model and stages together",
        "data": "pictures and their defects",
        "clip": "the frozen CLIP",
        "optimizer": "optimiser; rates are the stages'",
        "callbacks": "what accompanies a run, [several]",
        "logger": "where metrics go, [several]",
        "trainer": "Lightning's trainer",
        "launcher": "where the jobs of a sweep run",
    },
    examples=(
        ("experiment=surfaces", "rendered, minutes on a CPU"),
        ("experiment=surfaces feedback=false", "the control"),
        ("-m experiment=surfaces loops=1,2,3 seed=0,1,2", "a sweep"),
        ("experiment=magnetic_tile paths.data=FOLDER", "real surfaces"),
        ("experiment=visa_feedback plan=true", "what a run would take"),
    ),
    lists={"experiments": "experiment", "data": "data"},
    places={"data/surfaces": ()},
)
