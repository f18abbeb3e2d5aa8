"""Trainer: the options of Lightning's Trainer that belong to somebody else here, each with the key that does it."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError

# What Lightning's Trainer takes and `conf/common/trainer` does not set, so that it is added with `+trainer.NAME=VALUE`.
OPTIONS = frozenset(
    "benchmark detect_anomaly enable_autolog_hparams inference_mode limit_predict_batches limit_train_batches "
    "limit_val_batches max_time min_epochs min_steps model_registry plugins profiler reload_dataloaders_every_n_epochs "
    "sync_batchnorm val_check_interval".split()
)
# With what the option would say; None refuses any value, because the run passes its own.
ELSEWHERE = {
    "callbacks": (None, "the nodes of `callbacks`", "set +callbacks.<name>._target_=… in its place"),
    "logger": (None, "the nodes of `logger`; the run's own tables are always written", "set logger=wandb in its place"),
    "default_root_dir": (None, "the run's own folder, below paths.runs", "set paths.runs to a folder in its place"),
    "enable_checkpointing": (None, "checkpoints, from which a run resumes", "leave it out"),
    "use_distributed_sampler": (None, "the loader's own division between ranks", "leave it out"),
    "gradient_clip_val": (None, "clipping inside the step, per group", "set callbacks.clip.max_norm in its place"),
    "gradient_clip_algorithm": (None, "clipping inside the step, by norm", "set callbacks.clip.max_norm in its place"),
    "barebones": (False, "loggers, checkpoints and monitors, which every run has", "leave it out"),
    "fast_dev_run": (
        False,
        "numbers of whole validation and test data, which are compared with others",
        "set trainer.max_epochs=1 trainer.max_steps=1 in its place; asgml.run has debug=one_step",
    ),
    "overfit_batches": (
        0,
        "validation on data of its own",
        "leave it out; asgml.run has debug=overfit",
    ),
    "limit_test_batches": (None, "numbers of the whole test data, which are compared with others", "leave it out"),
    "accumulate_grad_batches": (1, "one batch per step", "raise loader.batch_size in its place"),
}
PARTS = "loader.accumulate"  # of programs that read a batch in parts
IN_PARTS = {
    "accumulate_grad_batches": (
        1,
        "one batch per step, which loader.accumulate reads in parts",
        "set loader.accumulate={found} in its place, with the whole batch in loader.batch_size",
    ),
}


def refuse_elsewhere(overrides: Sequence[str]) -> None:
    """Refuse such an option as it is typed, with or without `+`: whether the tree has the key is not the question.

    Raises:
        UserError: an option of `ELSEWHERE`; the error names the key to use.
    """
    for line in overrides:
        key, equals, value = line.lstrip("+").partition("=")
        neutral, expected, remedy = ELSEWHERE.get(key.removeprefix("trainer."), (None, "", ""))
        other = neutral is None or value.lower() != str(neutral).lower()
        if equals and expected and key.startswith("trainer.") and other:
            raise UserError(key, value, expected, remedy)


def check_trainer(cfg: DictConfig) -> None:
    """Refuse options of the Trainer that the run sets itself, or that its own optimisation steps do not have.

    Args:
        cfg: the composed tree; without a node `trainer` there is nothing to refuse.

    Raises:
        UserError: such an option; the error names the key to use.
    """
    node = OmegaConf.select(cfg, "trainer")
    known = ELSEWHERE if OmegaConf.select(cfg, PARTS) is None else ELSEWHERE | IN_PARTS
    for key, (neutral, expected, remedy) in known.items():
        if node is not None and key in node and (neutral is None or node[key] != neutral):
            raise UserError(f"trainer.{key}", str(node[key]), expected, remedy.format(found=node[key]))
    if node is not None:
        _refuse_endless(node)
        _refuse_idle(node)


def _refuse_endless(node: DictConfig) -> None:
    """Refuse a training that nothing ends, or that ends after the thousand epochs of which nobody has spoken."""
    unset = all(node.get(key) in (None, -1) for key in ("max_epochs", "max_steps"))
    if "max_epochs" in node and unset and node.get("max_time") is None:
        found = f"{node.get('max_epochs')}, and trainer.max_steps={node.get('max_steps')}"
        remedy = "set trainer.max_epochs=100; early_stopping may end it before"
        raise UserError("trainer.max_epochs", found, "an end of training", remedy)


def _refuse_idle(node: DictConfig) -> None:
    """Refuse a training without a step, or one that ends before its first validation."""
    if node.get("limit_train_batches") == 0:
        remedy = "leave it out; asgml.evaluate and latentwire.evaluate score a finished run"
        raise UserError("trainer.limit_train_batches", "0: no training", "at least one batch of an epoch", remedy)
    epochs, every = node.get("max_epochs"), node.get("check_val_every_n_epoch")
    expected = "at least one validation, to select the best moment"
    if node.get("limit_val_batches") == 0:
        raise UserError("trainer.limit_val_batches", "0: no validation", expected, "leave it out")
    counted = isinstance(epochs, int) and isinstance(every, int) and epochs > 0
    if counted and epochs < every and node.get("val_check_interval") is None:
        found = f"{every}: the first validation comes after {every} epochs, the end of training after {epochs}"
        remedy = f"set trainer.check_val_every_n_epoch={epochs}"
        raise UserError("trainer.check_val_every_n_epoch", found, expected, remedy)
