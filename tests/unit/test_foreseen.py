"""What `plan=true` says of a run's memory and operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from asgml.data.spec import DataSpec, ModalitySpec
from asgml.foreseen import kept_and_operations
from asgml.model import Concat, MultimodalNet


class Two(nn.Module):
    """linear, ReLU, batch norm, linear: 6 -> 10 -> 4."""

    out_dim = 4

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(shape[0], 10), nn.BatchNorm1d(10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x).relu()))


def test_of_two_linear_maps_inputs_are_kept_and_products_counted() -> None:
    spec = DataSpec({m: ModalitySpec(m, "vector", (6,)) for m in ("a", "b")}, ["x", "y"])
    net = MultimodalNet(spec, Two, {}, Concat)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    kept, operations = kept_and_operations(net, spec)
    assert operations == 2 * 2 * (6 * 10 + 10 * 4)  # modalities, multiplication and addition
    # x, the ReLU's result (kept once, though ReLU and norm read it), the norm's; its mean and deviation per batch
    assert kept == pytest.approx(2 * 4 * (6 + 10 + 10 + 2 * 10 / 2))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
