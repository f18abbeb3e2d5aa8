"""Labels or numbers: what a file's y is taken for, the metrics of a regression, and what selects its best epoch."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from asgml.data.datamodule import MultimodalData
from asgml.data.features import Features
from asgml.data.spec import SPLITS, DataSpec, ModalitySpec, Table
from asgml.train.predictions import Predictions, save_predictions
from asgml.train.regression import correlation, evaluate_regression, sentiment_metrics
from asgml.train.task import RESIDUAL_LOSSES, Regression, task_of
from callbacks import StepCheckpoint
from callbacks.errors import UserError

N = 120


def values(seed: int = 0) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(0, 1.5, N), -3, 3)


def source(tmp_path, y, options=None, **more) -> Features:
    np.savez(tmp_path / "set.npz", y=y, x_a=np.random.default_rng(1).normal(size=(N, 3)), **more)
    return Features(str(tmp_path / "set.npz"), **(options or {}))


# -- labels or numbers -----------------------------------------------------------------------------

TAKEN = {
    "fractions": (values(), {}, "regression"),
    "whole floats, said": (np.round(values()), {"task": "regression"}, "regression"),
    "integers, said": (np.round(values()).astype(int), {"task": "regression"}, "regression"),
    "integers": (np.arange(N) % 3, {}, "classification"),
    "integers, said to be classes": (np.arange(N) % 3, {"task": "classification"}, "classification"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_y_is_taken_for(tmp_path, case):
    y, options, task = TAKEN[case]
    found = source(tmp_path, y, options)
    spec, tables = found.spec(), found.tables()
    assert spec.task == task
    rows = [int(i) for s in SPLITS for i in tables[s].ids]
    got = np.concatenate([tables[s].y for s in SPLITS])
    if task == "regression":
        assert (spec.classes, spec.outputs, got.dtype) == ([], 1, np.float32)
        assert spec.target_range == pytest.approx((y.min(), y.max()))
        assert np.array_equal(got, y[rows].astype(np.float32))
    else:
        assert (spec.outputs, spec.target_range, got.dtype) == (3, None, np.int64)


MISTAKES = {
    "whole floats": (np.round(values()), {}, ["array y", "whole numbers", "data.task=regression", "astype(int)"]),
    "fractions as classes": (values(), {"task": "classification"}, ["float64", "data.task=regression"]),
    "negative labels": (np.arange(N) % 3 - 1, {}, ["-1 in row 0", "data.task=regression"]),
    "another task": (values(), {"task": "ranking"}, ["data.task", "'ranking'"]),
    "class names of numbers": (values(), {"classes": ["a", "b"]}, ["data.classes", "null in a regression"]),
    "one value": (np.full(N, 0.5), {}, ["one value only (0.5)"]),
    "NaN": (np.where(np.arange(N) == 7, np.nan, values()), {}, ["array y", "nan in row 7"]),
    "beyond float32": (np.where(np.arange(N) == 9, 1e300, values()), {}, ["1e+300 in row 9"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_name_the_place_and_the_remedy(tmp_path, case):
    y, options, told = MISTAKES[case]
    with pytest.raises(UserError) as error:
        source(tmp_path, y, options).spec()
    for fragment in told:
        assert fragment in str(error.value), str(error.value)


def test_cut_splits_have_the_same_range_of_values(tmp_path):
    """A cut at random could give val the weak sentiments alone."""
    found = source(tmp_path, values())
    assert "by value" in found.spec().notes["split"]
    for table in found.tables().values():
        assert abs(np.median(table.y) - np.median(values())) < 0.4
        assert table.y.min() < -1
        assert table.y.max() > 1


def test_the_summary_says_that_it_is_a_regression(tmp_path, capsys):
    data = MultimodalData(source(tmp_path, values()), batch_size=4, eval_batch_size=4, limit=12)
    data.setup()
    assert "regression of y in [" in capsys.readouterr().out
    assert data.train_dataloader().dataset[(0, 0)]["y"].dtype == torch.float32
    assert len(data.table("train")) == 12


# -- metrics ---------------------------------------------------------------------------------------


def by_hand(guess: list[float], truth: list[float]) -> dict[str, float]:
    """MAE, correlation, and the sentiment metrics as MMSA defines them, sample by sample."""

    def seven(v: float) -> int:
        return round(max(-3.0, min(3.0, v)))

    def weighted_f1(pairs: list[tuple[bool, bool]]) -> float:
        total = 0.0
        for c in (False, True):
            hit = sum(g == c and t == c for g, t in pairs)
            given, real = sum(g == c for g, _ in pairs), sum(t == c for _, t in pairs)
            total += real * (2 * hit / (given + real) if given + real else 0.0)
        return total / len(pairs)

    n, both = len(guess), list(zip(guess, truth, strict=True))
    mean_g, mean_t = sum(guess) / n, sum(truth) / n
    covariance = sum((g - mean_g) * (t - mean_t) for g, t in both)
    spread = math.sqrt(sum((g - mean_g) ** 2 for g in guess) * sum((t - mean_t) ** 2 for t in truth))
    has0 = [(g >= 0, t >= 0) for g, t in both]
    non0 = [(g > 0, t > 0) for g, t in both if t != 0]
    return {
        "mae": sum(abs(g - t) for g, t in both) / n,
        "pearson": covariance / spread,
        "acc7": sum(seven(g) == seven(t) for g, t in both) / n,
        "acc2": sum(g == t for g, t in has0) / n,
        "f1": weighted_f1(has0),
        "acc2_nonzero": sum(g == t for g, t in non0) / len(non0),
        "f1_nonzero": weighted_f1(non0),
    }


def predictions(guess: list[float], truth: list[float], head: list[float]) -> Predictions:
    def column(v: list[float]) -> np.ndarray:
        return np.array(v, dtype=np.float32)[:, None]

    return Predictions(np.arange(len(truth)), np.array(truth, np.float32), column(guess), {"a": column(head)})


TRUTH = [-3.0, -1.5, -0.4, 0.0, 0.0, 0.6, 1.8, 2.5, 3.0, -0.6, 0.2, -2.6]
GUESS = [-4.2, -0.5, 0.3, -0.1, 0.2, 0.0, 2.4, -0.2, 5.0, -0.9, -1.5, -2.5]


def test_metrics_are_those_of_the_literature():
    got = evaluate_regression(predictions(GUESS, TRUTH, TRUTH), RESIDUAL_LOSSES["l1"], 1.0, sentiment=True)
    for name, value in by_hand(GUESS, TRUTH).items():
        assert got[name] == pytest.approx(value, abs=1e-6), name


def test_losses_are_those_of_the_residuals_and_missing_rows_do_not_count():
    head = [math.nan if i % 3 == 0 else v + 1.5 for i, v in enumerate(TRUTH)]
    got = evaluate_regression(predictions(GUESS, TRUTH, head), RESIDUAL_LOSSES["mse"], 2.0, sentiment=False)
    fused = sum((g - t) ** 2 for g, t in zip(GUESS, TRUTH, strict=True)) / len(TRUTH)
    assert got["loss/fusion"] == pytest.approx(fused, rel=1e-6)
    assert (got["mae/a"], got["loss/a"]) == (pytest.approx(1.5), pytest.approx(2.25))
    assert got["loss"] == pytest.approx(fused + 2 * 2.25)
    assert "acc7" not in got
    outputs, y = torch.tensor(GUESS)[:, None], torch.tensor(TRUTH)
    for name, loss in (("l1", torch.nn.L1Loss()), ("mse", torch.nn.MSELoss()), ("smooth_l1", torch.nn.SmoothL1Loss())):
        assert Regression(name).criterion(outputs, y).mean() == pytest.approx(float(loss(outputs[:, 0], y))), name


def test_a_constant_prediction_has_no_correlation_and_no_zeros_no_second_pair():
    assert correlation(torch.zeros(5), torch.arange(5.0)) == 0
    assert "acc2_nonzero" not in sentiment_metrics(torch.ones(3), torch.zeros(3))


def test_predictions_are_saved_as_values(tmp_path):
    kept = predictions(GUESS, TRUTH, TRUTH)
    table = Table({}, {}, kept.y, [f"s{i}" for i in range(len(kept.y))], {})
    save_predictions(tmp_path / "p.npz", {"test": kept}, {"test": table})
    with np.load(tmp_path / "p.npz") as stored:
        assert set(stored.files) == {"id", "index", "y", "split", "value", "value_a"}
        assert stored["value"].tolist() == np.array(GUESS, np.float32).tolist()
        assert stored["y"].dtype == np.float32


# -- what selects ----------------------------------------------------------------------------------


def spec(low: float, high: float) -> DataSpec:
    modalities = {"a": ModalitySpec("a", "vector", (3,))}
    return DataSpec(modalities, [], task="regression", target_range=(low, high))


def test_the_loss_follows_the_task():
    classes = DataSpec({"a": ModalitySpec("a", "vector", (3,))}, ["x", "y"])
    assert task_of(classes).selects_by == ("val/accuracy", "max")
    assert task_of(spec(-3, 3)).selects_by == ("val/mae", "min")
    assert vars(task_of(spec(-3, 2.5))) == {"loss": "l1", "sentiment": True}
    assert vars(task_of(spec(-3, 3), "mse")) == {"loss": "mse", "sentiment": True}
    assert [vars(task_of(spec(*r)))["sentiment"] for r in ((0, 3), (-4, 3), (-3, 0))] == [False] * 3
    for data, loss, told in ((classes, "l1", "loss=cross_entropy"), (spec(-3, 3), "cross_entropy", "loss=l1")):
        with pytest.raises(UserError) as error:
            task_of(data, loss)
        assert told in error.value.remedy


def test_auto_is_what_the_program_selects_by(tmp_path):
    checkpoint = partial(StepCheckpoint, str(tmp_path))
    by: tuple = ("val/mae", "min")
    auto = checkpoint(monitor="auto", mode="auto", selects_by=by)
    assert (auto.monitor, auto.mode) == by
    named = checkpoint(monitor="val/loss", mode="min", selects_by=by)
    assert (named.monitor, named.mode) == ("val/loss", "min")
    assert checkpoint(monitor=None, mode="auto", selects_by=by).monitor is None
    for options in ({"monitor": "val/pearson", "mode": "auto"}, {"monitor": "auto", "mode": "max"}):
        with pytest.raises(UserError, match=r"callbacks\.checkpoint\.monitor=.* callbacks\.checkpoint\.mode="):
            checkpoint(**options, selects_by=by)
    with pytest.raises(UserError, match="selects by no metric"):
        checkpoint(monitor="auto", mode="auto")
