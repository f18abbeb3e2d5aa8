"""Where a language model lies: on one device, on a device of its own, or on several by accelerate's map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from callbacks.errors import UserError
from latentwire.lm import loading
from latentwire.lm.anatomy import Anatomy

Self = TypeVar("Self", bound="Placed")


class Placed:
    """Knows the devices of a model; base of `FrozenLM`.

    Attributes:
        model: the model.
        name: its name in errors.
        anatomy: its layers.
        sharded: whether its layers lie in pieces on all ranks.
    """

    model: Any
    name: str
    anatomy: Anatomy
    sharded = False
    _base: Any = ()
    _pinned = False
    _head_kv: Any = None

    @property
    def decoder(self) -> Any:
        """The stack of layers."""
        raise NotImplementedError

    def to(self: Self, device: str | torch.device) -> Self:
        """Move all weights; a model that was placed by `device_map` or `pin` stays where it is."""
        if not self.placed:
            self.model.to(device)
            self._head_kv = None
        return self

    @property
    def placed(self) -> bool:
        """Whether it has a place of its own, which `to` does not change."""
        return self._pinned or getattr(self.model, "hf_device_map", None) is not None

    def pin(self: Self, device: str, name: str | None = None) -> Self:
        """Move all weights to a device, and stay there: readers of one wire may live on several.

        Args:
            device: `cpu`, or `cuda:N`.
            name: the name that the configuration has for the model; None: its own.

        Raises:
            UserError: no such device, or a model that `device_map` has placed.
        """
        name = name or self.name
        key = f"placement.devices.{name}"
        if self.placed:
            found = f"{device}, and a device_map"
            raise UserError(key, found, "one of the two", f"add ~{key}, or set lms.{name}.device_map=null")
        self.model.to(loading.checked_device(device, key))
        self._pinned, self._head_kv = True, None
        return self

    def now_sharded(self, names: Sequence[str]) -> None:
        """Take the pieces of the weights in the place of the whole ones, in the order that these had."""
        pieces = dict(self.model.named_parameters())
        self._base = [(name, pieces[name]) for name in names]
        self.sharded = self._pinned = True

    @property
    def input_device(self) -> torch.device:
        """The device where ids, masks, positions and embeddings are read."""
        return loading.device_of(self.model.get_input_embeddings())

    @property
    def output_device(self) -> torch.device:
        """The device where log-probabilities appear and labels are read."""
        return loading.device_of(self.model.get_output_embeddings())

    def layer_devices(self) -> list[torch.device]:
        """Return the device where each layer reads its keys and values."""
        return [loading.device_of(self.decoder.get_submodule(name)) for name in self.anatomy.layers]
