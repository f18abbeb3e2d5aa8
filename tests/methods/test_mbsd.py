"""MBSD against a slow transcription (Liu et al., WSDM 2023)."""

from __future__ import annotations

import math
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from methods_toys import Seen, cross_entropy, mean, observe, softmax
from toys import SGD

from asgml.methods.mbsd import MBSD
from callbacks.errors import UserError


def distilled(seen: Seen, a: str, b: str) -> tuple[float, float]:
    kl, similarity = [], []
    for i in range(len(seen.y)):
        if i not in seen.rows[a] or i not in seen.rows[b]:
            continue
        y = seen.y[i]
        p = {m: softmax(seen.unimodal[m][i]) for m in (a, b)}
        s, v = (a, b) if p[a][y] > p[b][y] else (b, a)
        right = any(p[m][y] == max(p[m]) for m in (a, b))
        w = p[s][y] - p[v][y] if right else 0.0
        kl.append(w * sum(q * math.log(q / r) for q, r in zip(p[s], p[v], strict=True)))
        f, g = seen.features[a][i], seen.features[b][i]
        similarity.append(w * mean([(x - z) ** 2 for x, z in zip(f, g, strict=True)]))
    return mean(kl), mean(similarity)


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_terms_are_the_transcribed_ones(modalities):
    def more(module):
        return {k: v.item() for k, v in module.methods["mbsd"].loss(module.step).items()}

    _, capture = observe({"mbsd": MBSD(kl=1.5, similarity=0.5)}, modalities, steps=6, more=more, optimizer=SGD)
    for seen in capture.seen:
        here = [m for m in seen.rows if seen.rows[m]]
        expected = {m: mean([cross_entropy(seen.unimodal[m][i], seen.y[i]) for i in seen.rows[m]]) for m in here}
        found = [distilled(seen, a, b) for a, b in combinations(here, 2)]
        expected["kl"] = 1.5 * mean([k for k, _ in found])
        expected["similarity"] = 0.5 * mean([s for _, s in found])
        assert seen.more == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert any(seen.more["kl"] > 1e-3 for seen in capture.seen)


def test_in_every_sample_only_the_weaker_one_is_taught():
    """Audio is surer in the first sample, visual in the second; nobody is right in the third."""
    z = {"audio": [[3.0, 0.0], [0.1, 0.0], [0.0, 2.0]], "visual": [[0.2, 0.0], [2.0, 0.0], [0.0, 1.0]]}
    logits = {m: torch.tensor(v, requires_grad=True) for m, v in z.items()}
    features = {m: torch.randn(3, 4, requires_grad=True) for m in z}
    step: Any = SimpleNamespace(
        y=torch.zeros(3, dtype=torch.long), unimodal=logits, features=features, logits=logits["audio"],
        present=dict.fromkeys(z), mean=lambda v, m: v.mean(),
    )  # fmt: skip
    torch.stack(MBSD().pair(step, "audio", "visual")).sum().backward()
    for tensors in (logits, features):
        moved = {m: t.grad.abs().sum(1).gt(0).tolist() for m, t in tensors.items() if t.grad is not None}
        assert moved == {"audio": [False, True, False], "visual": [True, False, False]}


def test_features_of_two_widths_are_compared_by_their_predictions_only():
    with pytest.raises(UserError, match="one width"):
        MBSD().modules({"audio": 3, "visual": 4}, 3)
    assert MBSD(similarity=0.0).modules({"audio": 3, "visual": 4}, 3) == {}
