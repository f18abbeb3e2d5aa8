"""What surrounds a program's module: callbacks, stages, loggers, Trainer and optimiser, from configuration nodes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from callbacks.errors import UserError
from callbacks.run.checkpoint import StepCheckpoint
from callbacks.run.history_logger import HistoryLogger
from callbacks.run.ranks import RankWatch
from callbacks.run.tensorboard import refuse_absent_tensorboard, tensorboard_logger
from callbacks.run.tracking import finish
from callbacks.stages.lr import LRSchedule
from callbacks.step.pipeline import StepPipeline
from callbacks.step.stage import Stage
from suite.config.instantiate import build_node
from suite.config.signature import locate, parameters
from suite.runs.identity import fingerprints, meaningful
from suite.runs.inputs import all_files
from suite.runs.job import Run
from suite.tracking import facts_of

# Lightning's notices that say nothing about these runs.
NOTICES = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",  # the pipeline logs by committed steps, over epochs
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*overridden `transfer_batch_to_device`.*",
    ".*Trying to infer the `batch_size`.*",
)


def quiet_lightning() -> None:
    """Silence the notices of Lightning that say nothing about these runs; its other warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in NOTICES:
        warnings.filterwarnings("ignore", message=message)


def build_with_facts(node: DictConfig, facts: Mapping[str, Any], where: str) -> Any:
    """Build a node, and bind what it leaves open (`_partial_: true`) by parameter name from facts of the run.

    Args:
        node: a node with a `_target_`.
        facts: what the run knows, by the name of the parameters that may ask for it.
        where: the key of the node, for the error.

    Raises:
        UserError: a required parameter that neither the node nor the facts have.
    """
    built = build_node(node)
    if not isinstance(built, partial):
        return built
    accepted = parameters(built.func)
    bound = {name: facts[name] for name in accepted.names if name in facts and name not in built.keywords}
    missing = [name for name in accepted.required if name not in built.keywords and name not in bound]
    if missing:
        raise UserError(
            f"{where}.{missing[0]}",
            "no value",
            f"a value in the configuration (the run itself knows {', '.join(facts)})",
            f"set +{where}.{missing[0]}=…",
        )
    return built(**bound)


def build_callbacks(cfg: DictConfig, run: Run, **facts: Any) -> dict[str, L.Callback]:
    """Build every node of `callbacks` that is not null, stages included, and return them by name.

    Args:
        cfg: the whole configuration.
        run: the run in progress.
        facts: what only the program knows and its callbacks may ask for by parameter name, beside `dirpath` (of
            checkpoints), `config`, `config_hash`, `inputs` (the fingerprints of the files that the run reads, which
            have to be there by now) and `seed`.
    """
    known = {
        "dirpath": str(run.dir / "checkpoints"),
        "config": meaningful(cfg),
        "config_hash": run.hash,
        "inputs": fingerprints(cfg, all_files(cfg, run.earlier)),
        "seed": run.seed,
        **facts,
    }
    built = {
        str(name): build_with_facts(node, known, f"callbacks.{name}")
        for name, node in cfg.callbacks.items()
        if node is not None
    }
    if not OmegaConf.select(cfg, "trainer.enable_progress_bar", default=True):  # Lightning refuses a bar beside it
        return {name: c for name, c in built.items() if not isinstance(c, ProgressBar)}
    return built


def assemble(
    cfg: DictConfig,
    run: Run,
    callbacks: Mapping[str, L.Callback],
    stages: Sequence[Stage],
    tags: Sequence[str] = (),
) -> tuple[L.Trainer, StepPipeline]:
    """Build the Trainer around one StepPipeline, and return both.

    Args:
        cfg: the whole configuration.
        run: the run in progress.
        callbacks: the result of `build_callbacks`; the stages among them join the pipeline.
        stages: the stages that the program builds itself; all stages are ordered by their phases.
        tags: what trackers tag the run with, beside program and experiment.
    """
    everyone = [*stages, *(c for c in callbacks.values() if isinstance(c, Stage))]
    pipeline = StepPipeline.ordered(everyone)
    others = [c for c in callbacks.values() if not isinstance(c, Stage)]
    others.sort(key=lambda c: getattr(c, "reads_other_callbacks", False))
    return build_trainer(cfg, run, [pipeline, *others], tags), pipeline


_QUIET: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
# What Lightning alone can read, with an example.
_EXAMPLES = {"max_time": "max_time={hours:12}", "profiler": "profiler=simple"}


