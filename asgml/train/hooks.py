"""What the method hooks need of network, data and optimiser: the shell's side of `asgml.methods.base`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from asgml.data.dataset import MultimodalDataset
from asgml.methods.base import Method, Selection, Survey, uses
from asgml.model.fusion.base import Fusion
from asgml.model.net import FUSION, MultimodalNet, component_rng
from asgml.train.distributed import world_size
from callbacks.errors import UserError
from suite.loader import EpochBatches

if TYPE_CHECKING:
    from asgml.train.module import MultimodalModule

HEAD = "head"


def check_methods(methods: Mapping[str, Method], timed: bool) -> bool:
    """Refuses methods that exclude each other; whether a method may take modalities away from samples.

    Args:
        timed: does the rhythm delay gradients or skip updates?

    Raises:
        UserError: two methods with `select` or with `substeps`, or `idle` together with a rhythm.
    """
    for hook, what in (("select", "choose the samples of an epoch"), ("substeps", "split the backward pass")):
        users = [name for name, method in methods.items() if uses(method, hook)]
        if len(users) > 1:
            raise UserError("method", f"{' and '.join(users)}, which both {what}", "one of them", f"method={users[0]}")
    idlers = [name for name, method in methods.items() if uses(method, "idle")]
    if idlers and timed:
        raise UserError(
            "asgml.mode",
            f"an asynchronous mode together with method {', '.join(idlers)}",
            "one of the two: both decide when an encoder moves",
            "set asgml.mode=sync, or leave the method out",
        )
    return any(uses(method, "select") for method in methods.values())


def never_act(methods: Mapping[str, Method], epochs: int) -> list[str]:
    """What to tell about methods that a run of this many epochs (-1: unknown) ends before."""
    told = []
    for name, method in methods.items():
        key, first = method.acts_from()
        if 0 < epochs <= first:
            told.append(
                f"method {name} acts from epoch {first} on, and this run ends with epoch {epochs - 1}, before it has "
                f"begun. Raise trainer.max_epochs above {first}, or lower methods.{name}.{key}."
            )
    return told


def install_modules(net: MultimodalNet, methods: Mapping[str, Method], seed: int) -> nn.ModuleDict:
    """Builds `Method.modules` of all methods, each from a generator of its own; returns those that are not a part of
    the network (`<method>_<key>`)."""
    extensions, owner = nn.ModuleDict(), dict[str, str]()
    dtype = next(net.parameters()).dtype
    for name, method in methods.items():
        with component_rng(seed, "method", name):
            built = method.modules(dict(net.dims), net.classes)
        for key, module in built.items():
            module.to(dtype)
            if key not in (FUSION, HEAD):
                extensions[f"{name}_{key}"] = module
                continue
            if key in owner:
                raise UserError(
                    "method",
                    f"{owner[key]} and {name}, which both bring their own {key}",
                    "one of them",
                    f"method={name}",
                )
            owner[key] = name
            if key == HEAD:
                for m in net.modalities:
                    net.heads[m] = module
            else:
                assert isinstance(module, Fusion)
                net.fusion = module
    return extensions


@torch.no_grad()
def reinitialise(encoder: nn.Module, initial: Sequence[Tensor], alpha: float, optimizer: Optimizer) -> None:
    """`theta <- (1 - alpha) theta + alpha theta_0`, in place; the optimiser's state of these parameters is dropped.

    Running statistics stay: they follow the weights within some steps.
    """
    for p, first in zip(encoder.parameters(), initial, strict=True):
        p.lerp_(first.to(p), alpha)
        optimizer.state.pop(p, None)


def install_selection(trainer: L.Trainer, epoch: int, selection: Selection) -> None:
    """Makes the training loader hand out `selection` in `epoch`.

    Raises:
        UserError: a loader that is not the suite's.
    """
    loader: Any = trainer.train_dataloader
    batches, dataset = getattr(loader, "batches", None), getattr(loader, "dataset", None)
    if not isinstance(batches, EpochBatches) or not isinstance(dataset, MultimodalDataset):
        raise UserError(
            "method",
            f"one that chooses samples, with a {type(loader).__name__}",
            "training data from asgml.data.datamodule.MultimodalData",
            "fit with datamodule=",
        )
    batches.arrange(epoch, dataset.numbers(selection.index.cpu().numpy(), _arrays(selection.drop)))


def _arrays(drop: Mapping[str, Tensor]) -> dict[str, Any]:
    return {m: d.cpu().numpy() for m, d in drop.items()}


def take_survey(module: MultimodalModule, split: Literal["train", "val"]) -> Survey:
    """One pass over a split with the network as it stands; on every rank the whole of it."""
    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    if data is None:
        raise UserError(
            "method",
            "one that looks at a whole split, without a data module",
            "data from asgml.data.datamodule.MultimodalData",
            "fit with datamodule=",
        )
    parts: list[dict[str, Tensor]] = []
    with evaluating(module), torch.no_grad(), module.trainer.precision_plugin.forward_context():
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
        with evaluating(module), torch.no_grad():
            return module.forward_pass.fuse_some({m: features[m] for m in modalities}, features, present)

    return Survey(whole["index"], whole["y"], present, features, per("unimodal"), logits)


class evaluating:
    """Evaluation mode inside, and every module's own mode back outside."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __enter__(self) -> None:
        self.trained = [m for m in self.module.modules() if m.training]
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        for m in self.trained:
            m.training = True
