"""Balanced multimodal learning against a slow transcription (Wu et al., ICML 2022)."""

from __future__ import annotations

import math
from typing import Any

import pytest
from methods_toys import observe
from toys import MOMENTUM, SGD, differences, same

from asgml.methods.greedy import Greedy

STEPS, EPOCHS = 5, 3


def squares(nested: Any) -> float:
    return sum(map(squares, nested)) if isinstance(nested, list) else nested * nested


def gates(seen: Any, i: int) -> dict[str, list[float]]:
    """sigmoid(E_m relu(S [f_1, …, f_N])) of sample i."""
    weights = seen.more["weights"]
    f = [v for m in seen.features for v in seen.features[m][i]]

    def linear(name: str, x: list[float]) -> list[float]:
        rows, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return [b + sum(w * v for w, v in zip(row, x, strict=True)) for row, b in zip(rows, bias, strict=True)]

    z = [max(0.0, v) for v in linear("extensions.greedy_mmtm.squeeze", f)]
    return {m: [1 / (1 + math.exp(-v)) for v in linear(f"extensions.greedy_mmtm.excite.{m}", z)] for m in seen.features}


class Reference:
    """The rule in floats: gates' running means, conditional learning speeds, and what the next step does."""

    def __init__(self, tolerance: float, window: int, begins: int):
        self.tolerance, self.window, self.begins = tolerance, window, begins
        self.sums: dict[str, list[float]] = {}
        self.rows: dict[str, int] = {}
        self.path: dict[str, float] = {}
        self.encoder: dict[str, float] = {}
        self.left, self.held = 0, ""

    def logits(self, seen: Any) -> list[list[float]]:
        every = [gates(seen, i) for i in range(len(seen.y))]
        for m, rows in seen.rows.items():
            for i in rows:
                g = every[i][m]
                self.sums[m] = [a + b for a, b in zip(self.sums.get(m, [0.0] * len(g)), g, strict=True)]
                self.rows[m] = self.rows.get(m, 0) + 1
        out = []
        for i in range(len(seen.y)):
            gate = every[i]
            if self.left:
                gate[self.held] = [v / self.rows[self.held] for v in self.sums[self.held]]
            f = [v * g for m in seen.features for v, g in zip(seen.features[m][i], gate[m], strict=True)]
            weighted = [sum(w * v for w, v in zip(row, f, strict=True)) for row in seen.weight]
            out.append([a + b for a, b in zip(weighted, seen.bias, strict=True)])
        return out

    def after(self, seen: Any, epoch: int) -> None:
        if self.left:
            self.left -= 1
            return
        weights, gradients = seen.more["weights"], seen.more["gradients"]

        def mu(*prefixes: str) -> float:
            names = [k for k in weights if k.startswith(prefixes)]
            return sum(squares(gradients[k]) for k in names) / sum(squares(weights[k]) for k in names)

        for m in (m for m, rows in seen.rows.items() if rows):
            path = mu("extensions.greedy_mmtm.squeeze.", f"extensions.greedy_mmtm.excite.{m}.")
            self.path[m] = self.path.get(m, 0.0) + path
            self.encoder[m] = self.encoder.get(m, 0.0) + mu(f"net.encoders.{m}.")
        speed = {m: math.log10(self.path[m] / self.encoder[m]) for m in self.path}
        if epoch >= self.begins and len(speed) > 1:
            fastest = max(speed, key=lambda m: speed[m])
            if speed[fastest] - min(speed.values()) > self.tolerance:
                self.left, self.held = self.window, fastest


def more(module: Any) -> dict[str, Any]:
    method = module.methods["greedy"]
    named = dict(module.named_parameters())
    return {
        "weights": {k: p.tolist() for k, p in named.items()},
        "gradients": {k: p.grad.tolist() if p.grad is not None else [0.0] for k, p in named.items()},
        "mode": (method._left, method._held),
    }


@pytest.mark.parametrize("modalities", [2, 3])
def test_gates_speeds_and_decisions_are_the_transcribed_ones(modalities):
    method = Greedy(ratio=3, tolerance=0.02, window=2, begins=1)
    _, capture = observe({"greedy": method}, modalities, STEPS, EPOCHS, more, optimizer=SGD)
    reference = Reference(0.02, 2, 1)
    modes = []
    for t, seen in enumerate(capture.seen):
        assert seen.more["mode"] == (reference.left, reference.held)
        modes.append(reference.left)
        for found, expected in zip(seen.logits, reference.logits(seen), strict=True):
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
        reference.after(seen, t // STEPS)
    assert not any(modes[:STEPS])
    assert {0, 1, 2} <= set(modes)
    speeds = {m: math.log10(reference.path[m] / reference.encoder[m]) for m in reference.path}
    assert method.speeds() == pytest.approx(speeds, rel=1e-6)


def test_in_a_rebalancing_step_the_held_modality_learns_from_itself_alone():
    """Its own excitation layer is not reached; the others' are."""
    _, capture = observe({"greedy": Greedy(tolerance=-1.0, begins=0, window=3)}, 2, 2, 1, more, optimizer=SGD)
    left, held = capture.seen[1].more["mode"]
    assert left == 3
    for m in ("audio", "visual"):
        moved = squares(capture.seen[1].more["gradients"][f"extensions.greedy_mmtm.excite.{m}.weight"]) > 0
        assert moved == (m != held)


def test_rebalancing_begins_in_the_second_epoch():
    """The published 2 counts from 1. Of 3 epochs of 5 steps, step 6 is the first re-balanced one; before, step 11."""
    _, capture = observe({"greedy": Greedy(tolerance=-1.0)}, 2, STEPS, EPOCHS, more, optimizer=SGD)
    assert [seen.more["mode"][0] > 0 for seen in capture.seen].index(True) == 6


def test_its_state_is_all_that_decides():
    spent = Greedy(tolerance=0.0, begins=0, window=2)
    observe({"greedy": spent}, 2, 4, 1, optimizer=SGD)
    fresh = Greedy(tolerance=0.0, begins=0, window=2)
    fresh.load_state(spent.state())
    assert not differences(spent.state(), fresh.state())
    assert (fresh._left, fresh._held, fresh.speeds()) == (spent._left, spent._held, spent.speeds())
    assert fresh._held


def test_the_module_is_trained_and_too_wide_a_tolerance_never_rebalances():
    run, capture = observe({"greedy": Greedy(tolerance=1e9, begins=0)}, 2, 3, 1, more, optimizer=MOMENTUM)
    assert all(seen.more["mode"] == (0, "") for seen in capture.seen)
    assert not same(run.trace.start, run.final, "extensions.greedy_mmtm.squeeze")
