"""What is known of other people's targets beyond their signatures: the ranges of their numbers, and who gets **kwargs.

Keys are the modules in which the targets are defined, which is not always where they are imported from.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from callbacks.ranges import (
    Bounds,
    Count,
    Finite,
    NonNegative,
    Positive,
    PositiveShare,
    Rate,
    Share,
    ShareBelowOne,
    Steps,
)

# Targets that pass their **kwargs on: the keys are then checked against the receiver's signature.
KWARGS_RECEIVER = {
    "lightning.pytorch.loggers.wandb.WandbLogger": "wandb.init",
    "lightning.pytorch.callbacks.weight_averaging.WeightAveraging": "torch.optim.swa_utils.AveragedModel",
    "lightning.pytorch.callbacks.weight_averaging.EMAWeightAveraging": "torch.optim.swa_utils.AveragedModel",
}

_Endless = Literal[-1]
_Devices = Annotated[int, Bounds("1 to 4096 devices", ge=1, le=4096)]
_Index = Annotated[int, Bounds("the number of a device, from 0 on", ge=0, le=4095)]
_Limit = Steps | Share | None  # batches as an integer, of all of them as a float
_Betas = tuple[ShareBelowOne, ShareBelowOne]

_ADAM = {"lr": Rate, "betas": _Betas, "eps": Positive, "weight_decay": NonNegative}

# Values for remedies, where the target's own default is none.
USUAL: dict[str, dict[str, Any]] = {"lightning.pytorch.trainer.trainer.Trainer": {"max_epochs": 100}}

RANGES: dict[str, dict[str, Any]] = {
    "torch.optim.sgd.SGD": {
        "lr": Rate,
        "momentum": ShareBelowOne,
        "dampening": Share,
        "weight_decay": NonNegative,
    },
    "torch.optim.adam.Adam": _ADAM,
    "torch.optim.adamw.AdamW": _ADAM,
    "torch.optim.adamax.Adamax": _ADAM,
    "torch.optim.nadam.NAdam": {**_ADAM, "momentum_decay": NonNegative},
    "torch.optim.radam.RAdam": _ADAM,
    "torch.optim.adadelta.Adadelta": {
        "lr": Rate,
        "rho": Share,
        "eps": Positive,
        "weight_decay": NonNegative,
    },
    "torch.optim.adagrad.Adagrad": {
        "lr": Rate,
        "lr_decay": NonNegative,
        "weight_decay": NonNegative,
        "initial_accumulator_value": NonNegative,
        "eps": Positive,
    },
    "torch.optim.rmsprop.RMSprop": {
        "lr": Rate,
        "alpha": Share,
        "eps": Positive,
        "weight_decay": NonNegative,
        "momentum": ShareBelowOne,
    },
    "lightning.pytorch.trainer.trainer.Trainer": {
        "devices": _Devices | list[_Index] | Literal[-1] | str,
        "num_nodes": Annotated[int, Bounds("1 to 4096 nodes", ge=1, le=4096)],
        "fast_dev_run": bool | Steps,
        "max_epochs": Count | _Endless,
        "min_epochs": Steps | None,
        "max_steps": Count | _Endless,
        "min_steps": Steps | None,
        "max_time": str | dict[str, Steps] | None,
        "limit_train_batches": _Limit,
        "limit_val_batches": _Limit,
        "limit_test_batches": _Limit,
        "limit_predict_batches": _Limit,
        "overfit_batches": Steps | Share,
        "val_check_interval": Count | PositiveShare | str | dict[str, Steps] | None,
        "check_val_every_n_epoch": Count | None,
        "num_sanity_val_steps": Steps | _Endless | None,
        "log_every_n_steps": Steps | None,
        "accumulate_grad_batches": Count,
        "gradient_clip_val": NonNegative | None,
        "reload_dataloaders_every_n_epochs": Steps,
    },
    "lightning.pytorch.loggers.csv_logs.CSVLogger": {"flush_logs_every_n_steps": Count},
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping": {
        "min_delta": NonNegative,
        "patience": Steps,
        "stopping_threshold": Finite | None,
        "divergence_threshold": Finite | None,
    },
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint": {
        "save_top_k": Steps | _Endless,
        "every_n_train_steps": Steps | None,
        "every_n_epochs": Steps | None,
    },
    "lightning.pytorch.callbacks.weight_averaging.EMAWeightAveraging": {
        "decay": Share,
        "update_every_n_steps": Count,
        "update_starting_at_step": Steps | None,
        "update_starting_at_epoch": Steps | None,
    },
}
