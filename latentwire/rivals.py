"""What the rivals of a run learn from: the run's own training, and that of the runs that it stands on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from latentwire.baselines.training import Amount, TrainingBudget
from latentwire.build import validation_length
from latentwire.checkpoints import read_config
from latentwire.data.base import Corpus
from latentwire.wire_parts import earlier_runs
from suite.config.instantiate import build_node
from suite.runs.identity import meaningful
from suite.runs.provenance import read_result

RIVALS = "rivals"  # folder of a run, where what its rivals have learned lies
TRAINING = "training"  # in result.json: `own`, and `all` with the runs that it stands on
FEW = 256  # passages whose questions are counted


def steps_of(cfg: DictConfig, passages: int) -> tuple[int, int]:
    """Return the number of steps of a run's training and of one epoch of it.

    Args:
        cfg: its configuration.
        passages: number of passages of its training split.
    """
    n = cfg.loader
    per_epoch = passages // int(n.batch_size) if n.steps_per_epoch is None else int(n.steps_per_epoch)
    per_epoch = max(1, per_epoch)
    limits = [int(cfg.trainer.max_steps)] if int(cfg.trainer.max_steps or -1) > 0 else []
    limits += [int(cfg.trainer.max_epochs) * per_epoch] if int(cfg.trainer.max_epochs or -1) > 0 else []
    return min(limits), per_epoch


def own_amount(cfg: DictConfig, corpus: Corpus) -> Amount:
    """Return what a run's own training reads; where passages differ in their number of questions, as a mean of some."""
    train, n = corpus.split("train"), cfg.loader
    steps, _ = steps_of(cfg, len(train))
    some = [len(train[i].questions) for i in range(min(FEW, len(train)))]
    each = sum(min(int(n.questions), k) for k in some) / len(some)
    return Amount(steps, int(n.batch_size), int(n.questions), round(steps * int(n.batch_size) * each))


def whole_amount(cfg: DictConfig, corpus: Corpus, run_dir: Path | None = None) -> Amount:
    """Return what a run's training has read, with that of the runs that it stands on, in steps of its own batches.

    A finished run has it in its result. For others the runs that it stands on are asked, each once, which have to be
    there: those under `wire.from_run`, `wire.start_from` and `init`.

    Args:
        cfg: the configuration of the run.
        corpus: its corpus.
        run_dir: its directory.
    """
    told = read_result(run_dir).get(TRAINING) if run_dir is not None else None
    if told is not None:
        return Amount(**told["all"])
    own = own_amount(cfg, corpus)
    folders = {folder.resolve(): folder for folder in earlier_runs(cfg).values()}.values()
    before = sum(whole_amount(read_config(folder), corpus, folder).asked for folder in folders)
    per_step = own.asked / max(1, own.steps)
    steps = own.steps + round(before / per_step)
    return Amount(steps, own.contexts, own.questions, own.asked + before)


def told_training(cfg: DictConfig, corpus: Corpus, run_dir: Path | None = None) -> dict[str, Any]:
    """Return what `result.json` says of the training: `own` and `all`, as fields of `Amount`."""
    return {"own": asdict(own_amount(cfg, corpus)), "all": asdict(whole_amount(cfg, corpus, run_dir))}


def training_budget(
    cfg: DictConfig, corpus: Corpus, run_dir: Path | None = None, amount: Amount | None = None
) -> TrainingBudget:
    """Return the budget of a run's rivals: its stream, its questions, its schedule, its validation.

    Args:
        cfg: the configuration of the run.
        corpus: its corpus.
        run_dir: its directory.
        amount: how much of the stream; None: `whole_amount`.
    """
    train, held, n = corpus.split("train"), corpus.split("val"), cfg.loader
    monitor = str(OmegaConf.select(cfg, "callbacks.checkpoint.monitor", default="val/f1"))
    known = meaningful(cfg)  # a data set in another folder is the same
    files = {role: digest for role, digest in known.get("inputs", {}).items() if role.partition(".")[0] == "corpus"}
    told = {"corpus": known["corpus"], "files": files}
    return TrainingBudget(
        train,
        [held[i] for i in range(min(len(held), int(n.eval_passages)))],
        int(n.eval_questions),
        whole_amount(cfg, corpus, run_dir) if amount is None else amount,
        steps_of(cfg, len(train))[1],
        build_node(cfg.lr_schedule),
        int(cfg.seed),
        "nll" if monitor in ("val/nll", "val/loss") else "f1",
        validation_length(cfg),
        json.dumps(told, sort_keys=True),
    )
