"""CheckpointManifest: a checkpoint says what it holds, and loading it proves that it does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from callbacks.errors import UserError

KEY = "manifest"
CURRENT = "current_model_state"  # where Lightning's weight averaging puts what it replaces by the average
SHOWN = 6
Entry = dict[str, Any]  # shape, dtype, sha256


def tensor_hash(tensor: Tensor) -> str:
    """Return the SHA-256 over the bytes of a tensor, wherever it lies."""
    plain = tensor.detach().cpu().contiguous()
    return hashlib.sha256(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"").hexdigest()


def entry_of(tensor: Tensor) -> Entry:
    """Return what the manifest says of a tensor."""
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "sha256": tensor_hash(tensor)}


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name; one that has several names appears once."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def verify(checkpoint: Mapping[str, Any], module: nn.Module | None = None, where: str = "checkpoint") -> None:
    """Prove that a checkpoint holds what was saved: every tensor in the file, and the trained ones now in a module.

    Args:
        checkpoint: the checkpoint as loaded.
        module: the module after `load_state_dict`; None checks the file alone.
        where: the name of the file in errors.

    Raises:
        UserError: no manifest; a tensor that is missing or of another shape or value; a trainable tensor of the module
            that nobody saved.
    """
    if KEY not in checkpoint:
        remedy = "train again with callbacks.CheckpointManifest among the callbacks"
        raise UserError(where, "no manifest", "a checkpoint written with CheckpointManifest", remedy)
    listed: Mapping[str, Entry] = checkpoint[KEY]["tensors"]
    others: Mapping[str, Entry] = checkpoint[KEY].get("others", {})  # none in a manifest of an earlier release
    problems = _compare({**listed, **others}, checkpoint["state_dict"], "the file")
    if module is not None:
        here = trainable(module)
        problems += _compare(listed, here, "the model after loading")
        problems += [f"{name} is trainable here and was never saved" for name in here if name not in listed]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            where,
            "; ".join(problems[:SHOWN]) + more,
            f"{len(listed)} tensors, {checkpoint[KEY]['parameters']} trainable parameters as in its manifest",
            "load it into the model it was trained with, adapters (LoRA) included; if the file is damaged, train again",
        )


def _compare(listed: Mapping[str, Entry], tensors: Mapping[str, Tensor], what: str) -> list[str]:
    problems = []
    for name, entry in listed.items():
        if name not in tensors:
            problems.append(f"{name} {tuple(entry['shape'])} is missing in {what}")
        elif list(tensors[name].shape) != entry["shape"]:
            problems.append(f"{name} is {tuple(tensors[name].shape)} in {what}, was {tuple(entry['shape'])}")
        elif entry_of(tensors[name]) != entry:
            problems.append(f"{name} has other values in {what}")
    return problems


class CheckpointManifest(L.Callback):
    """Writes into every checkpoint name, shape, dtype and hash of every tensor, and checks them on loading.

    Trainable tensors are checked in the file and in the module; all others (buffers, frozen weights) in the file.

    Saving is refused when a tensor that the optimiser moves is in no place of the saved `state_dict` (LoRA weights on a
    model that is not part of the module): such a checkpoint would come back smaller, in silence. Resuming checks the
    file before the weights are used and the module when training starts. For loading by hand there is `verify`.

    Example::

        callbacks:
          manifest: {_target_: callbacks.CheckpointManifest}

    Limits: one copy of all tensors is hashed per save (about 2 s per GB). It must come after a callback that
    replaces the saved weights (`WeightAveraging`), so that it describes what the file holds. Parameters of sharded
    strategies are not gathered.

    Raises:
        UserError: a trained tensor that would not be saved, or a checkpoint that does not hold what its manifest says.
    """

    reads_other_callbacks = True  # it describes what they have left to be saved: it comes after them

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None

    @property
    def state_key(self) -> str:
        return "CheckpointManifest"

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        state: dict[str, Tensor] = checkpoint["state_dict"]
        saved = {_place(t) for t in checkpoint.get(CURRENT, state).values()}
        lost = [
            f"a tensor {tuple(p.shape)} of group {group.get('name', number)}"
            for optimizer in trainer.optimizers
            for number, group in enumerate(optimizer.param_groups)
            for p in group["params"]
            if p.requires_grad and p.numel() and _place(p) not in saved
        ]
        missing = [name for name in trainable(pl_module) if name not in state]
        if lost or missing:
            found = [*(f"{name} is not in it" for name in missing), *lost]
            raise UserError(
                "checkpoint to be written",
                f"trained, but not saved: {'; '.join(found[:SHOWN])}" + (" …" if len(found) > SHOWN else ""),
                "every trained tensor in the module's state_dict",
                "make it an nn.Parameter attribute of the module (of an adapter on a frozen model: its LoRA weights)",
            )
        names = trainable(pl_module)
        fixed = [name for name, value in state.items() if name not in names and isinstance(value, Tensor)]
        checkpoint[KEY] = {
            "tensors": {name: entry_of(state[name]) for name in names},
            "others": {name: entry_of(state[name]) for name in fixed},
            "parameters": sum(p.numel() for p in names.values()),
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        verify(checkpoint)
        state = checkpoint.get(CURRENT, checkpoint["state_dict"])
        tensors = {name: entry_of(state[name]) for name in checkpoint[KEY]["tensors"]}
        self._resumed = {KEY: {**checkpoint[KEY], "tensors": tensors, "others": {}}}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            verify({**resumed, "state_dict": trainable(pl_module)}, pl_module, "checkpoint to resume from")


def _place(tensor: Tensor) -> tuple[int, int]:
    """Return the memory that a tensor looks at: a state dict holds views of the parameters, not copies."""
    return tensor.data_ptr(), tensor.numel()
