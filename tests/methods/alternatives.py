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
    "opm": ["methods.opm.warmup=1"],
    "greedy": ["methods.greedy.starts=1"],
    "remix": ["methods.remix.warmup=1"],
    "gblending": ["methods.gblending.super_epoch=1"],
    "mses": ["methods.mses.patience=1"],
    "mslr": ["methods.mslr.history=2"],
    "miles": ["methods.miles.threshold=0.0"],
    "amst": ["methods.amst.factor=2"],
    "reconboost": ["methods.reconboost.stage_epochs=1", "methods.reconboost.rectify_epochs=1"],
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
    "ume": {"weights": {"audio": 3.0, "visual": 1.0}},
    "opm": {"warmup": 2, "p_exe": 0.0},
    "lfm": {"alignment": "js", "schedule": "fitted"},
    "amco": {"most": 0.5},
    "greedy": {"tolerance": 1e9, "starts": 2, "window": (1, ["methods.greedy.tolerance=-1.0"])},
    "remix": {"warmup": 2},
    "mgda": {"normalize": "l2"},
    "gradnorm": {"alpha": 30.0},
    "inforeg": {"threshold": 0.9, "span": 1},
    "mses": {"patience": (2, ["methods.mses.min_delta=1.0"]), "min_delta": 1.0},
    "mslr": {"strategy": ("keep", ["methods.mslr.factors={{audio:0.5}}"]), "factors": {"audio": 0.5}},
    "amst": {"modality": "visual", "factors": {"visual": 2}},
}

# Encoders that stand still for a whole run.
MAY_STAND_STILL: dict[str, set[str]] = {
    "unimodal": {"visual", "text"},
    "unimodal_audio": {"visual", "text"},
    "unimodal_visual": {"audio", "text"},
}

# Methods for which a batch without audio holds nothing to learn from: its step is vetoed.
AUDIO_ONLY = {"unimodal", "unimodal_audio"}
