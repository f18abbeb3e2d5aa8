"""How a command is begun: as a shell does it, or as a fork of this process, which has imported what is slow."""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

LOOK = 0.01  # seconds between two looks
SLOW = ("hydra", "lightning.pytorch", "transformers", "pydantic", "rich.table")  # to import


class Process(Protocol):
    """What a command under way can do; as `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...


class Begin(Protocol):
    """Begins a command in a folder, in a session of its own, what it says in a log."""

    def __call__(self, words: Sequence[str], folder: Path, log: Path) -> Process: ...


def executed(words: Sequence[str], folder: Path, log: Path) -> Process:
    """Begin a command as a shell does it."""
    with log.open("wb") as said:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def forked(words: Sequence[str], folder: Path, log: Path) -> Process:
    """Begin `-m MODULE …` as a fork of this process: a second in place of ten, as its libraries are imported."""
    for name in SLOW:
        importlib.import_module(name)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Forked(pid)
    code = 1
    try:
        _become(folder, log)
        assert words[0] == "-m"
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 (as the interpreter ends: nothing of it may go on in this process)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _become(folder: Path, log: Path) -> None:
    os.setsid()
    os.chdir(folder)
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        opened = os.open(path, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Forked:
    """A fork of this process, with what `Process` asks for."""

    def __init__(self, pid: int):
        self.pid, self._code = pid, None

    _code: int | None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it is under way."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended; raises subprocess.TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(LOOK)
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)
