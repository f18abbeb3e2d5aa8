"""A section: what one question to the accelerator is, how long it may take, and the rows it answers with.

A program registers its sections in `<program>.accelerator`; what a section finds is a row at once, so that a section
that runs out of time keeps what it has. Adding one::

    def collectives(place: Place) -> Iterator[Row]:
        if torch.cuda.device_count() < 2:
            raise Unavailable("one device; two are needed")
        yield check("sum over two ranks", f"{found:g}", "3", found == 3)

    register("latentwire", [Section("nccl", "Collectives over NCCL", 40, collectives)])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

Verdict = Literal["passed", "failed", "measured", "not done"]


class Unavailable(Exception):
    """Tells that a section cannot be done on this machine, and why; neither a failure nor a result."""


@dataclass(frozen=True)
class Place:
    """Says where a section runs.

    Attributes:
        device: the device that is asked.
        folder: a folder for files that are thrown away.
        dry: whether this is the rehearsal on the CPU: tiny shapes, few steps, numbers that mean nothing.
    """

    device: torch.device
    folder: Path
    dry: bool = False

    @property
    def cuda(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has done everything that was asked of it."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Row:
    """Holds one answer.

    Attributes:
        name: what was looked at.
        measured: what was found; of `not done`, the reason.
        expected: what was expected; empty where nothing is promised.
        verdict: whether the two agree (`passed`, `failed`), or `measured` where nothing is promised.
    """

    name: str
    measured: str
    expected: str = ""
    verdict: Verdict = "measured"


def check(name: str, measured: str, expected: str, holds: bool) -> Row:
    """Return a row with the verdict of a promise."""
    return Row(name, measured, expected, "passed" if holds else "failed")


def not_done(name: str, reason: str) -> Row:
    """Return the row of what this machine could not do."""
    return Row(name, reason, verdict="not done")


@dataclass(frozen=True)
class Section:
    """Holds one question to the accelerator.

    Attributes:
        name: the short name, by which results are kept and asked for again.
        title: the heading on the page.
        seconds: the most that it may take.
        run: yields the rows; raises `Unavailable` where the machine lacks what it needs.
    """

    name: str
    title: str
    seconds: float
    run: Callable[[Place], Iterator[Row]]


_SECTIONS: dict[str, list[Section]] = {}


def register(program: str, sections: Sequence[Section]) -> None:
    """Say what a program asks an accelerator."""
    _SECTIONS[program] = list(sections)


def sections_of(program: str) -> list[Section]:
    """Return what a program registered, in its order."""
    return list(_SECTIONS.get(program, []))
