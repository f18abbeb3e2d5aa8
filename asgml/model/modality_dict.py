"""A ModuleDict whose keys may be any string."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping
from functools import cache

from torch import nn


@cache
def module_key(name: str) -> str:
    """Return the name of a modality in state dicts: its own, wherever torch allows.

    A dot becomes `%2E`, a percent sign `%25`; a name that is an attribute of ModuleDict, or empty, gets a trailing `%`.
    """
    key = name.replace("%", "%25").replace(".", "%2E")
    return f"{key}%" if key == "" or hasattr(nn.ModuleDict(), key) else key


def modality_name(key: str) -> str:
    """Return the modality's name behind a key of `module_key`."""
    return key.removesuffix("%").replace("%2E", ".").replace("%25", "%")


class ModalityDict(nn.ModuleDict):
    """Holds modules by modality name, in order of insertion; any string is a name, `a.b` and `keys` included."""

    def __init__(self, modules: Mapping[str, nn.Module] | None = None):
        super().__init__(modules)

    def __getitem__(self, key: str) -> nn.Module:
        return self._modules[module_key(key)]

    def __setitem__(self, key: str, module: nn.Module) -> None:
        self.add_module(module_key(key), module)

    def __delitem__(self, key: str) -> None:
        del self._modules[module_key(key)]

    def __contains__(self, key: str) -> bool:
        return module_key(key) in self._modules

    def _by_name(self) -> dict[str, nn.Module]:
        return {modality_name(key): module for key, module in self._modules.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name())

    def keys(self) -> KeysView[str]:
        return self._by_name().keys()

    def items(self) -> ItemsView[str, nn.Module]:
        return self._by_name().items()
