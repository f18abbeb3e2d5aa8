"""What one more reader costs: `python -m latentwire.study family RUN [RUN …] --reader pocket_qwen`.

For each finished wire RUN, whatever its encoder, adapter and injector of one more reader are trained; encoder and codec
stay as they are (`wire.from_run=RUN`). A training that is there already is not repeated. The tables say what it took
until validation reached 0.90, 0.95 and 0.98 of the F1 that the reader has on the text itself, beside the first reader,
with whom the wire was made. Several RUNs are senders side by side.

    python -m latentwire.study family RUN --reader hf hf.source=FOLDER     any other model
    python -m latentwire.study family RUN1 RUN2 --reader pocket_qwen trainer.max_epochs=32

--config-dir FOLDER brings readers of your own. Further words change the training: plain keys, and adapter=, injector=
or curriculum=NAME. Without them it is the run's own, in one period. Questions and minutes are those of adapter and
injector alone; of the first reader, of all that the wire was trained on, earlier runs included. Minutes count steps,
not validations. One training with one schedule is read at every validation: a shorter schedule may reach a share with
fewer questions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callbacks.errors import UserError
from latentwire.added_reader import label_of, tree
from latentwire.wire_parts import earlier_runs
from suite.runs.command import command, command_parser, split_config_dirs
from suite.runs.direct import run_tree
from suite.runs.foreseen import PLAN
from suite.runs.identity import run_dir
from suite.runs.launch import worse
from suite.runs.ledger import write_json
from suite.runs.provenance import read_result
from suite.runs.study import Program

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from suite.report import RunRecord

LEVELS = (0.9, 0.95, 0.98)  # of the F1 of a reader's own text


@dataclass(frozen=True)
class Point:
    """Says where a reader stood at one validation.

    Attributes:
        epoch: epochs of the training by then.
        questions: questions that were read by then.
        minutes: minutes of training steps by then; None where they were not recorded.
        f1: F1 of the validated answers.
        share: the same over that of the text.
    """

    epoch: int
    questions: int
    minutes: float | None
    f1: float
    share: float


@dataclass(frozen=True)
class Cost:
    """Says what one reader of one sender took.

    Attributes:
        sender: what tables call the wire.
        run: the directory of the run that has trained the reader.
        reader: the reader.
        role: `first` for the reader that the wire was made with, `added` for one that came later.
        seed: the run's seed.
        parameters: number of parameters that were trained.
        text_f1: F1 of the reader on the texts of validation.
        points: every validation, in order.
        test_share: share on the evaluated split with the kept weights; None where it was not evaluated with the text.
    """

    sender: str
    run: str
    reader: str
    role: str
    seed: int
    parameters: int
    text_f1: float
    points: list[Point] = field(default_factory=list)
    test_share: float | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as plain values, with the first validation that `reached` each of `LEVELS`, None where none did."""
        first = {f"{level:.2f}": next((p for p in self.points if p.share >= level), None) for level in LEVELS}
        return {**asdict(self), "reached": {level: None if p is None else asdict(p) for level, p in first.items()}}


def training_of(run: RunRecord) -> dict[str, Any]:
    """Return what a run's result says of its training (`latentwire.rivals`). Raises UserError where it says nothing."""
    told = run.result.get("training")
    if told is None:
        found, remedy = "a result without the questions that were read", "repeat its command with resume=never"
        raise UserError(str(run.path), found, "a run of this version", remedy)
    return dict(told)


def minutes_by_step(run: RunRecord) -> dict[int, float]:
    """Return the minutes of training steps until each step whose time was recorded; {} where none was."""
    from suite.report.frames import SECONDS

    found = SECONDS.table(run)
    return {} if found is None else {int(step): float(t) / 60 for step, t in zip(*found, strict=True)}


def minutes_before(run: RunRecord) -> float | None:
    """Return the minutes of training steps of all runs that a run stands on; None where one has not recorded them."""
    from omegaconf import OmegaConf

    from suite.report import read_run

    total = 0.0
    for place in {folder.resolve(): folder for folder in earlier_runs(OmegaConf.create(run.config)).values()}.values():
        other = read_run(place)
        own, more = minutes_by_step(other), minutes_before(other)
        if not own or more is None:
            return None
        total += max(own.values()) + more
    return total


