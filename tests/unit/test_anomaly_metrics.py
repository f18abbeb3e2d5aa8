"""Metrics of anomaly detection against their definitions, written out slowly; and how far bins can move them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from asgml.feedback.metrics.loops import NAMES, PIXELS, WITHIN, AnomalyMetrics
from asgml.feedback.metrics.pixels import PixelHistogram, auroc_within, image_metrics
from callbacks.errors import UserError

B, H, W = 4, 12, 10
FINE = 2**18


def maps(seed: int, levels: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return maps that know something of their masks: regions of any size, touching by corners, cut by the border."""
    g = torch.Generator().manual_seed(seed)
    masks = torch.zeros(B, H, W, dtype=torch.bool)
    masks[0, 2:5, 3:6] = masks[0, 5, 6] = True  # touches by a corner: one region
    masks[0, 9:, 8:] = True
    masks[1, 0, 0] = True
    masks[2, 1:3, :] = masks[2, 6, 2:4] = True
    scores = torch.rand(B, H, W, generator=g) * 0.7 + 0.25 * masks * torch.rand(B, H, W, generator=g)
    return (scores if levels is None else (scores * levels).round() / levels), masks


# -- the definitions, slowly
def slow_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[labels] for b in scores[~labels]]
    return sum(wins) / len(wins)


def slow_counts(scores: np.ndarray, labels: np.ndarray):
    for t in sorted(set(scores.tolist()), reverse=True):
        yield (scores[labels] >= t).sum(), (scores[~labels] >= t).sum()


def slow_ap(scores: np.ndarray, labels: np.ndarray) -> float:
    total, before = 0.0, 0.0
    for tp, fp in slow_counts(scores, labels):
        recall = tp / labels.sum()
        total += (recall - before) * tp / (tp + fp)
        before = recall
    return total


def slow_f1(scores: np.ndarray, labels: np.ndarray) -> float:
    return max(2 * tp / (2 * tp + fp + labels.sum() - tp) for tp, fp in slow_counts(scores, labels))


