"""The rows of `python -m asgml.feedback.share`: what one branch leaves of an encoder's gradient, over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from asgml.feedback.measured import AdaptedCLIP, System, Towers
from asgml.model.fusion.cross_attention import CrossAttention
from asgml.model.fusion.film import FiLM
from asgml.model.fusion.gated import Gated
from asgml.model.variants import VARIANTS
from callbacks.errors import UserError
from callbacks.stages.branch import Mode, branches_of, measured, norm_sums, switched
from callbacks.stages.gradient_share import THRESHOLD, GradientShare, gradient_norm, gradient_share
from suite.statistics import Estimate, mean_interval

#: every branch by system and by the name of its row: the builder of what is measured, of the factor on the context
SYSTEMS: dict[str, dict[str, Callable[[float], System]]] = {
    "fusions": {
        **{f"cross_attention {name}": partial(Towers, partial(CrossAttention, variant=name)) for name in VARIANTS},
        "film": partial(Towers, partial(FiLM, modulator="text")),
        "gated": partial(Towers, Gated),
    },
    "clip": {f"clip {name}": partial(AdaptedCLIP, name, 1, "tokens") for name in VARIANTS},
    "clip_behind": {f"clip_behind {name}": partial(AdaptedCLIP, name, 2, "tokens") for name in VARIANTS},
    "clip_mean": {f"clip_mean {name}": partial(AdaptedCLIP, name, 2, "mean") for name in VARIANTS},
}
BRANCHES = {name: build for rows in SYSTEMS.values() for name, build in rows.items()}
LEAST = 10  # seeds: one draw is noise
CONTROLS: tuple[Mode, Mode] = ("inflated", "turned")


@dataclass(frozen=True)
class Row:
    """Holds what one branch leaves to what stands before it, at one size of the context.

    Attributes:
        name: the system and its variant.
        context: the factor on what is read.
        share: the mean of the shares over seeds, with its interval.
        norm_ratio: the mean norm of the branch over that of the stream.
        size: the share that the size of the branch alone leaves.
        direction: the share that its direction alone leaves.
        references: per seed the gradient norm without the branch.
    """

    name: str
    context: float
    share: Estimate
    norm_ratio: float
    size: float
    direction: float
    references: list[float]


def measure(name: str, context: float, seeds: Sequence[int]) -> Row:
    """Measure one branch of `BRANCHES` at one factor on the context.

    Raises:
        UserError: fewer than ten seeds, no such branch, or a factor that is not finite.
    """
    if len(seeds) < LEAST:
        raise UserError("--seeds", str(len(seeds)), f"at least {LEAST}: one draw is noise", f"--seeds {LEAST}")
    if name not in BRANCHES:
        raise UserError("--branches", name, ", ".join(map(repr, BRANCHES)), f"--branches {next(iter(BRANCHES))!r}")
    if not math.isfinite(context):
        raise UserError("--context", str(context), "finite factors", "--context 1 7")
    return measure_system(name, BRANCHES[name](context), context, seeds)


def measure_system(name: str, system: System, context: float, seeds: Sequence[int]) -> Row:
    """Measure a system; arguments as the attributes of `Row`."""
    sizes: list[Tensor] = []

    def loss(seed: int, mode: Mode = "on") -> Tensor:
        """Return the loss in a mode, unless the branch is switched off."""
        if any(b.mode == "off" for b in branches_of(system.joins)):
            return system.loss(seed)
        with measured(system.joins) as branches, switched(system.joins, mode):
            found = system.loss(seed)
        sizes.append(norm_sums(branches))
        return found

    def norms() -> tuple[float, float]:
        branch, stream = sizes[-1].tolist()
        return branch, stream

    found: list[GradientShare] = []
    controls: dict[Mode, list[float]] = {mode: [] for mode in CONTROLS}
    for seed in seeds:  # all modes of a seed together: drawing the weights is most of the work
        one = gradient_share(system.under_test, loss, partial(switched, system.joins, "off"), [seed], norms, warn=False)
        found.append(one)
        for mode, shares in controls.items():
            shares.append(gradient_norm(system.under_test, loss(seed, mode)) / one.references[0])
    ratios = [one.norm_ratio for one in found if one.norm_ratio is not None]
    size, direction = (sum(shares) / len(seeds) for shares in controls.values())
    share = mean_interval([one.share for one in found])
    references = [one.references[0] for one in found]
    return Row(name, context, share, sum(ratios) / len(ratios), size, direction, references)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table; a share below 0.8 is marked with `!`."""
    head = (
        "| branch | context × | share of the gradient | branch/stream norm | size alone | direction alone |\n"
        "|:---|---:|---:|---:|---:|---:|\n"
    )
    lines = []
    for r in rows:
        mark = " !" if r.share.mean < THRESHOLD else ""
        interval = f"[{r.share.low:.3f}, {r.share.high:.3f}]"
        lines.append(
            f"| {r.name}{mark} | {r.context:g} | {r.share.mean:.3f} {interval} | {r.norm_ratio:.3g} | {r.size:.3f} | "
            f"{r.direction:.3f} |\n"
        )
    return head + "".join(lines)
