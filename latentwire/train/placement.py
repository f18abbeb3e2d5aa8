"""Where a run may place what it trains and what it reads, asked of its configuration."""

from __future__ import annotations

import torch
from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError


def refuse_shared_places(cfg: DictConfig) -> None:
    """Refuse a strategy that splits what is trained, and models that several ranks would spread over all devices.

    Raises:
        UserError: with the strategy, or with the models.
    """
    wanted = str(cfg.trainer.strategy)
    if wanted not in ("auto", "ddp"):
        raise UserError(
            "trainer.strategy",
            wanted,
            "auto or ddp: what is trained is small, and measured and clipped by group; the readers are what is large",
            "set trainer.strategy=ddp placement.shard=true",
        )
    devices = cfg.trainer.devices
    alone = devices in (1, "1") or (not isinstance(devices, str | int) and len(devices) == 1)
    alone = alone and int(cfg.trainer.get("num_nodes") or 1) == 1
    if cfg.placement.shard and (alone or cfg.trainer.accelerator == "cpu" or not torch.cuda.is_available()):
        found = "one rank" if alone else "no accelerator"
        expected, remedy = "several ranks, each with an accelerator", "set placement.shard=false"
        raise UserError("placement.shard", found, expected, remedy)
    spread = [str(name) for name, node in cfg.lms.items() if OmegaConf.select(node, "device_map") is not None]
    if spread and not alone:
        raise UserError(
            f"trainer.devices={devices}",
            f"a device_map of {', '.join(spread)}, which every rank would spread over all devices",
            "one whole model on each rank's device, or one rank",
            f"set lms.{spread[0]}.device_map=null, or trainer.devices=1",
        )
