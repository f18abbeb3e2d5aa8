"""Predictions of every sample of a split, and the metrics computed from all of them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics.functional.classification import multiclass_average_precision, multiclass_f1_score

from asgml.data.spec import Split, Table
from callbacks.files.atomic import write_bytes
from callbacks.files.sealed import sealed_archive
from callbacks.step.ranks import world_size

SPLIT_CODES = {"val": 1, "test": 2}


@dataclass
class Predictions:
    """Holds what was predicted for every sample of a split.

    Attributes:
        index: (n,) the position of each sample in the split's table.
        y: (n,) the labels, or the values of a regression (float32).
        prob: (n, C) the class probabilities of the fused prediction; in a regression (n, 1) the predicted values.
        unimodal: per modality (n, C) the same of its head, NaN where the modality is missing.
    """

    index: np.ndarray
    y: np.ndarray
    prob: np.ndarray
    unimodal: dict[str, np.ndarray]

    @classmethod
    def of(
        cls, index: Tensor, y: Tensor, prob: Tensor, unimodal: dict[str, Tensor], present: dict[str, Tensor | None]
    ) -> Predictions:
        """Return the predictions of one batch; `present` has the presence masks (B,), None for "in every row"."""
        single = {}
        for m, p in unimodal.items():
            mask = present[m]
            single[m] = p if mask is None else torch.where(mask[:, None], p, torch.full_like(p, torch.nan))
        return cls(_numpy(index), _numpy(y), _numpy(prob), {m: _numpy(p) for m, p in single.items()})

    @classmethod
    def gather(cls, parts: list[Predictions]) -> Predictions:
        """Return the predictions of all batches of all ranks, in the order of the split, each sample once.

        Raises:
            RuntimeError: there are no batches, or a sample was evaluated twice.
        """
        if world_size() > 1:
            everyone: list[list[Predictions] | None] = [None] * world_size()
            dist.all_gather_object(everyone, parts)
            parts = [p for rank in everyone for p in rank or []]
        if not parts:
            raise RuntimeError("nothing was evaluated: the split has no batches")
        names = parts[0].unimodal
        whole = cls(
            np.concatenate([p.index for p in parts]),
            np.concatenate([p.y for p in parts]),
            np.concatenate([p.prob for p in parts]),
            {m: np.concatenate([p.unimodal[m] for p in parts]) for m in names},
        )
        order = np.argsort(whole.index, kind="stable")
        if len(np.unique(whole.index)) != len(order):
            raise RuntimeError("a sample was evaluated twice: the loader pads, which it must not")
        return cls(
            whole.index[order], whole.y[order], whole.prob[order], {m: p[order] for m, p in whole.unimodal.items()}
        )


def class_counts(y: np.ndarray, classes: int) -> list[int]:
    """Return how many of the labels (n,) are of each class."""
    return np.bincount(y, minlength=classes).tolist()


def _numpy(x: Tensor) -> np.ndarray:
    x = x.detach().cpu()
    return (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).numpy()


def negative_log_likelihood(prob: np.ndarray, y: np.ndarray) -> float:
    """Return the mean negative log-likelihood, in nats, of labels (n,) under class probabilities (n, C)."""
    tiny = np.finfo(prob.dtype).tiny
    return float(-np.log(np.maximum(prob[np.arange(len(y)), y], tiny)).mean(dtype=np.float64))


def evaluate(predictions: Predictions, classes: int, gamma: float) -> dict[str, float]:
    """Return the metrics of a split.

    They are `loss` (`L_fusion + gamma * sum_m L_m`), `loss/fusion`, `accuracy`, `macro_f1` and `map` (means over the
    classes that occur, by torchmetrics), and `accuracy/<m>` and `loss/<m>` over the rows that have m.
    """
    y, prob = torch.from_numpy(predictions.y), torch.from_numpy(predictions.prob)
    fused = negative_log_likelihood(predictions.prob, predictions.y)
    out = {
        "loss/fusion": fused,
        "accuracy": float((prob.argmax(1) == y).double().mean()),
        "macro_f1": float(multiclass_f1_score(prob, y, num_classes=classes, average="macro")),
        "map": float(multiclass_average_precision(prob, y, num_classes=classes, average="macro")),
    }
    total = fused
    for m, p in predictions.unimodal.items():
        rows = ~np.isnan(p[:, 0])
        if rows.any():
            out[f"accuracy/{m}"] = float((p[rows].argmax(1) == predictions.y[rows]).mean())
            out[f"loss/{m}"] = negative_log_likelihood(p[rows], predictions.y[rows])
            total += gamma * out[f"loss/{m}"]
    return {"loss": total, **out}


def save_predictions(path: Path, splits: Mapping[Split, Predictions], tables: Mapping[Split, Table]) -> None:
    """Write the predictions of all given splits to one .npz, whole or not at all.

    Its arrays are `index`, `y`, `split` (1 for val, 2 for test), `prob` and `prob_<modality>` (see `Predictions`; a
    regression has `value` and `value_<modality>` (n,) in their place), and from the splits' tables `id` (the samples'
    names) and, where the data have them, `row` (of the file), `group` and `grouped_by` (0-d, what a group is).
    """
    parts = list(splits.items())
    what = "value" if parts[0][1].y.dtype.kind == "f" else "prob"

    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        whole = np.concatenate(arrays).astype(np.float32)
        return whole[:, 0] if what == "value" else whole

    arrays = {
        "index": np.concatenate([p.index for _, p in parts]),
        "y": np.concatenate([p.y for _, p in parts]),
        "split": np.concatenate([np.full(len(p.y), SPLIT_CODES[s], dtype=np.int8) for s, p in parts]),
        what: joined([p.prob for _, p in parts]),
    }
    origin = [(tables[s], p.index) for s, p in parts]
    arrays["id"] = np.concatenate([np.array([table.ids[i] for i in index]) for table, index in origin])
    rows = [table.row[index] for table, index in origin if table.row is not None]
    if len(rows) == len(origin):
        arrays["row"] = np.concatenate(rows)
    groups = [table.group[index] for table, index in origin if table.group is not None]
    if len(groups) == len(origin):
        arrays["group"], arrays["grouped_by"] = np.concatenate(groups), np.array(origin[0][0].grouped_by)
    for m in parts[0][1].unimodal:
        arrays[f"{what}_{m}"] = joined([p.unimodal[m] for _, p in parts])
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    write_bytes(path, sealed_archive(content))
