"""ReconBoost against a slow transcription (Hua et al., ICML 2024)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from methods_toys import Row, Seen, cross_entropy, mean, observe, softmax
from toys import MOMENTUM, same

from asgml.methods.base import Step
from asgml.methods.reconboost import ReconBoost


def together(seen: Seen, names: list[str], i: int) -> Row:
    out = [0.0] * len(seen.bias)
    for m in names:
        if i in seen.rows[m]:
            out = [a + b for a, b in zip(out, seen.unimodal[m][i], strict=True)]
    return out


def transcription(
    seen: Seen, m: str | None, last: str | None, reconcile: float, consolidate: float
) -> dict[str, float]:
    names = list(seen.features)
    if m is None:
        return {"ensemble": mean([cross_entropy(together(seen, names, i), y) for i, y in enumerate(seen.y)])}
    rows = seen.rows[m]
    out = {m: mean([cross_entropy(seen.unimodal[m][i], seen.y[i]) for i in rows])}
    kl, drift = [], []
    for i in rows:
        p, q = softmax(together(seen, [k for k in names if k != m], i)), softmax(seen.unimodal[m][i])
        kl.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        if last is not None:
            old = softmax(seen.unimodal[last][i])
            drift.append(mean([(a - b) ** 2 for a, b in zip(q, old, strict=True)]) if i in seen.rows[last] else 0.0)
    out["reconcile"] = -reconcile * mean(kl)
    if last is not None and seen.rows[last]:
        out["consolidate"] = consolidate * mean(drift)
    return out


@pytest.mark.parametrize("modalities", [2, 3])
def test_stages_losses_and_who_stands_still(modalities):
    """Two epochs a stage, one of rectification."""
    method = ReconBoost(stage_epochs=2, rectify_epochs=1, reconcile=0.3, consolidate=0.7)

    def more(module: Any) -> Any:
        terms = method.loss(module.step)
        m = module.step.epoch
        return {k: float(v.detach()) for k, v in terms.items()}, m

    run, capture = observe({"reconboost": method}, modalities, steps=3, epochs=9, more=more, optimizer=MOMENTUM)
    names = run.module.modalities
    states = [run.trace.start, *run.trace.states]
    for t, seen in enumerate(capture.seen):
        stage, within = divmod(t // 3, 3)
        m = None if within == 2 else names[stage % modalities]
        last = names[(stage - 1) % modalities] if stage else None
        found, epoch = seen.more
        assert epoch == t // 3
        assert found == pytest.approx(transcription(seen, m, last, 0.3, 0.7), rel=1e-6)
        for k in names:
            moves = m in (None, k)
            assert same(states[t], states[t + 1], f"net.encoders.{k}.") != moves
            assert same(states[t], states[t + 1], f"net.heads.{k}.") != moves
        assert same(states[t], states[t + 1], "net.fusion.")


def test_the_terms_reach_the_modality_of_the_stage_alone():
    found: list[dict[str, set[str]]] = []

    class Watched(ReconBoost):
        def loss(self, step: Step) -> dict[str, torch.Tensor]:
            terms, z = super().loss(step), step.unimodal
            reached = {}
            for name, term in terms.items():
                gradients = torch.autograd.grad(term, list(z.values()), retain_graph=True, allow_unused=True)
                some = [g is not None and bool(g.abs().sum() > 0) for g in gradients]
                reached[name] = {m for m, s in zip(z, some, strict=True) if s}
            found.append(reached)
            return terms

    observe({"reconboost": Watched(stage_epochs=1, rectify_epochs=1)}, 2, steps=1, epochs=3)
    assert found == [
        {k: {"audio"} for k in ("audio", "reconcile")},
        {"ensemble": {"audio", "visual"}},
        {k: {"visual"} for k in ("visual", "reconcile", "consolidate")},
    ]


def test_a_batch_without_the_stages_modality_makes_no_step():
    method = ReconBoost(stage_epochs=1, rectify_epochs=0)
    run, _ = observe({"reconboost": method}, 3, steps=4, epochs=2)  # the fourth batch has no visual
    assert run.pipeline.t == 7
    assert same(run.trace.states[6], run.trace.states[7])


def test_the_prediction_is_the_softmax_of_the_sum_over_present_modalities():
    method = ReconBoost()

    def more(module: Any) -> list[Row]:
        return method.fuse_at_test(module.step).tolist()

    run, capture = observe({"reconboost": method}, 2, steps=2, more=more)
    for seen in capture.seen:
        for i, row in enumerate(seen.more):
            assert row == pytest.approx(softmax(together(seen, list(seen.features), i)), rel=1e-6)
    assert any(len(seen.rows["visual"]) < len(seen.y) for seen in capture.seen)
    assert run.pipeline.t == 2