def judge_trainer(cfg: DictConfig) -> None:
    """Refuse a device, strategy or precision that Lightning's Trainer does not have here, before data are read.

    Raises:
        UserError: an accelerator that is not there, or options that the Trainer does not take together.
    """
    node: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    options = {
        key: node[key] for key in ("accelerator", "devices", "num_nodes", "strategy", "precision") if key in node
    }
    _require_accelerator(str(options.get("accelerator", "auto")))
    quiet_lightning()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            L.Trainer(**options, **_QUIET)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        keys = ", ".join(f"trainer.{key}={value}" for key, value in options.items())
        raise UserError(
            keys,
            " ".join(str(error).split())[:300],
            "options that Lightning's Trainer takes together on this machine",
            "set trainer.accelerator=auto trainer.devices=1 trainer.strategy=auto trainer.precision=32-true",
        ) from error
    for key, example in _EXAMPLES.items():
        try:
            if node.get(key) is not None:
                L.Trainer(**{key: node[key]}, accelerator="cpu", **_QUIET)
        except (MisconfigurationException, ValueError, TypeError) as error:
            found = f"{node[key]}: {' '.join(str(error).split())[:300]}"
            remedy = f"type +trainer.{example}, or leave it out"
            raise UserError(f"trainer.{key}", found, "what Lightning's Trainer takes", remedy) from error


