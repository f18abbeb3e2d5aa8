"""One pass over a whole split: for methods that look at all of it before an epoch, and for its statistics."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn

from asgml.data.dataset import Batch
from asgml.methods.base import Step, Survey
from asgml.train.forward import Forward
from callbacks.errors import UserError
from callbacks.step.modes import evaluating
from callbacks.step.ranks import world_size


class Surveyed(Protocol):
    """Describes what a survey needs of a module."""

    trainer: L.Trainer
    active: list[str]
    forward_pass: Forward

    @property
    def device(self) -> torch.device: ...

    def step_of(self, batch: Batch) -> Step: ...

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch: ...


def _data(module: Surveyed, where: str, what: str) -> Any:
    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    if data is None:
        raise UserError(
            where,
            f"{what}, without a data module",
            "data from asgml.data.MultimodalData",
            "call trainer.fit(module, datamodule=asgml.data.MultimodalData(…))",
        )
    return data


def forward_training_data(module: Surveyed) -> None:
    """Run the forward pass over this rank's training batches of epoch 0, augmented as there, in the module's own mode.

    Raises:
        UserError: the trainer has no data module.
    """
    data = _data(module, "callbacks.averaging.statistics", "recomputed")
    for batch in data.train_dataloader():
        module.step_of(module.transfer_batch_to_device(batch, module.device, 0))


def take_survey(module: Surveyed, split: Literal["train", "val"]) -> Survey:
    """Pass once over a split with the network as it stands, and return what it computes; every rank gets the whole.

    Raises:
        UserError: the trainer has no data module.
    """
    assert isinstance(module, nn.Module)
    data = _data(module, "method", "one that looks at a whole split")
    parts: list[dict[str, Tensor]] = []
    with evaluating(module), module.trainer.precision_plugin.forward_context():
        for batch in data.survey_dataloader(split):
            step = module.step_of(module.transfer_batch_to_device(batch, module.device, 0))
            part = {"index": batch["index"], "y": step.y}
            for m in step.modalities:
                mask = step.present[m]
                part[f"present {m}"] = torch.ones_like(step.y, dtype=torch.bool) if mask is None else mask
                part[f"feature {m}"], part[f"unimodal {m}"] = step.features[m], step.unimodal[m]
            parts.append({k: v.cpu() if world_size() > 1 else v for k, v in part.items()})
    if world_size() > 1:
        everyone: list[Any] = [None] * world_size()
        dist.all_gather_object(everyone, parts)
        parts = [part for rank in everyone for part in rank]
    whole = {k: torch.cat([part[k] for part in parts]).to(module.device) for k in parts[0]}
    order = whole["index"].argsort()
    whole = {k: v[order] for k, v in whole.items()}

    def per(kind: str) -> dict[str, Tensor]:
        return {m: whole[f"{kind} {m}"] for m in module.active}

    features, present = per("feature"), per("present")

    def logits(modalities: list[str]) -> Tensor:
        with evaluating(module), module.trainer.precision_plugin.forward_context():
            return module.forward_pass.fuse_some({m: features[m] for m in modalities}, features, present)

    return Survey(whole["index"], whole["y"], present, features, per("unimodal"), logits, module.forward_pass.criterion)
