"""Named studies: a table of configurations over seeds, resumable, ending with one table and one report."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from callbacks.errors import UserError
from callbacks.files.atomic import write_text
from suite.config.check import Dead
from suite.runs.command import helped
from suite.runs.foreseen import PLAN
from suite.runs.job import Again, Earlier, Task
from suite.runs.launch import Judge, launch, plan, worse
from suite.runs.stopping import ends_on_interrupt
from suite.runs.surroundings import open_streams

if TYPE_CHECKING:
    from suite.report import RunRecord

REFERENCE = re.compile(r"<([^<>]+)>")


@dataclass(frozen=True)
class Program:
    """What `suite.runs.launch` needs to know of a program.

    Attributes:
        name: the program's name, as in `python -m <name>.study`.
        task: the function that does one run.
        dead: the keys without effect under a tree, with the reason.
        schema: the dataclass of the plain nodes of its tree.
        earlier: the files of earlier runs that a tree names, by key.
        judge: what refuses a tree whose parts do not fit each other, before anything runs.
        again: what asks a finished run what a tree wants to know of it.
    """

    name: str
    task: Task
    dead: Dead
    schema: type[Any]
    earlier: Earlier | None = None
    judge: Judge | None = None
    again: Again | None = None


@dataclass(frozen=True)
class Study:
    """A table of configurations over seeds.

    Attributes:
        experiment: the experiment that every row changes.
        seeds: the seeds with which every row is run.
        rows: the overrides of each row; the first is the baseline of the table. A row may say with `label=…` how tables
            call it. `<label>` in an override stands for the run directory of an earlier row with the same seed.
        page: what ends the study in place of tables and report: it gets the study's runs and returns the path of the
            page that it has written.
    """

    experiment: str
    seeds: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]
    page: Callable[[Sequence[RunRecord]], Path] | None = None


# A study with an order of its own: the words after its name in, the exit code out.
Command = Callable[[Program, Sequence[str]], int]


def label(row: Sequence[str]) -> str:
    """Return what tables call a row: its `label=…`, else the values of its overrides."""
    for override in row:
        if override.startswith("label="):
            return override.partition("=")[2]
    return " ".join(override.partition("=")[2] for override in row)


def refers(row: Sequence[str]) -> bool:
    """Return whether a row stands on the runs of another."""
    return any(REFERENCE.search(override) for override in row)


def resolved(row: Sequence[str], seed: int, found: Sequence[RunRecord]) -> list[str]:
    """Return the row with every `<label>` replaced by the directory of that row's run with this seed.

    Raises:
        UserError: no such run, or one that is not finished.
    """

    def directory(match: re.Match[str]) -> str:
        for run in found:
            if run.label == match[1] and run.seed == seed and run.finished:
                return str(run.path)
        found_none = f"no finished run {match[1]!r} with seed {seed}"
        remedy = "look at the error of that row above, then start the same command again: it runs what is not finished"
        raise UserError(f"row {label(row)}", found_none, "the finished run that this row goes on from", remedy)

    return [REFERENCE.sub(directory, override) for override in row]


def jobs(study: Study) -> Iterator[tuple[Sequence[str], tuple[int, ...]]]:
    """Yield each row with the seeds that one launch runs; a row that stands on another's runs goes seed by seed."""
    for row in study.rows:
        for seeds in ((s,) for s in study.seeds) if refers(row) else (study.seeds,):
            yield row, seeds


def planned_hashes(program: Program, argv: Sequence[str]) -> set[str]:
    """Return the hashes of the runs of a command line; none where `launch` has refused it."""
    try:
        return {job.hash for job in plan(program.name, argv).jobs}
    except UserError:
        return set()


