"""A reader whose layers are sharded, and the process of one rank: `python two_ranks_of_a_shard.py FOLDER`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lw_toys import EOS, FAMILIES, tiny_lm
from torch.distributed.tensor import DTensor

from latentwire.lm.layout import Prefix
from latentwire.lm.sharding import shard

ASKED = [[[40, 41, 42], [50]], [[51, 52], [60, 61]]]  # by rank
ANSWERS = [[[70, EOS], [80, 81, EOS]], [[90, EOS], [91, EOS]]]


def read(lm: Any, rank: int, kind: str) -> dict[str, Any]:
    """Return scores, gradients of the latents, and answers."""
    shape = (2, 4, 2, 5, 8) if kind == "kv" else (2, 5, 32)
    latents = torch.randn(*shape, generator=torch.Generator().manual_seed(rank)).requires_grad_(True)
    prefix = (
        Prefix(kv=[(latents[:, :2, i], latents[:, 2:, i]) for i in range(lm.n_layers)])
        if kind == "kv"
        else Prefix(embeds=latents)
    )
    scores = lm.answer_logprobs(prefix, ASKED[rank], ANSWERS[rank]).nll()
    scores.sum().backward()
    found = [scores.detach(), latents.grad]
    with torch.no_grad():
        out = {"tensors": found, "answers": lm.generate(prefix, ASKED[rank], 4)}
    return out


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    out: dict[str, Any] = {}
    for family in FAMILIES:
        lm = tiny_lm(family)
        cases = [(kind, again) for kind in ("kv", "embeds") for again in (False, True)]
        whole, before = [], lm.fingerprint()
        for kind, lm.checkpointing in cases:
            whole.append(read(lm, rank, kind))
        shard(lm)
        pieces = [p for p in lm.model.parameters() if isinstance(p, DTensor)]
        held = sum(p.to_local().numel() for p in pieces) / sum(p.numel() for p in pieces)
        sharded = []
        for kind, lm.checkpointing in cases:
            sharded.append(read(lm, rank, kind))
        out[family] = {
            "whole": whole, "sharded": sharded, "held": held, "fingerprints": [before, lm.fingerprint()],
            "placed": str(lm.to("meta").input_device),
        }  # fmt: skip
    torch.save(out, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