def cost_of(run: RunRecord, reader: str, role: str, sender: str, text_f1: float) -> Cost:
    """Read from a finished run's tables what one of its readers took.

    Args:
        run: the run that has trained the reader.
        reader: the reader.
        role: `first`, which counts what the runs before it took as well, or `added`.
        sender: what tables call the wire.
        text_f1: F1 of the reader on the texts of validation.

    Raises:
        UserError: a reader that answers nothing right with the text itself, or a run without validations.
    """
    name = f"val/f1/{reader}" if len(run.config["lms"]) > 1 else "val/f1"
    series = run.series.get(name)
    if series is None or text_f1 <= 0:
        found = f"no {name} in history.csv" if series is None else f"{reader} answers nothing right with the text"
        expected = "validations of a reader that has an F1 on the text itself"
        raise UserError(str(run.path), found, expected, "give another run, or add another --reader")
    training, clock = training_of(run), minutes_by_step(run)
    own, asked = training["own"], 0
    before: float | None = 0.0
    if role == "first":
        asked, before = int(training["all"]["asked"]) - int(own["asked"]), minutes_before(run)
    points = []
    for step, epoch, value in zip(series.step.tolist(), series.epoch.tolist(), series.value.tolist(), strict=True):
        timed = max((s for s in clock if s <= step), default=None)
        minutes = None if timed is None or before is None else before + clock[timed]
        questions = asked + round(own["asked"] / max(1, own["steps"]) * step)
        points.append(Point(epoch + 1, questions, minutes, value, value / text_f1))
    trained = sum(int(n) for n in run.result["parameters"].values())
    return Cost(sender, str(run.path), reader, role, run.seed, trained, text_f1, points, test_share(run, reader))


def test_share(run: RunRecord, reader: str) -> float | None:
    """Return F1 over that of the text in the run's evaluation; None where it has no row of the text, or one of 0."""
    methods = run.result.get("methods") or {}
    keys = [f"{name}/{reader}" if len(run.config["lms"]) > 1 else name for name in ("wire", "text")]
    if not all(key in methods for key in keys) or not methods[keys[1]]["f1"]:
        return None
    return float(methods[keys[0]]["f1"]) / float(methods[keys[1]]["f1"])


def add(
    program: Program, senders: Sequence[Path], reader: str, words: Sequence[str], config_dirs: Sequence[Path] = ()
) -> tuple[int, list[Path]]:
    """Train one more reader for each sender, unless it is there; return exit code and the directories of these runs.

    Args:
        program: latentwire.
        senders: directories of finished runs.
        reader: an option of the group `readers`.
        words: overrides; `plan=true` shows the runs and does none.
        config_dirs: further folders with readers.

    Raises:
        UserError: a sender or a reader that does not fit, before anything is trained.
    """
    from latentwire.run import foresee

    plans = PLAN in words
    own = [word for word in words if word != PLAN]
    trees: list[DictConfig] = [tree(sender, reader, own, config_dirs) for sender in senders]
    code = 0
    for cfg, sender in zip(trees, senders, strict=True):
        code = worse(code, run_tree(program, cfg, [f"family {sender}", f"--reader {reader}", *own], plans, foresee))
    return code, [] if plans else [run_dir(cfg) for cfg in trees]


def measure(senders: Sequence[Path], added: Sequence[Path]) -> list[Cost]:
    """Return what the first and the added reader of each sender took.

    Args:
        senders: directories of the finished runs.
        added: directory of the run that added a reader to each.

    Raises:
        UserError: a run that `latentwire.restore.load` refuses, or one on texts without questions.
    """
    from latentwire.checkpoints import read_config
    from latentwire.restore import load
    from latentwire.scoring.own_text import own_text
    from suite.report import read_run

    found = []
    for role, places in (("first", senders), ("added", added)):
        for place, sender in zip(places, senders, strict=True):
            loaded = load(place)
            name = next(iter(loaded.inputs.lms))
            text_f1 = own_text(loaded.cfg, loaded.inputs, loaded.wire.encoder)[name]
            found.append(cost_of(read_run(place), name, role, label_of(read_config(sender)), text_f1))
    return sorted(found, key=lambda cost: (cost.sender, cost.seed, cost.role != "first"))


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m latentwire.study family", __doc__)
    p.add_argument("words", nargs="+", metavar="RUN", help="directories of finished runs, then key=value")
    p.add_argument(
        "--reader", required=True, metavar="NAME", help="the model that is added, as in conf/latentwire/readers"
    )
    p.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="the numbers as JSON (default: <runs>/family/NAME.json)"
    )
    return p


def main(program: Program, argv: Sequence[str]) -> int:
    """Run the command; return the exit code."""

    @command
    def run(argv: Sequence[str] | None = None) -> int:
        config_dirs, rest = split_config_dirs(list(argv or ()))
        args = parser().parse_intermixed_args(rest)
        overrides = [word for word in args.words if "=" in word and not Path(word).exists()]
        senders = [Path(word) for word in args.words if word not in overrides]
        if not senders:
            raise UserError("RUN", "none", "the directory of a finished wire", "give <paths.runs>/<name>/<hash>")
        code, added = add(program, senders, args.reader, overrides, config_dirs)
        there = [(s, a) for s, a in zip(senders, added, strict=False) if read_result(a).get("status") == "finished"]
        if not there:
            return code
        costs = measure([s for s, _ in there], [a for _, a in there])
        out = args.out or there[0][1].parent / f"{args.reader}.json"
        rows = [cost.plain() for cost in costs]
        write_json(out, {"reader": args.reader, "costs": rows})
        show(rows)
        print(out)
        return code

    return run(argv)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Show costs (`Cost.plain`) on the terminal."""
    from rich.console import Console

    from latentwire.report.family import cost_tables
    from suite.report import terminal

    console = Console()
    console.print(terminal(cost_tables(rows), console.width))
