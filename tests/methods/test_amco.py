"""AMCo against a slow transcription (Zhou et al., ICASSP 2023)."""

from __future__ import annotations

import math

import pytest
from methods_toys import Seen, cross_entropy, mean, observe, softmax
from toys import SGD, differences

from asgml.methods.amco import AMCo
from callbacks.errors import UserError

EPOCHS = 3


def alone(seen: Seen, m: str, i: int) -> list[float]:
    start = 0
    for k in seen.features:
        if k == m:
            break
        start += len(seen.features[k][0])
    there = i in seen.rows[m]
    return [
        b + (sum(row[start + j] * v for j, v in enumerate(seen.features[m][i])) if there else 0.0)
        for row, b in zip(seen.weight, seen.bias, strict=True)
    ]


def shares(seen: Seen) -> dict[str, float]:
    out: dict[str, list[float]] = {m: [] for m in seen.features}
    for i in range(len(seen.y)):
        present = [m for m in seen.features if i in seen.rows[m]]
        if len(present) < 2:
            continue
        p = softmax([v for m in present for v in alone(seen, m, i)])
        classes = len(seen.bias)
        for m in seen.features:
            k = present.index(m) if m in present else -1
            out[m].append(sum(p[k * classes : (k + 1) * classes]) if k >= 0 else 0.0)
    return {m: mean(v) if v else 0.0 for m, v in out.items()}


class Recorded(AMCo):
    """Keeps what it gave to the fusion."""

    def on_features(self, step, features):
        self.given = super().on_features(step, features)
        return self.given


@pytest.mark.parametrize("modalities", [2, 3])
def test_shares_masks_and_losses_are_the_transcribed_ones(modalities):
    def more(module):
        step, method = module.step, module.methods["amco"]
        given = {m: f.tolist() for m, f in method.given.items()}
        read = {m: float(step.reads[f"amco/share/{m}"]) for m in given}
        return given, read, {m: v.item() for m, v in method.loss(step).items()}

    method = Recorded(sigma=0.4, eps=0.9, most=0.8)
    _, capture = observe({"amco": method}, modalities, steps=5, epochs=EPOCHS, more=more, optimizer=SGD)
    masks = set()
    for t, seen in enumerate(capture.seen):
        given, read, terms = seen.more
        share = shares(seen)
        assert read == pytest.approx(share, rel=1e-6, abs=1e-12)
        rate = min(math.sin(math.pi / 2 * min(t // 5 / EPOCHS, 0.9) / 0.9), 0.8)
        largest = max(share, key=share.__getitem__)
        for m, f in seen.features.items():
            width = len(f[0])
            count = int(rate * width) if m == largest and share[m] >= 0.4 else 0
            gone = [j for j in range(width) if all(row[j] == 0 for row in given[m]) and any(row[j] != 0 for row in f)]
            assert len(gone) == count
            factor = 1 / (1 - rate) if m == largest and share[m] >= 0.4 else 1.0
            for i, row in enumerate(f):
                whole = [0.0 if j in gone else factor * v for j, v in enumerate(row)]
                assert given[m][i] == pytest.approx(whole, rel=1e-9)
            if count:
                masks.add((m, tuple(gone)))
        for i in range(len(seen.y)):
            inputs = [v for m in given for v in given[m][i]]
            for found, row, b in zip(seen.logits[i], seen.weight, seen.bias, strict=True):
                z = b + sum(w * v for w, v in zip(row, inputs, strict=True))
                assert found == pytest.approx(z, rel=1e-6, abs=1e-9)
        own = {m: mean([cross_entropy(alone(seen, m, i), seen.y[i]) for i in r]) for m, r in seen.rows.items() if r}
        assert terms == pytest.approx(own, rel=1e-6)
    assert len(masks) > 1


def test_nothing_is_masked_where_no_modality_is_depended_on():
    a, b = (observe({"x": AMCo(sigma=s)}, steps=3, epochs=2, optimizer=SGD)[0] for s in (0.99, 1.0))
    c, _ = observe({"x": AMCo(sigma=0.0)}, steps=3, epochs=2, optimizer=SGD)
    assert not differences(a.trace.states, b.trace.states)
    assert not differences(a.trace.states[:3], c.trace.states[:3])  # the rate begins at 0
    assert differences(a.trace.states[3], c.trace.states[3])


def test_a_training_without_a_number_of_epochs_is_refused():
    with pytest.raises(UserError, match="max_epochs"):
        AMCo().rate(0, -1)
