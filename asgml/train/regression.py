"""The metrics of a regression, those of sentiment intensity among them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional import pearson_corrcoef
from torchmetrics.functional.classification import multiclass_f1_score

from asgml.train.predictions import Predictions

SENTIMENT = 3.0  # annotated from -3 (strongly negative) to 3


def evaluate_regression(
    predictions: Predictions, loss: Callable[[Tensor], Tensor], gamma: float, sentiment: bool
) -> dict[str, float]:
    """Return the metrics of a split.

    They are `loss` (`L_fusion + gamma * sum_m L_m`), `loss/fusion`, `mae` and `pearson` (correlation; 0 where all
    predictions or all values are the same), `mae/<m>` and `loss/<m>` over the rows that have m, and those of
    `sentiment_metrics`.

    Args:
        predictions: the predictions, of one column.
        loss: the loss of residuals (n,).
        gamma: the weight of the unimodal losses.
        sentiment: whether y is a sentiment from -3 to 3.
    """
    y = torch.from_numpy(predictions.y).double()
    value = torch.from_numpy(predictions.prob[:, 0]).double()
    out = {
        "loss/fusion": float(loss(value - y).mean()),
        "mae": float((value - y).abs().mean()),
        "pearson": correlation(value, y),
    }
    if sentiment:
        out |= sentiment_metrics(value, y)
    total = out["loss/fusion"]
    for m, p in predictions.unimodal.items():
        rows = ~np.isnan(p[:, 0])
        if rows.any():
            residual = torch.from_numpy(p[rows, 0].astype(np.float64)) - y[torch.from_numpy(rows)]
            out[f"mae/{m}"], out[f"loss/{m}"] = float(residual.abs().mean()), float(loss(residual).mean())
            total += gamma * out[f"loss/{m}"]
    return {"loss": total, **out}


def correlation(a: Tensor, b: Tensor) -> float:
    """Return Pearson's correlation of two lists (n,); 0 where one of them is constant."""
    if len(a) < 2 or bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return 0.0
    return float(pearson_corrcoef(a, b))


def sentiment_metrics(value: Tensor, y: Tensor) -> dict[str, float]:
    """Return the classification metrics that are usual on CMU-MOSI and CMU-MOSEI, of predictions and values (n,).

    - `acc7`: both clipped to [-3, 3] and rounded (half to even) to the seven classes.
    - `acc2`, `f1`: negative against non-negative (a value of 0 is non-negative), over all samples.
    - `acc2_nonzero`, `f1_nonzero`: negative against positive, over the samples with y other than 0; left out where
      there are none.

    Both F1 are averaged over the two classes by their number of samples. Papers name these pairs "has0" and "non0", or
    write them with a slash; the definitions are those of MMSA (Mao et al., ACL 2022 demonstrations).
    """
    classes = value.clamp(-SENTIMENT, SENTIMENT).round() == y.clamp(-SENTIMENT, SENTIMENT).round()
    out = {"acc7": float(classes.double().mean())}
    rows = y != 0
    pairs = {"": (value >= 0, y >= 0), "_nonzero": (value[rows] > 0, y[rows] > 0)}
    for suffix, (guess, truth) in pairs.items():
        if len(truth):
            out[f"acc2{suffix}"] = float((guess == truth).double().mean())
            f1 = multiclass_f1_score(guess.long(), truth.long(), num_classes=2, average="weighted")
            out[f"f1{suffix}"] = float(f1)
    return out
