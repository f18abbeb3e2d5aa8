"""What the machine refuses a run: told as the user's error, with what to type."""

from __future__ import annotations

import errno
import os
import resource
import sys
from pathlib import Path

from callbacks.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
ROOM = "free disk space or move paths.runs, then give the same command again"
# by errno: what was expected, and what to type
REFUSED = {
    **dict.fromkeys(FULL, ("room for the files of a run", ROOM)),
    errno.EFBIG: ("files as large as a run's", "ulimit -f unlimited, then give the same command again"),
    errno.EMFILE: ("more open files", "ulimit -n 4096, or set loader.workers=0; then give the same command again"),
    errno.ENFILE: ("more open files", "end other programs, then give the same command again"),
}
# what becomes of a file whose folder was removed, replaced or mounted otherwise
LOST = {errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE, errno.EIO}

OPEN_FILES = 4096  # more than a loader with many workers needs; many systems begin at 1024 or 256


def raise_open_files() -> None:
    """Let this process and its workers open more files at once, as far as the shell's hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def exhausted(error: BaseException) -> UserError | None:
    """Return a full disk, or a limit of the shell that was reached, as the user's error; None for anything else."""
    if isinstance(error, MemoryError) or _of_torch(error):
        remedy = "set a smaller loader.batch_size, or end other programs; then give the same command again"
        return UserError(
            "memory", str(error).partition("\n")[0] or "none is left", "room for a batch and its gradients", remedy
        )
    if type(error) is RuntimeError and error.__context__ is not None:  # as torch says what a loader's workers met
        return exhausted(error.__context__)
    if not isinstance(error, OSError) or error.errno not in REFUSED:
        return None
    expected, remedy = REFUSED[error.errno]
    found = f"{error.strerror}; what was there is still there"
    return UserError(str(error.filename or "paths.runs"), found, expected, remedy)


def _of_torch(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)  # which has no class


def unusable(error: BaseException, folder: Path) -> UserError | None:
    """Return a folder of a run that can no longer be written to as the user's error; None for anything else.

    Args:
        error: what ended the run.
        folder: its directory.
    """
    if not isinstance(error, OSError) or error.errno not in LOST or not isinstance(error.filename, str | bytes):
        return None
    file = Path(os.fsdecode(error.filename))
    if not (file.is_relative_to(folder) or folder.is_relative_to(file)):
        return None
    remedy = f"see that {folder} can be made and written to, or move paths.runs; then give the same command again"
    return UserError(str(file), error.strerror or str(error), "the folder of the run, as it was when it began", remedy)
