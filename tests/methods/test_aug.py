"""AUG against a slow transcription (Jiang et al., NeurIPS 2025)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from asgml_runs import config, fit
from methods_toys import Row, cross_entropy, mean, observe, softmax
from torch import nn
from toys import MOMENTUM, same

from asgml.methods.aug import AUG, Boosted
from asgml.methods.base import Epoch
from suite.runs.identity import run_dir

WIDTH = 4


def dense(x: Row, layer: nn.Linear) -> Row:
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def added(rows: list[Row]) -> Row:
    return [sum(column) for column in zip(*rows, strict=True)]


def classifiers(module: Any) -> dict[str, list[list[Row]]]:
    """z_1, …, z_n of every sample, by modality."""
    out = {}
    for m, f in module.step.features.items():
        head = module.net.heads[m]
        layers = list(head.private)[: head.used]
        out[m] = [[dense([max(0.0, v) for v in dense(x, p)], head.shared) for p in layers] for x in f.tolist()]
    return out


def expected(seen: Any, z: dict[str, list[list[Row]]], residual: float) -> dict[str, float]:
    """All terms of Eq. 2 to 5, as means over the rows that have m."""
    out: dict[str, float] = {}
    for m, rows in seen.rows.items():
        if not rows:
            continue
        out[m] = mean([cross_entropy(added(z[m][i]), seen.y[i]) for i in rows])
        if len(z[m][0]) > 1:
            pre = {i: added(z[m][i][:-1]) for i in rows}
            left = {i: 1 - residual * softmax(pre[i])[seen.y[i]] for i in rows}
            out["previous"] = out.get("previous", 0.0) + mean([cross_entropy(pre[i], seen.y[i]) for i in rows])
            own = mean([left[i] * cross_entropy(z[m][i][-1], seen.y[i]) for i in rows])
            out["residual"] = out.get("residual", 0.0) + own
    return out


@pytest.mark.parametrize(("modalities", "residual"), [(2, 0.5), (3, 1.0)])
def test_the_losses_are_the_transcribed_ones_and_classifiers_are_added(modalities, residual):
    """A tau of -1 adds one to every modality at every check; two epochs apart, three at most."""
    method = AUG(residual=residual, every=2, tau=-1.0, width=WIDTH, most=3)

    def more(module):
        terms = {k: float(v.detach()) for k, v in method.loss(module.step).items()}
        return terms, classifiers(module), {m: module.net.heads[m].used for m in module.modalities}

    steps, epochs = 4, 8
    run, capture = observe({"aug": method}, modalities, steps, epochs, more, optimizer=MOMENTUM)
    states = [run.trace.start, *run.trace.states]
    for t, seen in enumerate(capture.seen):
        terms, z, used = seen.more
        n = min(1 + (t // steps) // 2, 3)
        assert set(used.values()) == {n}
        assert terms == pytest.approx(expected(seen, z, residual), rel=1e-6)
        for m in run.module.modalities:
            for i in range(3):
                still = same(states[t], states[t + 1], f"net.heads.{m}.private.{i}.")
                if i >= n:
                    assert still  # weight decay included
                elif seen.rows[m]:
                    assert not still
        assert same(states[t], states[t + 1], "net.fusion.")


@pytest.mark.parametrize(
    ("scores", "sigma", "grown"),
    [
        ({"audio": 0.6, "visual": 0.4}, 1.0, {"visual"}),
        ({"audio": 0.405, "visual": 0.4}, 1.0, set()),
        ({"audio": 0.6, "visual": 0.4}, 1.5, set()),
        ({"audio": 0.6, "visual": 0.3, "text": 0.3}, 1.0, {"visual", "text"}),
        ({"audio": 0.6, "visual": 0.5, "text": 0.4}, 1.0, {"text"}),
    ],
)
def test_the_modality_behind_the_others_is_given_a_classifier(scores, sigma, grown):
    method = AUG(every=5, sigma=sigma)
    method.prepare("aug", list(scores), 3, 0)
    method.modules(dict.fromkeys(scores, 4), 3)
    for number in (0, 3, 5, 6):
        method._sums = {m: [4 * s, 4] for m, s in scores.items()}
        method.on_epoch(Epoch(number, 20, {}, None, None))  # type: ignore[arg-type]
        assert method._sums == {}
    assert {m for m, head in method._heads.items() if head.used == 2} == grown
    assert {m for m, head in method._heads.items() if head.used == 1} == set(scores) - grown


def test_the_number_of_classifiers_comes_with_the_weights():
    heads = [Boosted(4, 3, nn.Linear(5, 2)) for _ in range(2)]
    heads[0].add()
    x = torch.randn(3, 4)
    heads[1].load_state_dict(heads[0].state_dict())
    assert heads[1].used == 2
    assert torch.equal(heads[0](x), heads[1](x))
    for _ in range(4):
        heads[0].add()
    assert heads[0].used == 3


def test_the_prediction_weighs_the_modalities_that_are_there(features: dict[int, Path], tmp_path: Path) -> None:
    cfg = config(
        features[2], tmp_path, "method=aug", "methods.aug.weights={audio:3,visual:1}", "methods.aug.every=1",
        "callbacks.probe=null",
    )  # fmt: skip
    parts = fit(cfg)
    step = parts.module.step
    z = {m: v.tolist() for m, v in step.unimodal.items()}
    for i, row in enumerate(parts.module.methods["aug"].fuse_at_test(step).tolist()):
        w = {m: v for m, v in {"audio": 3.0, "visual": 1.0}.items() if step.present[m] is None or step.present[m][i]}
        mixed = added([[w[m] * v for v in z[m][i]] for m in w])
        assert row == pytest.approx(softmax([v / sum(w.values()) for v in mixed]), rel=1e-4)
    saved = torch.load(run_dir(cfg) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for m in ("audio", "visual"):
        assert int(saved[f"net.heads.{m}.count"]) == parts.module.net.heads[m].used
    shared = [parts.module.net.heads[m].shared for m in ("audio", "visual")]
    assert shared[0] is shared[1]
