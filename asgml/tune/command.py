"""What the commands of equal tuning share: the split of a command line, and the tables at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Generic

from rich.console import Console
from rich.markup import escape

from asgml.report.comparison import comparison, save
from asgml.tune.options import Options, read_options
from asgml.tune.tuner import Tuner
from suite.config.compose import Composer
from suite.report.data import read_runs
from suite.report.tables import terminal
from suite.runs.command import split_config_dirs
from suite.runs.display import console


@dataclass(frozen=True)
class Asked(Generic[Options]):
    """What a command line asks for.

    Attributes:
        options: the command's own options.
        line: the overrides that go to every run.
        composer: the composer of the runs' trees.
    """

    options: Options
    line: list[str]
    composer: Composer


def asked(program: str, argv: Sequence[str], schema: type[Options]) -> Asked[Options]:
    """Split a command line into the command's own overrides and those of every run, and read the former.

    Args:
        program: the primary configuration of the command.
        argv: the command line.
        schema: the dataclass of the command's options; its fields are the keys that are its own.

    Raises:
        UserError: see `read_options`.
    """
    folders, words = split_config_dirs(argv)
    own = {f.name for f in fields(schema)}
    mine = [w for w in words if w.partition("=")[0].lstrip("+").partition(".")[0] in own]
    options = read_options(Composer(program, extra_dirs=folders), mine, schema)
    return Asked(options, [w for w in words if w not in mine], Composer("asgml", extra_dirs=folders))


def compare(tuner: Tuner) -> None:
    """Write and print the tables of a comparison, as far as it has run."""
    if not any((tuner.folder / run).is_dir() for chosen in tuner.chosen.values() for run in chosen.runs.values()):
        return
    found = read_runs([tuner.folder])
    base = "joint" if "joint" in tuner.chosen else None
    tables = [*comparison(found, base, times=False), tuner.table()]
    save(tables, tuner.folder)
    shown = Console()
    shown.print(terminal(tables, shown.width, str(tuner.folder / "methods.md")))
    shown.print(str(tuner.folder / "methods.md"), soft_wrap=True, highlight=False)


def report(tuners: Sequence[Tuner]) -> int:
    """Print what failed, and return the exit code."""
    failed = [f"{tuner.name}: {line}" for tuner in tuners for line in tuner.failed]
    for line in failed:
        console().print(escape(line), style="red", highlight=False, soft_wrap=True)
    if failed:
        console().print("start the same command again: it runs what has not finished", highlight=False)
    return 1 if failed else 0
