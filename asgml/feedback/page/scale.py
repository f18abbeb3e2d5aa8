"""The share of the gradient over the weight of a branch: which scale starves, and which cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from asgml.feedback.branch_shares import Row, measure_system
from asgml.feedback.measured import AdaptedCLIP, System, Towers
from asgml.model.fusion.cross_attention import CrossAttention
from suite.report.chart import COLOURS, Line, Panel, svg

#: factors on what is read: as far above the stream as starves in each system
FUSION_CONTEXT, CLIP_CONTEXT = 7.0, 20.0
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of `scaled`, 1 is `full`
#: by line: the builder of the system at a weight, and the factor on what it reads
LINES: dict[str, tuple[Callable[[float], System], float]] = {
    "fusion, raw": (
        lambda w: Towers(partial(CrossAttention, variant="scaled", weight=w), FUSION_CONTEXT),
        FUSION_CONTEXT,
    ),
    "fusion, matched": (
        lambda w: Towers(partial(CrossAttention, variant="norm_matched", weight=w), FUSION_CONTEXT),
        FUSION_CONTEXT,
    ),
    "CLIP, raw": (lambda w: AdaptedCLIP("scaled", 2, "mean", CLIP_CONTEXT, w), CLIP_CONTEXT),
    "CLIP, matched": (lambda w: AdaptedCLIP("norm_matched", 2, "mean", CLIP_CONTEXT, w), CLIP_CONTEXT),
}
AXIS = "weight of the branch"
TICKS, SIZES = (0.1, 0.2, 0.5, 0.8, 1.0, 2.0), (0.001, 0.01, 0.1, 1.0, 10.0)


def over_scale() -> dict[str, list[tuple[float, Callable[[Sequence[int]], Row]]]]:
    """Return, by line, the weights with what measures there over seeds."""

    def one(name: str, weight: float, seeds: Sequence[int]) -> Row:
        build, context = LINES[name]
        return measure_system(name, build(weight), context, seeds)

    return {name: [(w, partial(one, name, w)) for w in WEIGHTS] for name in LINES}


def figure(found: dict[str, list[tuple[float, Row]]]) -> str:
    """Return both panels as SVG: the share over the weight, and the branch's norm over that of the stream."""
    shares, sizes = list[Line](), list[Line]()
    for (name, points), colour in zip(found.items(), COLOURS, strict=False):
        matched = name.endswith("matched")
        shares.append(Line(name, [(w, r.share.mean) for w, r in points], colour, dashed=matched))
        sizes.append(Line(name, [(w, r.norm_ratio) for w, r in points], colour, dashed=matched))
    share = Panel(
        "gradient with the branch over that without", AXIS, shares, WEIGHTS, TICKS, (0.1, 2.0), True, logarithmic_x=True
    )
    size = Panel(
        "norm of the branch over that of the stream",
        AXIS,
        sizes,
        WEIGHTS,
        SIZES,
        (0.001, 30.0),
        True,
        logarithmic_x=True,
    )
    return svg([share, size])