def slow_regions(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    left, regions = {(int(r), int(c)) for r, c in np.argwhere(mask)}, []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            r, c = edge.pop()
            region.add((r, c))
            near = {(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        regions.append(region)
    return regions


def slow_aupro(scores: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    regions = [(b, r) for b in range(len(masks)) for r in slow_regions(masks[b])]
    points = [(0.0, 0.0)]
    for t in sorted(set(scores.ravel().tolist()), reverse=True):
        fpr = (scores[~masks] >= t).mean()
        pro = np.mean([np.mean([scores[b][pixel] >= t for pixel in r]) for b, r in regions])
        points.append((fpr, pro))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        cut = min(x1, limit)
        end = y0 + (y1 - y0) * (cut - x0) / (x1 - x0) if x1 > x0 else y1
        area += (cut - x0) * (y0 + end) / 2
    return area / limit


def expected(scores: torch.Tensor, masks: torch.Tensor) -> dict[str, float]:
    s, m = scores.double().numpy(), masks.numpy()
    flat = s.ravel(), m.ravel()
    return {
        "pixel_auroc": slow_auroc(*flat),
        "aupro": slow_aupro(s, m),
        "pixel_ap": slow_ap(*flat),
        "pixel_f1_max": slow_f1(*flat),
    }


@pytest.fixture(scope="module")
def slowly():
    return {seed: expected(*maps(seed)) for seed in (1, 2, 3)}


@pytest.mark.parametrize("levels", [None, 7], ids=["distinct", "ties"])
def test_pixel_metrics_are_their_definitions(levels):
    scores, masks = maps(0, levels)
    histogram = PixelHistogram(bins=FINE)
    for i in range(0, B, 3):  # batches change nothing
        histogram.update(scores[i : i + 3], masks[i : i + 3])
    found, slow = histogram.compute(), expected(scores, masks)
    assert list(found) == list(slow)
    for name, value in found.items():
        assert value.value == pytest.approx(slow[name], abs=1e-12), name


def test_auroc_and_precision_are_those_of_torchmetrics_on_many_pixels():
    g = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 64, 64, generator=g) < 0.1
    scores = (torch.rand(3, 64, 64, generator=g) + 0.3 * masks).clamp(max=1)
    histogram = PixelHistogram(bins=FINE)
    histogram.update(scores, masks)
    found = histogram.compute()
    flat = scores.flatten().double(), masks.flatten().int()
    for name, other in (("pixel_auroc", binary_auroc(*flat)), ("pixel_ap", binary_average_precision(*flat))):
        assert abs(found[name].value - float(other)) <= found[name].error + 1e-7
        assert found[name].error < 5e-3  # 12 288 pixels, many of them alone in a bin


@pytest.mark.parametrize("bins", [8, 60, 1000])
def test_the_error_bounds_what_bins_can_have_moved(bins, slowly):
    for seed, slow in slowly.items():
        scores, masks = maps(seed)
        histogram = PixelHistogram(bins=bins)
        histogram.update(scores, masks)
        for name, value in histogram.compute().items():
            assert abs(value.value - slow[name]) <= value.error + 1e-12, (name, seed)
            assert value.error < {8: 0.6, 60: 0.2, 1000: 0.06}[bins], (name, value)


def test_perfect_and_random_maps_and_a_region_of_one_pixel_counts_like_a_large_one():
    _, masks = maps(0)
    perfect = PixelHistogram()
    perfect.update(masks.float(), masks)
    assert all(v.value == pytest.approx(1.0) for v in perfect.compute().values())
    flat = PixelHistogram()
    flat.update(torch.full((B, H, W), 0.5), masks)
    assert flat.compute()["pixel_auroc"].value == 0.5
    assert flat.compute()["aupro"].value == pytest.approx(0.15)  # half of the limit: the diagonal
    two = torch.zeros(1, H, W, dtype=torch.bool)
    two[0, :6, :] = two[0, 9, 9] = True
    missed = two.clone().float()
    missed[0, 9, 9] = 0.0
    histogram = PixelHistogram()
    histogram.update(missed, two)
    # half of the regions from the start, the other along the normal pixels that have its score
    assert histogram.compute()["aupro"].value == pytest.approx(0.5 + 0.5 * 0.15)


def test_memory_does_not_grow_with_images_and_parts_add_up():
    scores, masks = maps(1)
    one, parts = PixelHistogram(), [PixelHistogram() for _ in range(2)]
    sizes = []
    for i in range(20):
        one.update(scores, masks)
        parts[i % 2].update(scores, masks)
        sizes.append(sum(t.numel() * t.element_size() for t in vars(one).values() if isinstance(t, torch.Tensor)))
    assert set(sizes) == {24 * one.bins}
    assert torch.equal(parts[0].positive + parts[1].positive, one.positive)
    assert torch.equal(parts[0].negative + parts[1].negative, one.negative)
    assert float(one.overlap.sum()) == pytest.approx(20 * 5)  # the regions
    once = PixelHistogram()
    once.update(scores, masks)
    assert one.compute()["aupro"].value == pytest.approx(once.compute()["aupro"].value)


def test_what_has_one_kind_only_has_no_metric_and_scores_out_of_range_are_refused():
    scores, masks = maps(0)
    nothing = PixelHistogram()
    nothing.update(scores, torch.zeros_like(masks))
    assert set(nothing.compute().values()) == {None}
    for bad in (scores + 1, torch.full_like(scores, torch.nan)):
        with pytest.raises(UserError, match="or look for NaN"):
            PixelHistogram().update(bad, masks)
    wide = PixelHistogram(low=-2, high=3, bins=FINE)
    wide.update(5 * scores - 2, masks)  # a monotone map changes nothing
    narrow = PixelHistogram(bins=FINE)
    narrow.update(scores, masks)
    one, two = wide.compute(), narrow.compute()
    assert all(one[name].value == pytest.approx(two[name].value, abs=1e-3) for name in one)


def test_image_metrics_are_exact():
    g = torch.Generator().manual_seed(2)
    labels = torch.arange(30) % 3 == 0
    scores = ((torch.rand(30, generator=g) + 0.4 * labels) * 8).round() / 8
    found, flat = image_metrics(scores, labels), (scores.double().numpy(), labels.numpy())
    assert found["image_auroc"].value == pytest.approx(slow_auroc(*flat), abs=1e-12)
    assert found["image_ap"].value == pytest.approx(slow_ap(*flat), abs=1e-12)
    assert found["image_f1_max"].value == pytest.approx(slow_f1(*flat), abs=1e-12)
    assert all(v.error == 0 for v in found.values())
    assert set(image_metrics(scores[:0], labels[:0]).values()) == {None}


def test_what_moves_all_scores_of_an_image_moves_the_pooled_auroc_and_not_that_within_images():
    scores, masks = maps(3, levels=20)
    shifted = scores + torch.tensor([3.0, -2.0, 0.0, 5.0]).view(B, 1, 1)
    within = auroc_within(scores, masks)
    assert torch.equal(auroc_within(shifted, masks).nan_to_num(-1), within.nan_to_num(-1))
    expected = [slow_auroc(scores[i].numpy().ravel(), masks[i].numpy().ravel()) for i in range(3)]
    assert within[:3].tolist() == pytest.approx(expected)
    assert within[3].isnan()  # nothing in it is damaged
    pooled = []
    for one in (scores, shifted):
        found = PixelHistogram(-5, 10, FINE)
        found.update(one, masks)
        pooled.append(found.compute()["pixel_auroc"].value)
    assert abs(pooled[0] - pooled[1]) > 0.05


def test_every_class_has_its_own_metrics_after_every_loop_and_the_mean_is_over_classes():
    metrics = AnomalyMetrics(["wood", "tile", "empty"], loops=2)
    (first, masks), (second, _) = maps(0), maps(1)
    both = torch.stack([first, second], 1)
    labels, classes = masks.flatten(1).any(1), torch.tensor([0, 1, 0, 1])
    labels[3] = False
    metrics.update(both, masks, both.amax((2, 3)), labels, classes)
    found = metrics.compute()
    assert len(found) == 2
    for loop, scores in enumerate((first, second)):
        alone = PixelHistogram()
        alone.update(scores[[0, 2]], masks[[0, 2]])
        assert {k: v for k, v in found[loop]["wood"].items() if k in PIXELS} == alone.compute()
        within = [slow_auroc(scores[i].numpy().ravel(), masks[i].numpy().ravel()) for i in (0, 2)]
        assert found[loop]["wood"][WITHIN].value == pytest.approx(sum(within) / 2)
        assert found[loop]["wood"]["image_auroc"] is None  # both of its images are anomalous
        assert set(found[loop]["empty"].values()) == {None}
        rows = [found[loop][n]["aupro"].value for n in ("wood", "tile")]
        assert found[loop]["mean"]["aupro"].value == pytest.approx(sum(rows) / 2)
        assert set(found[loop]["mean"]) == set(NAMES)
    assert found[0]["tile"]["image_auroc"].value in (0.0, 1.0)
    with pytest.raises(UserError, match="a class named mean"):
        AnomalyMetrics(["mean"])
