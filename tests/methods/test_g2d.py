"""G2D against a slow transcription (Rakib and Bagavathi, ICCV 2025)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from asgml_runs import config, fit, prepare
from methods_toys import Row, Seen, mean, observe, softmax
from torch import nn
from toys import SGD, ToyEncoder, same

from asgml.methods.g2d import G2D
from asgml.train.teachers import Teacher
from callbacks.errors import UserError


def teachers(modalities: int) -> dict[str, nn.Module]:
    """Teachers of these names; the heads are far enough apart for the order to change between batches."""
    out: dict[str, nn.Module] = {}
    for i, m in enumerate(["audio", "visual", "text"][:modalities]):
        torch.manual_seed(i)
        out[m] = Teacher(ToyEncoder((5,)), nn.Linear(4, 3)).double()
    return out


def taught(module: Any) -> dict[str, tuple[list[Row], list[Row]]]:
    """Features and logits of every teacher in the module's step, from the teacher itself."""
    out = {}
    for m in module.step.modalities:
        f = module.step.teacher(m)
        head = module.forward_pass.teachers[m].head
        out[m] = (f.tolist(), (f @ head.weight.T + head.bias).tolist())
    return out


def kl(p: Row, q: Row) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def losses(seen: Seen, goals: Any, features: float, logits: float, temperature: float) -> dict[str, float]:
    near, alike = 0.0, 0.0
    for m, f in seen.features.items():
        if rows := seen.rows[m]:
            near += mean([mean([(a - b) ** 2 for a, b in zip(f[i], goals[m][0][i], strict=True)]) for i in rows])
            soft = {i: [softmax([v / temperature for v in z]) for z in (goals[m][1][i], seen.logits[i])] for i in rows}
            alike += temperature**2 * mean([kl(*soft[i]) for i in rows])
    return {"features": features * near, "logits": logits * alike}


def weakest_first(seen: Seen, goals: Any) -> list[str]:
    score = {m: mean([softmax(goals[m][1][i])[seen.y[i]] for i in seen.rows[m]]) for m in seen.features if seen.rows[m]}
    return sorted(score, key=score.__getitem__)


@pytest.mark.parametrize(("modalities", "temperature"), [(2, 1.0), (3, 2.0)])
def test_the_losses_are_the_transcribed_ones(modalities, temperature):
    method = G2D(features=2.0, logits=3.0, temperature=temperature, alone=0.0)

    def more(module):
        return {k: float(v.detach()) for k, v in method.loss(module.step).items()}, taught(module)

    options = {"optimizer": SGD, "module_options": {"teachers": teachers(modalities)}}
    run, capture = observe({"g2d": method}, modalities, steps=4, more=more, **options)
    for seen in capture.seen:
        found, goals = seen.more
        assert found == pytest.approx(losses(seen, goals, 2.0, 3.0, temperature), rel=1e-6)
    assert not any("teacher" in k for k in run.final)


@pytest.mark.parametrize(
    ("modalities", "alone", "stages"), [(2, 0.5, [0, 0, None, None]), (3, [0.25, 0.5], [0, 1, 1, None])]
)
def test_in_its_stage_a_modality_moves_alone(modalities, alone, stages):
    """Judged by the teachers on each batch; the fusion moves throughout."""
    options = {"optimizer": SGD, "module_options": {"teachers": teachers(modalities)}}
    steps = 4
    run, capture = observe({"g2d": G2D(alone=alone)}, modalities, steps, 4, taught, **options)
    states, leaders = [run.trace.start, *run.trace.states], set()
    for t, seen in enumerate(capture.seen):
        place, order = stages[t // steps], weakest_first(seen, seen.more)
        moving = set(order) if place is None else {order[min(place, len(order) - 1)]}
        leaders |= moving if place is not None else set()
        names = {k for k, _ in run.module.named_parameters()}
        for m in run.module.modalities:
            keys = [k for k in names if k.startswith(f"net.encoders.{m}.")]
            assert any(not torch.equal(states[t][k], states[t + 1][k]) for k in keys) == (m in moving), (t, m)
        assert not same(states[t], states[t + 1], "net.fusion.linear.weight")
    assert len(leaders) > 1


def test_stages_are_shares_of_the_epochs_that_there_are():
    method = G2D(alone=[0.3, 0.2])
    method.prepare("g2d", ["audio", "visual"], 3, 0)
    assert [method.stage(e, 10) for e in range(10)] == [0, 0, 0, 1, 1, *[None] * 5]
    published = G2D()
    assert [published.stage(e, 300) for e in (149, 150)] == [0, None]
    with pytest.raises(UserError, match=r"trainer\.max_epochs=100"):
        published.stage(0, -1)


def test_a_teacher_without_its_head_is_refused(features: dict[int, Path], tmp_path: Path) -> None:
    path = tmp_path / "headless.ckpt"
    state = prepare(config(features[2], tmp_path / "runs", "method=joint")).module.state_dict()
    torch.save({"state_dict": {k: v for k, v in state.items() if ".heads." not in k}}, path)
    with pytest.raises(UserError, match="another head"):
        fit(config(features[2], tmp_path / "runs", "method=g2d", f"methods.g2d.checkpoints='{path}'"))
    fit(config(features[2], tmp_path / "runs", "method=umt", f"methods.umt.checkpoints='{path}'"))
