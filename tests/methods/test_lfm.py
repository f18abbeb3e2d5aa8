"""LFM against a slow transcription (Yang et al., NeurIPS 2024)."""

from __future__ import annotations

import math
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from methods_toys import Seen, cross_entropy, mean, observe, softmax
from toys import SGD, ToyEncoder, train

from asgml.methods.lfm import LFM
from callbacks.errors import UserError
from suite.config.compose import compose


def averaged(seen: Seen, i: int) -> list[float]:
    own = [z[i] for m, z in seen.unimodal.items() if i in seen.rows[m]]
    return [mean([z[c] for z in own]) for c in range(len(seen.bias))]


def divergence(z: list[float], w: list[float]) -> float:
    p, q = softmax(z), softmax(w)
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return sum(0.5 * a * math.log(a / m) for a, m in zip(p, middle, strict=True)) + sum(
        0.5 * b * math.log(b / m) for b, m in zip(q, middle, strict=True)
    )


def contrast(seen: Seen, a: str, b: str, rows: list[int], temperature: float) -> float:
    def cosine(x, y):
        lengths = math.hypot(*x) * math.hypot(*y)
        return sum(u * v for u, v in zip(x, y, strict=True)) / lengths / temperature

    f, g = seen.features[a], seen.features[b]
    there = [cross_entropy([cosine(f[i], g[j]) for j in rows], k) for k, i in enumerate(rows)]
    back = [cross_entropy([cosine(f[j], g[i]) for j in rows], k) for k, i in enumerate(rows)]
    return (mean(there) + mean(back)) / 2


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("alignment", ["contrastive", "js"])
def test_the_terms_are_the_transcribed_ones_over_two_epochs(modalities, alignment):
    def more(module):
        return {k: v.item() for k, v in module.methods["lfm"].loss(module.step).items()}

    method = LFM(alignment, decay=0.4, temperature=0.2)
    _, capture = observe({"lfm": method}, modalities, steps=4, epochs=2, more=more, optimizer=SGD)
    for t, seen in enumerate(capture.seen):
        alpha = min(max(math.exp(-0.4 * (t // 4)), 0.05), 0.95)
        some = [i for i in range(len(seen.y)) if any(i in r for r in seen.rows.values())]
        expected = {"fusion": 2 * (1 - alpha) * mean([cross_entropy(averaged(seen, i), seen.y[i]) for i in some])}
        gaps = []
        for a, b in combinations([m for m in seen.rows if seen.rows[m]], 2):
            both = [i for i in seen.rows[a] if i in seen.rows[b]]
            if alignment == "js":
                gaps.append(mean([divergence(seen.unimodal[a][i], seen.unimodal[b][i]) for i in both]))
            else:
                gaps.append(contrast(seen, a, b, both, 0.2))
        expected["alignment"] = 2 * alpha * mean(gaps)
        assert seen.more == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_weight_moves_from_the_alignment_to_the_labels():
    assert [LFM(decay=0.3).weight(e) for e in (0, 1, 20)] == pytest.approx([0.95, math.exp(-0.3), 0.05])
    fitted = LFM(schedule="fitted")
    for e in (0, 30, 99):
        polynomial = (
            2.04623704e-01 + 3.35472727e-03 * e + 1.22989557e-04 * e**2 - 2.92947416e-06 * e**3
            + 2.23835486e-08 * e**4 - 5.39717505e-11 * e**5
        )  # fmt: skip
        assert fitted.weight(e) == pytest.approx(1 - polynomial, rel=1e-9)
    assert all(0.05 <= fitted.weight(e) <= 0.95 for e in range(300))


def test_the_fitted_schedule_weighs_the_divergence_that_it_was_fitted_beside():
    """CREMA-D's alignment term on 64 untrained samples, at most 2 * 0.795 * ln 2 = 1.10; contrastive: 6.62 of ln 64."""
    node = compose("asgml", ["experiment=cremad", "method=lfm"]).methods.lfm
    n, width = 64, 4
    step: Any = SimpleNamespace(
        y=torch.arange(n) % 6, epoch=0, here=["audio", "visual"], present={"audio": None, "visual": None},
        features={m: torch.ones(n, width) for m in ("audio", "visual")}, logits=torch.zeros(n, 6),
        unimodal={m: 9.0 * torch.eye(6)[torch.arange(n) % 6 - i] for i, m in enumerate(("audio", "visual"))},
        mean=lambda values, m: values.mean(),
    )  # fmt: skip

    def term(alignment: str) -> float:
        return float(LFM(alignment, node.schedule).loss(step)["alignment"])

    assert node.schedule == "fitted"
    assert term("contrastive") == pytest.approx(6.62, abs=0.01)
    assert 0.5 < term(node.alignment) <= 2 * 0.7954 * math.log(2)


def test_the_prediction_is_that_of_the_mean_logits_of_what_is_there():
    z = {"audio": [[3.0, 0.1, -1.0], [0.2, 0.1, 0.0]], "visual": [[0.5, 0.4, 0.3], [-2.0, 4.0, 1.0]]}
    step: Any = SimpleNamespace(
        y=torch.zeros(2, dtype=torch.long),
        unimodal={m: torch.tensor(v, dtype=torch.float64) for m, v in z.items()},
        present={"audio": None, "visual": torch.tensor([True, False])},
    )
    found = LFM().fuse_at_test(step)
    both = [(a + b) / 2 for a, b in zip(z["audio"][0], z["visual"][0], strict=True)]
    assert found[0].tolist() == pytest.approx(softmax(both), rel=1e-9)
    assert found[1].tolist() == pytest.approx(softmax(z["audio"][1]), rel=1e-9)


def test_features_of_two_widths_are_compared_by_their_predictions_only():
    class Wide(ToyEncoder):
        made = 0

        def __init__(self, shape):
            Wide.made += 1
            super().__init__(shape, out_dim=3 + Wide.made)

    with pytest.raises(UserError, match="one width"):
        train(methods={"lfm": LFM()}, encoder=Wide)
    train(methods={"lfm": LFM("js")}, encoder=Wide)
