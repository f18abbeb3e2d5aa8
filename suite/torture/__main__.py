"""`python -m suite.torture PROGRAM … [--kills 30] [--minutes 20]`: kill commands anywhere, and compare what they leave.

Each program lists its commands in its module `torture`. A command runs undisturbed first. Then it is killed (SIGTERM,
SIGKILL, SIGINT in turn; some twice) at moments drawn from the seed and spread over what it writes, given again, and
must leave the same weights, numbers and tables. The list of trials is kept in OUT/SEED_trials.jsonl: the same command
goes on with what is missing. The folder of a trial that was not equal stays in OUT.

Exit code 1: a trial was not equal.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from itertools import count
from pathlib import Path
from typing import get_args

from rich.table import Table

from callbacks.errors import UserError, quoted
from callbacks.files.sealed import read_json
from suite.runs.command import command, command_parser
from suite.runs.display import console
from suite.runs.ledger import write_json
from suite.torture.begin import Begin, executed, forked
from suite.torture.case import Case, cases_of
from suite.torture.trial import SIGNALS, Reference, Trial, Verdict, disturbed, undisturbed

TRIALS, PLACE = "trials.jsonl", "work"
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = command_parser("python -m suite.torture", __doc__)
    options.add_argument("programs", nargs="+", metavar="PROGRAM")
    options.add_argument("--kills", type=int, default=30, help="trials in all, over cases and signals in turn")
    options.add_argument("--minutes", type=float, default=20.0, help="no trial begins after that time")
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    options.add_argument("--case", action="append", default=[], metavar="NAME", help="only this case; may be repeated")
    options.add_argument("--signal", action="append", choices=SIGNALS, help="only this one; may be repeated")
    options.add_argument("--limit", type=float, default=300.0, help="seconds after which a command hangs")
    options.add_argument("--out", type=Path, default=Path("runs/torture"), help="folder of references and trials")
    options.add_argument("--fork", action="store_true", help="with libraries imported once: three times as fast")
    options.add_argument("--list", action="store_true", help="show the cases and end")
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)
    for name in ("kills", "minutes", "limit"):
        if not getattr(args, name) > 0:
            raise UserError(f"--{name}", str(getattr(args, name)), "more than 0", f"leave --{name} out")
    cases = cases_of(args.programs, args.case)
    if args.list:
        for case in cases:
            print(f"{case.name}: python {' '.join(case.command)}")
        return 0
    begin = forked if args.fork else executed
    return torture(
        cases,
        args.out.absolute(),
        args.kills,
        args.seed,
        60 * args.minutes,
        args.limit,
        begin,
        args.signal or list(SIGNALS),
    )


def torture(
    cases: Sequence[Case],
    out: Path,
    kills: int,
    seed: int,
    seconds: float,
    limit: float,
    begin: Begin = executed,
    signals: Sequence[str] = tuple(SIGNALS),
) -> int:
    """Do the trials that are missing, show all, and return the exit code.

    Args:
        cases: the commands.
        out: the folder of references and trials.
        kills: the number of trials, over all cases and signals in turn.
        seed: what moments are drawn from.
        seconds: the time after which no trial begins.
        limit: the seconds after which a command hangs.
        begin: how commands are begun.
        signals: the signals in turn, keys of `SIGNALS`.
    """
    until = time.monotonic() + seconds
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # commands would inherit that
    out.mkdir(parents=True, exist_ok=True)
    done = {(t.case, t.signal, t.number): t for t in _kept(out / f"{seed}_{TRIALS}")}
    references: dict[str, Reference] = {}
    wanted = []
    for case, name, number in _in_turn(cases, kills, signals):
        key = (case.name, name, number)
        wanted.append(key)
        if key in done or time.monotonic() > until:
            continue
        template = out / "templates" / _file(case)
        if case.name not in references:
            references[case.name] = _reference(case, template, out, limit, begin)
        place = out / PLACE
        trial = disturbed(case, references[case.name], name, number, seed, template, place, limit, begin)
        if trial.verdict != "equal":
            kept = out / f"{seed}_{_file(case)}_{name}_{number}"
            place.replace(kept)
            place.with_name(f"{PLACE}.log").replace(kept.with_name(f"{kept.name}.log"))
        with (out / f"{seed}_{TRIALS}").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(trial)) + "\n")
        done[key] = trial
        moments = zip(trial.moments, trial.after, strict=True)
        killed = ", ".join(f"{moment:.1f} s, after {_place(file)}" for moment, file in moments) or "not in time"
        print(f"{case.name} SIG{name} {number} ({killed}): {trial.verdict} {trial.note}".rstrip(), flush=True)
    found = [done[key] for key in wanted if key in done]
    show(found, len(wanted))
    return int(any(trial.verdict != "equal" for trial in found))


def show(trials: Sequence[Trial], wanted: int) -> None:
    """Print the counts of each case and signal."""
    table = Table(title=f"{len(trials)} of {wanted} trials, {sum(len(t.moments) for t in trials)} kills")
    for column in ("case", "signal", "trials", "kills", *VERDICTS):
        table.add_column(column, justify="left" if column in ("case", "signal") else "right")
    for case, name in dict.fromkeys((t.case, t.signal) for t in trials):
        own = [t for t in trials if (t.case, t.signal) == (case, name)]
        counts = Counter(t.verdict for t in own)
        kills = sum(len(t.moments) for t in own)
        cells = [str(counts[v]) if v == "equal" or not counts[v] else f"[red]{counts[v]}[/]" for v in VERDICTS]
        table.add_row(case, f"SIG{name}", str(len(own)), str(kills), *cells)
    console().print(table)
    places = Counter(_place(file) for trial in trials for file in trial.after)
    found = ", ".join(f"{file} {count}" for file, count in places.most_common())
    console().print(f"the file written last before a kill: {found}", highlight=False)


def _place(file: str) -> str:
    """Return the name of a file that trials share: runs and temporary files have names of their own."""
    return re.sub(r"[0-9a-f]{6,}|\d+", "#", file.rpartition("/")[2]) or "its start"


def _in_turn(cases: Sequence[Case], kills: int, signals: Sequence[str]) -> Iterator[tuple[Case, str, int]]:
    left = kills
    for number in count():
        for name in signals:
            for case in cases:
                if not left:
                    return
                yield case, name, number
                left -= 1


def _reference(case: Case, template: Path, out: Path, limit: float, begin: Begin) -> Reference:
    """Return what a case leaves undisturbed, from an earlier command where its files are as they were."""
    kept = out / "templates" / f"{_file(case)}.json"
    if kept.is_file():
        found = read_json(kept, "what an undisturbed command left", f"rm {quoted(kept)}")
        if found.keys() == {field.name for field in fields(Reference)}:
            return Reference(**found)
    template.mkdir(parents=True, exist_ok=True)
    if case.before is not None:
        case.before(template)
    reference = undisturbed(case, template, out / PLACE, limit, begin)
    write_json(kept, asdict(reference))
    took = f"{reference.start:.1f} + {sum(reference.gaps):.1f} s with {len(reference.gaps)} changes of files"
    print(f"{case.name}: undisturbed in {took}, {len(reference.left)} things to compare", flush=True)
    return reference


def _kept(path: Path) -> list[Trial]:
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return [Trial(**{**row, **{key: tuple(row[key]) for key in ("moments", "after")}}) for row in rows]


def _file(case: Case) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in case.name)


if __name__ == "__main__":
    sys.exit(main())
