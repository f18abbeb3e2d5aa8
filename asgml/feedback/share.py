"""`python -m asgml.feedback.share`: how much gradient each variant of a branch leaves to an encoder, over seeds.

An image encoder and a text encoder (small, random, vectors of 16 numbers) feed a fusion with a branch; the text feature
comes at several times the norm of the image feature. Measured is the gradient of the image encoder with the branch over
that without it: same weights, same batch, so that all variants have one denominator. Two controls tell what the branch
does by its size from what it does by its direction, which `callbacks.Branch` describes: *size alone* is the stream at
the norm that it has with the branch, *direction alone* the stream with the branch at the norm that it has without.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asgml.data.spec import DataSpec, ModalitySpec
from asgml.model.cross_attention import VARIANTS
from asgml.model.encoders.small import MLP
from asgml.model.fusion.base import Fusion
from asgml.model.fusion.cross_attention import CrossAttention
from asgml.model.fusion.film import FiLM
from asgml.model.fusion.gated import Gated
from asgml.model.net import MultimodalNet
from callbacks.errors import UserError
from callbacks.stages.branch import Mode, branches_of, measured, norm_sums, switched
from callbacks.stages.gradient_share import THRESHOLD, gradient_share
from suite.runs.command import command
from suite.statistics import Estimate, mean_interval

#: every branch of the suite's fusions, by the name of its row
FUSIONS: dict[str, Callable[..., Fusion]] = {
    **{f"cross_attention {name}": partial(CrossAttention, variant=name) for name in VARIANTS},
    "film": partial(FiLM, modulator="text"),
    "gated": Gated,
}
LEAST = 10  # seeds: one draw is noise
WIDTH, CLASSES, ROWS = 16, 4, 32


@dataclass(frozen=True)
class Row:
    """Holds what one branch leaves to the image encoder, at one size of the context.

    Attributes:
        name: the fusion and its variant.
        context: the factor on the text feature.
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


class Towers(nn.Module):
    """Two encoders and a fusion that are drawn anew for every seed, with a batch of their own."""

    def __init__(self, fusion: Callable[..., Fusion], context: float):
        super().__init__()
        modalities = {m: ModalitySpec(m, "vector", (WIDTH,)) for m in ("image", "text")}
        self.spec, self.factory = DataSpec(modalities, [str(c) for c in range(CLASSES)]), fusion
        self.context = context
        self.net, self.seed = self._build(0), 0
        own = self.net.fusion
        #: where a branch joins the image stream; in cross-attention the text has one of its own, which stays off
        self.joins: nn.Module = own.branches["image"] if isinstance(own, CrossAttention) else own

    def _build(self, seed: int) -> MultimodalNet:
        return MultimodalNet(self.spec, partial(MLP, dim=32), {}, self.factory, seed)

    def loss(self, seed: int, mode: Mode = "on") -> Tensor:
        """Return the fused loss of the seed's batch in the seed's weights, with the branches in a mode."""
        if seed != self.seed:
            self.net.load_state_dict(self._build(seed).state_dict())
            self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(CLASSES, (ROWS,), generator=generator)
        features = {}
        for m in self.net.modalities:
            x = torch.randn(ROWS, WIDTH, generator=generator) + F.one_hot(y, WIDTH)
            features[m] = self.net.encode(m, x)
        features["text"] = self.context * features["text"]
        one = {b.mode for b in branches_of(self.joins)} == {"on"}
        others = [b for b in branches_of(self.net) if all(b is not own for own in branches_of(self.joins))]
        for b in others:
            b.mode = "off"
        with switched(self.joins, mode if one else "off"):
            return F.cross_entropy(self.net.fusion(features), y)


def measure(name: str, context: float, seeds: Sequence[int]) -> Row:
    """Measure one branch of `FUSIONS` at one factor on the context.

    Raises:
        UserError: fewer than ten seeds, or no such branch.
    """
    if len(seeds) < LEAST:
        raise UserError("--seeds", str(len(seeds)), f"at least {LEAST}: one draw is noise", f"--seeds {LEAST}")
    if name not in FUSIONS:
        raise UserError("--branches", name, ", ".join(map(repr, FUSIONS)), f"--branches {next(iter(FUSIONS))!r}")
    towers = Towers(FUSIONS[name], context)
    encoder, found = towers.net.encoders["image"], {}
    sizes: list[Tensor] = []

    def norms() -> tuple[float, float]:
        branch, stream = sizes.pop().tolist()
        return branch, stream

    def watched(seed: int) -> Tensor:
        with measured(towers.joins) as branches:
            loss = towers.loss(seed)
        sizes.append(norm_sums(branches))
        return loss

    off = partial(switched, towers.joins, "off")
    found["on"] = gradient_share(encoder, watched, off, seeds, norms, warn=False)
    for mode in ("inflated", "turned"):
        found[mode] = gradient_share(encoder, partial(towers.loss, mode=mode), off, seeds, warn=False)
    on = found["on"]
    assert on.norm_ratio is not None
    sizes_share, direction = found["inflated"].share, found["turned"].share
    return Row(name, context, mean_interval(on.shares), on.norm_ratio, sizes_share, direction, on.references)


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


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return 0."""
    parser = argparse.ArgumentParser(
        prog="python -m asgml.feedback.share", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=LEAST, help=f"the number of seeds, at least {LEAST}")
    parser.add_argument("--branches", nargs="+", default=list(FUSIONS), metavar="NAME", help=", ".join(FUSIONS))
    parser.add_argument("--context", nargs="+", type=float, default=[1.0, 5.0], help="factors on the text feature")
    parser.add_argument("--json", type=Path, default=None, help="also write the rows to this file")
    given = parser.parse_args(argv)
    rows = [measure(name, context, range(given.seeds)) for context in given.context for name in given.branches]
    print(table(rows), end="")
    print(f"! below {THRESHOLD:g}. Means over {given.seeds} seeds with 95 % intervals (Student's t).")
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(r) for r in rows], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
