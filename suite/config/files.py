"""The YAML files of a search path, each read once: a sweep composes its jobs from the same files."""

from __future__ import annotations

import copy
import os
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult

_parsed: dict[tuple[str, str, str], tuple[Any, ConfigResult]] = {}


class Files(ConfigRepository):
    """Hydra's repository, with what it has parsed kept until a file changes, for the whole process.

    Hydra's own cache lasts for one composition, in which reading is a third of the work. Every caller gets a copy of
    its own, since a composition takes the nodes over into its tree.

    Args:
        config_search_path: the folders to search, the first before the others.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Files:
        """Return a twin with its own list of sources: Hydra makes one per composition, which may replace that list."""
        twin = copy.copy(self)
        twin.sources = list(self.sources)
        return twin

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Return what the first source that has this file reads from it; None if none has it."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() not in ("file", "pkg"):
            return super().load_config(config_path)
        stamp = None  # nothing changes inside an installed package
        if source.scheme() == "file":
            there = os.stat(os.path.join(source.path, source._normalize_file_name(config_path)))
            stamp = (there.st_mtime_ns, there.st_ctime_ns, there.st_size, there.st_ino)
        key = (source.provider, source.path, config_path)
        known = _parsed.get(key)
        if known is None or known[0] != stamp:
            result = super().load_config(config_path)
            assert result is not None
            known = _parsed[key] = (stamp, result)
        return copy.deepcopy(known[1])
