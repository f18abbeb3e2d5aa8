"""The bench: what belongs to a step, and the arithmetic of its tables."""

from __future__ import annotations

import io
import time
from pathlib import Path

import lightning as L
import pytest
from foreign_toys import Foreign, foreign_batches
from rich.console import Console
from toys import loader, quiet_trainer

from asgml.bench.runs import RandomRuns
from asgml.bench.step_costs import (
    BARE,
    CONFIGS,
    GUARDED,
    GUARDED_AT,
    GUARDED_EVERY,
    HARD,
    JOINT,
    SILENT,
    STALENESS,
    cost_table,
    guard_steps,
    mean_ms,
    measure,
    median_ms,
    target_table,
    targets,
)
from asgml.bench.timer import EpochTimes, StepTimer


def epoch(*ms: float) -> EpochTimes:
    return EpochTimes([x / 1e3 for x in ms])


class Slow(L.Callback):
    """Sleeps before batch 1, after the last batch, and in validation."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        time.sleep(0.03 * (batch_idx == 1))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        time.sleep(0.06 * trainer.is_last_batch)

    def on_validation_batch_end(self, *_) -> None:
        time.sleep(0.05)


class Validated(Foreign):
    def validation_step(self, batch, batch_idx) -> None: ...


def test_an_epoch_is_the_sum_of_its_steps_and_validation_is_apart():
    """What callbacks do at a batch's start or at the end of the last one is in a step."""
    timer = StepTimer()
    trainer = quiet_trainer([timer, Slow()], epochs=2)
    trainer.fit(Validated(automatic=False), loader(foreign_batches(3)), loader(foreign_batches(2)))
    assert [len(e.steps) for e in timer.epochs] == [3, 3]
    for e in timer.epochs:
        assert e.steps[1] >= 0.03
        assert e.steps[2] >= 0.06
        assert e.validation >= 0.1
        assert e.mean * 3 == pytest.approx(sum(e.steps))
    assert timer.epochs[1].steps[0] < timer.epochs[0].validation  # nor any epoch's end


def test_a_rare_cost_is_in_the_mean_and_not_in_the_median():
    """As the predecessor's probe: one step of two and a half in ten."""
    epochs = [epoch(*[10.0] * 9, 25.0, *[10.0] * 10)] * 3
    assert mean_ms(epochs) == pytest.approx(10.75)
    assert median_ms(epochs) == pytest.approx(10.0)
    assert epoch(1, 2, 3, 6, 9, 9).cycles(4) == [pytest.approx(3e-3)]  # whole cycles only


def test_targets_are_ratios_in_one_run():
    large = {
        BARE: [epoch(100, 100, 100, 100)],
        SILENT: [epoch(100, 100, 100, 108)],
        JOINT: [epoch(102, 102, 102, 114), epoch(102, 102, 102, 114)],
        STALENESS: [epoch(110, 110, 110, 110)],
        HARD: [epoch(70, 70, 70, 110)],
    }
    mlp = {BARE: [epoch(1, 1, 1, 1)], SILENT: [epoch(2, 2, 2, 2)], JOINT: [epoch(2, 2, 2, 5)]}
    found = targets(large, 11.0, mlp)
    values = [1.05, 1.05, 105 / 102, 110 / 105, 110 / 105, 11 / 500, 80 / 105, 1.75]
    assert [t.value for t in found] == [pytest.approx(v) for v in values]
    assert [t.met for t in found] == [t.value <= t.bound for t in found]
    assert [t.bound for t in found] == [1.05, 1.05, 1.03, 1.02, 1.02, 0.02, 0.78, 2.0]
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(cost_table("costs", large), target_table(found))
    text = console.export_text()
    assert text.count("NO") == 3
    assert "105.00" in text


def test_configurations_are_whole_runs_and_the_bare_loop_is_the_same_computation(tmp_path: Path):
    """Every row is measured; monitors are off where the row says so."""
    runs = RandomRuns("mlp", tmp_path, batch=8, steps=4, held=8)
    times = measure(runs, [BARE, JOINT], rounds=1, epochs=1)
    assert {name: [len(e.steps) for e in epochs] for name, epochs in times.items()} == {BARE: [4], JOINT: [4]}
    assert times[JOINT][0].validation > 0
    off, on = (runs.config(CONFIGS[name]) for name in (SILENT, JOINT))
    assert [off.callbacks[name] for name in ("probe", "diagnostics", "alarm")] == [None] * 3
    assert off.cosine_every == 0
    assert on.callbacks.probe is not None
    assert runs.config(CONFIGS[HARD]).asgml.masking == "hard"
    guard = runs.config(GUARDED).callbacks.stability
    assert (guard.first, guard.every) == (GUARDED_AT, GUARDED_EVERY)
    assert runs.config(CONFIGS[STALENESS]).callbacks.stability is None


def test_a_measurement_of_the_guard_is_counted_in_steps_of_its_run():
    steps = [10.0] * 40
    steps[GUARDED_AT], steps[0] = 75.0, 90.0  # the first step allocates
    assert guard_steps([epoch(*steps)] * 3) == pytest.approx(6.5)
