"""The command line of the ladder: what it asks for, and how the verdicts are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import TypeAdapter
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from callbacks.errors import UserError
from latentwire.checkpoints import checkpoint_path, read_config
from latentwire.ladder.climb import TRAINED, climb
from latentwire.ladder.options import LadderOptions, LadderTree
from latentwire.ladder.subject import Subject
from latentwire.ladder.verdict import Verdict
from latentwire.run import Tree, dead, earlier, train
from suite.config.check import check, check_effective
from suite.config.compose import Composer
from suite.runs import display
from suite.runs.command import split_config_dirs
from suite.runs.identity import config_hash, run_dir
from suite.runs.job import execute
from suite.runs.ledger import write_json
from suite.shell import quiet_lightning

OWN = ("run", "train", "ladder")
RESULT = "ladder.json"
COLOUR = {"pass": "green", "fail": "red", "not run": "dim"}


@dataclass
class Asked:
    """Holds what a command line asks for.

    Attributes:
        cfg: the configuration that is judged, without what is the ladder's own.
        ladder: what the rungs do.
        run: directory of an existing run; None: there is none.
        train: whether the configuration is trained.
    """

    cfg: DictConfig
    ladder: LadderOptions
    run: Path | None
    train: bool

    def run_dir(self) -> Callable[[], Path] | None:
        """Return what gives the directory of a trained wire, training it first where asked to; None: there is none."""
        if self.run is None and not self.train:
            return None
        return partial(trained, self.cfg) if self.run is None else partial(Path, self.run)

    @property
    def folders(self) -> list[Path]:
        """The folders that `ladder.json` goes to."""
        own = run_dir(self.cfg)
        place = own.parent.parent / "ladder" / own.parent.name / own.name
        return [place, self.run] if self.run is not None else [place, own] if self.train and own.is_dir() else [place]


def parse(arguments: Sequence[str]) -> Asked:
    """Compose and check a command line. Raises UserError."""
    folders, overrides = split_config_dirs(arguments)
    composer = Composer("latentwire/ladder", extra_dirs=folders)
    cfg = composer.compose(overrides)
    check(cfg, LadderTree)
    check_effective(cfg, overrides, dead, composer.compose)
    node = OmegaConf.to_container(cfg.ladder, resolve=True)
    ladder: LadderOptions = TypeAdapter(LadderOptions).validate_python(node)
    run = None if cfg.run is None else Path(str(cfg.run)).expanduser().absolute()
    trains = bool(cfg.train)
    with open_dict(cfg):
        for key in OWN:
            del cfg[key]
    if run is not None:
        cfg = _of_the_run(run, cfg, overrides, trains, ladder.last)
    _refuse_nothing(ladder, run is not None or trains)
    return Asked(cfg, ladder, run, trains)


def _of_the_run(run: Path, cfg: DictConfig, overrides: Sequence[str], trains: bool, last: int) -> DictConfig:
    """Return the run's own configuration; anything else on the command line but paths would have no effect."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    others = [o.input_line or "" for o in parsed if o.key_or_group.split(".")[0] not in (*OWN, "paths")]
    if others or trains:
        raise UserError(
            f"run={run}",
            ", ".join(others) or "train=true",
            "only ladder.* and paths.* beside run=",
            f"leave out {' '.join(others) or 'train=true'}: an existing run has its configuration; or leave out run=",
        )
    own = read_config(run)
    if last >= TRAINED:
        checkpoint_path(run)
    if any(o.key_or_group.split(".")[0] == "paths" for o in parsed):
        with open_dict(own):
            own.paths = cfg.paths
    check(own, Tree)
    return own


def _refuse_nothing(ladder: LadderOptions, trained: bool) -> None:
    first, last = ladder.first, ladder.last
    if first > last or (first >= TRAINED and not trained):
        raise UserError(
            "ladder.first, ladder.last",
            f"{first}, {last}" + ("" if first > last else " without a trained wire"),
            "a rung to climb",
            f"set ladder.first={last}" if first > last else "add run=<run directory> or train=true",
        )
    if first == 4:
        remedy = "set ladder.first=3: rung 4 looks at what rung 3 has trained, so start at 3"
        raise UserError("ladder.first", "4", "3 or less, or 5", remedy)


def trained(cfg: DictConfig) -> Path:
    """Train the configuration as `latentwire.run` does, unless it is finished. Raises UserError where that fails."""
    outcome = execute(cfg, "latentwire", train, earlier)
    if outcome.exit_code:
        raise SystemExit(outcome.exit_code)
    if outcome.status in ("failed", "held"):
        remedy = "mend what the error names, and repeat the command: it continues"
        raise UserError(str(outcome.dir), outcome.error, "a run that ends", remedy)
    return outcome.dir


def report(verdicts: Sequence[Verdict], console: Console) -> None:
    """Print all numbers with their bounds, then what to do."""
    table = Table("rung", Column("value", justify="right"), "threshold", title="the ladder")
    for v in verdicts:
        table.add_section()
        after = f" [dim]({v.seconds:.1f} s)[/]" if v.status != "not run" else f" [dim]({escape(v.found)})[/]"
        table.add_row(f"[bold]{v.rung} {v.name}[/] [{COLOUR[v.status]}]{v.status}[/]{after}")
        for c in v.checks:
            value = f"{c.value:.4g}" if c.passed else f"[red]{c.value:.4g}[/]"
            table.add_row(f"  {escape(c.name)}", value, escape(c.bounds))
    console.print(table)
    for v in verdicts:
        for point in v.curve:
            holds = {True: "holds", False: "breaks", None: "not compared"}[point["holds"]]
            line = f"  M {point['M']}, d_z {point['d_z']}, {point['bytes']:.0f} bytes: F1 {point['f1']:.3f} "
            line += f"[{point['f1_low']:.3f}, {point['f1_high']:.3f}] {holds} ({point['label']})"
            console.print(line, markup=False, highlight=False)
        if v.status == "fail":
            console.print(f"[red]rung {v.rung}, {v.name}, fails:[/] {escape(v.found)}", highlight=False)
            console.print(f"[bold]what to do:[/] {escape(v.remedy)}", highlight=False)
        elif v.status == "pass" and v.found:
            console.print(f"rung {v.rung}, {v.name}: {escape(v.found)}", highlight=False)
    idle = next((v for v in verdicts if v.status == "not run" and v.remedy), None)
    if idle is not None:
        said = escape(f"{idle.found}; {idle.remedy}")
        console.print(f"not climbed from rung {idle.rung} on: {said}", highlight=False)


def judge(arguments: Sequence[str]) -> bool:
    """Climb as a command line asks, print and write the verdicts, and return whether no rung failed.

    Raises:
        UserError: the command line, or what it names, is at fault.
    """
    console = display.console()
    quiet_lightning()
    verdicts: list[Verdict] = []
    asked = parse(arguments)
    for v in climb(asked.ladder, lambda: Subject.build(asked.cfg), asked.run_dir()):
        verdicts.append(v)
        if v.status != "not run":
            line = f"rung {v.rung}, {v.name}: [{COLOUR[v.status]}]{v.status}[/] ({v.seconds:.1f} s)"
            console.print(line, highlight=False)
    report(verdicts, console)
    passed = all(v.status != "fail" for v in verdicts)
    found = {
        "program": "latentwire.ladder",
        "name": str(asked.cfg.name),
        "hash": config_hash(asked.cfg),
        "passed": passed,
        "verdicts": [v.plain() for v in verdicts],
    }
    for folder in asked.folders:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RESULT, found)
        console.print(str(folder / RESULT), style="dim", highlight=False, soft_wrap=True)
    return passed
