"""Opinions on candidates: every function against its definition written out, and what they must hold for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from latentwire.scoring import opinions

N, C, J = 40, 5, 2


def drawn(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of two readers, candidates, and which are right: the likelier ones more often."""
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(J, N, C, generator=generator, dtype=torch.double)
    mask = torch.arange(C) < torch.randint(1, C + 1, (N, 1), generator=generator)
    best = (scores.sum(0) + 2 * torch.randn(N, C, generator=generator)).masked_fill(~mask, -math.inf).argmax(1)
    return scores, mask, (torch.arange(C) == best[:, None]) & mask


def test_probabilities_and_pools_are_their_formulas() -> None:
    scores, mask, _ = drawn()
    p = torch.stack([opinions.probabilities(s, mask, t) for s, t in zip(scores, (0.7, 2.0), strict=True)])
    product, mean = opinions.pooled(p, mask, "product"), opinions.pooled(p, mask, "mean")
    for n in range(N):
        live = [c for c in range(C) if mask[n, c]]
        each = []
        for s, t in zip(scores, (0.7, 2.0), strict=True):
            weight = {c: math.exp(float(s[n, c]) / t) for c in live}
            each.append({c: weight[c] / sum(weight.values()) for c in live})
        both = {c: each[0][c] * each[1][c] for c in live}
        for c in range(C):
            assert float(mean[n, c]) == pytest.approx(sum(e[c] for e in each) / 2 if c in live else 0.0)
            assert float(product[n, c]) == pytest.approx(both[c] / sum(both.values()) if c in live else 0.0)


def test_a_pool_of_one_is_the_reader_and_readers_may_be_exchanged() -> None:
    scores, mask, _ = drawn()
    p = opinions.probabilities(scores, mask)
    for rule in ("product", "mean"):
        assert torch.allclose(opinions.pooled(p[:1], mask, rule), p[0])
        assert torch.allclose(opinions.pooled(p, mask, rule), opinions.pooled(p.flip(0), mask, rule))


def test_the_temperature_is_the_best_of_a_fine_grid_and_undoes_a_wrong_scale() -> None:
    scores, mask, right = drawn()
    fitted = opinions.fit_temperature(scores[0], mask, right)
    grid = [0.05 * 1.01**k for k in range(602)]
    assert fitted == pytest.approx(
        min(grid, key=lambda t: float(opinions.log_loss(scores[0], mask, right, t))), rel=0.02
    )
    again = opinions.fit_temperature(2.5 * scores[0], mask, right)
    assert again == pytest.approx(2.5 * fitted, rel=1e-3)
    one = opinions.probabilities(scores[0], mask, fitted)
    assert torch.allclose(one, opinions.probabilities(2.5 * scores[0], mask, again), atol=1e-4)


def test_the_loss_is_that_of_the_right_candidates_together_and_skips_questions_without() -> None:
    scores, mask, right = drawn()
    right[0] = False
    right[1] = mask[1]
    kept = []
    for n in range(1, N):
        p = [math.exp(float(x) / 1.5) for x in scores[0, n]]
        total = sum(v for c, v in enumerate(p) if mask[n, c])
        kept.append(-math.log(sum(v for c, v in enumerate(p) if right[n, c]) / total))
    assert float(opinions.log_loss(scores[0], mask, right, 1.5)) == pytest.approx(sum(kept) / len(kept))
    with pytest.raises(ValueError, match="no question"):
        opinions.fit_temperature(scores[0], mask, mask)


def test_coverage_risk_and_thresholds_are_their_definitions_ties_together() -> None:
    confidence = torch.tensor([0.9, 0.5, 0.9, 0.7, 0.2])
    right = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    share, accuracy = opinions.coverage_curve(confidence, right)
    assert share.tolist() == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert accuracy.tolist() == pytest.approx([1 / 2, 2 / 3, 2 / 4, 2 / 5])
    assert opinions.accuracy_at(0.5, confidence, right) == pytest.approx(2 / 3)
    assert opinions.mean_risk(confidence, right) == pytest.approx((2 * 1 / 2 + 1 / 3 + 1 / 2 + 3 / 5) / 5)
    assert opinions.threshold_for(0.6, confidence, right) == pytest.approx(0.7)
    assert opinions.threshold_for(0.4, confidence, right) == pytest.approx(0.2)
    assert opinions.threshold_for(0.9, confidence, right) == math.inf
    ideal = torch.tensor([0.8, 0.1, 0.3, 0.9, 0.2])
    assert opinions.mean_risk(ideal, right) < opinions.mean_risk(-ideal, right)


def test_the_calibration_error_is_the_gap_in_each_bin_and_none_where_confidence_is_the_accuracy() -> None:
    confidence = torch.tensor([0.95, 0.91, 1.0, 0.15])
    right = torch.tensor([1.0, 0.0, 1.0, 0.0])
    gap = abs(2 / 3 - (0.95 + 0.91 + 1.0) / 3)
    assert opinions.calibration_error(confidence, right) == pytest.approx(0.75 * gap + 0.25 * 0.15)
    assert opinions.calibration_error(torch.full((4,), 0.75), torch.tensor([1.0, 1.0, 1.0, 0.0])) == 0.0


def test_readers_agree_where_all_choose_the_same() -> None:
    assert opinions.agreement(torch.tensor([[1, 2, 0], [1, 0, 0], [1, 2, 1]])).tolist() == [True, False, False]
