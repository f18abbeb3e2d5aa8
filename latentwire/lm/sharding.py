"""A frozen reader whose layers lie in pieces on all ranks (FSDP: Zhao et al., 2023, arXiv 2304.11277).

Lightning's `FSDPStrategy` wraps what is trained, and would cut the gradients that this suite measures and clips by
group into flat pieces. Here what is large is frozen: its layers are sharded by PyTorch's `fully_shard`, and the wire is
trained under DDP. Embeddings, final norm and head stay whole on every rank: they are read outside of the forward pass.
"""

from __future__ import annotations

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from callbacks.errors import UserError
from callbacks.step.ranks import world_size
from latentwire.lm.frozen import FrozenLM


def shard(lm: FrozenLM) -> None:
    """Leave every rank its piece of each layer, which is gathered when the layer runs and dropped after it; once.

    Numbers do not change. From then on all ranks have to make the same passes in the same order: `FrozenLM.generate`
    goes on until all ranks have ended, and `batches.read` makes one pass whatever its padding.

    Args:
        lm: the model, whole on every rank's own device.

    Raises:
        UserError: a model with a sliding window, of which ranks would read different numbers of rows; with a place of
            its own; or with LoRA, whose gradient enters a layer by the cache of the prompt's head, where nothing would
            gather the layer again.
    """
    if lm.sharded or world_size() == 1:
        return
    reasons = {
        "a sliding window": lm.window is not None,
        "a place of its own (device_map, placement.devices)": lm.placed,
        "an adapter": lm.adapted,
    }
    for found, holds in reasons.items():
        if holds:
            expected, remedy = f"a model without {found}", "set placement.shard=false"
            raise UserError("placement.shard", f"{lm.name}, with {found}", expected, remedy)
    mesh = init_device_mesh(lm.input_device.type, (world_size(),))
    names = [name for name, _ in lm.model.named_parameters()]
    for name in lm.anatomy.layers:
        fully_shard(lm.decoder.get_submodule(name), mesh=mesh, reshard_after_forward=True)
    lm.now_sharded(names)
