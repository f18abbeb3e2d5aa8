"""What a run's own monitors found wrong with it, in one table."""

from __future__ import annotations

from collections import Counter
from typing import Any

from suite.report.data import RunRecord
from suite.report.frames import RunFrames
from suite.report.tables import Table, columns, texts


def findings(run: RunRecord) -> list[tuple[str, str]]:
    """Return what the monitors of a run found, each as the finding (alike in all seeds) and its detail."""
    counters: dict[str, Any] = run.result.get("counters") or {}
    found: list[tuple[str, str]] = []
    if run.result.get("fault"):
        found.append(("wrong on purpose: it replays a fault of earlier code", f"+fault={run.result['fault']}"))
    guard: dict[str, Any] = counters.get("stability") or {}
    if guard.get("off"):
        found.append(("whether its delays are stable is not known", str(guard["off"])))
    for m in guard.get("confirmed", ()):
        worst = guard["worst"][m]
        detail = f"{worst['load']:.1f} times the limit at step {worst['t']:.0f}"
        found.append((f"the delay of {m} is unstable at this learning rate and momentum", detail))
    changes = counters.get("schedule_changes")
    if changes and not any(changes.values()):
        found.append(("the schedule never changed a delay", f"{counters.get('schedule_decisions')} decisions"))
    if "dominant" in counters and counters["dominant"] is None:
        found.append(("no modality was delayed: the probes saw no gap beyond its noise", "asgml.delayed=dominant"))
    held, moved = run.counter("held"), run.counter("applied")
    for m, steps in held.items():
        if steps and moved.get(m) == 0:
            found.append((f"the encoder of {m} never moved", f"held back in all {steps:.0f} steps"))
    if counters.get("vetoed"):
        found.append(("steps in which nothing was applied", f"{counters['vetoed']} of {counters.get('committed')}"))
    return found


def health_table(frames: RunFrames) -> Table | None:
    """Show what the monitors found, by configuration; None where they found nothing."""
    rows = []
    for c in frames.configurations:
        told = [finding for run in c.finished for finding in findings(run)]
        details = dict(reversed(told))  # of the first seed that has it
        for what, seeds in Counter(what for what, _ in told).items():
            rows.append(texts(c.label, what, f"{seeds} of {len(c.finished)}", details[what]))
    if not rows:
        return None
    notes = ["Found by the monitors of the runs themselves; details are those of the first seed concerned."]
    return Table("Health", columns("configuration", "finding", "seeds", "detail"), rows, notes)
