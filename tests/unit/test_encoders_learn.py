"""The default encoders learn what they are the default for: at least what logistic regression does on it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from asgml.bench.encoder_table import Row, default_encoder, document, logistic_regression, measure, train
from asgml.bench.encoder_tasks import TASKS, Task, handwriting_features
from asgml.bench.encoders import main
from asgml.model.encoders.small import FrameCNN, SmallCNN, TemporalConv
from callbacks.errors import UserError
from suite.statistics import mean_interval

DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def moving_spots(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames (n, 4, 1, 12, 12) in noise: a spot moves to the right or back (+1), in the upper or lower half (+2).

    Both directions show the same frames, both halves the same spots: without order *and* place there are no classes.
    """
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(n, 4, 1, 12, 12, generator=generator)
    y = torch.randint(0, 4, (n,), generator=generator)
    for i, label in enumerate(y.tolist()):
        top = 2 + 5 * (label // 2) + int(torch.randint(0, 2, (), generator=generator))
        for t in range(4):
            left = 1 + 2 * (3 - t if label % 2 else t) + 1
            x[i, t, 0, top : top + 2, left : left + 2] += 2
    return x, y


@pytest.fixture(scope="module")
def spots() -> Task:
    parts = {s: moving_spots(n, i) for i, (s, n) in enumerate({"train": 256, "val": 64, "test": 256}.items())}
    return Task("spots", "frames", parts)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_frame_encoder_learns_order_in_time_and_place_in_the_picture(spots, norm):
    assert train(spots, default_encoder("frames", norm), seed=0, epochs=6) > 0.95


def test_a_feature_depends_on_place_and_order():
    torch.manual_seed(0)
    inner = torch.zeros(1, 3, 1, 32, 32)
    inner[:, 0, :, 9:12, 9:12] = 1  # far from every border
    for encoder, x, moved in (
        (SmallCNN((1, 32, 32)), inner[:, 0], inner[:, 0].roll(8, 2)),
        (FrameCNN((3, 1, 32, 32)), inner, inner.flip(1)),
        (TemporalConv((32, 1)), inner[:, 0, 0, :, 9:10], inner[:, 0, 0, :, 9:10].roll(8, 1)),
    ):
        one, other = encoder.eval()(x), encoder(moved)
        assert (one - other).norm() > 0.05 * one.norm()


def test_the_grid_holds_the_means_of_its_cells():
    """With convolutions taken out, the feature's linear map sees cell means of at most grid × grid equal windows."""
    encoder = SmallCNN((2, 40, 9), channels=[2, 2], grid=3)
    pool = encoder.layers[-2:]
    maps = torch.randn(1, 2, 10, 3)  # 40 -> 20 -> 10 rows, 9 -> 5 -> 3 columns: windows of 4 rows and 1 column
    cells = [maps[0, c, a : a + 4, w].mean() for c in range(2) for a in (0, 4, 8) for w in range(3)]
    assert encoder.layers[:-2](torch.randn(1, 2, 40, 9)).shape == maps.shape
    assert torch.allclose(pool(maps)[0], torch.stack(cells))
    assert encoder.linear.in_features == len(cells)


@pytest.mark.parametrize("factory", [SmallCNN, FrameCNN, TemporalConv])
def test_a_grid_without_cells_is_refused(factory):
    shape = {SmallCNN: (1, 8, 8), FrameCNN: (2, 1, 8, 8), TemporalConv: (4, 3)}[factory]
    with pytest.raises(UserError, match=rf"{factory.__name__}\.grid(.|\n)*set grid=4"):
        factory(shape, grid=0)


def test_logistic_regression_is_at_its_minimum_and_chosen_on_validation():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=generator)
    y = (x[:, 0] + 0.3 * torch.randn(300, generator=generator) > 0).long()
    parts = {s: (x[i : i + 100], y[i : i + 100]) for s, i in (("train", 0), ("val", 100), ("test", 200))}
    task = Task("t", "vector", parts)
    # gradient descent on the same loss, written out
    w, b = torch.zeros(6, 2), torch.zeros(2)
    for _ in range(3000):
        error = (x[:100] @ w + b).softmax(1) - F.one_hot(y[:100], 2)
        w, b = w - 0.5 * (x[:100].T @ error / 100 + 0.1 * w), b - 0.5 * error.mean(0)
    expected = float((x[200:] @ w + b).argmax(1).eq(y[200:]).float().mean())
    assert logistic_regression(task, [0.1]) == (pytest.approx(expected), pytest.approx(expected))
    chosen, highest = logistic_regression(task, [100.0, 0.1])
    assert chosen == highest == pytest.approx(expected)


def test_a_verdict_is_reached_within_the_interval_or_below(spots):
    found = {"high": [0.7, 0.8], "wide": [0.5, 0.7], "low": [0.5, 0.51]}
    verdicts = {k: Row(spots, "FrameCNN", 1, 0.69, 0.69, {"group": mean_interval(v)}).verdict for k, v in found.items()}
    assert verdicts == {"high": "reached", "wide": "within the interval (group)", "low": "**below** (group)"}
    assert Row(spots, "FrameCNN", 1, 0.69, 0.69, {"batch": mean_interval([0.6])}).verdict == "**below** (batch)"


def test_the_table_names_what_was_skipped(spots, tmp_path, capsys):
    row = measure(spots, ["group"], seeds=1, epochs=1)
    assert row.encoder == "FrameCNN"
    page = document([row], ["MNIST (image), for want of mnist/ below `DATA`"], ["group"], 1, 1)
    assert "| spots | frames 4×1×12×12 | 256 / 64 / 256 | `FrameCNN` |" in page
    assert "- Skipped: MNIST (image)" in page
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out.md")]) == 2
    assert "make encoders DATA=" in capsys.readouterr().err
    assert not (tmp_path / "out.md").exists()


def test_features_of_handwriting_are_what_they_say():
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    f, x = handwriting_features(images), images / 255
    assert f.shape == (2, 181)
    assert f[1, 8] == pytest.approx(x[1, 4:8, 4:8].mean())  # zones row by row: the second of the second row
    assert np.allclose(f[1, 49 : 49 + 28], x[1].sum(0), rtol=1e-5)
    # the first magnitude left: row frequency 0, column frequency 2
    wave = np.exp(-2j * np.pi * 2 * np.arange(28) / 28)
    assert f[1, 105] == pytest.approx(abs((x[1] * wave).sum()), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(TASKS)))
def test_every_default_encoder_reaches_logistic_regression(index):
    name, kind, folders, load = TASKS[index]
    absent = [f for f in folders if not (DATA / f).is_dir()]
    if absent:
        pytest.skip(f"no {absent[0]}/ under {DATA} (set SUITE_DATA)")
    row = measure(Task(name, kind, load(DATA)), ["group"], seeds=3, epochs=30)
    assert row.verdict != "**below** (group)", (row.linear, row.accuracies)
