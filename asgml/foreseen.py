"""What is known of a run of asgml before it starts, for `plan=true`: its samples, steps and least memory."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from asgml.build import build_data
from asgml.tune.plan import steps_of
from suite.config.instantiate import build_node

MIB = 2**20
UNKNOWN = "known once the data are there"


def foresee(cfg: DictConfig) -> dict[str, str]:
    """Return samples, steps and the memory that weights, gradients and the optimiser need, in words.

    Data that are not there, or would be rendered first, are left alone; so are media that no preparation has decoded.

    Raises:
        UserError: data that are there and unusable.
    """
    source: Any = build_node(cfg.data)
    lists = getattr(source, "list_files", None)
    if lists is not None:
        if not lists or not all(path.is_file() for path in lists.values()):
            return {"steps": UNKNOWN, "memory": UNKNOWN}
        return _steps(cfg, source.sizes()["train"]) | {"memory": "known once the data are prepared"}
    data = build_data(cfg)
    net = build_node(cfg.model)(spec=data.spec, seed=int(cfg.seed))
    weights = [p for p in net.parameters() if p.requires_grad]
    groups = [{"params": weights}]
    optimizer = build_node(cfg.optimizer)(groups)
    states = 2 if "betas" in optimizer.defaults else int(bool(optimizer.defaults.get("momentum")))
    least = sum(p.numel() * p.element_size() for p in weights) * (2 + states)
    count = sum(p.numel() for p in weights)
    told = f"{least / MIB:.1f} MiB for {count:,} trained weights, their gradients and the optimiser; activations beside"
    return _steps(cfg, len(data.table("train"))) | {"memory": told}


def _steps(cfg: DictConfig, samples: int) -> dict[str, str]:
    steps, epochs = steps_of(cfg, samples), int(cfg.trainer.max_epochs)
    return {"steps": f"{steps} in {epochs} epochs, {samples} training samples in batches of {cfg.loader.batch_size}"}