def start(program: Program, argv: Sequence[str], quiet: bool = False) -> int:
    """Do what a command line of the program does, in this process, and return its exit code (`suite.runs.launch`).

    With `asgml.run.PROGRAM`, `start(PROGRAM, ["experiment=avdigits"])` is `python -m asgml.run experiment=avdigits`.

    Args:
        program: the program.
        argv: the words of the command line, `-m` for a sweep among them.
        quiet: whether what the runs print is kept, and shown only where the code is not 0.

    Raises:
        SystemExit: Ctrl-C (130) and SIGTERM (143), which end whatever called this as well.
    """
    said = io.StringIO()
    with redirect_stdout(said if quiet else sys.stdout), redirect_stderr(said if quiet else sys.stderr):
        code = _code(program, argv)
    if quiet and code:
        print(said.getvalue())
    return code


def _code(program: Program, argv: Sequence[str]) -> int:
    try:
        launch(
            program.name,
            program.task,
            program.dead,
            schema=program.schema,
            earlier=program.earlier,
            judge=program.judge,
            again=program.again,
            argv=argv,
        )
    except SystemExit as end:
        if end.code in (130, 143):
            raise
        return int(end.code or 0)
    return 0


def run_study(program: Program, study: Study, name: str, overrides: Sequence[str]) -> int:
    """Run what the ledger does not have yet; print the tables and write `report.html` and `table.md`, or the own page.

    Args:
        program: the program.
        study: its study.
        name: the study's name, and that of its folder.
        overrides: the overrides that go to every run.

    Returns:
        The most severe exit code of a launch (`suite.runs.launch.worse`).
    """
    from suite.report import compare_report, group_runs, markdown, read_runs, terminal
    from suite.report.statements import spoken
    from suite.report.summary import summary
    from suite.report.verdict import verdict

    runs = Path(next((o.partition("=")[2] for o in reversed(overrides) if o.startswith("paths.runs=")), "runs"))
    code, hashes = 0, set[str]()
    for row, seeds in jobs(study):
        row = resolved(row, seeds[0], read_runs([runs], name)) if refers(row) else row
        argv = [
            "-m",
            f"experiment={study.experiment}",
            f"name={name}",
            f"label='{label(row)}'",
            f"seed={','.join(map(str, seeds))}",
            *(o for o in row if not o.startswith("label=")),
            *overrides,
        ]
        code = worse(code, start(program, argv))
        if study.page is not None:
            hashes |= planned_hashes(program, argv)
    if PLAN in overrides:  # every launch has shown its own
        return code
    found = [run for run in read_runs([runs], name) if run.config.get("label")]
    if study.page is not None:  # of this command's runs alone: the folder may hold those of others
        print(f"page: {study.page([run for run in found if run.hash in hashes])}")
        return code
    comparisons = group_runs(found, baseline=label(study.rows[0]))
    folder = runs / name
    tables = [table for frames in comparisons for table in summary(frames)]
    whole = write_text(folder / "table.md", markdown(tables))
    for frames in comparisons:
        Console().print(spoken(verdict(frames)))
    Console().print(terminal(tables, Console().width, str(whole)))
    report = compare_report([run.path for run in found], folder / "report.html", baseline=label(study.rows[0]))
    print(f"report: {report}")
    return code


@ends_on_interrupt
def main(program: Program, studies: Mapping[str, Study | Command], text: str | None) -> None:
    """Run the study that the command line names; the words after it go to it, for a table as overrides of every run.

    Args:
        program: the program.
        studies: its studies by name.
        text: what `--help` prints.
    """
    open_streams()
    name, *words = sys.argv[1:] or ["?"]
    if (name.startswith("-") or isinstance(studies.get(name), Study)) and helped(None, text):
        return
    if name not in studies:
        where = f"python -m {program.name}.study"
        error = UserError(
            f"{where} {name}", "no such study", f"one of {', '.join(studies)}", f"{where} {next(iter(studies))}"
        )
        print(error, file=sys.stderr)
        raise SystemExit(UserError.EXIT_CODE)
    study = studies[name]
    raise SystemExit(run_study(program, study, name, words) if isinstance(study, Study) else study(program, words))
