"""LoRA (Hu et al., 2021) on a language model that reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, DropoutRate, Layers, Positive, Width
from latentwire.lm.frozen import FrozenLM

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass
class LoRA:
    """Adapts a reader: another track than a frozen one.

    Args:
        rank: inner width of the added matrices.
        alpha: numerator of their scale alpha / rank.
        layers: number of layers, from the first, that are adapted; None: all.
        targets: linear layers by the last part of their name; None: all those of the attention.
        dropout: dropout before the first matrix, in steps of training alone; a batch in parts draws another one.
    """

    rank: Width = 8
    alpha: Positive = 16.0
    layers: Layers | None = None
    targets: Annotated[list[str], NOT_EMPTY] | None = None
    dropout: DropoutRate = 0.0

    def apply(self, lm: FrozenLM) -> list[tuple[str, nn.Parameter]]:
        """Put it on the model; return its parameters by name."""
        where = f"adaptation.{lm.name}"
        return lm.adapt(lora_config(lm, self.rank, self.alpha, where, self.targets, self.layers, self.dropout))


@contextmanager
def dropping(lms: Iterable[FrozenLM]) -> Iterator[None]:
    """Let the dropout of LoRA act within the block; the models themselves stay in evaluation mode."""
    found = [m for lm in lms if lm.adapted for m in _dropouts(lm.model)]
    for module in found:
        module.train()
    try:
        yield
    finally:
        for module in found:
            module.eval()


def _dropouts(model: nn.Module) -> Iterator[nn.Module]:
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            yield from module.lora_dropout.values()


def lora_targets(
    lm: FrozenLM, where: str, targets: Sequence[str] | None = None, layers: int | None = None
) -> list[str]:
    """Return the names, within the model's decoder, of the linear maps that LoRA goes on.

    Args:
        lm: the model.
        where: configuration key in errors; `where.targets` chooses maps.
        targets: maps by the last part of their name; None: all those of the attention, however a family calls them.
        layers: number of layers, from the first; None: all.

    Raises:
        UserError: a target that no layer has, or an attention whose maps cannot all be found.
    """
    blocks = lm.anatomy.layers[:layers]
    if targets is None:
        if rest := lm.anatomy.unreached:
            raise UserError(
                where,
                f"weights in the attention of {lm.name} that are no linear layer: {', '.join(rest[:4])}",
                "an attention made of linear layers",
                "set readers=pocket_llama, or name layers as targets where the part takes targets",
            )
        return [name for projections in lm.anatomy.projections[:layers] for name in projections]
    linear = [
        f"{block}.{name}"
        for block in blocks
        for name, module in lm.decoder.get_submodule(block).named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
    ]
    last = {name.rpartition(".")[2] for name in linear}
    if unknown := sorted(set(targets) - last):
        raise UserError(
            f"{where}.targets", ", ".join(unknown), " | ".join(sorted(last)), f"set {where}.targets=null for all"
        )
    return [name for name in linear if name.rpartition(".")[2] in targets]


def lora_config(
    lm: FrozenLM,
    rank: int,
    alpha: float,
    where: str,
    targets: Sequence[str] | None = None,
    layers: int | None = None,
    dropout: float = 0.0,
) -> LoraConfig:
    """Return PEFT's configuration, with every target by its whole name: PEFT drops one without a match in silence.

    Args:
        lm: the model; the configuration fits it, and a copy of its decoder.
        rank: inner width of the added matrices.
        alpha: numerator of their scale alpha / rank.
        where: configuration key in errors.
        targets: as in `lora_targets`.
        layers: as in `lora_targets`.
        dropout: dropout before the first matrix.
    """
    from peft import LoraConfig

    names = lora_targets(lm, where, targets, layers)
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": names}
    # GPT-2's maps hold their weight transposed
    turned = isinstance(lm.decoder.get_submodule(names[0]), Conv1D)
    return LoraConfig(**settings, fan_in_fan_out=turned)
