"""OPM against a slow transcription (Wei et al., TPAMI 2024)."""

from __future__ import annotations

import math

import pytest
import torch
from methods_toys import Seen, mean, observe, softmax
from toys import SGD, differences

from asgml.methods.base import Step
from asgml.methods.joint import Joint
from asgml.methods.opm import OPM


def part(seen: Seen, m: str, i: int) -> list[float]:
    """W_m f_m + b / M."""
    start = 0
    for k in seen.features:
        if k == m:
            break
        start += len(seen.features[k][0])
    return [
        b / len(seen.features) + sum(row[start + j] * v for j, v in enumerate(seen.features[m][i]))
        for row, b in zip(seen.weight, seen.bias, strict=True)
    ]


def probabilities(seen: Seen, q_base: float, lam: float) -> dict[str, float]:
    here = [m for m in seen.features if seen.rows[m]]
    p = {m: mean([softmax(part(seen, m, i))[seen.y[i]] for i in seen.rows[m]]) for m in here}
    q = dict.fromkeys(seen.features, 0.0)
    for m in here:
        ratios = [p[m] / p[k] for k in here if k != m]
        rho = mean(ratios) if ratios else 0.0
        if rho > 1:
            q[m] = min(q_base * (1 + lam * math.tanh(rho - 1)), 1.0)
    return q


class Recorded(OPM):
    """Keeps what it gave to the fusion."""

    given: dict[str, torch.Tensor]

    def on_features(self, step, features):
        self.given = super().on_features(step, features)
        return self.given


@pytest.mark.parametrize("modalities", [2, 3])
def test_drop_probabilities_and_the_dropped_features_are_the_transcribed_ones(modalities):
    def more(module):
        given = {m: f.tolist() for m, f in module.methods["opm"].given.items()}
        return given, {m: float(module.step.reads[f"opm/q/{m}"]) for m in given}

    method = Recorded(q_base=0.6, lam=3.0, p_exe=1.0, begins=0)
    _, capture = observe({"opm": method}, modalities, steps=6, epochs=3, more=more, optimizer=SGD)
    dropped = kept = 0
    for seen in capture.seen:
        given, q = seen.more
        assert q == pytest.approx(probabilities(seen, 0.6, 3.0), rel=1e-6, abs=1e-12)
        width = {m: len(f[0]) for m, f in seen.features.items()}
        theta = sum(width[m] * q[m] for m in q) / sum(width.values())
        for i in range(len(seen.y)):
            present = [m for m in q if i in seen.rows[m]]
            gone = [m for m in present if not any(given[m][i])]
            assert all(q[m] > 0 for m in gone)
            assert not present or len(gone) < len(present)
            for m in present:
                if m not in gone:
                    assert given[m][i] == pytest.approx([v / (1 - theta) for v in seen.features[m][i]], rel=1e-6)
                    kept += q[m] > 0 and len(present) > 1
            dropped += len(gone)
            logits = list(seen.bias)
            for c, row in enumerate(seen.weight):
                logits[c] += sum(w * v for w, v in zip(row, [v for m in q for v in given[m][i]], strict=True))
            assert seen.logits[i] == pytest.approx(logits, rel=1e-6, abs=1e-9)
    assert dropped > 10
    assert kept > 0


def fixed(rows: int, t: int) -> tuple[Step, dict[str, torch.Tensor]]:
    """A step in which audio predicts every label well, visual none."""
    y = torch.zeros(rows, dtype=torch.long)
    strong, weak = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    features = {m: torch.ones(rows, 2) for m in ("audio", "visual")}
    step = Step(
        y=y, present={"audio": None, "visual": None}, features=features, logits=torch.empty(0), unimodal={},
        slices=lambda m: (strong if m == "audio" else weak).expand(rows, 2), losses={},
        mean=lambda v, m: v.mean(), t=t, epoch=0, training=True,
    )  # fmt: skip
    return step, features


def test_a_sample_is_dropped_as_often_as_it_should_be_and_a_step_drops_as_often_as_it_should():
    method = OPM(q_base=0.4, lam=0.5, p_exe=1.0, begins=0)
    method.prepare("opm", ["audio", "visual"], 2, 0)
    step, features = fixed(20000, 0)
    rho = (math.exp(2) / (math.exp(2) + 1)) / 0.5
    q = 0.4 * (1 + 0.5 * math.tanh(rho - 1))
    gone = (method.on_features(step, features)["audio"] == 0).all(1).double().mean()
    assert abs(float(gone) - q) < 4 * math.sqrt(q * (1 - q) / 20000)
    again = method.on_features(step, features)
    torch.testing.assert_close(method.on_features(step, features), again)
    sometimes = OPM(p_exe=0.3, begins=0)
    acted = sum(
        bool((sometimes.on_features(*fixed(8, t))["visual"] != 1).any()) for t in range(1000)
    )  # the divisor shows it, whatever was drawn
    assert abs(acted / 1000 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 1000)


def test_before_its_start_and_in_evaluation_nothing_is_dropped():
    plain, run = (observe({"x": x}, steps=2, epochs=3)[0] for x in (Joint(), OPM(p_exe=1.0, begins=2)))
    assert not differences(plain.trace.states[:4], run.trace.states[:4])
    assert differences(plain.trace.states[4], run.trace.states[4])
    step, features = fixed(4, 0)
    step.training = False
    assert OPM(p_exe=1.0, begins=0).on_features(step, features) is features
