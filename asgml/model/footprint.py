"""What a pass keeps for its backward pass, what it computes, and what training holds beside it, for `plan=true`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def kept_and_counted(owned: Iterable[Tensor], run: Callable[[], object]) -> tuple[int, int]:
    """Return the bytes that autograd keeps of what `run` does, each storage once, and its operations.

    A multiplication and an addition are two operations; those of a backward pass count where `run` does one.

    Args:
        owned: weights and buffers, which are kept anyway and do not count.
        run: what is measured; what it returns lives until all is counted, so that graphs are held together.
    """
    known = {t.untyped_storage().data_ptr() for t in owned}
    kept = dict[int, int]()
    alive = list[Tensor]()  # a freed storage would lend its address to another one

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        held = run()
    del held
    return sum(kept.values()), counter.get_total_flops()


def trained_bytes(weights: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of trained weights, their gradients and what the optimiser keeps of each."""
    states = 2 if "betas" in optimizer.defaults else int(bool(optimizer.defaults.get("momentum")))
    return sum(p.numel() * p.element_size() for p in weights) * (2 + states)
