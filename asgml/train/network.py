"""A finished network as a function of tensors alone: what leaves the suite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from asgml.data.dataset import Batch
from asgml.data.spec import DataSpec
from asgml.model.fusion.base import keep
from asgml.train.inference import Finished


class Network(nn.Module):
    """Maps prepared inputs of all modalities to what a run predicts from them.

    Rows are encoded whether they have the modality or not, and what an absent one holds reaches nothing.

    Args:
        finished: network and methods with their weights, in evaluation mode.
    """

    def __init__(self, finished: Finished):
        super().__init__()
        self.finished = finished
        self.what = "value" if finished.task.name == "regression" else "prob"

    def forward(
        self, x: Mapping[str, Tensor], present: Mapping[str, Tensor], lengths: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return `prob` (B, C) and of every modality `prob_<m>` (B, C); in a regression `value` (B, 1), `value_<m>`.

        Args:
            x: the inputs of every modality (B, *shape), as the transforms of the data return them.
            present: whether each row has the modality, (B,) bool; `prob_<m>` is NaN where it has not.
            lengths: of padded modalities, the number of valid steps of each row, (B,) int64.
        """
        net = self.finished.net
        size = next(iter(x.values())).shape[0]
        weight = next(net.parameters())
        features = {}
        for m in net.modalities:
            if m in self.finished.active:
                f = net.encoders[m](x[m], lengths[m]) if m in lengths else net.encoders[m](x[m])
                features[m] = keep(f, present[m])
            else:
                features[m] = torch.zeros(size, net.dims[m], dtype=weight.dtype, device=weight.device)
        y = torch.zeros(size, dtype=torch.int64 if self.what == "prob" else weight.dtype, device=weight.device)
        step = self.finished.step_of({"y": y}, encoded=(features, dict(present)))
        out = {self.what: self.finished.prediction(step)}
        for m, z in step.unimodal.items():
            single = self.finished.task.predict(z)
            out[f"{self.what}_{m}"] = torch.where(present[m][:, None], single, torch.full_like(single, torch.nan))
        return out


Inputs = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]  # x, present and lengths


def drawn_inputs(spec: DataSpec, rows: int, seed: int, dtype: torch.dtype = torch.float32) -> Inputs:
    """Draw inputs on which two forms of one network are compared; in every other row one modality is absent.

    Args:
        spec: modalities and shapes.
        rows: the number of rows.
        seed: the seed of the draws.
        dtype: that of the weights.
    """
    g = torch.Generator().manual_seed(seed)
    x, present, lengths = {}, {}, {}
    for number, (name, m) in enumerate(spec.modalities.items()):
        if m.kind == "tokens":
            x[name] = torch.randint(0, 2, (rows, *m.shape), generator=g)
        else:
            x[name] = torch.randn(rows, *m.shape, generator=g, dtype=dtype)
        others = len(spec.modalities) > 1
        gone = (torch.arange(rows) % (2 * len(spec.modalities)) == 2 * number + 1) & torch.tensor(others)
        present[name] = ~gone
        if m.padded:
            lengths[name] = torch.randint(1, m.shape[0] + 1, (rows,), generator=g)
            x[name][torch.arange(m.shape[0]) >= lengths[name][:, None]] = 0
    return x, present, lengths


def batch_of(inputs: Inputs, regression: bool) -> Batch:
    """Return inputs as the suite batches them: of every modality the rows that have it."""
    x, present, lengths = inputs
    rows = {m: p.nonzero()[:, 0] for m, p in present.items()}
    size = len(next(iter(present.values())))
    return {
        "x": {m: x[m][r] for m, r in rows.items()},
        "rows": {m: None if len(r) == size else r for m, r in rows.items()},
        "lengths": {m: n[rows[m]] for m, n in lengths.items()},
        "y": torch.zeros(size, dtype=torch.float32 if regression else torch.int64),
        "index": torch.arange(size),
    }
