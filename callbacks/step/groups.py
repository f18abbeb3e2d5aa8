"""Named parameter groups of one optimiser: the unit on which every stage acts."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from callbacks.errors import UserError

Through = Literal["auto", "lr", "gradient"]

# A constant factor on the gradient is one on the update, also under momentum.
LINEAR = (torch.optim.SGD, torch.optim.ASGD)
# A constant factor on the gradient cancels in these updates (up to eps), so a scaling must act on the learning rate.
SCALE_INVARIANT = (
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.Adafactor,
)


@dataclass
class Group:
    """Holds one named parameter group.

    Attributes:
        name: the `name` entry of the optimiser's group (`group<i>` where there is none).
        params: the trainable parameters, in the optimiser's order.
        options: the optimiser's own dict of the group (`lr`, `weight_decay`, …).
        numel: the number of scalar parameters.
    """

    name: str
    params: list[nn.Parameter]
    options: dict
    numel: int = field(init=False)

    def __post_init__(self) -> None:
        self.numel = sum(p.numel() for p in self.params)

    def gradients(self) -> list[Tensor]:
        """Return the gradients that exist now; parameters without one are left out."""
        return [p.grad for p in self.params if p.grad is not None]

    def clear(self) -> None:
        """Set every gradient to None, so that neither momentum nor weight decay moves the group in this step."""
        for p in self.params:
            p.grad = None


def named_groups(optimizer: Optimizer) -> dict[str, Group]:
    """Return the optimiser's parameter groups by name, in order.

    Raises:
        UserError: two groups have the same name, or one parameter stands in two groups.
    """
    groups: dict[str, Group] = {}
    owner: dict[int, str] = {}
    for index, options in enumerate(optimizer.param_groups):
        name = str(options.get("name", f"group{index}"))
        if name in groups:
            raise UserError(
                "configure_optimizers()",
                f"two parameter groups named '{name}'",
                "one name per group",
                f"in configure_optimizers() write 'name': '{name}_{index}' in the second of the two",
            )
        params = [p for p in options["params"] if p.requires_grad]
        for p in params:
            if id(p) in owner:
                raise UserError(
                    "configure_optimizers()",
                    f"a parameter of shape {tuple(p.shape)} is in '{owner[id(p)]}' and in '{name}'",
                    "every parameter in exactly one group",
                    f"in configure_optimizers() take it out of the 'params' of '{name}'",
                )
            owner[id(p)] = name
        groups[name] = Group(name, params, options)
    return groups


def require_groups(asked: list[str], groups: dict[str, Group], who: str) -> None:
    """Refuse names of groups that the optimiser does not have.

    Args:
        asked: the names that a stage was given.
        groups: the optimiser's groups, by name.
        who: the class and parameter that the names were given to, for the error.

    Raises:
        UserError: one of the names belongs to no group.
    """
    for name in asked:
        if name not in groups:
            near = get_close_matches(name, groups, 1)
            raise UserError(
                f"{who}: group '{name}'",
                f"the optimiser's groups are {', '.join(groups)}",
                "the 'name' of one of the optimiser's parameter groups",
                (f"write '{near[0]}' instead" if near else f"write one of {', '.join(groups)} instead")
                + f", or add {{'params': …, 'name': '{name}'}} in configure_optimizers()",
            )


def group_norms(groups: list[Group]) -> list[Tensor]:
    """Return the L2 norm of each group's present gradients, 0 where there are none, as 0-d tensors on the device.

    Norms of half-precision gradients are fp32, others keep their type; NaN and inf propagate. One multi-tensor norm
    over all gradients and one small reduction per group; no host read.
    """
    present = [group.gradients() for group in groups]
    gradients = [g for found in present for g in found]
    if not gradients:
        device = next((p.device for group in groups for p in group.params), torch.device("cpu"))
        return [torch.zeros((), device=device) for _ in groups]
    parts = torch.stack(
        [n.float() if n.dtype in (torch.float16, torch.bfloat16) else n for n in torch._foreach_norm(gradients)]
    )
    norms, start = [], 0
    for count in map(len, present):
        norms.append(torch.linalg.vector_norm(parts[start : start + count]) if count else parts.new_zeros(()))
        start += count
    return norms


def norms_by_group(module: nn.Module, groups: dict[str, Group]) -> dict[str, nn.ModuleList]:
    """Return the normalisation layers with running statistics by the group that owns them, "" where no single one does.

    A layer belongs to the group of its affine parameters; a layer without trainable ones belongs to the group that owns
    all trainable parameters of its nearest ancestor that has any.
    """
    owner = {id(p): name for name, group in groups.items() for p in group.params}
    modules = dict(module.named_modules())
    found: dict[str, nn.ModuleList] = {}
    for path, layer in modules.items():
        if not isinstance(layer, nn.modules.batchnorm._NormBase) or layer.running_mean is None:
            continue
        names: set[str] = set()
        while True:
            names = {owner[id(p)] for p in modules[path].parameters() if id(p) in owner}
            if names or not path:
                break
            path = path.rpartition(".")[0]
        name = names.pop() if len(names) == 1 else ""
        found.setdefault(name, nn.ModuleList()).append(layer)
    return found


def acts_on(optimizer: Optimizer, through: Through) -> Literal["lr", "gradient"]:
    """Return where a constant factor acts: for `auto` on the gradient under SGD, else on the learning rate.

    Under SGD, with momentum or without, both are the same for a factor that stays as it is, but for weight decay, which
    a factor on the learning rate scales as well. An optimiser that is not known gets the learning rate, which is safe.
    """
    if through == "auto":
        return "gradient" if isinstance(optimizer, LINEAR) else "lr"
    return through


def warn_if_scale_invariant(optimizer: Optimizer, who: str) -> None:
    """Warn that a factor on the gradient changes nothing under an Adam-like optimiser; `who` is the class that asks."""
    if isinstance(optimizer, SCALE_INVARIANT):
        rank_zero_warn(
            f"{who}: 'through: gradient' with {type(optimizer).__name__} has no effect "
            "(the factor cancels in the update); "
            "use 'through: auto' or 'through: lr'."
        )
