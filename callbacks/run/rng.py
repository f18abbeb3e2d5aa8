"""RNGState: the global random generators as part of the checkpoint."""

from __future__ import annotations

import random
import warnings
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

State = dict[str, Any]  # tensors, and under `cuda` a list of tensors


class RNGState(L.Callback):
    """Saves and restores the states of Python's, NumPy's (legacy) and torch's generators (CPU, all CUDA devices).

    Every rank's own states are in the checkpoint, as tensors. They are put back in `on_train_start`, after the data
    loaders and their iterators have been created, so that the first resumed step draws what it would have drawn.

    Example::

        callbacks:
          rng: {_target_: callbacks.RNGState}

    Limits: generators that a component keeps for itself (`torch.Generator`, `numpy.random.Generator`) belong in that
    component's state. Callbacks listed after this one, and the module, must not draw in `on_train_start`. With another
    number of ranks than at saving the run continues, but not bit by bit.
    """

    def __init__(self) -> None:
        self._saved: list[State] | None = None

    @property
    def state_key(self) -> str:
        return "RNGState"

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["callbacks"][self.state_key] = {"ranks": _of_all_ranks(trainer, capture())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved = state["ranks"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        saved, self._saved = self._saved, None
        if saved is None:
            return
        if len(saved) != trainer.world_size:
            warnings.warn(
                f"random states of {len(saved)} rank(s) on {trainer.world_size}: the run continues, but not bit by bit",
                stacklevel=2,
            )
        if trainer.global_rank < len(saved):
            restore(saved[trainer.global_rank])


def capture() -> State:
    """Return the states of all global generators: `python` (626,), `numpy` (626,) int64; `gauss` (2,); others uint8."""
    version, words, gauss = random.getstate()
    assert version == 3
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert kind == "MT19937"
    return {
        "python": torch.tensor([*words, gauss is not None], dtype=torch.int64),
        "numpy": torch.tensor([*map(int, keys), int(position), int(has_gauss)], dtype=torch.int64),
        "gauss": torch.tensor([0.0 if gauss is None else gauss, float(cached)], dtype=torch.float64),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(state: State) -> None:
    """Put back what `capture` returned. CUDA devices beyond those saved keep their state."""
    python, numpy, gauss, cpu, cuda = (state[key] for key in ("python", "numpy", "gauss", "torch", "cuda"))
    *words, has_gauss = python.tolist()
    random.setstate((3, tuple(words), gauss[0].item() if has_gauss else None))
    *keys, position, cached = numpy.tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, cached, gauss[1].item()))
    torch.set_rng_state(cpu.cpu())
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device, one in enumerate(cuda[:devices]):
        torch.cuda.set_rng_state(one.cpu(), device)


def _of_all_ranks(trainer: L.Trainer, state: State) -> list[State]:
    if trainer.world_size == 1:
        return [state]
    device = trainer.strategy.root_device

    def gather(tensor: Tensor) -> list[Tensor]:
        return list(trainer.strategy.all_gather(tensor.to(device)).cpu())

    cuda = [gather(tensor) for tensor in state["cuda"]]
    columns = {key: gather(tensor) for key, tensor in state.items() if key != "cuda"}
    return [
        {key: column[rank].clone() for key, column in columns.items()} | {"cuda": [c[rank].clone() for c in cuda]}
        for rank in range(trainer.world_size)
    ]
