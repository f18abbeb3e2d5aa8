"""Trainer: the options of Lightning's Trainer that belong to somebody else here, each with the key that does it."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError

# With what the option would say; None refuses any value, because the run passes its own.
ELSEWHERE = {
    "callbacks": (None, "the nodes of `callbacks`", "set +callbacks.<name>._target_=… in its place"),
    "logger": (None, "the nodes of `logger`; the run's own tables are always written", "set logger=wandb in its place"),
    "default_root_dir": (None, "the run's own folder, below paths.runs", "set paths.runs to a folder in its place"),
    "enable_checkpointing": (None, "checkpoints, from which a run resumes", "leave it out"),
    "use_distributed_sampler": (None, "the loader's own division between ranks", "leave it out"),
    "gradient_clip_val": (None, "clipping inside the step, per group", "set callbacks.clip.max_norm in its place"),
    "gradient_clip_algorithm": (None, "clipping inside the step, by norm", "set callbacks.clip.max_norm in its place"),
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
        if equals and expected and key.startswith("trainer.") and (neutral is None or value != str(neutral)):
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
