"""Building objects from checked nodes, with the user's errors left as they are."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from callbacks.errors import UserError


def build_node(node: DictConfig) -> Any:
    """Build the object (or partial) that a `_target_` node describes, its containers as plain dicts and lists.

    Raises:
        UserError: as a constructor raised it; Hydra would wrap it into its own exception with a long trace.
    """
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__
        raise
