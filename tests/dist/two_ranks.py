"""The runs that `test_two_ranks.py` compares, and the process of one rank: `python two_ranks.py FOLDER`."""

from __future__ import annotations

import gc
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import feedback_runs
import torch
import torch.distributed as dist
from asgml_runs import config, fit, rows, weights, write_features

from asgml.build import Parts
from asgml.train.reliance import Reliance
from suite.loader import EpochBatches

BATCH, TRAIN = 8, 80

MODES: dict[str, list[str]] = {
    "sync": ["method=uniform"],
    "staleness": ["asgml.tau=2", "asgml.delayed=all"],
    "frequency-hard": ["method=asgml_frequency", "asgml.k=3", "asgml.masking=hard"],
    "frequency-fusion_preserving": ["method=asgml_frequency", "asgml.k=2", "asgml.masking=fusion_preserving"],
    "adaptive-hybrid": [
        "method=[asgml_adaptive,boost]",
        "asgml.adaptive.update_every=2",
        "asgml.adaptive.window=3",
        "asgml.adaptive.tau_base=1",
        "asgml.adaptive.threshold_delta=0.0",
        "asgml.adaptive.gap_full=0.2",
    ],
    "ogm_ge": ["method=ogm_ge"],
    "cross_attention": ["method=uniform", "fusion=cross_attention"],
    "ema-clipped": ["averaging=ema", "callbacks.averaging.decay=0.9", "callbacks.clip.max_norm=0.5"],
    **{m: [f"method={m}"] for m in ("pmr", "agm", "cml", "mmpareto", "mla")},
    "amss": ["method=amss"],
    "arl": ["method=arl", "methods.arl.begins=1"],
    "aug": ["method=aug", "methods.aug.every=1"],
    "relearn": ["method=relearn", "methods.relearn.every=1"],
    "valuation": ["method=valuation", "methods.valuation.begins=1"],
    # few held-out rows, of which a rank can have none
    "probe-buffer": ["method=boost", "callbacks.probe.holdout_size=9", "asgml.boost.threshold_delta=0.0"],
    # the two ranks agree, but see other halves of the batch than one rank does
    "probe-half": ["method=boost", "callbacks.probe.holdout=half", "asgml.boost.threshold_delta=0.0"],
}  # fmt: skip
AGREE_ONLY = ("probe-half",)
# tested after the training, where every sample counts: by small batches, with what a run writes by default
EVALUATED = ("sync", "adaptive-hybrid")
BRIEF = ["callbacks.checkpoint.monitor=null", "callbacks.checkpoint.every_n_epochs=2", "loader.eval_batch_size=8"]

# 4 steps of stage `text`, 6 of stage `image` in batches of 3, of which the ranks have 2 and 1
FEEDBACK = "feedback"


def write_data(folder: Path) -> None:
    """Write data in which modalities are missing, with evaluation splits of odd sizes.

    In epoch 0, batch 2 has audio only in the rows of rank 0, and in batch 5 nobody has it; some rows miss visual.
    """
    first = list(EpochBatches(TRAIN, BATCH, seed=0, train=True))
    for kind in ("vector", "image"):
        path = write_features(folder / f"{kind}.npz", kind, n=TRAIN + 40)
        arrays: dict[str, Any] = dict(np.load(path))
        arrays["split"][TRAIN:] = np.repeat([1, 2], [21, 19])
        audio, visual = np.ones(TRAIN + 40, bool), np.ones(TRAIN + 40, bool)
        audio[[i for i, _ in first[2][1::2]] + [i for i, _ in first[5]]] = False
        visual[[i for i, _ in first[3][:3]] + [i for i, _ in first[7]] + [TRAIN + 1, TRAIN + 25]] = False
        np.savez(path, **arrays, present_audio=audio, present_visual=visual)
    feedback_runs.render(folder / "surfaces")


def results(mode: str, folder: Path, ranks: int) -> dict[str, Any]:
    """Do a run in float64, and return everything that must not depend on the number of ranks."""
    cfg = config(
        folder / ("image.npz" if mode == "ogm_ge" else "vector.npz"),
        folder / f"runs{ranks}",
        *MODES[mode],
        "trainer.precision=64-true",
        f"trainer.devices={ranks}",
        *(["loader.eval_batch_size=4"] if mode in EVALUATED else BRIEF),
    )
    parts: Parts = fit(cfg)
    out: dict[str, Any] = {
        "weights": weights(parts),
        "counters": {k: v for k, v in parts.pipeline.counters().items() if k not in ("max_delta", "probe_utilisation")},
    }
    if mode in EVALUATED:
        out |= evaluated(parts)
    if mode == "probe-buffer":  # the rows of all ranks are in the state of each
        out["buffer"] = {}
        for m, ranks in parts.pipeline.stage("probe").state()["buffer"]["rows"].items():  # type: ignore[union-attr]
            f, y, held = (torch.cat(parts) for parts in zip(*ranks, strict=True))
            out["buffer"][m] = torch.zeros(4, f.shape[1]).index_add_(0, y[held], f[held]).double()
    if parts.trainer.is_global_zero:
        out["timeline"] = rows(cfg, "timeline.csv")
        out["history"] = rows(cfg, "history.csv")
    return out


def evaluated(parts: Parts) -> dict[str, Any]:
    """Test the trained module, and return all its metrics and predictions."""
    parts.trainer.test(parts.module, datamodule=parts.data, verbose=False)
    (measured,) = [c for c in parts.trainer.callbacks if isinstance(c, Reliance)]  # type: ignore[attr-defined]
    out: dict[str, Any] = {"metrics": parts.module.metrics | {"reliance": measured.found}}
    for split, p in parts.module.predictions.items():
        out[split] = {"index": torch.from_numpy(p.index), "y": torch.from_numpy(p.y)}
        out[f"{split}/prob"] = {"fused": torch.from_numpy(p.prob)} | {
            m: torch.from_numpy(q).nan_to_num(-1.0) for m, q in p.unimodal.items()
        }
    return out


def feedback_results(folder: Path, ranks: int) -> dict[str, Any]:
    """Do a run of the feedback system in float64, and return what must not depend on the number of ranks."""
    given = ["trainer.precision=64-true", f"trainer.devices={ranks}", "callbacks.share=null", "trainer.accelerator=cpu"]
    cfg = feedback_runs.config(folder / "surfaces", folder / f"runs{ranks}", *given, "loader.eval_batch_size=5")
    parts = feedback_runs.fit(cfg)
    parts.trainer.test(parts.module, datamodule=parts.data, verbose=False)
    out: dict[str, Any] = {
        "weights": feedback_runs.weights(parts),
        "counters": parts.pipeline.counters(),
        "metrics": parts.module.metrics,
        "clip": {"fingerprint": parts.module.fingerprint, "moved": parts.module.model.clip.moved()},
    }
    if parts.trainer.is_global_zero:
        out["timeline"], out["history"] = rows(cfg, "events.csv"), rows(cfg, "history.csv")
    return out


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is no garbage
    place = Path(sys.argv[1])
    everything = {mode: results(mode, place, 2) for mode in MODES} | {FEEDBACK: feedback_results(place, 2)}
    torch.save(everything, place / f"rank{dist.get_rank()}.pt")
