"""Tuning and evaluation of one comparison: every row's trials, the choice, then the chosen points over seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.markup import escape

from asgml.report.tuned import FILE, TunedRow, read_tuned, tuning_table
from asgml.tune.choose import CHOSEN_BY, Trial, choose, validated
from asgml.tune.options import TuneTree
from asgml.tune.plan import Plan, PlannedRow, device_of, told
from asgml.tune.rows import Row, rows_of
from asgml.tune.space import Point, Range, around, points
from asgml.tune.trees import TRIALS, Trees
from callbacks.files.atomic import write_text
from callbacks.run.stored import LAST, PREVIOUS
from callbacks.stages.gate import TooManySkips
from callbacks.step.divergence import Diverged
from suite.report.library import library_of
from suite.report.tables import Table, markdown
from suite.runs.display import console
from suite.runs.identity import config_hash, run_dir, runs_root
from suite.runs.job import CHECKPOINTS, Outcome, execute
from suite.runs.ledger import FILE_NAME, Ledger, write_json
from suite.runs.provenance import read_result
from suite.runs.record import release_memory

TABLE = "tuning.md"
REPORT = "report.html"


class Crashed(Exception):
    """Says that a trial ended by an error that is not divergence: its row cannot be tuned before that is mended."""


@dataclass
class Chosen:
    """What was chosen for a row.

    Attributes:
        row: the row.
        trials: its trials in order; none for a control.
        number: the number of the chosen one.
        point: what a run at the chosen point sets.
        values: the values of the learning rate and the knobs there.
        settings: the identity of the row at this point whatever the seed.
        runs: the runs of its evaluation by seed.
    """

    row: Row
    trials: Sequence[Trial]
    number: int | None
    point: Point
    values: Point
    settings: str
    runs: dict[int, str] = field(default_factory=dict)


class Tuner:
    """Tunes and evaluates the rows of a comparison on one data set.

    With one trial there is nothing to choose: rows are evaluated at their default points and no trial runs.

    Args:
        trees: the trees of the comparison.
        options: the budget and the rows.
        steps: the steps of a run, None where they are not known.
        stated: the seconds that a joint run is stated to take, None for no statement.

    Attributes:
        plan: its runs, and what is known of their time.
        study: the plans of the study that it is a part of, its own among them.

    Raises:
        UserError: rows that do not fit each other or do not compose on these data.
    """

    def __init__(self, trees: Trees, options: TuneTree, steps: int | None = None, stated: float | None = None):
        self.trees, self.options = trees, options
        modalities = trees.modalities()
        rows = rows_of(options.rows, options.controls, options.space, modalities)
        reasons = {row.name: trees.applies(row, modalities) for row in rows}
        for name, why in reasons.items():
            if why:
                console().print(escape(f"{name} left out: {why}"), style="yellow", highlight=False, soft_wrap=True)
        self.rows = [row for row in rows if not reasons[row.name]]
        if options.trials > 1:
            for row in self.rows:
                trees.refuse_ends(row, self.lr_range)
        self.folder = runs_root(trees.plain) / str(trees.plain.name)
        self.name = str(trees.plain.name)
        self.chosen: dict[str, Chosen] = {}
        self.failed: list[str] = []
        trials = len(options.tune_seeds) * (options.trials if options.trials > 1 else 0)
        planned = {row.name: PlannedRow(len(options.seeds) + (0 if row.of else trials), row.cost) for row in self.rows}
        self.plan = Plan(self.name, planned, steps, stated, device_of(trees.plain))
        self.study: Sequence[Plan] = [self.plan]
        self._recall()
        self._total = sum(row.runs for row in planned.values())
        self._done = 0

    def _recall(self) -> None:
        """Book the runs of this comparison that the ledgers have as done."""
        trials, own = (
            {h: row for h, row in Ledger(root / FILE_NAME).latest().items() if row.get("status") == "finished"}
            for root in (runs_root(self.trees.plain) / TRIALS, runs_root(self.trees.plain))
        )
        entries = self._entries() if trials or own else {}
        for row in self.rows if entries or trials else ():
            entry = entries.get(row.name, {})
            tried = [run for trial in entry.get("trials", []) for run in trial["runs"].values()]
            if not (row.of or row.pupil_of):  # a pupil's runs follow from the choice of its teachers
                drawn = self._points(row)
                tried = [config_hash(self.trees.tree(row, point, s)) for point in drawn for s in self._tune_seeds]
            at = {int(seed): run for seed, run in entry.get("runs", {}).items()}
            for ledger, runs in ((trials, tried), (own, [at[s] for s in self.options.seeds if s in at])):
                for run in runs:
                    if run in ledger:
                        self._book(row, ledger[run])

    def _book(self, row: Row, result: Mapping[str, Any]) -> None:
        finished = result.get("status") == "finished"
        whole = finished and not result.get("resumed") and result.get("device") == self.plan.device
        self.plan.done(row.name, str(result["hash"]), result.get("seconds") if whole else None)

    @property
    def _tune_seeds(self) -> Sequence[int]:
        return self.options.tune_seeds if self.options.trials > 1 else ()

    @property
    def lr_range(self) -> Range:
        """The range of the learning rate."""
        return around(self.trees.own_lr, self.options.lr_factors)

    # -- trials
    def tune(self) -> None:
        """Run the trials of every row that the ledger does not have, choose, and write `tuned.json` and `tuning.md`."""
        for row in self.rows:
            needed = [*([row.of] if row.of else []), *row.pupil_of.values()]
            if any(name not in self.chosen for name in needed):
                self._fails(f"{row.name}: {', '.join(n for n in needed if n not in self.chosen)} was not tuned")
                continue
            try:
                chosen = self._as_treated(row) if row.of else self._tuned(row)
            except Crashed as error:
                self._fails(str(error))
                continue
            chosen.runs = self._evaluated(chosen)
            self.chosen[row.name] = chosen
            self._write()

    def _points(self, row: Row) -> list[Point]:
        return points(self.options.trials, (self.trees.lr, self.lr_range), row.knobs, self.options.draw_seed)

    def _tuned(self, row: Row) -> Chosen:
        if self.options.trials == 1:
            return self._at(row, (), None, {})
        trials = [self._trial(row, number, point) for number, point in enumerate(self._points(row))]
        number = choose(trials)
        if number is None:
            raise Crashed(f"{row.name}: all {len(trials)} trials diverged")
        return self._at(row, trials, number, trials[number].point)

    def _as_treated(self, row: Row) -> Chosen:
        return self._at(row, (), None, self.chosen[row.of].point)

    def _at(self, row: Row, trials: Sequence[Trial], number: int | None, point: Point) -> Chosen:
        parts = [config_hash(self.trees.tree(row, point, 0)), *(self.chosen[t].settings for t in row.pupil_of.values())]
        settings = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]
        return Chosen(row, trials, number, point, self.trees.values(row, point), settings)

    def _trial(self, row: Row, number: int, point: Point) -> Trial:
        values = self.trees.values(row, point)
        results: list[dict[str, Any] | None] = []
        runs: dict[int, str] = {}
        for seed in self.options.tune_seeds:
            teachers = {m: self._trial_dir(name, seed) for m, name in row.pupil_of.items()}
            cfg = self.trees.tree(row, point, seed, trial=True, teachers=teachers)
            where = f"{row.name} trial {number} seed {seed} ({', '.join(f'{k} {v}' for k, v in values.items())})"
            outcome = self._run(row, cfg, where)
            runs[seed] = outcome.hash
            if outcome.status in ("failed", "held") and not diverged(outcome.result):
                raise Crashed(f"{where}: {why(outcome)}")
            results.append(None if diverged(outcome.result) else outcome.result)
        return Trial(point, values, runs, validated(results, f"{row.name} trial {number}"))

    def _trial_dir(self, name: str, seed: int) -> Path:
        chosen = self.chosen[name]
        return run_dir(self.trees.tree(chosen.row, chosen.point, seed, trial=True))

    # -- evaluation
    def evaluate(self) -> None:
        """Run every tuned row at its chosen point, seed by seed, as far as the ledger does not have the runs.

        All rows have a seed before any has the next, so that what is there at any time can be compared.
        """
        for seed in self.options.seeds:
            for chosen in self.chosen.values():
                outcome = self._run(chosen.row, self._evaluation(chosen, seed), f"{chosen.row.name} seed {seed}")
                chosen.runs[seed] = outcome.hash
                if outcome.status in ("failed", "held"):
                    self._fails(f"{chosen.row.name} seed {seed}: {why(outcome)}")
            self._write()

    def _evaluation(self, chosen: Chosen, seed: int) -> DictConfig:
        of = {m: self.chosen[name] for m, name in chosen.row.pupil_of.items()}
        teachers = {m: run_dir(self.trees.tree(t.row, t.point, seed)) for m, t in of.items()}
        return self.trees.tree(chosen.row, chosen.point, seed, teachers=teachers)

    # -- what both share
    def _run(self, row: Row, cfg: DictConfig, what: str) -> Outcome:
        self._done += 1
        folder = run_dir(cfg)
        before = {} if cfg.resume == "never" else read_result(folder)
        if diverged(before):  # it would diverge again
            return Outcome(folder.name, folder, "failed", before, str(before.get("error")))
        if before.get("status") != "finished":
            release_memory()
        outcome = execute(cfg, self.trees.program.name, self.trees.program.task, self.trees.program.earlier, self._say)
        if outcome.exit_code:
            raise SystemExit(outcome.exit_code)
        if outcome.status in ("finished", "skipped") or diverged(outcome.result):
            self._book(row, {**outcome.result, "hash": outcome.hash})
        if outcome.status != "skipped":
            said = f"[{self.name} {self._done}/{self._total}] {what}: {outcome.status}"
            best = (outcome.result.get("val_best") or {}).get("accuracy")
            seconds = outcome.result.get("seconds")
            self._say(
                said
                + (f", validation {best:.4f}" if best is not None else "")
                + f", {seconds} s"
                + told(self.study, self.name)
            )
            if self.options.lean and outcome.status == "finished":
                for spare in (
                    folder / REPORT,
                    *library_of(folder),
                    *(folder / CHECKPOINTS / name for name in (LAST, PREVIOUS)),
                ):
                    spare.unlink(missing_ok=True)
        return outcome

    def _fails(self, line: str) -> None:
        self.failed.append(line)
        console().print(escape(line), style="red", highlight=False, soft_wrap=True)

    @staticmethod
    def _say(line: str) -> None:
        console().print(escape(line), style="dim", highlight=False, soft_wrap=True)

    def _evaluated(self, chosen: Chosen) -> dict[int, str]:
        """Return the runs of earlier commands at this very point with the very same settings, by seed."""
        before = self._entries().get(chosen.row.name, {})
        same = before.get("settings") == chosen.settings
        return {int(seed): run for seed, run in before["runs"].items()} if same else {}

    def _entries(self) -> dict[str, Any]:
        """Return the rows that `tuned.json` has; {} without one."""
        there = read_tuned(self.folder)  # names what is wrong with a damaged file
        return json.loads((self.folder / FILE).read_text(encoding="utf-8"))["rows"] if there else {}

    def _write(self) -> None:
        """Write what is chosen so far, beside the rows of an earlier command that this one does not have."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = {**self._entries(), **{name: self._entry(chosen) for name, chosen in self.chosen.items()}}
        head = {
            "chosen_by": CHOSEN_BY,
            "tune_seeds": self.options.tune_seeds,
            "draw_seed": self.options.draw_seed,
            "lr": {self.trees.lr: self.trees.own_lr, "factors": list(self.options.lr_factors)},
        }
        write_json(self.folder / FILE, {**head, "rows": rows})
        write_text(self.folder / TABLE, markdown([self.table()]))

    def _entry(self, chosen: Chosen) -> dict[str, Any]:
        row = chosen.row
        ranges = {self.trees.lr: str(self.lr_range), **{key: str(at) for key, at in row.knobs.items()}}
        return {
            "use": list(row.use),
            "of": row.of,
            "ranges": {} if row.of else ranges,
            "trials": [
                {
                    "values": trial.values,
                    "runs": {str(seed): run for seed, run in trial.runs.items()},
                    "score": trial.validated.score,
                    "loss": trial.validated.loss,
                }
                for trial in chosen.trials
            ],
            "chosen": chosen.number,
            "point": chosen.values,
            "settings": chosen.settings,
            "runs": {str(seed): run for seed, run in chosen.runs.items()},
        }

    def table(self) -> Table:
        """Return the table of budgets, ranges and chosen points of all rows that `tuned.json` has."""
        rows: dict[str, TunedRow] = read_tuned(self.folder)
        note = f"Chosen by {CHOSEN_BY}; tuning seeds {', '.join(map(str, self.options.tune_seeds))}."
        return tuning_table(f"Tuning of {self.name}", rows, [note])


def why(outcome: Outcome) -> str:
    """Return why a run failed, in one line: all that a UserError says, the first line of anything else."""
    return " ".join(outcome.error.split()) if outcome.user_error else outcome.error.splitlines()[0]


def diverged(result: dict[str, Any]) -> bool:
    """Return whether a run ended because its losses or gradients were no longer finite."""
    return result.get("status") == "failed" and result.get("error_type") in (Diverged.__name__, TooManySkips.__name__)
