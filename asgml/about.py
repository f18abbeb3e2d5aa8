"""What `python -m asgml.run` says of itself: `--help` and `list`."""

from __future__ import annotations

from suite.runs.about import About

ABOUT = About(
    command="python -m asgml.run",
    what="Train a network on several modalities, evaluate it, write its record and report.",
    groups={
        "experiment": "data, network and length of a run together",
        "data": "data set",
        "method": "how modalities are balanced, one or [several]",
        "protocol": "as published, or fair (default)",
        "model": "encoders",
        "fusion": "how modalities are joined",
        "optimizer": "optimiser",
        "lr_schedule": "learning rate over the run",
        "averaging": "averaged weights",
        "early_stopping": "end where validation no longer improves",
        "callbacks": "what accompanies a run, [several]",
        "logger": "where metrics go, [several]",
        "trainer": "Lightning's trainer",
        "launcher": "where the jobs of a sweep run",
        "rhythm": "which encoder updates when, keys asgml.*",
        "sweep": "lists for -m",
        "debug": "checks in place of a run",
        "fault": "faults of earlier code, +fault=NAME",
    },
    examples=(
        ("experiment=cremad_mini", "a first run, minutes on a CPU, no download"),
        ("experiment=avdigits method=ogm_ge seed=1", "real data, another method"),
        ("-m sweep=methods experiment=avdigits seed=0,1,2", "every method that fits"),
        ("experiment=table data.path=F.csv debug=overfit", "your files: learnable?"),
        ("experiment=cremad plan=true", "what a run would take"),
    ),
    lists={"methods": "method", "data": "data", "experiments": "experiment"},
    places={"data/cremad_mini": (), "data/avdigits": ("fsdd", "mnist")},
    script="asgml",
)
