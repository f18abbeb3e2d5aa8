"""StepCheckpoint: `last.ckpt` and `best.ckpt`, from which a run continues exactly."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.hooks import RemovableHandle

from callbacks.errors import UserError
from callbacks.files.atomic import put_in_place
from callbacks.ranges import Count, Steps
from callbacks.run import restart
from callbacks.run.inputs import refuse_other_inputs
from callbacks.run.other_run import plain, refuse_other_run
from callbacks.run.stored import BEST, LAST, PREVIOUS, STATE_KEY, SealedFile
from callbacks.step.console import rank_zero_print


class StepCheckpoint(Checkpoint):
    """Writes `last.ckpt` at step boundaries and `best.ckpt` after a validation that is better than all before.

    A run resumed from either file (`trainer.fit(…, ckpt_path=…)`) follows the uninterrupted run bit by bit, given a
    loader that can be continued (`suite.loader.ResumableLoader`), `RNGState`, and callbacks that save what they carry.
    `last.ckpt` is written when a step is complete and before anything that follows it, so an interrupted validation or
    epoch end is done again. Writing is atomic: a full disk or a crash leaves the previous file valid. What `last.ckpt`
    was stays as `previous.ckpt`. Every file is sealed with its SHA-256 (`callbacks.files.sealed`), which is checked
    before anything in it is used; `callbacks.run.stored.resume_point` finds the newest file that is intact. Steps are
    training batches, not Lightning's `global_step`, which counts each optimiser and vetoed steps.

    Example::

        callbacks:
          checkpoint:
            _target_: callbacks.StepCheckpoint
            dirpath: runs/cremad/0a1b2c3d4e5f/checkpoints
            every_n_steps: 200
            monitor: val/accuracy  # auto: what the program selects by
            mode: max
            tie_breaker: val/loss

    Limits: one checkpoint file per save (single device, DDP), on a local file system. Not exact are state changed in
    `LightningModule.on_train_batch_end`, which Lightning runs after all callbacks; gradients kept over steps;
    `val_check_interval` given as a time; `ReduceLROnPlateau` under automatic optimisation; and `torchmetrics` objects
    logged per epoch unless persistent. `EarlyStopping` is exact from `last.ckpt`, not from `best.ckpt`.

    Args:
        dirpath: the folder of the files.
        every_n_steps: the number of training batches after which `last.ckpt` is written too; null writes it only at the
            ends of epochs.
        every_n_epochs: the number of epochs after whose last batch it is written. The last step of training is always
            saved.
        monitor: the logged validation metric that decides `best.ckpt`; null writes no such file, `auto` stands for
            `selects_by`. NaN never wins.
        mode: whether more (`max`) or less (`min`) of it is better; `auto` together with `monitor: auto`.
        tie_breaker: the logged validation loss that decides between equal values of `monitor`: the lower one wins, NaN
            loses to any number. Where it is equal too, and with null, the earlier validation is kept.
        config_hash: the identity of the run's configuration; a checkpoint with another one is refused.
        config: the configuration behind the hash, in plain containers, so that differing keys can be named.
        inputs: the fingerprint (path, size, sha256) of every file that the run reads, by role; a checkpoint that was
            made with another content of one of them is refused.
        selects_by: the metric and the mode that the program selects by, for `monitor: auto`.
        selects_from: the first epoch, counted from 0, whose validation may be the best: in a training of stages the
            last one's, before which parts of the model have not been trained.

    Raises:
        UserError: `auto` for one of monitor and mode alone, a damaged checkpoint, another configuration's or one made
            on other data, a full disk, or a monitor that is not logged.
    """

    def __init__(
        self,
        dirpath: str,
        every_n_steps: Count | None = None,
        every_n_epochs: Count = 1,
        monitor: str | None = "val/accuracy",
        mode: Literal["max", "min", "auto"] = "max",
        config_hash: str | None = None,
        config: dict[str, Any] | None = None,
        inputs: dict[str, dict[str, Any]] | None = None,
        tie_breaker: str | None = None,
        selects_by: tuple[str, Literal["max", "min"]] | None = None,
        selects_from: Steps = 0,
    ):
        for name, value in (("every_n_steps", every_n_steps), ("every_n_epochs", every_n_epochs)):
            if value is not None and value < 1:
                raise UserError(f"StepCheckpoint.{name}", str(value), "an integer of at least 1", f"set {name}=1")
        self.last_path, self.best_path = Path(dirpath) / LAST, Path(dirpath) / BEST
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self.monitor, self.mode = _selection(monitor, mode, selects_by)
        self.tie_breaker, self.selects_from = tie_breaker, selects_from
        self.config_hash = config_hash
        self.config = None if config is None else plain(config)
        self.inputs: dict[str, dict[str, Any]] | None = None if inputs is None else plain(inputs)
        self.best_score: float | None = None
        self.best_tie: float | None = None
        self.best_step: int | None = None
        self.best_epoch: int | None = None
        self.saved_step: int | None = None
        self._keeps_last = False  # whether `last.ckpt` is known to be intact, and of this run
        self._resumed: dict[str, Any] | None = None
        self._watch: RemovableHandle | None = None

    @property
    def state_key(self) -> str:
        return STATE_KEY

    @property
    def best_model_path(self) -> str:
        """The path that `trainer.test(ckpt_path="best")` asks for; empty while there is none."""
        return str(self.best_path) if self.best_step is not None else ""

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_score": self.best_score,
            "best_tie": self.best_tie,
            "best_step": self.best_step,
            "best_epoch": self.best_epoch,
            "config_hash": self.config_hash,
            "config": self.config,
            "inputs": self.inputs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_score, self.best_tie = state["best_score"], state.get("best_tie")
        self.best_step, self.best_epoch = state["best_step"], state["best_epoch"]

    # -- saving

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, epoch = restart.steps_done(trainer), trainer.current_epoch + 1
        due = self.every_n_steps is not None and step % self.every_n_steps == 0
        if trainer.is_last_batch:
            due = due or epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs
        if due and not restart.stops_here(trainer):
            self.save_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor is None or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        for key, name in (("monitor", self.monitor), ("tie_breaker", self.tie_breaker)):
            if name is not None and name not in trainer.callback_metrics:
                without = "no best.ckpt" if key == "monitor" else "ties that keep the earlier"
                raise UserError(
                    f"StepCheckpoint.{key}",
                    name,
                    f"a metric logged in validation: {', '.join(sorted(trainer.callback_metrics)) or 'there is none'}",
                    f"set {key} to one of these, or to null for {without}",
                )
        score = self.score(trainer)
        if trainer.current_epoch < self.selects_from:
            return
        tie = None if self.tie_breaker is None else _logged(trainer, self.tie_breaker)
        if self._better(score, tie):
            self.best_score, self.best_tie, self.best_step = score, tie, restart.steps_done(trainer)
            self.best_epoch = trainer.current_epoch
            self.chosen()
            self._save(trainer, self.best_path)

    def score(self, trainer: L.Trainer) -> float:
        """Return the monitored metric of this validation, the same on all ranks; called once per validation."""
        assert self.monitor is not None
        return _logged(trainer, self.monitor)

    def best(self) -> dict[str, Any]:
        """Return when `best.ckpt` was written, and why: what `result.json` says of it.

        `best_epoch` counts from 0 as in `history.csv`, `best_step` counts training batches, and `best_score` holds the
        deciding metrics by name. All are None while there is no such file.
        """
        decided = {self.monitor: self.best_score, self.tie_breaker: self.best_tie}
        scores = {name: value for name, value in decided.items() if name is not None}
        found = self.best_step is not None
        return {
            "best_epoch": self.best_epoch,
            "best_step": self.best_step,
            "best_score": scores if found else None,
        }

    def chosen(self) -> None:
        """Note that the present state is the best so far and about to be saved."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save_last(trainer)  # after `max_steps` or an early stop

    def save_last(self, trainer: L.Trainer) -> None:
        """Write `last.ckpt` unless it is already that of this step. Call it on all ranks, at a step's boundary."""
        step = restart.steps_done(trainer)
        if self.saved_step != step:
            self._save(trainer, self.last_path)
            self.saved_step, self._keeps_last = step, True

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        restart.add_place(trainer, checkpoint)

    def _better(self, score: float, tie: float | None) -> bool:
        if math.isnan(score):
            return False
        if self.best_score is None:
            return True
        if score == self.best_score and tie is not None and self.best_tie is not None:
            return tie < self.best_tie or (math.isnan(self.best_tie) and not math.isnan(tie))
        return score > self.best_score if self.mode == "max" else score < self.best_score

    def _save(self, trainer: L.Trainer, path: Path) -> None:
        tmp = path.with_name(f".{path.name}.tmp")
        try:
            trainer.save_checkpoint(tmp)
            if trainer.is_global_zero:
                keeps = path == self.last_path and self._keeps_last and path.exists()
                put_in_place(tmp, path, path.with_name(PREVIOUS) if keeps else None)
        except OSError as error:
            tmp.unlink(missing_ok=True)
            kept = "the previous one is still valid" if path.exists() else "there was none before"
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            first = "free disk space" if full else f"see that {path.parent} is there and can be written to,"
            raise UserError(
                str(path),
                f"cannot be written: {error.strerror or error}; {kept}",
                "room for one more checkpoint in that folder",
                f"{first} or move paths.runs, then start the same command again with resume=auto",
            ) from error
        trainer.strategy.barrier("StepCheckpoint")

    # -- resuming

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # one of the user's own stays
            trainer.strategy.checkpoint_io = SealedFile()
        if trainer.is_global_zero:
            self.last_path.parent.mkdir(parents=True, exist_ok=True)

        def refuse(*_: Any) -> None:
            self._refuse_other(trainer._checkpoint_connector._loaded_checkpoint)

        # Weights are loaded before callbacks are asked, and another model's weights fail with a less helpful message.
        self._unwatch()
        self._watch = pl_module.register_load_state_dict_pre_hook(refuse)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._unwatch()
        self._refuse_other(checkpoint)
        if trainer.state.fn == TrainerFn.FITTING and restart.KEY in checkpoint:
            restart.restore_history(trainer, checkpoint)
            self._resumed = checkpoint[restart.KEY]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._unwatch()
        self.saved_step = None
        resumed = trainer.ckpt_path
        self._keeps_last = resumed is not None and Path(resumed).resolve() == self.last_path.resolve()
        if self._resumed is not None:
            restart.reinstate(trainer, self._resumed)
            self._resumed = None
            epoch, step = trainer.current_epoch + 1, restart.steps_done(trainer)
            rank_zero_print(f"continues in epoch {epoch} of {trainer.max_epochs}, after step {step}")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._unwatch()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._unwatch()

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def _refuse_other(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("callbacks", {}).get(self.state_key)
        refuse_other_inputs(saved.get("inputs") if saved else None, self.inputs, "checkpoint to resume from")
        remedy = "resume with the configuration of the checkpoint, or train anew with resume=never"
        refuse_other_run(saved or {}, self.config_hash, self.config, "checkpoint to resume from", remedy)


def _logged(trainer: L.Trainer, name: str) -> float:
    """Return a logged metric as rank 0 has it."""
    return float(trainer.strategy.broadcast(float(trainer.callback_metrics[name])))


def _selection(
    monitor: str | None, mode: Literal["max", "min", "auto"], selects_by: tuple[str, Literal["max", "min"]] | None
) -> tuple[str | None, Literal["max", "min"]]:
    """Return the monitor and its mode, with `auto` replaced by what it stands for."""
    if monitor == "auto" and mode == "auto" and selects_by is not None:
        return selects_by
    if monitor is None:
        return None, "max"
    if monitor != "auto" and mode != "auto":
        return monitor, mode
    given = "val/loss" if monitor == "auto" else monitor
    raise UserError(
        "callbacks.checkpoint",
        f"monitor={monitor} with mode={mode}" + ("" if selects_by else ", in a program that selects by no metric"),
        "auto for both, or a metric and its mode, max or min",
        f"set callbacks.checkpoint.monitor={given} callbacks.checkpoint.mode={'min' if 'loss' in given else 'max'}",
    )