def judge_optimizer(cfg: DictConfig) -> None:
    """Refuse options of the optimiser that it does not take together, before data are read.

    Raises:
        UserError: such options, in the optimiser's own words.
    """
    node = OmegaConf.select(cfg, "optimizer")
    factory = None if node is None else build_node(node)
    try:
        if factory is not None:
            factory([torch.nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError, RuntimeError) as error:
        expected = f"options that {node._target_.rpartition('.')[2]} takes together"
        remedy = "leave out the option of the optimiser that the message names"
        raise UserError("optimizer", " ".join(str(error).split())[:300], expected, remedy) from error


def judge_loggers(cfg: DictConfig) -> None:
    """Refuse a logger whose library is not installed, before data are read.

    Raises:
        UserError: such a logger, with the package to install.
    """
    for node in (OmegaConf.select(cfg, "logger") or {}).values():
        if node is not None and locate(node._target_) is tensorboard_logger:
            refuse_absent_tensorboard()


def _require_accelerator(accelerator: str) -> None:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(accelerator, any(there.values()) or accelerator != "gpu"):
        raise UserError(
            "trainer.accelerator",
            f"{accelerator}, and PyTorch sees none here",
            "a device that is there: auto takes the best",
            "set trainer.accelerator=auto, or install a driver and a torch that match your GPU",
        )


def build_trainer(cfg: DictConfig, run: Run, callbacks: Sequence[L.Callback], tags: Sequence[str] = ()) -> L.Trainer:
    """Build the Trainer of the configuration, and set explicitly what Lightning would silently get wrong.

    Args:
        cfg: the whole configuration.
        run: the run in progress.
        callbacks: all callbacks, in their final order.
        tags: as for `assemble`.

    Raises:
        UserError: several devices with a strategy other than DDP.
    """
    loggers: list[Any] = [HistoryLogger(str(run.dir))]
    if run.is_main:
        nodes = {str(name): node for name, node in cfg.logger.items() if node is not None}
        told = facts_of(cfg, run, tags) if nodes else {}
        loggers += [build_with_facts(node, told, f"logger.{name}") for name, node in nodes.items()]
    options: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    options |= _precision(options)
    devices = options["devices"]
    if (isinstance(devices, int) and devices > 1) or int(options.get("num_nodes") or 1) > 1:
        if options["strategy"] not in ("auto", "ddp"):
            raise UserError(
                "trainer.strategy",
                str(options["strategy"]),
                "auto or ddp: groups that skip their graph need DDP with find_unused_parameters=True",
                "set trainer.strategy=ddp",
            )
        # without this option, a step in which a group has no graph silently desynchronises the ranks
        options["strategy"] = DDPStrategy(find_unused_parameters=True)
        callbacks = [*callbacks, RankWatch()]
    options.pop("_target_")
    return L.Trainer(
        **{str(k): v for k, v in options.items()},
        callbacks=list(callbacks),
        logger=loggers,
        default_root_dir=str(run.dir),
        enable_checkpointing=True,
        use_distributed_sampler=False,
    )


def _precision(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the Trainer is given for its precision."""
    cpu = options["accelerator"] == "cpu" or (options["accelerator"] == "auto" and not torch.cuda.is_available())
    if options["precision"] == "16-mixed" and cpu:
        # Lightning would run bf16 without a scaler here, and say so only in a warning
        return {"precision": None, "plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}
    return {"precision": options["precision"]}


def inference_trainer(cfg: DictConfig) -> L.Trainer:
    """Build a Trainer that only predicts: device and precision are the configuration's, nothing is written.

    Raises:
        UserError: an accelerator that is not there.
    """
    quiet_lightning()
    options: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    _require_accelerator(str(options["accelerator"]))
    return L.Trainer(
        accelerator=options["accelerator"],
        devices=1,
        **_precision(options),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def configure_optimizer(
    trainer: L.Trainer,
    groups: Mapping[str, Sequence[nn.Parameter]],
    group_lr: Mapping[str, float],
    optimizer: Callable[..., Optimizer],
    lr_schedule: LRSchedule,
    absent: Collection[str] = (),
) -> Any:
    """Build one optimiser with named groups and its schedule in committed steps, as Lightning wants them.

    Args:
        trainer: the trainer, which knows the length of training.
        groups: the trainable parameters of each group, by name; a group without any is left out.
        group_lr: the learning rate in place of the optimiser's, by group (`adapter:llama`) or by kind (`adapter`).
        optimizer: a factory that is called with the parameter groups.
        lr_schedule: the schedule, called with the optimiser, the steps per epoch and the epochs.
        absent: the further names that `group_lr` may hold, of groups that this run does not have.

    Raises:
        UserError: `group_lr` names no group, or there is nothing to train.
    """
    trained = {name: list(params) for name, params in groups.items() if params}
    kinds = {name.partition(":")[0] for name in groups}
    for name in group_lr:
        if name not in {*groups, *kinds, *absent}:
            known = sorted({*groups, *kinds})
            near = get_close_matches(name, known, 1)
            remedy = f"set +group_lr.{near[0]}={group_lr[name]} in its place" if near else f"add ~group_lr.{name}"
            raise UserError(f"group_lr.{name}", "no such group", f"one of {', '.join(known)}", remedy)
    if not trained:
        raise UserError(
            "configure_optimizers()",
            "nothing to train",
            "at least one parameter with requires_grad=True",
            "call requires_grad_(True) on a part of the model, or build it with a trainable encoder",
        )
    options = []
    for name, params in trained.items():
        rate = group_lr.get(name, group_lr.get(name.partition(":")[0]))
        options.append({"params": params, "name": name, **({} if rate is None else {"lr": rate})})
    built = optimizer(options)
    _know_the_epoch(trainer)
    per_epoch = max(1, int(trainer.num_training_batches))
    epochs = trainer.max_epochs or -1
    if epochs < 1:  # training is measured in steps alone
        epochs = -(-max(1, trainer.max_steps) // per_epoch)
    schedule = lr_schedule(built, per_epoch, epochs)
    return {"optimizer": built, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _know_the_epoch(trainer: L.Trainer) -> None:
    """Let the trainer count the batches of an epoch. Raises UserError for a validation that no epoch would reach."""
    try:
        trainer.fit_loop.setup_data()
    except ValueError as error:
        every = trainer.val_check_interval
        if not isinstance(every, int) or every <= trainer.num_training_batches:
            raise
        found = f"{every}: an epoch has {trainer.num_training_batches} batches"
        remedy = "set trainer.check_val_every_n_epoch=1 without it: a validation after every epoch"
        raise UserError("trainer.val_check_interval", found, "as many as an epoch has, or fewer", remedy) from error


@contextmanager
def closing_loggers(trainer: L.Trainer) -> Iterator[None]:
    """End the trainer's W&B runs with the exit code of the block, also where it raises.

    Raises:
        UserError: an option of the Trainer that Lightning refuses once it sees the data.
    """
    code = 1
    try:
        yield
        code = 0
    except MisconfigurationException as error:
        found = " ".join(str(error).split())[:300]
        expected, remedy = "options of the Trainer that suit these data", "leave out the option that the message names"
        raise UserError("trainer.*", found, expected, remedy) from error
    except SystemExit as end:
        code = int(end.code or 0)
        raise
    finally:
        finish(trainer, code)


def best_checkpoint(run: Run) -> Path:
    """Return the path of the run's best checkpoint.

    Raises:
        UserError: training ended before its first validation.
    """
    best = run.dir / "checkpoints" / "best.ckpt"
    if not best.exists():
        raise UserError(
            "trainer.max_epochs, trainer.max_steps, trainer.check_val_every_n_epoch",
            "training ended before its first validation",
            "at least one validation, to select the best moment",
            "set trainer.check_val_every_n_epoch=1 trainer.max_steps=-1, with trainer.max_epochs=1 or more",
        )
    return best


def best_moment(trainer: L.Trainer) -> dict[str, Any]:
    """Return epoch, step and metrics of the run's best checkpoint for `result.json`; {} without a `StepCheckpoint`."""
    found = next((c for c in trainer.checkpoint_callbacks if isinstance(c, StepCheckpoint)), None)
    return {} if found is None else found.best()
