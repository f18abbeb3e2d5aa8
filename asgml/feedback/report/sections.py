"""The sections of a feedback run's page: metrics per loop, localisation, shares and gradient norms over time."""

from __future__ import annotations

import base64
import html

from suite.report import figures as fig
from suite.report.figures import Line
from suite.report.frames import RunFrames
from suite.report.sections import COMMON, Item, Section, grid
from suite.report.tables import PERCENT

COLOURS = ("#9ca3af", "#60a5fa", "#1d4ed8", "#7c3aed", "#be185d", "#b45309")
FOLDER = "maps"  # of localisation pictures, in a run directory
PAGE_PICTURES = 12


def per_loop(frames: RunFrames) -> list[Item]:
    """Draw validation metrics after every loop."""
    found = []
    for name, title in (("pixel_auroc", "pixel AUROC (%)"), ("aupro", "AUPRO (%)"), ("image_auroc", "image AUROC (%)")):
        prefix = f"val/{name}/loop"
        count = len({n for run in frames.runs for n in run.series if n.startswith(prefix)})
        lines = [Line(f"{prefix}{n}", f"loop {n}", COLOURS[(n - 1) % len(COLOURS)]) for n in range(1, count + 1)]
        note = "Held-out pictures of the classes that are trained on, mean over classes."
        found += grid(frames, title.removesuffix(" (%)"), (prefix,), lines, title, note, scale=PERCENT)
    return found


def shares(frames: RunFrames) -> list[Item]:
    """Draw the share of the gradient that the branches leave, and their norm over that of the stream."""
    lines = [
        Line("share/image_adapter", "image adapters", COLOURS[2]),
        Line("share/norm_ratio", "norm of branch / stream", COLOURS[0]),
    ]
    note = "Gradient of the image adapters with the branches over that without, on the same pictures."
    return grid(frames, "", ("share/image_adapter",), lines, "share", note)


def gradients(frames: RunFrames) -> list[Item]:
    """Draw the gradient norm of every group that is trained."""
    groups = ("text_adapter", "image_adapter", "image_projection", "image_reads", "text_reads")
    tint = dict(zip(groups, ("#b45309", COLOURS[2], COLOURS[1], *COLOURS[3:5]), strict=True))
    return grid(frames, "", ("grad_norm/",), fig.family("grad_norm", tint), "‖g‖", "Per group.", log=True)


def pictures(frames: RunFrames) -> list[Item]:
    """Show localisation pictures of the first run that has them."""
    for run in frames.runs:
        files = sorted((run.path / FOLDER).glob("*.png"))[:PAGE_PICTURES]
        if files:
            caption = f"Surface, mask, and the map after each loop over the surface; test, seed {run.seed}."
            return [Item("", "".join(_shown(f.stem, f.read_bytes()) for f in files), caption)]
    return []


def _shown(name: str, data: bytes) -> str:
    text = html.escape(name)
    source = base64.b64encode(data).decode()
    return f'<figure><img alt="{text}" src="data:image/png;base64,{source}"><figcaption>{text}</figcaption></figure>'


FEEDBACK = [
    Section("Metrics per loop", per_loop, "val/pixel_auroc, val/aupro or val/image_auroc after loops in history.csv"),
    Section("Localisation", pictures, f"pictures in {FOLDER}/"),
    Section("Gradient share of the branches", shares, "share/image_adapter in history.csv"),
    Section("Gradients per group", gradients, "grad_norm/ in history.csv"),
    *COMMON,
]
