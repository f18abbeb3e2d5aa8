"""How often the host waits for the device in a step of every mode: once, for the gate's read (specification A2.10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import lightning as L

from asgml.accelerator.runs import MODES, PICTURES, trained
from suite.accelerator.section import Place, Row, Section, check
from suite.accelerator.synchronisations import synchronisations

STEPS = 12
PLAIN = range(1, 9)  # steps in which no monitor has its interval (10), and nothing is allocated or printed
MONITORED = 9


class Waits(L.Callback):
    """Collects, step by step, where the host waited, from the start of a batch to the end of it."""

    def __init__(self, place: Place):
        self.place = place
        self.steps: list[list[str]] = []
        self._watching = ExitStack()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.steps.append(self._watching.enter_context(synchronisations(self.place)))

    def stop(self) -> None:
        self._watching.close()


class Stop(L.Callback):
    """Ends a step's watch; comes after all others."""

    def __init__(self, waits: Waits):
        self.waits = waits

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.waits.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.waits.stop()


def waits(place: Place, mode: str, precision: str) -> list[list[str]]:
    """Return, for each step of a run, where the host waited for the device."""
    found = Waits(place)
    clips = PICTURES.tiny() if place.dry else PICTURES
    trained(
        place,
        clips,
        mode,
        STEPS,
        {"trainer.precision": precision},
        [found],
        lambda parts: parts.trainer.callbacks.append(Stop(found)),
    )
    return found.steps


def synchronisations_per_step(place: Place) -> Iterator[Row]:
    """Yield the waits of a step in every mode; under fp16 the scaler has its own."""
    asked = [(mode, "32-true", 1) for mode in MODES] + [("uniform", "bf16-mixed", 1), ("uniform", "16-mixed", 2)]
    if place.dry:
        asked = asked[::3]
    for mode, precision, expected in asked:
        steps = waits(place, mode, precision)
        counts = [len(steps[i]) for i in PLAIN]
        told = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
        if set(counts) != {expected}:
            where = Counter(place for i in PLAIN for place in steps[i])
            told += " (" + ", ".join(f"{n} × {place}" for place, n in where.most_common(4)) + ")"
        name = mode if precision == "32-true" else f"{mode}, {precision}"
        yield check(name, told, str(expected), set(counts) == {expected})
        if mode == "uniform" and precision == "32-true":
            yield Row(f"{name}, in a step of the monitors", str(len(steps[MONITORED])))


SYNCHRONISATIONS = Section("synchronisations", "Host synchronisations per step", 60, synchronisations_per_step)
