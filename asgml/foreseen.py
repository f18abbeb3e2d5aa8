"""What is known of a run of asgml before it starts, for `plan=true`: its samples, steps and least memory."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from asgml.build import build_data
from asgml.data.spec import DataSpec
from asgml.model.footprint import kept_and_counted, trained_bytes
from asgml.model.net import MultimodalNet
from asgml.tune.plan import steps_of
from suite.config.instantiate import build_node

MIB = 2**20
UNKNOWN = "known once the data are there"
ROWS = 2  # of a trial batch: batch norm takes no single one
BACKWARD = 2  # a backward pass over a forward pass, in operations


def foresee(cfg: DictConfig) -> dict[str, str]:
    """Return samples, steps, memory and operations of a run, in words.

    Memory is that of weights, gradients, optimiser and what the encoders keep of a batch for the backward pass, in
    float32. Data that are not there, or would be rendered first, are left alone; media are not decoded.

    Raises:
        UserError: data that are there and unusable.
    """
    source: Any = build_node(cfg.data)
    lists = getattr(source, "list_files", None)
    if lists is not None:
        if not lists or not all(path.is_file() for path in lists.values()):
            return {"steps": UNKNOWN, "memory": UNKNOWN}
        spec, samples = source.spec(), source.sizes()["train"]
    else:
        data = build_data(cfg)
        spec, samples = data.spec, len(data.table("train"))
    return _steps(cfg, samples) | _costs(cfg, spec, samples)


def kept_and_operations(net: MultimodalNet, spec: DataSpec) -> tuple[float, float]:
    """Return the bytes that the encoders keep of one sample for a backward pass, and their operations in a forward one.

    Measured on a batch of zeros; a multiplication and an addition are two operations.

    Args:
        net: the network, on the CPU; its weights and running statistics stay as they are.
        spec: the shapes of its modalities.
    """
    before = {name: value.clone() for name, value in net.named_buffers()}
    owned = (*net.parameters(), *net.buffers())
    kept, operations = kept_and_counted(owned, lambda: [_features(net, spec, m) for m in net.modalities])
    for name, value in net.named_buffers():
        value.copy_(before[name])
    return kept / ROWS, operations / ROWS


def _features(net: MultimodalNet, spec: DataSpec, modality: str) -> Tensor:
    there = spec.modalities[modality]
    x = torch.zeros(ROWS, *there.shape, dtype=torch.long if there.kind == "tokens" else torch.float32)
    lengths = torch.full((ROWS,), there.shape[0]) if there.padded else None
    return net.encode(modality, x, lengths)


def _costs(cfg: DictConfig, spec: DataSpec, samples: int) -> dict[str, str]:
    net: MultimodalNet = build_node(cfg.model)(spec=spec, seed=int(cfg.seed))
    weights: list[nn.Parameter] = [p for p in net.parameters() if p.requires_grad]
    optimizer = build_node(cfg.optimizer)([{"params": weights}])
    least = trained_bytes(weights, optimizer)
    count = sum(p.numel() for p in weights)
    kept, operations = kept_and_operations(net, spec)
    batch = -(-int(cfg.loader.batch_size) // int(cfg.loader.accumulate))  # rows whose activations are held at once
    told = (
        f"about {(least + kept * batch) / MIB:,.0f} MiB in float32: {least / MIB:,.1f} for {count:,} trained weights, "
        f"their gradients and the optimiser, {kept * batch / MIB:,.0f} for what the encoders keep of {batch} rows"
    )
    epoch = operations * (1 + BACKWARD) * samples
    return {"memory": told, "compute": f"{epoch / 1e12:,.3g} TFLOP an epoch, forward and backward, encoders alone"}


def _steps(cfg: DictConfig, samples: int) -> dict[str, str]:
    steps, epochs = steps_of(cfg, samples), int(cfg.trainer.max_epochs)
    return {"steps": f"{steps} in {epochs} epochs, {samples} training samples in batches of {cfg.loader.batch_size}"}
