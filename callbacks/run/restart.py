"""What Lightning's own checkpoint leaves out: the exact place between two steps, and the metrics under way.

Lightning 2.6 restores a checkpoint saved in `on_train_batch_end` only in the middle of an epoch with no validation due.
At a step that validation follows, or at an epoch's last step, it skips that validation and `on_train_epoch_end`; with
`max_steps` it repeats an epoch's end; step metrics of the saved step and epoch means under way are lost. `add_place`
writes the place into the checkpoint in the one form that Lightning continues exactly, and `reinstate` does the rest at
the start of the resumed training. Three places are continued exactly:

- `step`: in `on_train_batch_end`, by the callbacks. What is due after that step (validation, the epoch's end) comes
  first.
- `validation`: in `on_validation_end`. Validation is not repeated. A checkpoint from within a validation repeats it.
- `epoch`: in `on_train_epoch_end` of checkpoint callbacks and in `on_train_end`. The next epoch comes first.
"""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from torch import Tensor

from callbacks.run.history_logger import HistoryLogger

KEY = "restart"


def steps_done(trainer: L.Trainer) -> int:
    """Return the number of training batches finished since the start of the run, over all epochs and resumptions."""
    return trainer.fit_loop.total_batch_idx + 1


def stops_here(trainer: L.Trainer) -> bool:
    """Return whether this is the last step under `max_steps`, after which Lightning runs nothing on resuming."""
    return trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps


def add_place(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Complete a checkpoint that is being saved; call it on all ranks. Doing it twice changes nothing."""
    if trainer.state.fn != TrainerFn.FITTING:
        return
    loop: Any = trainer.fit_loop.epoch_loop
    epochs: Any = trainer.fit_loop.epoch_progress.total
    connector = trainer._logger_connector
    saved = checkpoint["loops"]["fit_loop"]
    batches = saved["epoch_loop.batch_progress"]
    val = saved["epoch_loop.val_loop.batch_progress"]
    total = loop.batch_progress.total
    pending: dict[str, Tensor] = {}
    exhausted = False

    if total.processed == total.completed + 1:
        place = "step"
        for count in (batches["total"], batches["current"]):
            count["completed"] = count["processed"]
        due = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        # Lightning counts the step after the validation that follows it, and after the hook in which this is saved.
        saved["epoch_loop.state_dict"]["_batches_that_stepped"] = loop._batches_that_stepped + (not due)
        exhausted = not due and loop._num_ready_batches_reached()
        if connector.should_update_logs:
            pending = dict(connector.metrics["log"])
    elif trainer.state.stage == RunningStage.VALIDATING:
        place = "validation"
        progress = loop.val_loop.batch_progress
        due = not (progress.is_last_batch and progress.current.completed == progress.current.ready)
        exhausted = not due and loop._num_ready_batches_reached()
    else:
        place, due = ("epoch" if epochs.processed == epochs.started else "unknown"), False

    if place in ("step", "validation"):
        # "mid evaluation, nothing done yet" is how Lightning is told to run the validation first
        done = val["total"]["completed"]
        val["total"].update(ready=done + due, started=done + due, processed=done, completed=done)
        if due:
            val["current"].update(ready=1, started=1, processed=0, completed=0)
            val["is_last_batch"] = False
    checkpoint[KEY] = {
        "place": place,
        "exhausted": bool(exhausted),
        "epoch_metrics": _epoch_metrics(trainer) if place in ("step", "validation") else [],
        "history": _history(trainer, pending),
    }


def restore_history(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Cut the tables of each `HistoryLogger` back to the checkpoint."""
    for logger, state in zip(_loggers(trainer), checkpoint[KEY]["history"], strict=False):
        logger.load_state_dict(state)


def reinstate(trainer: L.Trainer, state: dict[str, Any]) -> None:
    """Put a resumed run at its place; call it in `on_train_start` with the checkpoint's `restart` entry."""
    fit: Any = trainer.fit_loop
    if state["place"] == "unknown":
        return
    if state["place"] == "epoch":
        # Under `max_steps` Lightning takes every checkpoint for one from the middle of an epoch.
        for count in (fit.epoch_progress.total, fit.epoch_progress.current):
            count.completed = count.processed
        for loop in (fit, fit.epoch_loop, fit.epoch_loop.val_loop):
            loop._restarting = loop._loaded_from_state_dict = loop._resuming_from_checkpoint = False
            loop.reset_restart_stage()
        return
    if fit._combined_loader_states_to_load:
        # Lightning has passed them over: `estimated_stepping_batches` in `configure_optimizers` sets up the data
        # before the loops are restored.
        fit._combined_loader._load_state_dicts(fit._combined_loader_states_to_load)
        fit._combined_loader_states_to_load = []
        iter(fit._data_fetcher)
    _restore_epoch_metrics(trainer, state["epoch_metrics"])
    # Otherwise the first `self.log` would take the resumed step for the first of the epoch and reset these metrics.
    trainer._logger_connector._first_loop_iter = True
    if state["exhausted"]:
        # Lightning asks for another batch before it sees that the epoch is over.
        fetcher: Any = fit._data_fetcher
        fetcher.iterator = iter(())
        fetcher.batches = []
        fetcher.done = fetcher.done or hasattr(fetcher, "iterator_wrapper")


def _loggers(trainer: L.Trainer) -> list[HistoryLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, HistoryLogger)]


