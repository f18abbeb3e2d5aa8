"""`python -m asgml.run experiment=cremad_mini`: train, evaluate, write the run's record and report."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from asgml.rhythm.config import dead_keys
from callbacks.errors import UserError
from suite.config.check import Common
from suite.runs.job import Run
from suite.runs.launch import launch

if TYPE_CHECKING:
    from asgml.build import Parts


@dataclass
class Loader:
    """The `loader` node: see `asgml.data.datamodule.MultimodalData`."""

    batch_size: int
    eval_batch_size: int
    workers: int
    limit: int | None
    missing: dict[str, float]


@dataclass
class Tree(Common):
    """The plain nodes of the asgml configuration tree."""

    data: Any
    loader: Loader
    model: Any
    optimizer: Any
    lr_schedule: Any
    group_lr: dict[str, float]
    methods: dict[str, Any]
    asgml: Any
    trainer: Any
    callbacks: dict[str, Any]
    logger: dict[str, Any]
    cosine_every: int
    debug: str | None
    label: str | None


def dead(cfg: DictConfig) -> dict[str, str]:
    """Keys without effect under this configuration."""
    node: Any = OmegaConf.to_container(cfg.asgml, resolve=True)
    reasons = dead_keys(node)
    if "uniform" not in cfg.methods:
        reasons["asgml.gamma"] = "no method trains with the unimodal losses (method=uniform or an asgml_* method does)"
    return reasons


def quiet_lightning() -> None:
    """Leaves out Lightning's notices that say nothing about this run; its warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",  # the pipeline logs by committed steps, over epochs
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*overridden `transfer_batch_to_device`.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def train(cfg: DictConfig, run: Run) -> dict[str, Any]:
    """One run from data to result (see `suite.runs.launch`)."""
    from asgml.build import build
    from callbacks.run.tracking import finish

    quiet_lightning()
    parts = build(cfg, run)
    code = 1
    try:
        result = fit_and_evaluate(cfg, run, parts)
        code = 0
        return result
    except SystemExit as end:
        code = int(end.code or 0)
        raise
    finally:
        finish(parts.trainer, code)


def fit_and_evaluate(cfg: DictConfig, run: Run, parts: Parts) -> dict[str, Any]:
    """Trains, then evaluates the last and the best-validation weights on val and test."""
    import torch

    from asgml.train.predictions import save_predictions
    from suite.report import single_report

    trainer, module, data = parts.trainer, parts.module, parts.data
    trainer.fit(module, datamodule=data, ckpt_path=str(run.resume_from) if run.resume_from else None, weights_only=True)
    counters = {
        **parts.pipeline.counters(),
        "dropped_per_epoch": data.train_dataloader().batches.dropped_per_epoch,
    }
    result: dict[str, Any] = {"counters": counters, "ceiling": data.spec.notes.get("ceiling")}
    best = run.dir / "checkpoints" / "best.ckpt"
    if not best.exists() and cfg.debug != "one_step":
        raise UserError(
            "trainer.max_steps, trainer.check_val_every_n_epoch",
            "training ended before its first validation",
            "at least one validation, to select the best epoch",
            "train longer, or validate more often",
        )
    for suffix in ("", "_best") if best.exists() else ("",):
        if suffix:
            module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
        trainer.validate(module, datamodule=data, verbose=False)
        trainer.test(module, datamodule=data, verbose=False)
        for split in ("val", "test"):
            result[f"{split}{suffix}"] = dict(module.metrics[split])
        if run.is_main:
            save_predictions(run.dir / f"predictions{suffix}.npz", {s: module.predictions[s] for s in ("val", "test")})
    if run.is_main:
        result["report"] = single_report(run.dir, {**result, "status": "finished"}).name
    return result


def main() -> None:
    """Console entry."""
    launch("asgml", train, dead, schema=Tree)


if __name__ == "__main__":
    main()
