"""MMCosine against a slow transcription (Xu et al., ICASSP 2023)."""

from __future__ import annotations

import math

import pytest
import torch
from methods_toys import cross_entropy, mean
from toys import SGD, Capture, asgml, same, toy_batches, toy_spec, train

from asgml.methods.mmcosine import MMCosine


def cosine(a: list[float], b: list[float]) -> float:
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def look(module):
    step = module.step
    return {
        "y": step.y.tolist(),
        "features": {m: f.tolist() for m, f in step.features.items()},
        "weight": module.net.fusion.weight.tolist(),
        "logits": step.logits.tolist(),
        "slices": {m: step.slices(m).tolist() for m in step.features},
        "loss": step.losses["fusion"].item(),
        "finite": all(p.grad is None or bool(p.grad.isfinite().all()) for p in module.parameters()),
    }


@pytest.mark.parametrize("modalities", [2, 3])
def test_logits_and_their_parts_are_scaled_cosines_with_missing_rows_too(modalities):
    spec, capture = toy_spec(modalities), Capture(look)
    missing = {3: ["visual"]} if modalities > 2 else {}
    batches = toy_batches(4, spec, partly={1: ["visual"], 2: ["audio", "visual"]}, missing=missing)
    run = train(asgml(), batches, spec=spec, methods={"x": MMCosine(scale=7.0)}, extra=[capture], optimizer=SGD)
    for seen in capture.seen:
        losses = []
        for i, y in enumerate(seen["y"]):
            expected, start = [0.0] * 3, 0
            for m, f in seen["features"].items():
                width = len(f[i])
                part = [7.0 * cosine(row[start : start + width], f[i]) for row in seen["weight"]]
                assert seen["slices"][m][i] == pytest.approx(part, rel=1e-6, abs=1e-9)
                expected = [a + b for a, b in zip(expected, part, strict=True)]
                start += width
            assert seen["logits"][i] == pytest.approx(expected, rel=1e-6, abs=1e-9)
            losses.append(cross_entropy(expected, y))
        assert seen["loss"] == pytest.approx(mean(losses), rel=1e-6)
        assert seen["finite"]
    assert not same(run.trace.start, run.final, "net.fusion.weight")


def test_the_length_of_a_feature_is_worth_nothing():
    fusion = MMCosine(scale=3.0).modules({"audio": 4, "visual": 5}, 3)["fusion"]
    f = {"audio": torch.randn(6, 4), "visual": torch.randn(6, 5)}
    longer = {"audio": 50 * f["audio"], "visual": f["visual"].half()}
    torch.testing.assert_close(fusion(f), fusion(longer), rtol=2e-3, atol=5e-3)
    huge = {m: (v * 0 + 3e4).half() for m, v in f.items()}  # whose norm half precision cannot hold
    assert bool(fusion(huge).isfinite().all())
