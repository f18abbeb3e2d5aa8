"""Tells the tests of all methods what they must know of single ones. Append one entry per method; never reorder."""

from __future__ import annotations

from typing import Any

import yaml
from asgml_runs import ROOT

from suite.config.signature import locate

FILES = {path.stem: path for path in sorted((ROOT / "conf" / "asgml" / "method").glob("*.yaml"))}
METHODS = list(FILES)
OWN = [n for n, path in FILES.items() if path.read_text().startswith(f"# @package methods.{n}\n")]


def target(name: str) -> Any:
    """Finds the class of a method by its YAML."""
    return locate(yaml.safe_load(FILES[name].read_text())["_target_"])


# Overrides for every run of the matrix (three epochs of four batches, vector features). `{teacher}` and `{second}` are
# checkpoints with encoders for all modalities of the run; other braces are doubled.
RUN: dict[str, list[str]] = {
    "unimodal": ["methods.unimodal.modality=audio"],
    "ogm_ge": ["methods.ogm_ge.kernels=all"],
    "boost": ["asgml.boost.threshold_delta=0.0"],
    "boost_ogm_ge": ["asgml.boost.threshold_delta=0.0", "methods.ogm_ge.kernels=all"],
    "opm_ogm": ["methods.opm.begins=1", "methods.ogm_ge.kernels=all"],
    "pmr": [],
    "arl": ["methods.arl.begins=1"],
    "relearn": ["methods.relearn.every=1"],
    "umt": ["methods.umt.checkpoints={{audio:{teacher},visual:{teacher}}}"],
    "valuation": ["methods.valuation.begins=1"],
    "control_all_delayed": ["asgml.tau=1"],
    "opm": ["methods.opm.begins=1"],
    "greedy": ["methods.greedy.begins=1"],
    "remix": ["methods.remix.begins=1"],
    "gblending": ["methods.gblending.super_epoch=1"],
    "mses": ["methods.mses.patience=1"],
    "mslr": ["methods.mslr.history=2"],
    "miles": ["methods.miles.threshold=0.0"],
    "amst": ["methods.amst.factor=2"],
    "reconboost": ["methods.reconboost.stage_epochs=1", "methods.reconboost.rectify_epochs=1"],
    "g2d": ["methods.g2d.checkpoints={teacher}"],
    "aug": ["methods.aug.every=1"],
}

# Another value of a field, under which the same run must end differently; `(value, [overrides])` when both runs need
# more for the field to act. Fields that are not listed get: bool flipped, int + 1, float doubled (1.0 for 0.0).
OTHER: dict[str, dict[str, Any]] = {
    "unimodal": {"modality": "visual"},
    "ogm_ge": {
        "kernels": ("conv", "refused"),  # no convolution in these encoders
        "begins": 2,
        "ends": 1,
    },
    "pmr": {"alpha": 3.0, "momentum": 0.1, "entropy_epochs": (1, ["methods.pmr.mu=1.0"]), "mu": 1.0, "ends": 1},
    "agm": {"begins": 2, "ends": 1},
    "arl": {"floor": (0.5, ["methods.arl.temperature=20.0"]), "begins": 6},
    "relearn": {"every": 2, "times": 1},
    "umt": {"checkpoints": {"audio": "{second}", "visual": "{teacher}"}},
    "valuation": {
        "level": "modality",
        "begins": 2,
        "repeats": 20.0,
        "strength": (50.0, ["methods.valuation.level=modality", "methods.valuation.strength=1.0"]),
    },
    "ume": {"weights": {"audio": 3.0, "visual": 1.0}},
    "opm": {"begins": 2, "p_exe": 0.0},
    "lfm": {"alignment": "js", "schedule": "fitted"},
    "amco": {"most": 0.5},
    "greedy": {"tolerance": 1e9, "begins": 2, "window": (1, ["methods.greedy.tolerance=-1.0"])},
    "remix": {"begins": 2},
    "mgda": {"normalize": "l2"},
    "gradnorm": {"alpha": 30.0},
    "inforeg": {"threshold": 0.9, "span": 1},
    "mses": {"patience": (2, ["methods.mses.min_delta=1.0"]), "min_delta": 1.0},
    "mslr": {"strategy": ("keep", ["methods.mslr.factors={{audio:0.5}}"]), "factors": {"audio": 0.5}},
    "amst": {"modality": "visual", "factors": {"visual": 2}},
    "g2d": {"checkpoints": "{second}", "alone": [0.0, 0.5]},
    "aug": {"every": 2, "sigma": 3.0, "tau": 1.0, "most": 1, "weights": {"audio": 3.0, "visual": 1.0}},
    "amss": {"least": 0.5},
}

# Encoders that stand still for a whole run.
MAY_STAND_STILL: dict[str, set[str]] = {
    "unimodal": {"visual", "text"},
    "unimodal_audio": {"visual", "text"},
    "unimodal_visual": {"audio", "text"},
}

# Methods for which a batch without audio holds nothing to learn from: its step is vetoed.
AUDIO_ONLY = {"unimodal", "unimodal_audio"}

# Values without a meaning, with audio and visual as modalities.
REFUSED: dict[str, dict[str, list[Any]]] = {
    "amco": {"eps": [0.0], "most": [-0.1, 1.0]},
    "amss": {"temperature": [0.0], "least": [0.0, 0.6]},
    "amst": {"modality": ["sound"], "factor": [0], "factors": [{"sound": 2}, {"audio": 2, "visual": 3}, {"audio": 0}]},
    "aug": {
        "residual": [1.5],
        "every": [0],
        "width": [0],
        "most": [0],
        "weights": [{"audio": 1.0}, {"audio": 1.0, "visual": 0.0}],
    },
    "cagrad": {"c": [0.0, 1.0]},
    "dgl": {"alpha": [0.0]},
    "g2d": {
        "temperature": [0.0],
        "alone": [-0.1, 1.5, [0.4, 0.4, 0.1], [0.8, 0.4]],
        "checkpoints": [{"audio": "a.ckpt"}],
    },
    "gblending": {"super_epoch": [0]},
    "gradnorm": {"lr": [-1.0]},
    "greedy": {"ratio": [0], "window": [0]},
    "inforeg": {"beta": [{"sound": 0.95}], "span": [0]},
    "lfm": {"alignment": ["cosine"], "schedule": ["linear"]},
    "mgda": {"normalize": ["l1"]},
    "miles": {"threshold": [-1.0], "reduction": [-1.0]},
    "mimo": {"lam": [0.0], "mu": [0.0]},
    "mla": {"alpha": [0.0]},
    "mmcosine": {"scale": [0.0]},
    "mmpareto": {"rescale": [0.0]},
    "mses": {"patience": [0], "min_delta": [-1.0]},
    "mslr": {"strategy": ["smooth"], "history": [1], "factors": [{"sound": 1.0}, {"audio": -1.0}]},
    "ogm_ge": {"kernels": ["linear"]},
    "opm": {"q_base": [1.5], "p_exe": [-0.1], "lam": [-1.0]},
    "pmr": {"momentum": [1.0]},
    "reconboost": {"stage_epochs": [0], "rectify_epochs": [-1]},
    "relearn": {"every": [0], "times": [-1]},
    "remix": {"begins": [0]},
    "ume": {"weights": [{"audio": 1.0}, {"audio": 1.0, "visual": 0.0}, {}]},
    "unimodal": {"modality": ["sound"]},
    "valuation": {"level": ["batch"]},
}
