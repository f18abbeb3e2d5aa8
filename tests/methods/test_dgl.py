"""DGL against a slow transcription (Wei et al., ICCV 2025)."""

from __future__ import annotations

import pytest
from methods_toys import Seen, cross_entropy, mean, observe, softmax
from toys import SGD, differences

from asgml.methods.dgl import DGL
from asgml.methods.joint import Joint


def columns(seen: Seen) -> dict[str, range]:
    out, start = {}, 0
    for m, f in seen.features.items():
        out[m] = range(start, start + len(f[0]))
        start += len(f[0])
    return out


def alone(seen: Seen, m: str, i: int) -> list[float]:
    """W [0, …, f_m, …, 0] + b."""
    cols = columns(seen)[m]
    return [
        b + sum(row[c] * v for c, v in zip(cols, seen.features[m][i], strict=True))
        for row, b in zip(seen.weight, seen.bias, strict=True)
    ]


@pytest.mark.parametrize("modalities", [2, 3])
def test_losses_and_the_gradient_at_the_encoders_end_are_the_transcribed_ones(modalities):
    """The gradient of an encoder's last bias is the sum over samples of the gradient at the feature."""

    def more(module):
        return {m: v.item() for m, v in module.methods["dgl"].loss(module.step).items()}

    _, capture = observe({"dgl": DGL(alpha=2.5)}, modalities, steps=4, more=more, optimizer=SGD)
    for seen, gradients in zip(capture.seen, capture.gradients, strict=True):
        here = [m for m in seen.features if seen.rows[m]]
        assert list(seen.more) == here
        for m in here:
            rows = seen.rows[m]
            z = {i: alone(seen, m, i) for i in rows}
            assert seen.more[m] == pytest.approx(2.5 * mean([cross_entropy(z[i], seen.y[i]) for i in rows]), rel=1e-6)
            expected = [0.0] * len(seen.features[m][0])
            for i in rows:
                for c, p in enumerate(softmax(z[i])):
                    for j, col in enumerate(columns(seen)[m]):
                        expected[j] += 2.5 * (p - (c == seen.y[i])) * seen.weight[c][col] / len(rows)
            bias = gradients[m][-1]
            assert bias is not None
            assert bias.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_fusion_and_heads_learn_as_in_joint_training():
    _, capture = observe({"dgl": DGL()}, 3, steps=1, optimizer=SGD)
    _, plain = observe({"joint": Joint()}, 3, steps=1, optimizer=SGD)
    assert not differences(plain.gradients[0]["fusion"], capture.gradients[0]["fusion"])
