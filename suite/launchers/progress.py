"""What a sweep shows while its jobs run elsewhere: a line for each that begins and each that has ended."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from rich.markup import escape

from suite.launchers.sweep import Sweep
from suite.launchers.work import log_of
from suite.runs.display import console, metric, said
from suite.runs.outcome import Outcome

COLOURS = {"finished": "green", "evaluated": "green", "skipped": "green", "held": "yellow"}


class Progress:
    """Tells of the jobs of a sweep.

    Args:
        sweep: the sweep.
        at_a_time: how many of its jobs run at a time.
    """

    def __init__(self, sweep: Sweep, at_a_time: int):
        self.sweep, self.at_a_time = sweep, at_a_time
        self.screen = console()
        self.took: list[float] = []
        files = f"{sweep.folder}/NUMBER.log"
        self._print(f"[dim]{len(sweep.left)} jobs, {at_a_time} at a time; what they print: {escape(files)}[/]")

    def begins(self, number: int) -> None:
        """Tell that a job begins."""
        self._print(self._job(number))

    def ended(self, number: int, outcome: Outcome, path: Path) -> None:
        """Tell how the job in the file `path` has ended, and what time the others will take at the mean so far."""
        took = float(outcome.result.get("seconds") or 0.0)
        if outcome.status == "finished":
            self.took.append(took)
        left = len(set(self.sweep.left) - self.sweep.outcomes.keys())
        mean = sum(self.took) / len(self.took) if self.took else 0.0
        eta = timedelta(seconds=round(left * mean / self.at_a_time))
        told = f"{self._job(number)} [{COLOURS.get(outcome.status, 'red')}]{said(outcome.status)}[/] in {took:.0f} s"
        told += f" {metric(outcome.result.get('test'))}".rstrip()
        self._print(told + (f"  [dim]ETA {eta}[/]" if left and self.took else ""))
        if outcome.status == "failed":
            line = outcome.error.splitlines()[0] if outcome.error else ""
            self._print(f"    {escape(line)}; {escape(str(log_of(path)))}")

    def waits(self, number: int, outcome: Outcome) -> None:
        """Tell that a job is tried again when those before it have ended."""
        line = "; ".join(part.strip() for part in outcome.error.splitlines()[:2])
        self._print(f"{self._job(number)} waits for the jobs before it: {escape(line)}")

    def stops(self) -> None:
        """Tell that the jobs under way are stopped."""
        self._print("stopping the jobs under way, which are saved; once more to kill them")

    def leaves(self, names: list[str]) -> None:
        """Tell that the jobs go on without this command."""
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        self._print(f"{escape(shown)}: the jobs go on; the same command waits for them, scancel ends them")

    def _job(self, number: int) -> str:
        return f"[bold]job {number + 1}/{len(self.sweep.jobs)}[/] {escape(' '.join(self.sweep.told[number]))}"

    def _print(self, line: str) -> None:
        self.screen.print(line, highlight=False, soft_wrap=True)
        self.screen.file.flush()
