"""AMST against a slow transcription (Silva et al., ECML PKDD 2025)."""

from __future__ import annotations

import pytest
from methods_toys import Seen, cross_entropy, flat, mean, observe
from toys import MOMENTUM, SGD, differences, same

from asgml.methods.amst import AMST
from asgml.methods.joint import Joint


def fused_loss(seen: Seen, taking_part: set[str]) -> float:
    """Mean cross-entropy of the concat fusion with the skipped and the missing modalities at zero."""
    total = []
    for i, y in enumerate(seen.y):
        z, start = list(seen.bias), 0
        for m, f in seen.features.items():
            for j, v in enumerate(f[i]):
                if m in taking_part and i in seen.rows[m]:
                    z = [o + w[start + j] * v for o, w in zip(z, seen.weight, strict=True)]
            start += len(f[i])
        total.append(cross_entropy(z, y))
    return mean(total)


@pytest.mark.parametrize(("modalities", "factors"), [(2, {"audio": 3}), (3, {"audio": 2, "text": 3})])
def test_skipped_modalities_stand_still_and_are_absent_from_the_loss(modalities, factors):
    method, steps = AMST(factors=factors), 3

    def more(module):
        return float(method.loss(module.step)["fusion"].detach())

    run, capture = observe({"amst": method}, modalities, steps=steps, epochs=4, more=more, optimizer=MOMENTUM)
    names = run.module.modalities
    states = [run.trace.start, *run.trace.states]
    for t, seen in enumerate(capture.seen):
        skipped = {m for m in names if (t // steps) % factors.get(m, 1) != 0}
        assert seen.more == pytest.approx(fused_loss(seen, set(names) - skipped), rel=1e-6)
        for m in names:
            assert same(states[t], states[t + 1], f"net.encoders.{m}.") == (m in skipped)
        assert not same(states[t], states[t + 1], "net.fusion.linear.bias")


def test_an_epoch_without_skipping_is_joint_training():
    runs = [observe({"x": x}, 2, steps=3, epochs=2, optimizer=SGD) for x in (Joint(), AMST(factor=2))]
    (joint, a), (run, b) = runs
    assert not differences(joint.trace.states[:3], run.trace.states[:3])
    assert differences(joint.trace.states[3], run.trace.states[3])
    assert not differences(a.gradients[:3], b.gradients[:3])


def test_the_skipped_modalitys_part_of_the_fusion_has_no_gradient():
    _, capture = observe({"amst": AMST(factor=2)}, 2, steps=1, epochs=2, optimizer=SGD)
    weight = capture.gradients[1]["fusion"][0]
    width = len(capture.seen[0].features["audio"][0])
    assert flat([weight[:, :width]]) == [0.0] * (3 * width)
    assert any(flat([weight[:, width:]]))
