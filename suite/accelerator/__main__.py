"""`python -m suite.accelerator PROGRAM …`: ask the accelerator everything that the programs' sections ask.

Exit code 1: a section failed, or one of its promises did. What could not be done for lack of hardware or time is said
and is no failure.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from callbacks.errors import UserError
from suite.runs.command import command, command_parser

if TYPE_CHECKING:
    from suite.accelerator.section import Section

LIMIT = 450.0  # seconds: eight minutes with the start of the process


def registered(programs: Sequence[str]) -> dict[str, list[Section]]:
    """Return the sections of each program.

    Raises:
        UserError: a program without any.
    """
    from suite.accelerator.section import sections_of

    found = {}
    for program in programs:
        module = f"{program}.accelerator"
        if importlib.util.find_spec(program) is None or importlib.util.find_spec(module) is None:
            raise UserError(
                f"python -m suite.accelerator {program}",
                f"no {module}",
                "a program that registers sections there",
                "make accelerator",
            )
        importlib.import_module(module)
        found[program] = sections_of(program)
    return found


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = command_parser("python -m suite.accelerator", __doc__)
    options.add_argument("programs", nargs="+", metavar="PROGRAM")
    options.add_argument("--out", type=Path, default=Path("runs/accelerator"), help="folder of the results")
    options.add_argument("--page", type=Path, default=Path("docs/results/accelerator.md"))
    options.add_argument("--limit", type=float, default=LIMIT, help="seconds for everything")
    options.add_argument("--again", nargs="*", default=[], metavar="SECTION", help="sections to repeat")
    mode = options.add_mutually_exclusive_group()
    mode.add_argument("--dry", action="store_true", help="rehearse on the CPU; writes no page")
    mode.add_argument("--page-only", action="store_true", help="write the page of the results, run nothing")
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = parser().parse_args(argv)

    import torch

    from suite.accelerator import page
    from suite.accelerator.results import Results
    from suite.accelerator.runner import run
    from suite.accelerator.section import Place
    from suite.shell import quiet_lightning

    sections = registered(options.programs)
    everyone = [s for own in sections.values() for s in own]
    names = [s.name for s in everyone]
    for name in options.again:
        if name not in names:
            raise UserError("--again", name, f"some of {', '.join(names)}", f"--again {names[0]}")
    results = Results(options.out / "dry" if options.dry else options.out)
    if options.page_only:
        page.write(options.page, sections, results.answers)
        print(options.page)
        return 0
    if not options.dry and not torch.cuda.is_available():
        for name in names:
            print(f"{name}: not done: no CUDA device")
        return 0
    quiet_lightning()
    warnings.filterwarnings("ignore")
    device = torch.device("cpu" if options.dry else "cuda:0")
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device, Path(folder), options.dry)
        run(everyone, place, results, options.limit, lambda line: print(line, flush=True), options.again)
    if not options.dry:
        page.write(options.page, sections, results.answers)
        print(options.page)
    return int(any(results.answers[name].failed for name in names if name in results.answers))


if __name__ == "__main__":
    sys.exit(main())
