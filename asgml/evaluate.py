"""Score a finished run on another test set: `python -m asgml.evaluate RUN data.path=other.npz`.

Nothing is trained. Modalities, classes and statistics are the run's; the new samples need labels among its classes. In
a feature file with `split` the rows of 2 are scored, in a table those of test; without `split`, all rows. Samples that
the run was trained or chosen on are told by their content, left out and counted; --keep-seen scores them. What is asked
has a hash of its own, and lies with its numbers and predictions in `RUN/evaluations/HASH/`; asked twice, the numbers
that are there are shown. Without a word after the run, or with its own data, the numbers are the run's own. The run's
trackers get the evaluation as a run of its own, in the run's group. Words after the run are overrides of its
configuration:

    data.*                what is scored: data.path, data.corrupt …
    data=NAME             another source with the same modalities and classes
    +loader.missing.<m>   the share of samples that are scored without m
    loader.eval_batch_size, trainer.accelerator
                          how it computes
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, open_dict

from suite.config.check import check
from suite.runs.command import command, command_parser, split_config_dirs
from suite.runs.evaluations import evaluation_identity, inputs_unchanged, keep, kept
from suite.runs.fingerprint import digest_of
from suite.runs.finished import EVALUATIONS, changed, require_finished
from suite.runs.lock import held

if TYPE_CHECKING:
    from asgml.data.spec import Table
    from asgml.restore import Restored

DATA = "data"
COMPUTES = ("loader.missing", "loader.eval_batch_size", "trainer.accelerator")
PREDICTIONS = "predictions.npz"  # in an evaluation's folder


def data_of(
    run_dir: Path, cfg: DictConfig, overrides: Sequence[str], also: Sequence[str] = (), config_dirs: Sequence[Path] = ()
) -> DictConfig:
    """Return a run's configuration with other data.

    Args:
        run_dir: the run's directory.
        cfg: its configuration, which is left as it is.
        overrides: `data.*` and `data=NAME`.
        also: dotted keys beside these that may be changed.
        config_dirs: further folders with choices of `data`.

    Raises:
        UserError: a key that belongs to the training, or one that nothing understands.
    """
    cfg = changed(run_dir, cfg, overrides, "data.path='my file.npz'", DATA, also, config_dirs)
    check(cfg)
    return cfg


def identity(cfg: DictConfig, which: str | None = None, keep_seen: bool = False) -> str:
    """Return the hash of what is scored: the data by content, simulated missingness, and the weights where given."""
    missing = {m: rate for m, rate in (cfg.loader.missing or {}).items() if rate}
    asked: dict[str, Any] = {DATA: cfg.data, "missing": missing, "seed": cfg.seed, "checkpoint": which}
    asked |= {"keep_seen": True} if keep_seen else {}
    return evaluation_identity(cfg, asked)


def samples_of(run: Restored, cfg: DictConfig, keep_seen: bool = False) -> tuple[Table, list[str]]:
    """Return the samples that are scored, and a line for each thing to know about them.

    Args:
        run: the run.
        cfg: its configuration with the data that are asked for.
        keep_seen: whether samples that the run has seen in training are scored as well.
    """
    from asgml.data.missing import check_rates, drop
    from asgml.data.new_samples import new_samples, own_test_split
    from suite.config.instantiate import build_node

    source = build_node(cfg.data)
    if inputs_unchanged(run.result, cfg) and identity(cfg) == identity(_with_missing(run.cfg, cfg)):
        table, told = own_test_split(source, run.data)
    else:
        table, told = new_samples(source, run.data, labelled=True, keep_seen=keep_seen)
    missing = {str(m): float(rate) for m, rate in (cfg.loader.missing or {}).items()}
    check_rates(missing, list(run.data.spec.modalities))
    return drop(table, missing, int(cfg.seed), "test"), told


def evaluate(
    run_dir: Path,
    overrides: Sequence[str] = (),
    which: str = "best",
    anew: bool = False,
    config_dirs: Sequence[Path] = (),
    keep_seen: bool = False,
) -> dict[str, Any]:
    """Score a finished run; return the result that is stored, `test` among it.

    Args:
        run_dir: the run's directory.
        overrides: the words after it.
        which: the weights: `best` or `last`.
        anew: whether numbers that are there are measured again.
        config_dirs: further folders with choices of `data`.
        keep_seen: whether samples that the run has seen in training are scored as well.

    Raises:
        UserError: a run that is not finished or in use, or samples that it cannot score.
    """
    from asgml.restore import config_of
    from asgml.tracking import track

    own = config_of(run_dir)
    cfg = data_of(run_dir, own, overrides, COMPUTES, config_dirs)
    require_finished(run_dir, "repeat its command: it goes on")
    folder = run_dir / EVALUATIONS / identity(cfg, which, keep_seen)
    with held(run_dir.resolve()):
        there = None if anew else kept(folder)
        result = there or measure(run_dir, cfg, which, folder, keep_seen)
        track(run_dir, own, cfg, folder, result)
    return result


def measure(run_dir: Path, cfg: DictConfig, which: str, folder: Path, keep_seen: bool = False) -> dict[str, Any]:
    """Score a finished run, and write what was found into a folder.

    Args:
        run_dir: the run's directory.
        cfg: its configuration with the data that are asked for.
        which: the weights: `best` or `last`.
        folder: the folder.
        keep_seen: whether samples that the run has seen in training are scored as well.
    """
    from asgml.restore import predictions, restore
    from asgml.rhythm.config import Asgml
    from asgml.train.predictions import save_predictions
    from suite.config.instantiate import build_node

    start = time.perf_counter()
    run = restore(run_dir, which)
    table, told = samples_of(run, cfg, keep_seen)
    run.cfg = cfg
    found = predictions(run, table)
    rhythm: Asgml = build_node(cfg.asgml)
    metrics = run.module.task.evaluate(found, rhythm.gamma)
    save_predictions(folder / PREDICTIONS, {"test": found}, {"test": table})
    told_of = {
        "test": metrics,
        "samples": len(table),
        "remarks": told,
        "files": {PREDICTIONS: digest_of(folder / PREDICTIONS)},
        "seconds": round(time.perf_counter() - start, 3),
    }
    asked = {DATA: cfg.data, "loader": {"missing": cfg.loader.missing}, "checkpoint": which}
    return keep(folder, cfg, asked, run.result, told_of)


def _with_missing(cfg: DictConfig, other: DictConfig) -> DictConfig:
    """Return a configuration with the simulated missingness of another, which says nothing of whose data they are."""
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        cfg.loader.missing = copy.deepcopy(other.loader.missing)
    return cfg


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m asgml.evaluate", __doc__)
    p.add_argument("run", type=Path, help="directory of a finished run")
    p.add_argument("overrides", nargs="*", help="data.* and the other words above")
    p.add_argument("--checkpoint", choices=["best", "last"], default="best", help="weights (default: best)")
    p.add_argument("--keep-seen", action="store_true", help="score samples that the run has seen in training as well")
    p.add_argument("--again", action="store_true", help="measure again what is there")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    config_dirs, rest = split_config_dirs(list(sys.argv[1:] if argv is None else argv))
    args = parser().parse_intermixed_args(rest)
    result = evaluate(args.run, args.overrides, args.checkpoint, args.again, config_dirs, args.keep_seen)
    print(f"{result['samples']} samples, {args.checkpoint} weights of {args.run}")
    for line in result["remarks"]:
        print(f"  {line}")
    width = max(map(len, result["test"]))
    for name, value in result["test"].items():
        print(f"  {name:{width}}  {value:.4f}")
    print(args.run / EVALUATIONS / result["evaluation"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
