"""`python -m asgml.run experiment=cremad_mini`: train, evaluate, write the run's record and report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf

from asgml.about import ABOUT
from asgml.data.ranges import BatchSize, MissingRate
from asgml.extend import asked, extended, remarks
from asgml.sweep import for_the_data
from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, Rate, Steps, Workers
from suite.config.check import Common
from suite.config.parts import CallbackPart, LoggerPart, OptimizerPart, SchedulePart, TrainerPart
from suite.config.wording import Built
from suite.runs.job import CHECKPOINTS, Run
from suite.runs.launch import launch, tell
from suite.runs.stopping import ends_on_interrupt
from suite.runs.study import Program
from suite.runs.surroundings import open_streams

if TYPE_CHECKING:
    from asgml.build import Parts


@dataclass
class Loader:
    """Types the `loader` node; `asgml.data.MultimodalData` says what its other keys mean.

    Attributes:
        accumulate: the number of parts that encoders take a batch in, one after the other: less memory, the same step
            and about a third more time.
    """

    batch_size: BatchSize
    eval_batch_size: BatchSize
    workers: Workers
    limit: Count | None
    missing: dict[str, MissingRate]
    accumulate: Count = 1


@dataclass
class Init:
    """Types the `init` node: where weights come from, in place of random ones.

    Attributes:
        weights: the directory of a finished run, whose best weights training starts from.
        parts: which of them are taken: `encoders`, `heads`, `fusion`; all of them if left out.
    """

    weights: Annotated[str, NOT_EMPTY]
    parts: Annotated[list[Literal["encoders", "heads", "fusion"]], NOT_EMPTY] | None = None


@dataclass
class Tree(Common):
    """Types the nodes of the asgml configuration tree.

    Attributes:
        data: the data source.
        loader: the batches.
        model: the network, a factory that is called with the data's specification and a seed.
        optimizer: the optimiser, a factory that is called with the parameter groups.
        lr_schedule: the schedule of the learning rate.
        group_lr: the learning rate of single groups, by name, in place of the optimiser's.
        methods: the methods of the run, by name, in the order in which they apply.
        asgml: the rhythm of the encoders.
        trainer: the options of Lightning's trainer.
        callbacks: the callbacks and stages, by name; null leaves one out.
        logger: the loggers beside the run's own tables, by name; null leaves one out.
        loss: the loss of fusion and heads; auto is cross-entropy, and L1 where y is a number.
        cosine_every: the number of steps between two measurements of the cosine at the feature; 0 switches it off.
        debug: the debugging check of the run, `overfit` or `one_step`; null for none.
        label: the name of the configuration in tables and figures; null takes what differs between compared runs.
        fault: the fault that the run replays (`+fault=NAME`, for the study of faults alone); absent in any other run.
        init: the finished run whose weights training starts from (`+init.weights=RUN`); absent in any other run.
        extend: the identity of the finished run that is trained on (`extend=RUN`); absent in any other run.
    """

    data: Annotated[Any, Built("asgml.data.Source")]
    loader: Loader
    model: Annotated[Any, Built("asgml.model.MultimodalNet", "set model=small")]
    optimizer: OptimizerPart
    lr_schedule: SchedulePart
    group_lr: dict[str, Rate]
    methods: dict[str, Annotated[Any, Built("asgml.methods.Method", "set method=uniform")]]
    asgml: Annotated[Any, Built("asgml.rhythm.Asgml", "set {key}._target_=asgml.rhythm.Asgml")]
    trainer: TrainerPart
    callbacks: dict[str, CallbackPart | None]
    logger: dict[str, LoggerPart | None]
    loss: str
    cosine_every: Steps
    debug: str | None
    label: str | None
    fault: str | None = None
    init: Init | None = None
    extend: str | None = None


def dead(cfg: DictConfig) -> dict[str, str]:
    """Return the keys without effect under this configuration, each with the reason."""
    from asgml.rhythm.config import dead_keys

    node: Any = OmegaConf.to_container(cfg.asgml, resolve=True)
    reasons = dead_keys(node)
    if "uniform" not in cfg.methods:
        reasons["asgml.gamma"] = "no method trains with the unimodal losses (method=uniform or an asgml_* method does)"
    return reasons


def earlier(cfg: DictConfig) -> dict[str, Path]:
    """Return the checkpoints of the runs that this one starts from, by the key that names them."""
    from suite.runs.extension import extended_checkpoint

    init = cfg.get("init")
    named = {} if init is None else {"init.weights": Path(str(init.weights)).expanduser() / CHECKPOINTS / "best.ckpt"}
    return {**named, **extended_checkpoint(cfg)}


def judge(cfg: DictConfig) -> None:
    """Refuse a configuration that no data could make right; nothing of the data is read."""
    from asgml.build import judge as judge_parts

    judge_parts(cfg)


def foresee(cfg: DictConfig) -> dict[str, str]:
    """Return what is known of a run before it starts (`plan=true`)."""
    from asgml.foreseen import foresee as known

    return known(cfg)


def train(cfg: DictConfig, run: Run) -> dict[str, Any]:
    """Do one run from data to result, and return the result."""
    from asgml.build import build
    from asgml.faults.catalogue import fault_of, warning
    from asgml.tracking import findings
    from callbacks.step.console import rank_zero_print
    from suite.runs.extension import begun
    from suite.shell import closing_loggers, quiet_lightning
    from suite.tracking import publish

    quiet_lightning()
    fault = fault_of(cfg)
    if fault is not None:
        rank_zero_print(warning(fault))
    parts = build(cfg, run)
    run = begun(cfg, run)
    with closing_loggers(parts.trainer):
        result = fit_and_evaluate(cfg, run, parts)
        publish(parts.trainer.loggers, run.dir, result, findings(run.dir))
        return result


def fit_and_evaluate(cfg: DictConfig, run: Run, parts: Parts) -> dict[str, Any]:
    """Train, then evaluate the last and the best-validation weights on val and test, and return the result."""
    from asgml.data.preprocessing import FILE, Preprocessing
    from asgml.data.seen import joined
    from asgml.data.spec import SPLITS, Split
    from asgml.faults.catalogue import marks
    from asgml.train.best_on_test import BestOnTest
    from asgml.train.predictions import class_counts, save_predictions
    from asgml.train.reliance import Reliance
    from asgml.train.warm_start import seen_before
    from callbacks.run.debug import OverfitCheck
    from callbacks.run.stored import read_checkpoint
    from suite.report import single_report
    from suite.shell import best_checkpoint, best_moment

    trainer, module, data = parts.trainer, parts.module, parts.data
    if run.is_main:
        seen = joined(data.seen(), *seen_before(cfg))
        Preprocessing.of(data.spec, data.table("train").transforms, seen).write(run.dir / FILE)
    trainer.fit(module, datamodule=data, ckpt_path=str(run.resume_from) if run.resume_from else None, weights_only=True)
    counters = {
        **parts.pipeline.counters(),
        "dropped_per_epoch": data.train_dataloader().batches.dropped_per_epoch,
    }
    _require_movement(cfg, counters)
    classes = len(data.spec.classes)
    evaluated: tuple[Split, ...] = ("val", "test")
    result: dict[str, Any] = {
        "counters": counters,
        "ceiling": data.spec.notes.get("ceiling"),
        "classes": data.spec.classes,
        "class_counts": {s: class_counts(data.table(s).y, classes) for s in SPLITS if classes},
        **marks(cfg),
    }
    check = next((c for c in trainer.callbacks if isinstance(c, OverfitCheck)), None)  # type: ignore[attr-defined]
    if check is not None:
        result["debug"] = check.verdict
    best = best_checkpoint(run) if cfg.debug is None else None  # a check may end before a validation has chosen one
    measured = next((c for c in trainer.callbacks if isinstance(c, Reliance)), None)  # type: ignore[attr-defined]
    result |= best_moment(trainer)
    peeked = next((c for c in trainer.callbacks if isinstance(c, BestOnTest)), None)  # type: ignore[attr-defined]
    if peeked is not None:
        result[BestOnTest.RESULT] = peeked.best()
    for suffix, path in (("", None), ("_best", best)) if best is not None else (("", None),):
        if path is not None:
            module.load_state_dict(read_checkpoint(path, config_hash=run.hash)["state_dict"])
        trainer.validate(module, datamodule=data, verbose=False)
        trainer.test(module, datamodule=data, verbose=False)
        for split in evaluated:
            result[f"{split}{suffix}"] = dict(module.metrics[split])
        if measured is not None and measured.found:
            result[f"reliance{suffix}"] = dict(measured.found)
        if run.is_main:
            kept = {split: module.predictions[split] for split in evaluated}
            save_predictions(run.dir / f"predictions{suffix}.npz", kept, {s: data.table(s) for s in evaluated})
    if run.is_main:
        result["report"] = single_report(run.dir, {**result, "status": "finished"}).name
    return result


def _require_movement(cfg: DictConfig, counters: Mapping[str, Any]) -> None:
    """Refuse the result of a training in which no logged step has changed a weight: it is that of the first weights."""
    moved = counters.get("max_delta")
    if moved and not any(moved.values()):
        raise UserError(
            f"optimizer.lr={cfg.optimizer.lr}",
            "no step that was logged has moved any weight",
            "updates that the weights' precision can hold",
            "set optimizer.lr=0.01",
        )


PROGRAM = Program("asgml", train, dead, Tree, earlier, judge)


def extend(argv: Sequence[str]) -> int:
    """Train a finished run on, as a command line with `extend=RUN` asks; return the exit code."""
    from suite.runs.direct import run_tree

    before, cfg, typed, plans = extended(argv)
    for line in remarks(before, cfg):
        tell(line)
    return run_tree(PROGRAM, cfg, typed, plans, foresee)


@ends_on_interrupt
def main() -> None:
    """Run the command line of `python -m asgml.run`."""
    argv = sys.argv[1:]
    open_streams()
    try:
        if asked(argv):
            if code := extend(argv):
                raise SystemExit(code)
            return
        argv = for_the_data(argv, Tree)
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(UserError.EXIT_CODE) from None
    launch("asgml", train, dead, schema=Tree, earlier=earlier, judge=judge, about=ABOUT, foresee=foresee, argv=argv)


if __name__ == "__main__":
    main()
