"""What the hooks of methods need of network, data and optimiser: the module's side of `asgml.methods.base`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from asgml.data.dataset import MultimodalDataset
from asgml.methods.base import Method, Selection, uses
from asgml.model.fusion.base import Fusion
from asgml.model.modality_dict import ModalityDict
from asgml.model.net import FUSION, MultimodalNet, component_rng
from callbacks.errors import UserError
from suite.loader import EpochBatches

HEAD, HEADS = "head", "heads"


def check_methods(methods: Mapping[str, Method], timed: bool, regression: bool) -> bool:
    """Refuse methods that exclude each other; return whether one of them may take modalities away from samples.

    Args:
        methods: the methods of the run, by name.
        timed: whether the rhythm delays gradients or skips updates.
        regression: whether y is a number.

    Raises:
        UserError: a method of classes in a regression, two methods with `select` or with `substeps`, or `idle` together
            with a rhythm.
    """
    of_classes = [name for name, method in methods.items() if not method.for_regression]
    if regression and of_classes:
        raise UserError(
            "method",
            f"{' and '.join(of_classes)} in a regression, but what it computes is defined on classes",
            "a method that uses losses, gradients or features alone (class attribute for_regression)",
            "set method=uniform or method=joint, or save y with astype(int) where it numbers classes",
        )
    for hook, what in (("select", "choose the samples of an epoch"), ("substeps", "split the backward pass")):
        users = [name for name, method in methods.items() if uses(method, hook)]
        if len(users) > 1:
            remedy = f"set method={users[0]} or method={users[1]}"
            raise UserError("method", f"{' and '.join(users)}, which both {what}", "one of them", remedy)
    idlers = [name for name, method in methods.items() if uses(method, "idle")]
    if idlers and timed:
        raise UserError(
            "asgml.mode",
            f"an asynchronous mode together with method {', '.join(idlers)}",
            "one of the two: both decide when an encoder moves",
            f"set asgml.mode=sync, or leave {' and '.join(idlers)} out of method=[…]",
        )
    return any(uses(method, "select") for method in methods.values())


def check_masking(masking: str | None, methods: Mapping[str, Method]) -> None:
    """Refuse `fusion_preserving` where no unimodal loss reaches the encoders.

    Args:
        masking: what the rhythm applies between two updates, None where it skips none.
        methods: the methods of the run, by name.

    Raises:
        UserError: no method trains with the unimodal losses.
    """
    if masking == "fusion_preserving" and not any(method.trains_heads for method in methods.values()):
        raise UserError(
            "asgml.masking",
            f"fusion_preserving with method {', '.join(methods)}",
            "a method whose unimodal losses reach the encoders, e.g. uniform",
            "set asgml.masking=soft, asgml.masking=hard or asgml.masking=accumulate",
        )


def never_act(methods: Mapping[str, Method], epochs: int) -> list[str]:
    """Return a warning for each method that a run of this many epochs (-1 where unknown) would end before."""
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
    """Build `Method.modules` of all methods, each from a generator of its own.

    A module with the key `fusion`, `head` or `heads` replaces the network's; the others are returned as
    `<method>_<key>`.

    Raises:
        UserError: two methods bring a module of the same part of the network.
    """
    extensions, owner = nn.ModuleDict(), dict[str, str]()
    dtype = next(net.parameters()).dtype
    for name, method in methods.items():
        with component_rng(seed, "method", name):
            built = method.modules(dict(net.dims), net.classes)
        for key, module in built.items():
            module.to(dtype)
            if key not in (FUSION, HEAD, HEADS):
                extensions[f"{name}_{key}"] = module
                continue
            part = FUSION if key == FUSION else HEAD
            if part in owner:
                found = f"{owner[part]} and {name}, which both bring their own {part}"
                raise UserError("method", found, "one of them", f"set method={owner[part]} or method={name}")
            owner[part] = name
            if part == HEAD:
                for m in net.modalities:
                    net.heads[m] = module[m] if isinstance(module, ModalityDict) else module
            else:
                assert isinstance(module, Fusion)
                net.fusion = module
    return extensions


@torch.no_grad()
def reinitialise(encoder: nn.Module, initial: Sequence[Tensor], alpha: float, optimizer: Optimizer) -> None:
    """Set `theta <- (1 - alpha) theta + alpha theta_0` in place, and drop the optimiser's state of these parameters.

    Running statistics stay, because they follow the weights within some steps.

    Args:
        encoder: the encoder with the parameters theta.
        initial: theta_0, one tensor per parameter.
        alpha: the weight of theta_0, in [0, 1].
        optimizer: the optimiser whose state is dropped.
    """
    for p, first in zip(encoder.parameters(), initial, strict=True):
        p.lerp_(first.to(p), alpha)
        optimizer.state.pop(p, None)


def install_selection(trainer: L.Trainer, epoch: int, selection: Selection) -> None:
    """Make the training loader hand out `selection` in `epoch`.

    Raises:
        UserError: the training data come from another loader than the suite's.
    """
    loader: Any = trainer.train_dataloader
    batches, dataset = getattr(loader, "batches", None), getattr(loader, "dataset", None)
    if not isinstance(batches, EpochBatches) or not isinstance(dataset, MultimodalDataset):
        raise UserError(
            "method",
            f"one that chooses samples, with a {type(loader).__name__}",
            "training data from asgml.data.datamodule.MultimodalData",
            "call trainer.fit(module, datamodule=asgml.data.MultimodalData(…))",
        )
    batches.arrange(epoch, dataset.numbers(selection.index.cpu().numpy(), _arrays(selection.drop)))


def _arrays(drop: Mapping[str, Tensor]) -> dict[str, Any]:
    return {m: d.cpu().numpy() for m, d in drop.items()}
