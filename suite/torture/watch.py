"""What a command writes, as it is seen from outside: each new version of a file is a change."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from suite.torture.begin import LOOK, Process

Version = tuple[str, int, int]  # a file's path below the folder, its time in ns and its size


@dataclass
class Watch:
    """Follows a command that writes below a folder, until it has ended.

    Args:
        process: the command.
        folder: the folder.
        given: the files there that the command reads, which are not looked at.

    Attributes:
        times: when each change was seen, in seconds on the monotonic clock.
        last: the file of the last change, as a path below the folder; empty before the first one.
    """

    process: Process
    folder: Path
    given: frozenset[str]
    times: list[float] = field(default_factory=list)
    last: str = ""

    def __post_init__(self) -> None:
        self._seen = set(_versions(self.folder, self.given))

    def until(self, changes: int, limit: float) -> bool:
        """Wait for a number of changes in all; return whether the command was still under way then.

        Args:
            changes: the number.
            limit: the seconds after which waiting ends as if the command had.
        """
        end = time.monotonic() + limit
        while len(self.times) < changes:
            if self.process.poll() is not None or time.monotonic() > end:
                self._look()
                return False
            time.sleep(LOOK)
            self._look()
        return self.process.poll() is None

    def for_seconds(self, seconds: float) -> bool:
        """Follow the command so long, or until it has ended; return whether it is still under way."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and (left := end - time.monotonic()) > 0:
            time.sleep(min(LOOK, left))
            self._look()
        self._look()
        return self.process.poll() is None

    def _look(self) -> None:
        there = set(_versions(self.folder, self.given))
        new = sorted(there - self._seen, key=lambda version: version[1])
        self.times += [time.monotonic()] * len(new)
        self.last = new[-1][0] if new else self.last
        self._seen |= there


def names(folder: Path) -> frozenset[str]:
    """Return the files below a folder, as paths below it."""
    return frozenset(path for path, _, _ in _versions(folder, frozenset()))


def _versions(folder: Path, without: frozenset[str], below: str = "") -> Iterator[Version]:
    """Yield the files below a folder that are there at this moment; what goes away meanwhile is left out."""
    try:
        with os.scandir(folder / below) as found:
            entries = list(found)
    except FileNotFoundError:
        return
    for entry in entries:
        path = f"{below}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _versions(folder, without, f"{path}/")
        elif path not in without:
            try:
                about = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield path, about.st_mtime_ns, about.st_size
