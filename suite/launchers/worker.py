"""A worker: it does jobs of a sweep one after the other, each with its output in a file of its own.

    python -m suite.launchers.worker asgml.run JOB.json …     these, then it ends
    python -m suite.launchers.worker asgml.run --replies FD   lines of stdin, until it closes

It is started by a sweep (`launcher=processes`, `launcher=slurm`). For every job that comes on stdin it writes a line to
the descriptor FD. When stdin closes in the middle of a job, whoever started the worker is gone: the job is stopped as
by SIGTERM, which saves it.
"""

from __future__ import annotations

import importlib
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from callbacks.errors import UserError
from suite.launchers.work import read_work, write_outcome
from suite.runs.command import helped
from suite.runs.display import finished, reused, unfinished
from suite.runs.identity import run_dir
from suite.runs.job import execute, is_main_process
from suite.runs.outcome import Outcome
from suite.runs.record import release_memory
from suite.runs.study import Program
from suite.runs.surroundings import open_streams


def do(program: Program, path: Path) -> Outcome:
    """Do the job in a file, write what it prints and how it ended beside it, and return that."""
    work = read_work(path)
    with output_to(work.log):
        try:
            outcome = execute(
                work.cfg, program.name, program.task, program.earlier, print, program.again, tuple(work.told)
            )
        except Exception as error:
            if not is_main_process():
                raise
            outcome = Outcome(run_dir(work.cfg).name, run_dir(work.cfg), "failed")
            outcome.ended_by(error)  # the result itself could not be written
            if not outcome.user_error:
                traceback.print_exc()
        if not is_main_process():
            return outcome
        print(_said(outcome))
        write_outcome(path, outcome)
    return outcome


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send what this process and its children print to the end of a file."""
    with path.open("ab") as file:
        kept = [(stream, os.dup(stream.fileno())) for stream in (sys.__stdout__, sys.__stderr__) if stream is not None]
        try:
            for stream, _ in kept:
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())
            yield
        finally:
            for stream, before in kept:
                stream.flush()
                os.dup2(before, stream.fileno())
                os.close(before)


def main(argv: Sequence[str] | None = None) -> int:
    """Do the jobs of the command line or of stdin; return 0, or the exit code of a job that was stopped."""
    open_streams()
    if helped(argv, __doc__):
        return 0
    module, *words = sys.argv[1:] if argv is None else argv
    replies = int(words[1]) if words[:1] == ["--replies"] else None
    if replies is not None:
        os.set_inheritable(replies, False)
    program: Program = importlib.import_module(module).PROGRAM
    for number, path in enumerate(words if replies is None else _from_stdin()):
        if number:
            release_memory()
        outcome = do(program, Path(path))
        if replies is not None:
            _busy.clear()
            try:
                os.write(replies, b"done\n")
            except BrokenPipeError:  # the sweep was killed: nobody has another job
                return outcome.exit_code
        if outcome.exit_code:
            return outcome.exit_code
    return 0


_busy = threading.Event()  # set while a job is under way


def _from_stdin() -> Iterator[str]:
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            _busy.set()
            lines.put(line.strip())
        lines.put("")
        if _busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()
    while line := lines.get():
        yield line


def _said(outcome: Outcome) -> str:
    if outcome.status in ("skipped", "evaluated"):
        return reused(outcome)
    if outcome.status == "finished":
        return finished(outcome)
    return outcome.error if outcome.user_error else unfinished(outcome)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as problem:
        print(problem, file=sys.stderr)
        sys.exit(UserError.EXIT_CODE)
