"""A trial: a command is killed at a moment drawn from a seed, given again until it ends, and compared."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from suite.runs.launch import NOT_ACCEPTED
from suite.torture.case import Case

SIGNALS = {name: signal.Signals[f"SIG{name}"] for name in ("TERM", "KILL", "INT")}
HELD = "in use by"  # what a command says while a process of the killed one is at its end
TWICE = 0.3  # the share of trials in which the command is killed again while it continues
EARLY = 0.15  # the share of kills before the command has written anything
LATE = 3  # how often a moment that came too late is halved
LOOK = 0.01  # seconds between two looks at its folder

Verdict = Literal["equal", "different", "failed", "hang", "traceback"]


@dataclass(frozen=True)
class Reference:
    """What an undisturbed command leaves.

    Attributes:
        left: digests by name.
        start: the seconds after which it wrote its first file.
        seconds: how long it took from then on.
        code: its exit code, 0, or that of a run which has not reached what it was to reach.
    """

    left: Mapping[str, str]
    start: float
    seconds: float
    code: int


@dataclass(frozen=True)
class Trial:
    """One kill, or two, and what came of it.

    Attributes:
        case: the name of the case.
        signal: TERM, KILL or INT.
        number: of the trial within case and signal, from 0; with the seed it decides the moments.
        moments: when the command was killed, in seconds after its first file, negative before it; none where it had
            ended before.
        verdict: `equal` is as undisturbed; `different` is not; `failed`: the command does not go on to its end;
            `hang`: it had to be ended; `traceback`: it says more than a user can use.
        note: what differs, or the last words.
    """

    case: str
    signal: str
    number: int
    moments: tuple[float, ...]
    verdict: Verdict
    note: str = ""


def undisturbed(case: Case, template: Path, place: Path, limit: float) -> Reference:
    """Run a command to its end in a copy of what it reads.

    Raises:
        RuntimeError: it fails, or leaves nothing to compare.
    """
    folder = _fresh(template, place)
    begun = time.monotonic()
    process = _start(case, folder)
    _first_file(process, folder, _files(template), limit)
    start = time.monotonic()
    code, words = _end(process, limit), _words(folder)
    if code not in (0, NOT_ACCEPTED):
        raise RuntimeError(f"{case.name}: the undisturbed command ended with {code}: {words[-2000:]}")
    found = Reference(dict(case.left(folder)), start - begun, time.monotonic() - start, code)
    if not found.left:
        raise RuntimeError(f"{case.name}: the undisturbed command left nothing to compare")
    return found


def disturbed(
    case: Case, reference: Reference, name: str, number: int, seed: int, template: Path, place: Path, limit: float
) -> Trial:
    """Kill a command, give it again, and compare what it leaves.

    Args:
        case: the command.
        reference: what it leaves undisturbed.
        name: the signal, a key of `SIGNALS`.
        number: the number of the trial.
        seed: what the moments are drawn from, together with case, signal and number.
        template: the folder that it reads.
        place: the folder of the trial, which is made anew; of all trials the same, as results name it.
        limit: the seconds after which a command hangs.
    """
    drawn = random.Random(f"{seed} {case.name} {name} {number}")
    folder = _fresh(template, place)
    moments: list[float] = []

    def ended(verdict: Verdict, note: str = "") -> Trial:
        return Trial(case.name, name, number, tuple(moments), verdict, note)

    for _ in range(1 + (drawn.random() < TWICE)):
        early = drawn.random() < EARLY
        after = drawn.uniform(-reference.start, 0.0) if early else drawn.uniform(0.0, reference.seconds)
        killed, words = _killed(case, reference, folder, SIGNALS[name], after, limit)
        for _ in range(LATE):  # it was faster than undisturbed: once more, and earlier
            if killed is not False or moments:
                break
            folder, after = _fresh(template, place), after / 2
            killed, words = _killed(case, reference, folder, SIGNALS[name], after, limit)
        if killed is None:
            return ended("hang", f"after SIG{name}: {words[-300:]}")
        if killed:
            moments.append(round(after, 3))
        if "Traceback" in words and name == "TERM":
            return ended("traceback", words[-600:])
    code, words = _run(case, folder, limit)
    patient = time.monotonic() + limit
    while code == 2 and HELD in words and time.monotonic() < patient:
        time.sleep(0.5)
        code, words = _run(case, folder, limit)
    if code is None:
        return ended("hang", f"given again: {words[-300:]}")
    if "Traceback" in words:
        return ended("traceback", words[-600:])
    if code != reference.code:
        return ended("failed", f"given again it ends with {code}: {words[-600:]}")
    left = case.left(folder)
    differs = sorted(key for key in {*left, *reference.left} if left.get(key) != reference.left.get(key))
    return ended("different", ", ".join(differs)) if differs else ended("equal")


def _fresh(template: Path, place: Path) -> Path:
    if place.exists():
        shutil.rmtree(place)
    shutil.copytree(template, place)
    return place


def _start(case: Case, folder: Path) -> subprocess.Popen[bytes]:
    log = folder.with_name(f"{folder.name}.log")
    with log.open("wb") as words:
        return subprocess.Popen(
            [sys.executable, *case.line(folder)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def _first_file(process: subprocess.Popen[bytes], folder: Path, known: set[Path], limit: float) -> None:
    """Wait until a command has written a file that was not there, or has ended."""
    until = time.monotonic() + limit
    while _files(folder) <= known and process.poll() is None and time.monotonic() < until:
        time.sleep(LOOK)


def _words(folder: Path) -> str:
    return folder.with_name(f"{folder.name}.log").read_text(encoding="utf-8", errors="replace")


def _run(case: Case, folder: Path, limit: float) -> tuple[int | None, str]:
    """Run a command; return its exit code, None where it had to be ended, and what it said."""
    process = _start(case, folder)
    return _end(process, limit), _words(folder)


def _killed(
    case: Case, reference: Reference, folder: Path, number: signal.Signals, after: float, limit: float
) -> tuple[bool | None, str]:
    """Return whether a command was under way when the signal came, None where it did not end then; and its words."""
    known, process = _files(folder), _start(case, folder)
    try:
        if after < 0:
            process.wait(reference.start + after)
        else:
            _first_file(process, folder, known, limit)
            process.wait(after)
        return False, _words(folder)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    code = _end(process, limit, leave=number == signal.SIGKILL)
    return (None if code is None else True), _words(folder)


def _end(process: subprocess.Popen[bytes], limit: float, leave: bool = False) -> int | None:
    """Wait for a command, end it where it hangs, and end what it has left running, unless that is to be left."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None or not leave:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                leave = True  # nothing was left
            process.wait()
