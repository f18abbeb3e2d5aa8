"""CML against a slow transcription (Ma et al., ICML 2023): all orders in which modalities are taken away."""

from __future__ import annotations

import math
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from methods_toys import Seen, cross_entropy, mean, observe, softmax
from toys import SGD

from asgml.methods.cml import CML


def fused(seen: Seen, i: int, subset: set[str]) -> list[float]:
    out, start = list(seen.bias), 0
    for m, f in seen.features.items():
        if m in subset and i in seen.rows[m]:
            for c, row in enumerate(seen.weight):
                out[c] += sum(row[start + j] * v for j, v in enumerate(f[i]))
        start += len(f[i])
    return out


def total(seen: Seen, lam: float) -> dict[str, float]:
    """By order, set by set; the mean over the orders."""
    here = [m for m in seen.features if seen.rows[m]]
    terms: dict[str, list[float]] = {"fusion": [], "subsets": [], "confidence": []}
    for order in permutations(here):
        ce, rise = [], []
        for k in range(len(order)):
            s = set(order[k:])
            rows = [i for i in range(len(seen.y)) if any(i in seen.rows[m] for m in s)]
            every = list(range(len(seen.y))) if k == 0 else rows
            ce.append(mean([cross_entropy(fused(seen, i, s), seen.y[i]) for i in every]))
            if k + 1 < len(order):
                t = set(order[k + 1 :])
                both = [i for i in range(len(seen.y)) if i in seen.rows[order[k]] and any(i in seen.rows[m] for m in t)]
                rises = [max(0.0, max(softmax(fused(seen, i, t))) - max(softmax(fused(seen, i, s)))) for i in both]
                rise.append(sum(rises))
        terms["fusion"].append(ce[0] / len(order))
        terms["subsets"].append(sum(ce[1:]) / len(order))
        terms["confidence"].append(lam * sum(rise))
    return {k: mean(v) for k, v in terms.items()}


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_terms_are_the_transcribed_ones(modalities):
    def more(module):
        return {k: v.item() for k, v in module.methods["cml"].loss(module.step).items()}

    _, capture = observe({"cml": CML(lam=0.7)}, modalities, steps=5, more=more, optimizer=SGD)
    for seen in capture.seen:
        assert seen.more == pytest.approx(total(seen, 0.7), rel=1e-6, abs=1e-12)
    assert any(seen.more["confidence"] > 1e-3 for seen in capture.seen)


def test_the_confidence_term_is_a_sum_over_the_batch():
    """64 samples, each 0.25 surer without visual and unchanged without audio: 0.1 * 64 * (0.25 + 0) / 2 = 0.8.

    As a mean over the batch it was 0.0125, a 64th.
    """
    n = 64
    flat, sure = torch.zeros(n, 2), torch.tensor([[math.log(3.0), 0.0]]).expand(n, 2)
    alone = {("audio",): sure, ("visual",): flat}
    step: Any = SimpleNamespace(
        here=["audio", "visual"], logits=flat, y=torch.zeros(n, dtype=torch.long), losses={"fusion": torch.tensor(0.7)},
        present={"audio": None, "visual": None}, features={m: flat for m in ("audio", "visual")},
        fuse=lambda some: alone[tuple(some)], mean=lambda values, m: values.mean(), total=lambda values: values,
    )  # fmt: skip
    assert float(CML(lam=0.1).loss(step)["confidence"]) == pytest.approx(0.8, rel=1e-6)


def test_rows_of_all_ranks_are_added_and_rows_without_the_pair_left_out():
    """Two ranks of 3 and 5 rows, one row each without visual: DDP's average of what each returns is the whole sum."""
    sizes, rise = (3, 5), 0.25
    found = []
    for n in sizes:
        flat, sure = torch.zeros(n, 2), torch.tensor([[math.log(3.0), 0.0]]).expand(n, 2)
        there = torch.arange(n) > 0
        alone = {("audio",): sure, ("visual",): flat}
        step: Any = SimpleNamespace(
            here=["audio", "visual"], logits=flat, y=torch.zeros(n, dtype=torch.long), losses={"fusion": flat.sum()},
            present={"audio": None, "visual": there}, features={m: flat for m in ("audio", "visual")},
            fuse=lambda some, alone=alone: alone[tuple(some)],
            mean=lambda values, m: values.sum() * len(sizes) / sum(sizes),
            total=lambda values: torch.full_like(values, sum(sizes)),
        )  # fmt: skip
        found.append(float(CML(lam=1.0).loss(step)["confidence"]))
    assert sum(found) / len(sizes) == pytest.approx(rise / 2 * sum(n - 1 for n in sizes), rel=1e-6)


def test_with_one_modality_left_in_a_batch_the_fused_loss_remains():
    from toys import Capture, asgml, toy_batches, toy_spec, train

    capture = Capture(lambda module: set(module.methods["cml"].loss(module.step)))
    batches = toy_batches(1, toy_spec(), missing={0: ["visual"]})
    train(asgml(), batches, spec=toy_spec(), methods={"cml": CML()}, extra=[capture], optimizer=SGD)
    assert capture.seen == [{"fusion"}]
