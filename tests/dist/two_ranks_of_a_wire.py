"""The runs that `test_lw_two_ranks.py` compares, and the process of one rank: `python two_ranks_of_a_wire.py FOLDER`."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from lw_runs import config, fit, rows, save_lm
from lw_toys import FAMILIES
from torch import Tensor

from latentwire.codec.base import Coded
from latentwire.codec.fp16 import FP16


def unrounded(codec: FP16, z: Tensor) -> Coded:
    """Send values as they are: where the ranks' last bits differ, rounding makes other messages of some."""
    return Coded(z, z.new_zeros(()), None)


# five contexts are three on one rank and two on the other, and no dropout draws the same for other rows
COMMON = [
    "loader.batch_size=5",
    "loader.steps_per_epoch=25",
    "trainer.max_epochs=2",
    "loader.eval_passages=7",
    "adapter.dropout=0.0",
    "callbacks.audit.within=25",
    "optimizer.eps=0.001",  # Adam turns the rounding of a gradient that is 0 into a step
]
MODES: dict[str, list[str]] = {
    "answers": ["objective=[answer_ce]"],
    "nested": ["+wire.nested={_target_:latentwire.train.NestedBudgets,budgets:[1,2]}", "loader.steps_per_epoch=5",
               "callbacks.audit.within=10", "seed=4"],
    "everything, in parts": [
        "objective=[answer_ce,answer_kd,embedding_reconstruction,text_reconstruction,continuation]",
        "injector=soft_prefix",
        "+adaptation.tiny_llama={_target_:latentwire.lm.LoRA,rank:2}",
        "loader.accumulate=2",
        "loader.steps_per_epoch=5",
        "callbacks.audit.within=10",
        "teacher.top_k=4",
    ],
}


def results(mode: str, folder: Path, ranks: int) -> dict[str, Any]:
    """Do a run, and return everything that must not depend on the number of ranks."""
    lms = FAMILIES if "parts" in mode else FAMILIES[:1]
    more = [*COMMON, *MODES[mode], f"trainer.devices={ranks}"]
    cfg = config(folder, *more, lms=lms, runs=f"runs{ranks}/{mode[:3]}")
    with patch.object(FP16, "forward", unrounded):
        parts = fit(cfg)
    assert parts.trainer.world_size == ranks
    assert parts.pipeline.t == (50 if mode == "answers" else 10)
    out: dict[str, Any] = {"val": parts.module.metrics["val"], "outputs": parts.module.sample.outputs}  # type: ignore[union-attr]
    out["weights"] = {n: p.detach() for n, p in parts.module.named_parameters()}
    if parts.trainer.is_global_zero:
        out["history"] = rows(cfg)
    return out


def write_models(folder: Path) -> None:
    """Write the language models."""
    for family in FAMILIES:
        save_lm(folder, family)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    everything = {mode: results(mode, place, 2) for mode in MODES}
    torch.save(everything, place / f"rank{dist.get_rank()}.pt")
