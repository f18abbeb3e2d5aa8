"""What the fused prediction relies on: test samples whose modalities disagree, and samples that lack one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from asgml.data.dataset import Batch
from asgml.train.module import MultimodalModule
from callbacks.step.ranks import world_size

CHUNK = 1024  # rows that are fused at a time


@dataclass
class EncodedSplit:
    """Holds the features of samples, ascending in index.

    Attributes:
        index: (n,) the samples' positions in the split's table.
        y: (n,) their labels.
        features: per modality the features (n, d_m), zero where absent.
        present: per modality whether a sample has it, (n,) bool.
    """

    index: Tensor
    y: Tensor
    features: dict[str, Tensor]
    present: dict[str, Tensor]

    @classmethod
    def gather(cls, parts: list[EncodedSplit]) -> EncodedSplit:
        """Return the parts of all ranks as one, on the device of the first."""
        device = parts[0].y.device
        if world_size() > 1:
            everyone: list[Any] = [None] * world_size()
            dist.all_gather_object(everyone, [part.to(torch.device("cpu")) for part in parts])
            parts = [part.to(device) for rank in everyone for part in rank]
        order = torch.cat([part.index for part in parts]).argsort()

        def joined(tensors: list[Tensor]) -> Tensor:
            return torch.cat(tensors)[order]

        return cls(
            joined([part.index for part in parts]),
            joined([part.y for part in parts]),
            {m: joined([part.features[m] for part in parts]) for m in parts[0].features},
            {m: joined([part.present[m] for part in parts]) for m in parts[0].present},
        )

    def to(self, device: torch.device) -> EncodedSplit:
        """Return the same on another device."""
        features = {m: f.to(device) for m, f in self.features.items()}
        return EncodedSplit(
            self.index.to(device), self.y.to(device), features, {m: p.to(device) for m, p in self.present.items()}
        )

    def rows(self, chosen: Tensor) -> EncodedSplit:
        """Return some of the samples, by position (k,)."""
        features = {m: f[chosen] for m, f in self.features.items()}
        present = {m: p[chosen] for m, p in self.present.items()}
        return EncodedSplit(self.index[chosen], self.y[chosen], features, present)

    def swapped(self, modality: str, other: EncodedSplit) -> EncodedSplit:
        """Return the samples with one modality from as many other samples."""
        features = {**self.features, modality: other.features[modality]}
        return EncodedSplit(self.index, self.y, features, {**self.present, modality: other.present[modality]})

    def without(self, modality: str) -> EncodedSplit:
        """Return the samples without one modality."""
        features = {**self.features, modality: torch.zeros_like(self.features[modality])}
        present = {**self.present, modality: torch.zeros_like(self.present[modality])}
        return EncodedSplit(self.index, self.y, features, present)


def partners(y: np.ndarray, rows: np.ndarray, candidates: np.ndarray, seed: list[int]) -> np.ndarray:
    """Return for each row a candidate of another class, drawn evenly with replacement; -1 where there is none.

    Args:
        y: (n,) the labels of all samples.
        rows: (k,) the positions of the rows.
        candidates: (c,) the positions that may be drawn.
        seed: of the draws, which depend on nothing else.
    """
    rng, drawn = np.random.default_rng(seed), np.full(len(rows), -1)
    for label in np.unique(y[rows]):
        of_class, others = np.flatnonzero(y[rows] == label), candidates[y[candidates] != label]
        if len(others):
            drawn[of_class] = rng.choice(others, len(of_class))
    return drawn


def mispaired(prob: Tensor, y: Tensor, y_swapped: Tensor) -> dict[str, float]:
    """Return whom predictions (k, C) follow where one modality is of class `y_swapped` and the others of `y`, (k,).

    They are `follows` and `stays`, the shares that predict the class of the swapped modality and that of the others;
    `confidence` and `confidence_others`, the mean probabilities of these classes; and `both`, the share whose two
    largest probabilities are these two classes.
    """
    guess, two = prob.argmax(1), prob.topk(2, dim=1).indices
    both = (two == y[:, None]).any(1) & (two == y_swapped[:, None]).any(1)
    row = torch.arange(len(y), device=y.device)
    found = {
        "follows": guess == y_swapped,
        "stays": guess == y,
        "both": both,
        "confidence": prob[row, y_swapped],
        "confidence_others": prob[row, y],
    }
    return {name: float(values.double().mean()) for name, values in found.items()}


def predictions_of(module: MultimodalModule, split: EncodedSplit) -> Tensor:
    """Return the class probabilities (n, C) that the module gives encoded samples, as in evaluation."""
    parts = []
    for chosen in torch.arange(len(split.y), device=split.y.device).split(CHUNK):
        part = split.rows(chosen)
        batch: Batch = {"x": {}, "rows": {}, "y": part.y, "index": part.index}
        parts.append(module.prediction(module.step_of(batch, (part.features, dict(part.present)))))
    return torch.cat(parts)


def reliance(module: MultimodalModule, split: EncodedSplit) -> dict[str, float]:
    """Return what `Reliance` measures, of a split of classes; {} with fewer than two modalities."""
    out: dict[str, float] = {}
    names = module.active
    y = split.y.cpu().numpy()
    shares, total = 0.0, 0
    for number, m in enumerate(names if len(names) > 1 else []):
        others = torch.stack([split.present[o] for o in names if o != m]).any(0)
        rows = (split.present[m] & others).nonzero()[:, 0].cpu().numpy()
        drawn = partners(y, rows, split.present[m].nonzero()[:, 0].cpu().numpy(), [number, len(y)])
        rows, drawn = rows[drawn >= 0], drawn[drawn >= 0]
        if not len(rows):
            continue
        here, there = (split.rows(torch.as_tensor(at, device=split.y.device)) for at in (rows, drawn))
        found = mispaired(predictions_of(module, here.swapped(m, there)), here.y, there.y)
        for name, part in (("accuracy", here), ("without", here.without(m))):
            found[name] = float((predictions_of(module, part).argmax(1) == here.y).double().mean())
        out |= {f"{name}/{m}": value for name, value in found.items()} | {f"rows/{m}": float(len(rows))}
        shares, total = shares + found["both"] * len(rows), total + len(rows)
    return out | ({"both": shares / total} if total else {})


class Reliance(L.Callback):
    """Measures at the end of every test what the fused prediction relies on: which modality it follows where they
    disagree, and what it loses without each. One more pass over the test split, and 3 M fusions of its features.

    For each modality m, every test sample i that has m and another modality gets m from a test sample j of another
    class. On these pairs: `follows/<m>`, the share predicted as y_j; `stays/<m>`, as y_i; `confidence/<m>` and
    `confidence_others/<m>`, the mean probabilities of y_j and y_i; `both/<m>`, the share with both in the top 2. On the
    same samples i as they are: `accuracy/<m>`, and `without/<m>`, the accuracy with m absent; `rows/<m>` is their
    number. `both` is over all pairs. A prediction that reads m alone has follows 1, one that ignores it stays as it is.

    From MIDAS (Hwang et al., "Misalignment-based Data Augmentation Strategy for Imbalanced Multimodal Learning",
    NeurIPS 2025, arXiv 2509.25831): samples with modalities of different classes, the accuracy of both labels in the
    top 2, and the confidence in either (its Figure 1, on validation data). Its method, training on such samples, is not
    in here. Ours: the test split, partners that depend on the data alone (the same for all methods and seeds), one
    swapped modality among any number, the shares of top-1 predictions, and the accuracies without a modality. These are
    the missing-modality configurations over which MissBench (arXiv 2603.09874) defines its Modality Equity Index; the
    formula of the index was not at hand, so that none is computed.

        callbacks:
          reliance:
            _target_: asgml.train.Reliance

    Limits: classes only, and at least two modalities; nothing is measured otherwise. Features of the whole split are
    held in memory. `callbacks.reliance=null` switches it off.

    Attributes:
        found: what the newest test found, by the names above.
    """

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self._parts: list[EncodedSplit] = []

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.found, self._parts = {}, []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        module = _measurable(pl_module)
        if module is not None:
            with trainer.precision_plugin.forward_context():
                features, present = module.forward_pass.encode(batch)
            everyone = torch.ones_like(batch["index"], dtype=torch.bool)
            masks = {m: everyone if mask is None else mask for m, mask in present.items()}
            self._parts.append(EncodedSplit(batch["index"], batch["y"], features, masks))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = _measurable(pl_module)
        if module is not None:
            with trainer.precision_plugin.forward_context():
                self.found = reliance(module, EncodedSplit.gather(self._parts))
        self._parts = []


def _measurable(module: L.LightningModule) -> MultimodalModule | None:
    if not isinstance(module, MultimodalModule) or module.task.name != "classification":
        return None
    return module if len(module.active) > 1 else None
