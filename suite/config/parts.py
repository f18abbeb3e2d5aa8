"""The parts that all programs have, as types of the schemas of their trees."""

from __future__ import annotations

from typing import Annotated, Any

from suite.config.wording import Built

OptimizerPart = Annotated[Any, Built("torch.optim.Optimizer", "set optimizer=adamw")]
SchedulePart = Annotated[Any, Built("callbacks.LRSchedule", "set lr_schedule=cosine")]
TrainerPart = Annotated[Any, Built("lightning.Trainer", "set {key}._target_=lightning.Trainer")]
CallbackPart = Annotated[Any, Built("lightning.Callback", "leave {key} out: ~{key}")]
LoggerPart = Annotated[Any, Built("lightning.pytorch.loggers.Logger", "set logger=[csv]")]
