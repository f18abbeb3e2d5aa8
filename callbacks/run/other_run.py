"""Whether a checkpoint is of this run: by the hash of its configuration, and if not, by which keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from callbacks.errors import UserError

SHOWN_KEYS = 8


def refuse_other_run(
    state: Mapping[str, Any], config_hash: str | None, config: Mapping[str, Any] | None, where: str, remedy: str
) -> None:
    """Raise UserError where a checkpoint was made with another configuration; the keys that differ are named.

    Args:
        state: the state of the callback that wrote it, with `config_hash` and `config`; one without is of any run.
        config_hash: the hash of this run; None stands for any.
        config: the configuration behind it, where the keys are to be named.
        where: what names the checkpoint.
        remedy: what to do about it.
    """
    theirs = state.get("config_hash")
    if theirs is None or config_hash is None or theirs == config_hash:
        return
    different = _differing(state.get("config"), None if config is None else plain(config))
    if len(different) > SHOWN_KEYS:
        different = [*different[:SHOWN_KEYS], f"and {len(different) - SHOWN_KEYS} more"]
    found = f"a checkpoint of another run, {theirs}" + (f" ({'; '.join(different)})" if different else "")
    raise UserError(where, found, f"one of run {config_hash}", remedy)


def plain(value: Any) -> Any:
    """Return dictionaries, lists and scalars only: what a checkpoint may hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def _differing(theirs: dict[str, Any] | None, mine: dict[str, Any] | None) -> list[str]:
    if theirs is None or mine is None:
        return []
    old, new = dict(_flat(theirs)), dict(_flat(mine))
    missing = "absent"
    return [
        f"{key}: {old.get(key, missing)} there, {new.get(key, missing)} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, missing) != new.get(key, missing)
    ]
