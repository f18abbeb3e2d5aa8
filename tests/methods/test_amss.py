"""AMSS against a slow transcription (Yang et al., TPAMI 2025)."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from methods_toys import Row, Seen, cross_entropy, entropy, mean, observe, softmax
from toys import SGD, differences

from asgml.methods.amss import AMSS, chosen, shares, unbiased
from asgml.methods.joint import Joint
from asgml.methods.shared.draws import generator

LR, SEED = 0.05, 3
IMPORTANCE = [1.0, 2.0, 5.0, 0.5]


def rates(seen: Seen, margin: float) -> dict[str, float]:
    """(H(y) - CE(z_m, y) + margin) / H(softmax(f_m)), z_m the slice of the concat fusion."""
    labels = entropy([seen.y.count(c) / len(seen.y) for c in set(seen.y)])
    out, start, n = {}, 0, len(seen.features)
    for m, f in seen.features.items():
        rows, width = seen.rows[m], len(f[0])
        if rows:
            z = {
                i: [
                    b / n + sum(w[start + j] * f[i][j] for j in range(width))
                    for w, b in zip(seen.weight, seen.bias, strict=True)
                ]
                for i in rows
            }
            own = mean([entropy(softmax(f[i])) for i in rows])
            out[m] = (labels - mean([cross_entropy(z[i], seen.y[i]) for i in rows]) + margin) / own
        start += width
    return out


def parts(r: dict[str, float], temperature: float, least: float) -> dict[str, float]:
    if min(r.values()) <= 0:
        return dict.fromkeys(r, 0.5)
    weight = softmax([v / temperature for v in r.values()])
    return {m: min(max(1 - w, least), 1 - least) for m, w in zip(r, weight, strict=True)}


def mask(importance: Row, share: float, draws: Row, plus: bool) -> Row:
    n, total = len(importance), sum(importance)
    if plus:
        p = [min(1.0, share * n * (v / total + 1 / n) / 2) for v in importance]
        return [1 / q if u < q else 0.0 for q, u in zip(p, draws, strict=True)]
    waits = [-math.log(u) / v if v else math.inf for u, v in zip(draws, importance, strict=True)]
    first = sorted(range(n), key=waits.__getitem__)[: math.ceil(share * n)]
    return [1.0 if i in first else 0.0 for i in range(n)]


@pytest.mark.parametrize(("modalities", "plus", "margin"), [(2, False, 0.5), (3, False, 2.0), (3, True, 0.5)])
def test_the_units_that_move_are_the_transcribed_ones(modalities, plus, margin):
    """Weights, biases and normalisation of everything that the run did."""
    method = AMSS(temperature=1.0, margin=margin, unbiased=plus)
    run, capture = observe({"amss": method}, modalities, steps=6, optimizer=SGD, seed=SEED)
    states, masked, whole = [run.trace.start, *run.trace.states], 0, 0
    for t, seen in enumerate(capture.seen):
        share = parts(rates(seen, margin), 1.0, 0.1)
        for m in seen.features:
            keys = [k for k, _ in run.module.named_parameters() if k.startswith(f"net.encoders.{m}.")]
            fresh = dict(zip(keys, capture.gradients[t][m], strict=True))
            units = [len(g) for g in fresh.values() if g is not None and g.dim() > 1]
            draw = generator(torch.device("cpu"), SEED, "amss", m, t)
            draws = torch.rand(sum(units), generator=draw, dtype=torch.float64).tolist()
            for k, g in fresh.items():
                moved = (states[t][k] - states[t + 1][k]) / LR
                if g is None or m not in share:
                    assert not moved.any()
                    continue
                expected = g
                if g.dim() > 1:
                    own, draws = draws[: len(g)], draws[len(g) :]
                    weights = mask(g.square().sum(1).tolist(), share[m], own, plus)
                    masked += weights.count(0.0)
                    expected = g * torch.tensor(weights, dtype=g.dtype)[:, None]
                whole += g.dim() == 1
                torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-10)
    assert masked > 20
    assert whole > 20


def test_shares_are_a_half_without_information_and_never_extreme():
    half = torch.tensor([0.5, 0.5])
    assert torch.equal(shares(torch.tensor([2.0, 0.0]), 0.2, 0.1), half)
    assert torch.allclose(shares(torch.tensor([9.0, 0.1]), 0.2, 0.1), torch.tensor([0.1, 0.9]))
    found = shares(torch.tensor([0.3, 0.2, 0.1]), 0.5, 0.1)
    assert found.tolist() == sorted(found.tolist())
    assert float(found.sum()) == pytest.approx(2.0)


def uniform(rows: int) -> torch.Tensor:
    return torch.rand(rows, len(IMPORTANCE), generator=torch.Generator().manual_seed(0))


def test_units_are_drawn_as_without_replacement():
    """Against the probability of every order in which two of four units can be drawn."""
    importance, share = torch.tensor(IMPORTANCE), torch.tensor(0.4)  # ceil(1.6) = 2
    found = torch.stack([chosen(importance, share, u) for u in uniform(4000)])
    assert found.sum(1).unique().tolist() == [2.0]
    total, expected = sum(IMPORTANCE), [0.0] * len(IMPORTANCE)
    for a, b in permutations(range(len(IMPORTANCE)), 2):
        p = IMPORTANCE[a] / total * IMPORTANCE[b] / (total - IMPORTANCE[a])
        expected[a], expected[b] = expected[a] + p, expected[b] + p
    assert found.mean(0).tolist() == pytest.approx(expected, abs=0.025)


def test_the_mean_of_the_unbiased_mask_is_one():
    importance, share = torch.tensor(IMPORTANCE), torch.tensor(0.3)
    found = torch.stack([unbiased(importance, share, u) for u in uniform(8000)])
    assert found.mean(0).tolist() == pytest.approx([1.0] * len(IMPORTANCE), abs=0.06)


def test_only_encoders_are_masked():
    joint, amss = (observe({"x": x}, 2, steps=1, optimizer=SGD)[0] for x in (Joint(), AMSS()))
    changed = differences(joint.final, amss.final)
    assert changed
    assert all(path.startswith("/net.encoders.") for path in changed)
