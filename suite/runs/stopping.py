"""Being stopped from outside: what SIGTERM does to a job, and which exit code tells of it."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from callbacks.run.stderr import say_at_once

EXIT_SIGTERM = 143
EXIT_INTERRUPT = 130
STOPPED = "\nstopped\n"


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Let SIGTERM end the job with exit code 143 while nobody else handles it.

    During `Trainer.fit` others do: Lightning (and the stop callback) install their handlers and call this one as well;
    it then holds still, so that the step in progress can end and be saved.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handler(signum: int, frame: Any) -> None:
        if signal.getsignal(signal.SIGTERM) is not handler:
            return
        if os.getpid() != owner:  # a forked worker: die as it would have died
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        raise SystemExit(EXIT_SIGTERM)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


Given = ParamSpec("Given")
Result = TypeVar("Result")


def ends_on_interrupt(main: Callable[Given, Result]) -> Callable[Given, Result]:
    """Decorate the entry of a program: Ctrl-C where no job is under way ends it with a word and exit code 130."""

    @functools.wraps(main)
    def ends(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            return main(*args, **kwargs)
        except KeyboardInterrupt:
            say_at_once(STOPPED)
            raise SystemExit(EXIT_INTERRUPT) from None

    return ends


def stop_code(error: BaseException) -> int:
    """Return the exit code of a job that was stopped from outside, 0 for one that failed by itself.

    What an interrupted library raises while it puts its things in order was not what ended the job.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):  # Trainer, for one, turns Ctrl-C into exit(1)
            return EXIT_INTERRUPT
        if isinstance(cause, SIGTERMException):  # Lightning's own; its exit code would be 0
            return EXIT_SIGTERM
        if isinstance(cause, SystemExit) and cause.code == EXIT_SIGTERM:
            return EXIT_SIGTERM
        cause = cause.__context__
    return 0
