"""What the machine refuses a run: told as the user's error, with what to type."""

from __future__ import annotations

import errno

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


def exhausted(error: BaseException) -> UserError | None:
    """Return a full disk, or a limit of the shell that was reached, as the user's error; None for anything else."""
    if isinstance(error, MemoryError):
        remedy = "set a smaller loader.batch_size, or end other programs; then give the same command again"
        return UserError("memory", str(error) or "none is left", "room for a batch and its gradients", remedy)
    if type(error) is RuntimeError and error.__context__ is not None:  # as torch says what a loader's workers met
        return exhausted(error.__context__)
    if not isinstance(error, OSError) or error.errno not in REFUSED:
        return None
    expected, remedy = REFUSED[error.errno]
    found = f"{error.strerror}; what was there is still there"
    return UserError(str(error.filename or "paths.runs"), found, expected, remedy)
