"""Running sections one after the other, each within its time, with a result whatever happens."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from suite.accelerator.results import Answer, Results, circumstances
from suite.accelerator.section import Place, Row, Section, Unavailable
from suite.runs import record

CLOSE = 5.0  # seconds kept at the end for the page


class OutOfTime(BaseException):
    """Tells that a section has used up its time; no `except Exception` on the way (a compiler's) may hold it up."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after so many seconds, wherever it is (a step, a compilation); main thread only."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answer(section: Section, place: Place, seconds: float) -> Answer:
    """Run one section, and return what became of it; an error in it is its answer."""
    rows: list[Row] = []
    started = time.perf_counter()
    status, reason = "done", ""
    try:
        with limited(seconds):
            for row in section.run(place):
                rows.append(row)
    except Unavailable as lack:
        status, reason = "not done", str(lack)
    except OutOfTime:
        status, reason = "not done", f"time: {seconds:.0f} s were not enough; the rows are those until then"
    except Exception as error:  # noqa: BLE001 (one section's error is its answer; the others are still asked)
        traceback.print_exc()
        status, reason = "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return Answer(
        status,  # type: ignore[arg-type]
        reason,
        rows,
        time.perf_counter() - started,
        circumstances(place.device),
        record.now(),
    )


def run(
    sections: Sequence[Section],
    place: Place,
    results: Results,
    limit: float,
    say: Callable[[str], None],
    again: Sequence[str] = (),
) -> None:
    """Run the sections that have no answer under these circumstances, and keep each answer as soon as there is one.

    Args:
        sections: the sections, in order.
        place: where they run.
        results: the answers so far.
        limit: the seconds for all of them together; a section that may take longer than what is left is not begun.
        say: called with a line about each section.
        again: the names of sections that are run in any case.
    """
    end = time.perf_counter() + limit
    now = circumstances(place.device)
    for section in sections:
        kept = results.answers.get(section.name)
        if kept is not None and kept.status == "done" and kept.circumstances == now and section.name not in again:
            say(f"{section.name}: done before ({kept.finished})")
            continue
        left = end - CLOSE - time.perf_counter()
        if left < section.seconds and not place.dry:
            found = Answer(
                "not done", f"time: {left:.0f} s left of {limit:.0f}", circumstances=now, finished=record.now()
            )
        else:
            found = answer(section, place, min(section.seconds, left))
        if kept is None or found.status != "not done" or kept.circumstances != now or found.rows:
            results.put(section.name, found)
        if place.cuda:
            record.release_memory()
        counts = {v: sum(row.verdict == v for row in found.rows) for v in ("passed", "failed", "measured", "not done")}
        told = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
        say(
            f"{section.name}: {found.status} in {found.seconds:.0f} s"
            + "".join(f"; {t}" for t in (told, found.reason) if t)
        )
