"""UME: independent learners, and the mean of their probabilities (Du et al., ICML 2023)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from methods_toys import observe, softmax
from toys import MOMENTUM, differences

from asgml.methods.ume import UME
from asgml.methods.unimodal import Unimodal


def test_every_encoder_and_head_learns_as_in_a_run_of_its_own():
    run, _ = observe({"ume": UME()}, steps=3, epochs=2, optimizer=MOMENTUM)
    for m in ("audio", "visual"):
        single, _ = observe({"unimodal": Unimodal(m)}, steps=3, epochs=2, optimizer=MOMENTUM)
        for part in (f"net.encoders.{m}.", f"net.heads.{m}."):
            a, b = ({k: v for k, v in r.final.items() if k.startswith(part)} for r in (run, single))
            assert a
            assert not differences(a, b)


def test_the_fusion_stays():
    run, _ = observe({"ume": UME()}, steps=2, optimizer=MOMENTUM)
    kept = [k for k in run.final if k.startswith("net.fusion")]
    assert kept
    assert all(torch.equal(run.trace.start[k], run.final[k]) for k in kept)


@pytest.mark.parametrize("weights", [None, {"audio": 3.0, "visual": 1.0}])
def test_the_prediction_is_the_weighted_mean_of_probabilities(weights):
    z = {"audio": [[3.0, 0.1, -1.0], [0.2, 0.1, 0.0]], "visual": [[0.5, 0.4, 0.3], [-2.0, 4.0, 1.0]]}
    step: Any = SimpleNamespace(
        y=torch.zeros(2),
        logits=torch.zeros(2, 3, dtype=torch.float64),
        unimodal={m: torch.tensor(v, dtype=torch.float64) for m, v in z.items()},
        present={"audio": None, "visual": torch.tensor([True, False])},
    )
    found = UME(weights).fuse_at_test(step)
    w = weights or {"audio": 1.0, "visual": 1.0}
    first = [
        (w["audio"] * a + w["visual"] * b) / sum(w.values())
        for a, b in zip(softmax(z["audio"][0]), softmax(z["visual"][0]), strict=True)
    ]
    assert found[0].tolist() == pytest.approx(first, rel=1e-9)
    assert found[1].tolist() == pytest.approx(softmax(z["audio"][1]), rel=1e-9)
