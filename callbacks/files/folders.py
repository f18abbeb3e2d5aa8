"""Folders that files are to be written to: made before the work whose fruits they hold, or refused."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

from callbacks.errors import UserError

# of the machine, not of the folder: told where a full disk or a limit of the shell is told
_ELSEWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


def make_folder(folder: Path, where: str, remedy: str) -> Path:
    """Make a folder, unless it is there, and return it.

    Permissions alone do not tell: an administrator has all of them, also on a disk or in a system that takes no files.

    Args:
        folder: the folder, whose parents are made as well.
        where: the key or option that names it, for errors.
        remedy: what to type in its place, for errors.

    Raises:
        UserError: a folder that cannot be made, or takes no files.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in _ELSEWHERE:
            raise
        expected = "a folder that files can be written to, or the path of one that can be made"
        raise UserError(where, error.strerror or str(error), expected, remedy) from error
    return folder
