"""What the method matrix must know of single methods. Append one entry per method; never reorder."""

from __future__ import annotations

from typing import Any

# Overrides for every run of the matrix (three epochs of four batches, vector features). `{teacher}` and `{second}` are
# checkpoints with encoders for all modalities of the run; other braces are doubled.
RUN: dict[str, list[str]] = {
    "unimodal": ["methods.unimodal.modality=audio"],
    "ogm_ge": ["methods.ogm_ge.kernels=all"],
    "boost": ["asgml.boost.threshold_delta=0.0"],
    "pmr": [],
    "arl": ["methods.arl.start=0"],
    "relearn": ["methods.relearn.every=1"],
    "umt": ["methods.umt.checkpoints={{audio:{teacher},visual:{teacher}}}"],
    "valuation": ["methods.valuation.warmup=1"],
    "control_all_delayed": ["asgml.tau=1"],
}

# Another value of a field, under which the same run must end differently; `(value, [overrides])` when both runs need
# more for the field to act. Fields that are not listed get: bool flipped, int + 1, float doubled (1.0 for 0.0).
OTHER: dict[str, dict[str, Any]] = {
    "unimodal": {"modality": "visual"},
    "ogm_ge": {
        "kernels": ("conv", "refused"),  # no convolution in these encoders
        "modulation_starts": 2,
        "modulation_ends": 1,
    },
    "pmr": {"alpha": 3.0, "momentum": 0.1, "entropy_epochs": (1, ["methods.pmr.mu=1.0"]), "mu": 1.0},
    "agm": {"modulation_starts": 2, "modulation_ends": 1},
    "arl": {"floor": (0.5, ["methods.arl.temperature=20.0"]), "start": 5},
    "relearn": {"every": 2, "times": 1},
    "umt": {"checkpoints": {"audio": "{second}", "visual": "{teacher}"}},
    "valuation": {
        "level": "modality",
        "warmup": 2,
        "repeats": 20.0,
        "strength": (50.0, ["methods.valuation.level=modality", "methods.valuation.strength=1.0"]),
    },
}

# Encoders that stand still for a whole run.
MAY_STAND_STILL: dict[str, set[str]] = {
    "unimodal": {"visual", "text"},
    "unimodal_audio": {"visual", "text"},
    "unimodal_visual": {"audio", "text"},
}

# Methods for which a batch without audio holds nothing to learn from: its step is vetoed.
AUDIO_ONLY = {"unimodal", "unimodal_audio"}
