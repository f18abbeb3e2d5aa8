"""Where a method is not what its authors' code does, its docstring says so, and what a paper does not give is named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from asgml import methods
from asgml.rhythm import Boost

NAMED: list[tuple[Any, list[str]]] = [
    (methods.AGM, ["(k_n - k_m)/2 g_m(0)", "20 published"]),
    (
        methods.AMCo,
        ["but for seven things", "z_m is of the masked feature", "decide about the next one", "fixed order"],
    ),
    (methods.CGGM, ["authors' direction term has no gradient at any encoder"]),
    (methods.CML, ["adds up over its samples i", "grows with the batch size"]),
    (methods.DGL, ["2 and 3 on Kinetics-Sounds", "no published value for other sets"]),
    (methods.InfoReg, ["Eq. 16 of the paper is exp(beta * tanh(D))"]),
    (methods.LFM, ["with `js`"]),
    (methods.MLA, ["public code differs in six ways", *(f"({i})" for i in range(1, 7))]),
    (methods.MMPareto, ["once for a whole encoder, as the paper writes it", "tensor by tensor"]),
    (methods.PMR, ["epsilon of the paper; no published value", "0.01 published", "70 of 130 epochs"]),
    (methods.Relearn, ["tightest of 10 starts"]),
    (Boost, ["at a gap of 0.001"]),
]


@pytest.mark.parametrize(("target", "phrases"), NAMED, ids=[t.__name__ for t, _ in NAMED])
def test_the_docstring_says_so(target: Any, phrases: list[str]) -> None:
    text = " ".join(target.__doc__.split())
    assert [p for p in phrases if p not in text] == []


def test_what_agm_says_of_the_public_code_is_so() -> None:
    """Responses with factors on their gradients, passes with a blank input included: k_a g + (k_b - k_a)/2 g(0).

    "The same mean factor for every encoder", as it was put before, is (1.5 + 0.5)/2 = 1 for both: neither this nor
    the rule.
    """
    torch.manual_seed(0)
    a, b, y = torch.randn(5, 3), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    encoders = {"a": torch.nn.Linear(3, 6), "b": torch.nn.Linear(4, 6)}
    parts = {m: torch.nn.Linear(6, 3, bias=False) for m in encoders}
    factor = {"a": 1.5, "b": 0.5}

    def logits(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return parts["a"](encoders["a"](x).tanh()) + parts["b"](encoders["b"](z).tanh())

    def scaled(value: torch.Tensor, k: float) -> torch.Tensor:
        return value * k - (value * (k - 1)).detach()

    total, only_a, only_b = logits(a, b), logits(a, 0 * b), logits(0 * a, b)
    response = {"a": 0.5 * (total - only_b + only_a), "b": 0.5 * (total - only_a + only_b)}
    out = sum(scaled(r, factor[m]) for m, r in response.items())
    assert isinstance(out, torch.Tensor)
    found = torch.autograd.grad(torch.nn.functional.cross_entropy(out, y), [*encoders["a"].parameters()])
    pull = torch.autograd.grad(torch.nn.functional.cross_entropy(logits(a, b), y), [*encoders["a"].parameters()])
    slope = (torch.softmax(logits(a, b), 1) - torch.eye(3)[y]).detach() / 5
    blank = torch.autograd.grad((slope * logits(0 * a, b)).sum(), [*encoders["a"].parameters()])
    for f, g, g0 in zip(found, pull, blank, strict=True):
        torch.testing.assert_close(f, 1.5 * g + 0.5 * (0.5 - 1.5) * g0)
    assert not torch.allclose(found[0], pull[0])  # the mean factor


def test_what_mmpareto_says_of_the_public_code_is_so() -> None:
    """Two tensors, one in conflict: restored tensor by tensor the direction turns, restored at once it does not."""
    fused, own = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[-3.0, 0.5], [0.4, 0.2]])
    w = methods.mmpareto.pareto_weight((fused**2).sum(), (own**2).sum(), (fused * own).sum())
    h, plain = w * fused + (1 - w) * own, fused + own
    at_once = h * plain.norm() / h.norm()
    by_tensor = h * (plain.norm(dim=1, keepdim=True) / h.norm(dim=1, keepdim=True))
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(at_once.flatten(), h.flatten(), dim=0)) == pytest.approx(1.0)
    assert float(cosine(by_tensor.flatten(), h.flatten(), dim=0)) < 0.999
    assert math.isclose(float(at_once.norm()), float(plain.norm()), rel_tol=1e-6)
