"""Score a finished run again: `python -m latentwire.evaluate RUN evaluation.passages=400 baseline=[text,token_budget]`.

Nothing is trained but baselines that learn, once per run. What is asked has a hash of its own, and lies with its
numbers, answers and tables in `RUN/evaluations/HASH/`, beside all others of the run; asked twice, the numbers that are
there are shown. Words after the run are overrides of its own configuration:

    evaluation.*      how much is asked and how: split, passages, max_new_tokens, n_boot …
    evaluation.slots=[13,7]     prefixes of messages, scored too (wires with nested budgets)
    baseline=[…]      what the wire is compared with, as in conf/latentwire/baseline
    baselines.*       its settings
    acceptance.*      the rules that judge the numbers; they are read anew each time
    trainer.accelerator     where it computes

`RUN/result.json` and the ledger keep the evaluation that `latentwire.run` has asked for last; its command with other
keys of these makes another one the run's own, without training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from latentwire.nodes import EvaluationNode
from latentwire.run import Tree, ask, dead, show
from suite.config.check import check, check_effective
from suite.config.compose import Composer
from suite.runs.command import command, command_parser, split_config_dirs
from suite.runs.finished import apply_override, following, parsed, refuse_training_keys, require_finished
from suite.runs.launch import NOT_ACCEPTED
from suite.runs.lock import held

GROUP = "baseline"
ALLOWED = ("evaluation", "baselines", "acceptance", "trainer.accelerator")


def asked(run_dir: Path, overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> DictConfig:
    """Return the tree that a command line asks a run with: the run's own, changed.

    Args:
        run_dir: the run's directory.
        overrides: the words after it.
        config_dirs: further folders with choices of `baseline`.

    Raises:
        UserError: a key that belongs to the training, one that nothing understands, or no run.
    """
    from latentwire.checkpoints import read_config
    from latentwire.scoring.beforehand import refuse

    cfg = read_config(run_dir)
    told = f"{GROUP}=[…] or one of {', '.join(ALLOWED)}"
    for line in overrides:
        override = parsed(line, "baseline=[text,icae]")
        refuse_training_keys(override, (GROUP, *ALLOWED), told, run_dir, "python -m latentwire.run …")
        if override.key_or_group == GROUP:
            chosen = Composer("latentwire", extra_dirs=config_dirs).compose([line]).baselines
            with open_dict(cfg):
                cfg.baselines = following(chosen, cfg, "baselines")
            continue
        apply_override(cfg, override, {"evaluation": [f.name for f in fields(EvaluationNode)]})
    check(cfg, Tree)
    refuse(cfg)
    check_effective(cfg, [line for line in overrides if not line.startswith(f"{GROUP}=")], dead)
    return cfg


def evaluate(run_dir: Path, cfg: DictConfig, anew: bool = False) -> dict[str, Any]:
    """Evaluate a finished run as a tree asks; return its result with these numbers and verdicts.

    Args:
        run_dir: the run's directory.
        cfg: the tree, see `asked`.
        anew: whether numbers that are there are measured again.

    Raises:
        UserError: a run that is not finished or in use, or an evaluation that cannot be done.
    """
    from latentwire.scoring.finished import folder_of, judged
    from latentwire.tracking import findings, tags
    from suite.report import single_report
    from suite.tracking import track_evaluation

    with held(run_dir.resolve()):
        trained = require_finished(run_dir)
        result = judged(cfg, trained, ask(cfg, run_dir, anew))
        single_report(run_dir)
        asked_for = folder_of(run_dir, cfg)
        track_evaluation(cfg, run_dir, asked_for.name, result, tags(cfg), findings(asked_for))
    return result


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser(
        "python -m latentwire.evaluate",
        __doc__,
        f"Exit codes: 0 done, 1 failed, 2 the input is at fault, {NOT_ACCEPTED} a rule of acceptance is missed.",
    )
    p.add_argument("run", type=Path, help="directory of a finished run")
    p.add_argument(
        "overrides", nargs="*", help="evaluation.*, baseline=[…], baselines.*, acceptance.*, trainer.accelerator"
    )
    p.add_argument("--again", action="store_true", help="measure again what is there")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    config_dirs, rest = split_config_dirs(list(sys.argv[1:] if argv is None else argv))
    args = parser().parse_intermixed_args(rest)
    cfg = asked(args.run, args.overrides, config_dirs)
    result = evaluate(args.run, cfg, args.again)
    show(cfg, result)
    show_all(args.run)
    return 0 if result["accepted"] else NOT_ACCEPTED


def show_all(run_dir: Path) -> None:
    """Show all evaluations of a run side by side on the terminal."""
    from latentwire.report.evaluation_tables import evaluations_table
    from latentwire.report.stored import evaluations
    from suite.report import terminal
    from suite.runs.display import console
    from suite.runs.finished import EVALUATIONS

    if len(found := evaluations(run_dir)) > 1:
        screen = console()
        screen.print(terminal([evaluations_table(found)], screen.width))
    console().print(str(run_dir / EVALUATIONS), style="dim", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
