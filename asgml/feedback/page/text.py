"""The page as Markdown: its tables, and what they say in words that follow from their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asgml.feedback.branch_shares import Row, table
from asgml.feedback.page.tables import fusions, per_loop, trained_variants
from callbacks.stages.gradient_share import THRESHOLD
from suite.report import RunRecord
from suite.report.tables import markdown

FIGURE = "feedback_share.svg"
HISTORIC = 0.375
HEAD = """# Feedback between the towers of a frozen CLIP

Written by `python -m asgml.feedback.study feedback --data FOLDER`, none of it by hand. The CLIP is small and has random
weights: these numbers compare models on it, and say nothing of what a trained CLIP reaches.

The *base* is the same model without feedback: adapters in both towers, one pass. With feedback the image reads the
prompts of its class, and from the second loop on the prompts read the image of the loop before. Both stages of training
and the evaluation are one run; the weights are those of the best validation, by pixel AUROC after the last loop.

Anchors that have read a picture are this picture's alone, and can move all of its scores together. A fall of pixel
AUROC without one within images would be a sign of it; where intervals hold 0, neither is shown.
"""
SHARES = f"""## What a branch leaves to what stands before it

The gradient that reaches the module in front of a branch, with the branch over that without it: same weights, same
batch, one denominator for all variants of a system. `full` adds what is read at full scale, `scaled` at 0.1;
`normalised` normalises what is read first, `norm_matched` also brings the branch to the norm of its stream,
`learnable` makes the weight a parameter. *fusions*: encoders of vectors under `fusion=…`. *clip*: the image adapters of
a small CLIP in stage 2, the branch in front of them; *clip_behind*: the branch behind the first adapter; *clip_mean*:
there, with the mean of the text's tokens as the only token that is read. *Context ×*: the factor on what is read.

*Size alone*: the stream at the norm that it has with the branch. *Direction alone*: the stream with the branch, at the
norm that it has without. A normalisation behind the branch divides the gradient by the norm that it finds: where size
alone explains the share, the norm is inflated and nothing has absorbed the gradient. What the branch passes back to the
stream itself, through its queries, is part of its direction.

An earlier system lost its image loss to a branch at full scale (share {HISTORIC}; the two runs behind that number had
each its own denominator). Below {THRESHOLD:g}, a run warns.
"""
TRAINED = """## The variants in training

The same as *clip_mean*: a text with embeddings of norm {norm}, read as one token behind the adapters; one loop, short
stages (`python -m asgml.feedback.study variants`). `BranchShare` measures during training, and warns of what starves.
"""
GRID = """## The same block as a fusion: `fusion=cross_attention` on GRID digits

Beside concatenation, `method=joint`, and with the branches at full scale.

"""


def page(
    sets: Mapping[str, Sequence[RunRecord]],
    variants: Sequence[RunRecord],
    grid: Sequence[RunRecord],
    shares: Mapping[str, Sequence[Row]],
    skipped: Mapping[str, str],
) -> str:
    """Return the page.

    Args:
        sets: the runs with and without feedback, by data set.
        variants: the runs of the variants.
        grid: the runs of fusions on GRID digits.
        shares: the measured rows by system.
        skipped: the data sets that were left out, with the reason.
    """
    parts = [HEAD]
    for name, runs in sets.items():
        parts.append(f"## {name}\n\n{markdown(per_loop(runs))}")
    parts += [f"## {name}\n\nNot run: {why}.\n" for name, why in skipped.items()]
    parts.append(SHARES)
    everything = [row for rows in shares.values() for row in rows]
    parts.append("\n".join(f"- {line}" for line in causes(everything)) + "\n")
    parts.append(f"![Share and size of a branch over its weight]({FIGURE})\n")
    parts += [f"### {name}\n\n{table(rows)}" for name, rows in shares.items()]
    parts.append(f"! below {THRESHOLD:g}. Means over seeds with 95 % t intervals.\n")
    norms = sorted({str(run.config["clip"]["text_norm"]) for run in variants})
    parts.append(TRAINED.format(norm=" or ".join(norms)) + "\n" + markdown([trained_variants(variants)]))
    if grid:
        parts.append(GRID + markdown([fusions(grid)]))
    return "\n".join(parts)


def causes(rows: Sequence[Row]) -> list[str]:
    """Return a line for every row that starves, with what does it, and one on the rows that do not."""
    starving = [r for r in rows if r.share.mean < THRESHOLD]
    lines = [f"`{r.name}` × {r.context:g}: {interval(r)}. {cause(r)}." for r in starving]
    matched = [r for r in rows if r.name.endswith(("norm_matched", "learnable"))]
    least = min(matched, key=lambda r: r.share.mean)
    lines.append(
        f"Matched in norm, the least share of all systems is {interval(least)} (`{least.name}` × {least.context:g})."
    )
    return lines


def interval(row: Row) -> str:
    """Return the share with its interval."""
    return f"{row.share.mean:.3f} [{row.share.low:.3f}, {row.share.high:.3f}]"


def cause(row: Row) -> str:
    """Say what of a branch takes the gradient away: its size, its direction, or neither alone."""
    small = [name for name, value in (("size", row.size), ("direction", row.direction)) if value < THRESHOLD]
    told = f"size alone {row.size:.3f}, direction alone {row.direction:.3f}, branch/stream norm {row.norm_ratio:.2g}"
    what = {0: "neither alone", 1: f"its {small[0] if small else ''}", 2: "both"}[len(small)]
    return f"What takes it is {what}: {told}"
