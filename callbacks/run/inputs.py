"""The files that a run reads, as it was made and as they are: what has changed, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from callbacks.errors import UserError

SHOWN = 4
Inputs = Mapping[str, Mapping[str, Any]]  # path, size, sha256 by role


def differing(then: Inputs | None, now: Inputs | None) -> list[str]:
    """Return one phrase for each file whose content is not what it was; files known on one side only do not count.

    Args:
        then: the fingerprints of the run, by role; None where they were not recorded.
        now: the fingerprints of the files as they are.
    """
    then, now = then or {}, now or {}
    changed = [role for role in then if role in now and then[role]["sha256"] != now[role]["sha256"]]
    said = [f"{role}: {_told(then[role], now[role])}" for role in changed]
    return [*said[:SHOWN], f"and {len(said) - SHOWN} more"] if len(said) > SHOWN else said


def refuse_other_inputs(
    then: Inputs | None,
    now: Inputs | None,
    where: str,
    remedy: str = "put back the files as they were, or train anew with resume=never",
) -> None:
    """Raise UserError where a file that a checkpoint was made with has another content now; arguments as `differing`.

    Args:
        then: the fingerprints in the checkpoint.
        now: the fingerprints of the files as they are.
        where: what names the checkpoint.
        remedy: what to do about it.
    """
    if changed := differing(then, now):
        raise UserError(where, f"made on other data: {'; '.join(changed)}", "the files that it was made with", remedy)


def _told(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    where = f"{now['path']} had" if then["path"] == now["path"] else f"{then['path']} has"
    other = "it has" if then["path"] == now["path"] else f"{now['path']} has"
    return f"{where} {_content(then)}, {other} {_content(now)}"


def _content(entry: Mapping[str, Any]) -> str:
    count = f"{entry['files']} files, " if "files" in entry else ""
    return f"{count}{entry['size']} bytes (SHA-256 {entry['sha256'][:12]}…)"
