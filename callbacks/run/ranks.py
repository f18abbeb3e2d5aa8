"""RankWatch: a rank that dies is told of, before the others are ended."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Sequence

import lightning as L

from callbacks.run.stderr import say_at_once

PERIOD = 0.2  # seconds between two looks
SETTLES = 2.0  # seconds that a process may take to end after its connections were closed


class RankWatch(L.Callback):
    """Says on stderr which process of a run on several devices has died, and adds it to the error that follows.

    Where one rank dies, the others fail in their next exchange with it, with words about a connection, or wait in it;
    Lightning then kills them all after five seconds. It watches the processes that Lightning has started on this
    machine; those of SLURM and torchrun are watched by these.

    Example::

        callbacks:
          ranks: {_target_: callbacks.RankWatch}

    Limits: rank 0 alone watches, from the start of a fit to its end.
    """

    def __init__(self) -> None:
        self._over = threading.Event()
        self._processes: Sequence[subprocess.Popen[bytes]] = ()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._processes = list(getattr(trainer.strategy.launcher, "procs", None) or ())
        if self._processes and stage == "fit":
            self._over.clear()
            threading.Thread(target=self._watch, daemon=True).start()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._over.set()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._over.set()
        until = time.monotonic() + SETTLES
        while self._processes and not self.dead() and time.monotonic() < until:
            time.sleep(PERIOD / 4)
        for told in self.dead():
            exception.add_note(told)

    def dead(self) -> list[str]:
        """Return a phrase for each rank that has ended with an error."""
        return [_told(rank, code) for rank, p in enumerate(self._processes, 1) if (code := p.poll())]

    def _watch(self) -> None:
        while not self._over.wait(PERIOD):
            if told := self.dead():
                say_at_once(f"{'; '.join(told)}: the run ends, the same command continues it\n")
                return


def _told(rank: int, code: int) -> str:
    return (
        f"rank {rank} was ended by {signal.Signals(-code).name}" if code < 0 else f"rank {rank} ended with code {code}"
    )