def _history(trainer: L.Trainer, pending: dict[str, Tensor]) -> list[dict[str, Any]]:
    if not trainer.is_global_zero:
        return []
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    metrics = {name: value.item() for name, value in pending.items()}
    if "step" in metrics:  # Lightning's own rule
        step = int(metrics.pop("step"))
    else:
        metrics["epoch"] = trainer.current_epoch
    return [logger.state_dict(metrics, step) for logger in _loggers(trainer)]


def _epoch_metrics(trainer: L.Trainer) -> list[dict[str, Any]]:
    """Return the accumulators behind `self.log(…, on_epoch=True)`, one value per rank, as plain data."""
    saved = []
    for metric in trainer.fit_loop.epoch_loop._results.values():
        meta = metric.meta
        if not metric.is_tensor or metric.has_reset or meta.sync.group is not None:
            continue
        state = {"value": metric.value, "cache": metric._forward_cache}
        if meta.is_mean_reduction:
            state["count"] = metric.cumulated_batch_size
        saved.append(
            {
                "meta": {
                    "fx": meta.fx,
                    "name": meta.name,
                    "prog_bar": meta.prog_bar,
                    "logger": meta.logger,
                    "on_step": meta.on_step,
                    "on_epoch": meta.on_epoch,
                    "reduce_fx": meta.reduce_fx.__name__,
                    "enable_graph": meta.enable_graph,
                    "add_dataloader_idx": meta.add_dataloader_idx,
                },
                "sync": meta.sync.should,
                "rank_zero_only": meta.sync.rank_zero_only,
                "state": {
                    key: _by_rank(trainer, tensor, meta.sync.rank_zero_only)
                    for key, tensor in state.items()
                    if tensor is not None
                },
            }
        )
    return saved


def _by_rank(trainer: L.Trainer, tensor: Tensor, rank_zero_only: bool) -> Tensor:
    """Return the values of all ranks (world,), or (1,) of this rank alone."""
    if trainer.world_size == 1 or rank_zero_only:
        return tensor.detach().cpu().reshape(1)
    return trainer.strategy.all_gather(tensor.detach().to(trainer.strategy.root_device)).cpu().reshape(-1)


def _restore_epoch_metrics(trainer: L.Trainer, saved: list[dict[str, Any]]) -> None:
    results = trainer.fit_loop.epoch_loop._results
    for entry in saved:
        if entry["rank_zero_only"] and not trainer.is_global_zero:
            continue
        meta = _Metadata(**entry["meta"])
        meta.sync = _Sync(_should=entry["sync"], fn=trainer.strategy.reduce, rank_zero_only=entry["rank_zero_only"])
        metric = _ResultMetric(meta, is_tensor=True).to(trainer.strategy.root_device)
        state = {
            key: values[min(trainer.global_rank, len(values) - 1)].to(trainer.strategy.root_device)
            for key, values in entry["state"].items()
        }
        metric.value = state["value"]
        metric._forward_cache = state.get("cache")
        if "count" in state:
            metric.cumulated_batch_size = state["count"]
        metric._update_count = 1  # torchmetrics: compute() without an update would warn
        results[f"{meta.fx}.{meta.name}"] = metric
