"""A trial: a command is killed at a moment drawn from a seed, given again until it ends, and compared."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from suite.runs.launch import NOT_ACCEPTED
from suite.torture.begin import Begin, Process, executed
from suite.torture.case import Case
from suite.torture.watch import Watch, names

SIGNALS = {name: signal.Signals[f"SIG{name}"] for name in ("TERM", "KILL", "INT")}
HELD = "in use by"  # what a command says while a process of the killed one is at its end
TWICE = 0.3  # the share of trials in which the command is killed again while it continues
EARLY = 0.1  # the share of kills before the command has written anything
LATE = 3  # how often a moment that came too late is halved

Verdict = Literal["equal", "different", "failed", "hang", "traceback"]


@dataclass(frozen=True)
class Reference:
    """What an undisturbed command leaves.

    Attributes:
        left: digests by name.
        start: the seconds after which it wrote its first file.
        gaps: the seconds from each change of its files to the next one, or to its end.
        code: its exit code, 0, or that of a run which has not reached what it was to reach.
    """

    left: Mapping[str, str]
    start: float
    gaps: Sequence[float]
    code: int


@dataclass(frozen=True)
class Trial:
    """One kill, or two, and what came of it.

    Attributes:
        case: the name of the case.
        signal: TERM, KILL or INT.
        number: of the trial within case and signal, from 0; with the seed it decides the moments.
        moments: when the command was killed, in seconds after it was given; none where it had ended before.
        after: for each moment the file that it had written last, as a path below its folder; empty before the first.
        verdict: `equal` is as undisturbed; `different` is not; `failed`: the command does not go on to its end;
            `hang`: it had to be ended; `traceback`: it says more than a user can use.
        note: what differs, or the last words.
    """

    case: str
    signal: str
    number: int
    moments: tuple[float, ...]
    after: tuple[str, ...]
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True)
class Moment:
    """When a command is killed: so many changes of its files after it was given, and so many seconds later.

    In changes, because training, evaluations and writes are short beside the start of a command, and because machines
    are not always as fast as they were undisturbed.
    """

    changes: int
    seconds: float

    @classmethod
    def drawn(cls, reference: Reference, draws: random.Random) -> Moment:
        """Draw a moment: each gap between two changes is as likely as any other, the start of the command aside."""
        if draws.random() < EARLY:
            return cls(0, draws.uniform(0.0, reference.start))
        gap = draws.randrange(len(reference.gaps))
        return cls(gap + 1, draws.uniform(0.0, reference.gaps[gap]))

    def earlier(self) -> Moment:
        """Return a moment half as late."""
        return Moment(self.changes // 2, self.seconds / 2)


def undisturbed(case: Case, template: Path, place: Path, limit: float, begin: Begin = executed) -> Reference:
    """Run a command to its end in a copy of what it reads.

    Raises:
        RuntimeError: it fails, or leaves nothing to compare.
    """
    folder = _fresh(template, place)
    begun = time.monotonic()
    process = _start(case, folder, begin)
    watch = Watch(process, folder, names(template))
    watch.for_seconds(limit)
    ended = time.monotonic()
    code, words = _end(process, limit=1.0), _words(folder)
    if code not in (0, NOT_ACCEPTED):
        raise RuntimeError(f"{case.name}: the undisturbed command ended with {code}: {words[-2000:]}")
    times = [*watch.times, ended]
    gaps = [round(after - before, 3) for before, after in pairwise(times)]
    found = Reference(dict(case.left(folder)), round(times[0] - begun, 3), gaps, code)
    if not found.left:
        raise RuntimeError(f"{case.name}: the undisturbed command left nothing to compare")
    return found


def disturbed(
    case: Case,
    reference: Reference,
    name: str,
    number: int,
    seed: int,
    template: Path,
    place: Path,
    limit: float,
    begin: Begin = executed,
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
        begin: how it is begun.
    """
    draws = random.Random(f"{seed} {case.name} {name} {number}")
    folder, given = _fresh(template, place), names(template)
    kills: list[Kill] = []

    def ended(verdict: Verdict, note: str = "") -> Trial:
        moments, after = tuple(k.seconds for k in kills), tuple(k.after for k in kills)
        return Trial(case.name, name, number, moments, after, verdict, note)

    for _ in range(1 + (draws.random() < TWICE)):
        moment = Moment.drawn(reference, draws)
        kill = _killed(case, folder, given, SIGNALS[name], moment, limit, begin)
        for _ in range(LATE):  # it was faster than undisturbed: once more, and earlier
            if kill is not None or kills:
                break
            folder, moment = _fresh(template, place), moment.earlier()
            kill = _killed(case, folder, given, SIGNALS[name], moment, limit, begin)
        if kill is None:
            break
        kills.append(kill)
        words = _words(folder)
        if kill.code is None:
            return ended("hang", f"after SIG{name}: {words[-300:]}")
        starting = name == "INT" and not kill.after  # Python itself says where it was interrupted
        left_alone = name == "KILL"  # loader workers say that nobody is there any more
        if "Traceback" in words and not (starting or left_alone):
            return ended("traceback", words[-600:])
    code, words = _run(case, folder, limit, begin)
    patient = time.monotonic() + limit
    while code == 2 and HELD in words and time.monotonic() < patient:
        time.sleep(0.5)
        code, words = _run(case, folder, limit, begin)
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


def _start(case: Case, folder: Path, begin: Begin) -> Process:
    return begin(case.line(folder), folder, folder.with_name(f"{folder.name}.log"))


def _words(folder: Path) -> str:
    return folder.with_name(f"{folder.name}.log").read_text(encoding="utf-8", errors="replace")


def _run(case: Case, folder: Path, limit: float, begin: Begin) -> tuple[int | None, str]:
    """Run a command; return its exit code, None where it had to be ended, and what it said."""
    process = _start(case, folder, begin)
    return _end(process, limit), _words(folder)


@dataclass(frozen=True)
class Kill:
    """Says when a command was killed, after which file, and how it ended: None where it did not."""

    seconds: float
    after: str
    code: int | None


def _killed(
    case: Case,
    folder: Path,
    given: frozenset[str],
    number: signal.Signals,
    moment: Moment,
    limit: float,
    begin: Begin,
) -> Kill | None:
    """Start a command and kill it at a moment; None where it had ended before."""
    begun, process = time.monotonic(), _start(case, folder, begin)
    watch = Watch(process, folder, given)
    try:
        under_way = watch.until(moment.changes, limit) and watch.for_seconds(moment.seconds)
    except BaseException:  # this harness is stopped: nothing may go on in the folder of trials
        _end(process, 0.0)
        raise
    if under_way:
        process.send_signal(number)
    seconds = round(time.monotonic() - begun, 3)
    code = _end(process, limit, leave=number == signal.SIGKILL)
    return Kill(seconds, watch.last, code) if under_way else None


def _end(process: Process, limit: float, leave: bool = False) -> int | None:
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
