"""What `python -m latentwire.run` says of itself: `--help` and `list`."""

from __future__ import annotations

from suite.runs.about import About

ABOUT = About(
    command="python -m latentwire.run",
    what="Train a wire of latents between frozen language models, evaluate and judge it.",
    groups={
        "experiment": "corpus, models and length together",
        "corpus": "texts and their questions",
        "readers": "the frozen models that read",
        "lm": "one model, +lm@encoder_lm=NAME; its LoRA, +adaptation@adaptation.NAME=lora",
        "encoder": "text to latents",
        "pooling": "many vectors to M, +pooling@encoder.pooling=NAME",
        "adapter": "latents to a model's width",
        "injector": "what a model reads",
        "codec": "latents to bytes",
        "objective": "losses, [several]",
        "curriculum": "periods of the training",
        "baseline": "rivals at the same size, [several]",
        "optimizer": "optimiser",
        "lr_schedule": "learning rate over the run",
        "averaging": "averaged weights",
        "early_stopping": "end where validation no longer improves",
        "callbacks": "what accompanies a run, [several]",
        "logger": "where metrics go, [several]",
        "trainer": "Lightning's trainer",
        "launcher": "where the jobs of a sweep run",
    },
    examples=(
        ("experiment=pocket_smoke smoke=rvq", "one feature"),
        ("experiment=pocket codec=int8 wire.ratio=8", "fewer bytes, fewer latents"),
        ("experiment=pocket readers=hf hf.source=FOLDER", "any model"),
        ("-m experiment=pocket wire.ratio=4,8 seed=0,1,2", "a sweep"),
        ("experiment=pocket plan=true", "what a run would take"),
    ),
    lists={"experiments": "experiment", "data": "corpus", "models": "lm", "objectives": "objective"},
    data=("corpus", "lm", "readers"),
    places={"corpus/stories": ("stories260k",)},
    script="latentwire",
)
