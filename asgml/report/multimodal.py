"""Sections for multimodal training: curves per modality, updates and staleness, gradients, schedule, Fisher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asgml.report.confusion import confusion, no_confusion
from asgml.report.naming import groups, modalities, tints
from asgml.report.regression import errors
from asgml.report.timeline import UPDATES, timeline
from suite.report import figures as fig
from suite.report.data import RunRecord
from suite.report.figures import INK, Line
from suite.report.frames import EPOCHS, SECONDS, STEPS, RunFrames, position
from suite.report.sections import COMMON, Item, Section, grid, loss_shares, one_line, seeds_note
from suite.report.tables import INTERVALS, PERCENT, Cell, Table, as_html, columns, estimate, texts

SMOOTH = 5  # logged values per running median of the Fisher trace


def accuracy(frames: RunFrames) -> list[Item]:
    """Draw the fused validation accuracy of all configurations over epochs, steps, updates and time."""
    if frames.single:
        return []
    shown, sentence = frames.shown(lambda run: "val/accuracy" in run.series)
    axes = (EPOCHS, STEPS, UPDATES, SECONDS)
    figure = fig.compared(shown, "val/accuracy", "validation accuracy (%)", PERCENT, frames.baseline, axes)
    if figure is None:
        return []
    note = "Buttons change the horizontal axis; soft and fusion-only steps are no updates there."
    note += " Click a name to hide or show it, double-click to see it alone."
    return [Item("", figure, f"{seeds_note(shown)} {note} {sentence}".strip())]


def learning(frames: RunFrames) -> list[Item]:
    """Draw per configuration the fused accuracy or error, each modality's head and probe, and the probes' gap."""
    lines = [Line("val/accuracy", "fused", INK)]
    for m, colour in tints(modalities(frames)).items():
        lines.append(Line(f"val/accuracy/{m}", f"{m} head", colour))
        lines.append(Line(f"probe/accuracy/{m}", f"{m} probe (EMA)", colour, "dot"))
    return [
        *grid(frames, "", ("val/accuracy", "probe/accuracy/"), lines, "validation accuracy (%)", scale=PERCENT),
        *errors(frames),
        *one_line(frames, "Probe gap", "probe/gap", "gap (percentage points)", PERCENT),
    ]


def shares(frames: RunFrames) -> list[Item]:
    """Draw the share of the fusion loss and of each unimodal loss."""
    note = "Share of each term in the training loss (fusion loss and gamma times each unimodal loss)."
    return loss_shares(frames, tints(["fusion", *modalities(frames)]), note)


@dataclass(frozen=True)
class Quantity:
    """A family of series `<prefix>/<name>`, one curve per name.

    Attributes:
        prefix: the part of the names before the slash.
        title, y: the heading, and the title of the vertical axis.
        log: whether that axis is logarithmic.
        steps: whether a value holds until the next point.
    """

    prefix: str
    title: str
    y: str
    log: bool = False
    steps: bool = False


def quantities(frames: RunFrames, names: list[str], families: list[Quantity]) -> list[Item]:
    """Draw one grid per quantity with a panel per configuration; with one configuration, one grid of all quantities."""
    items = {}
    for q in families:
        lines = fig.family(q.prefix, tints(names), "hv" if q.steps else "linear")
        items[q] = grid(frames, q.title, (f"{q.prefix}/",), lines, q.y, log=q.log)
    if any(isinstance(part.body, list) for found in items.values() for part in found):
        return [item for found in items.values() for item in found]
    panels = [(q.title, p.body) for q, found in items.items() for p in found if isinstance(p.body, dict)]
    if not panels:
        return []
    heads = [found[0] for found in items.values() if found]
    captions = dict.fromkeys(head.caption for head in heads)
    return [Item("", heads[0].body, " ".join(captions)), Item("", panels)]


def gradients(frames: RunFrames) -> list[Item]:
    """Draw gradient norm, share, parameter movement and update-to-weight ratio per parameter group."""
    families = [
        Quantity("grad_norm", "Gradient norm", "‖g‖ (unscaled)", log=True),
        Quantity("grad_share", "Gradient share", "share of the total norm"),
        Quantity("delta", "Parameter movement per step", "‖Δparam‖", log=True),
        Quantity("update_ratio", "Update-to-weight ratio", "‖Δparam‖ / ‖param‖", log=True),
    ]
    return quantities(frames, groups(frames), families)


def schedule(frames: RunFrames) -> list[Item]:
    """Draw the schedule's variables per modality: delay, period, and the signals that set them."""
    families = [
        Quantity("tau", "Delay tau", "steps", steps=True),
        Quantity("k", "Update period k", "steps", steps=True),
        Quantity("S", "Speed score S", "relative to the mean"),
        Quantity("G", "Gradient signal G", "relative to the mean"),
        Quantity("D", "Loss descent D", "relative to the mean"),
        Quantity("U", "Probe utilisation U", "accuracy (0–1)"),
    ]
    return quantities(frames, modalities(frames), families)


def fisher(frames: RunFrames) -> list[Item]:
    """Draw the Fisher trace of each encoder."""
    lines = fig.family("fisher", tints(modalities(frames)))
    return grid(frames, "", ("fisher/",), lines, "Fisher trace", log=True)


def cosine(frames: RunFrames) -> list[Item]:
    """Draw the cosine between the fusion-path and the unimodal-path gradient at the feature."""
    note = "Cosine at the feature: 1 for the same direction, 0 for unrelated ones, below 0 for a conflict."
    return grid(frames, "", ("cosine/",), fig.family("cosine", tints(modalities(frames))), "cosine", note)


def learning_rates(frames: RunFrames) -> list[Item]:
    """Draw the learning rate per parameter group."""
    names = sorted({n.removeprefix("lr/") for r in frames.runs for n in r.series if n.startswith("lr/")})
    return grid(frames, "", ("lr/",), fig.family("lr", tints(names), "hv"), "learning rate", log=True)


def prime_window(run: RunRecord, modality: str) -> tuple[float | None, float | None] | None:
    """Return the epochs until an encoder's Fisher trace has fallen to half its peak, and its probe accuracy (0–1) then.

    The trace is a running median of SMOOTH logged values. None where no finite trace was logged; (None, None) where
    half the peak was not reached; the accuracy is None where no probe was logged by then.
    Source: Achille et al. (ICLR 2019), Fisher trace in learning periods; InfoReg (CVPR 2025), the window.
    """
    series = run.series.get(f"fisher/{modality}")
    if series is None or not np.isfinite(series.value).all():
        return None
    half_width = SMOOTH // 2
    value = np.array(
        [np.median(series.value[max(0, i - half_width) : i + half_width + 1]) for i in range(series.value.size)]
    )
    peak = int(value.argmax())
    below = np.flatnonzero(value[peak:] <= value[peak] / 2)
    epochs = position(run, series, EPOCHS)
    if epochs is None or below.size == 0:
        return None, None
    at = peak + int(below[0])
    probe = run.series.get(f"probe/accuracy/{modality}")
    known = [] if probe is None else probe.value[probe.step <= series.step[at]]
    return float(epochs[at]), float(known[-1]) if len(known) else None


def weaker(frames: RunFrames) -> tuple[str | None, str]:
    """Return the modality with the lowest final probe (else head) accuracy in the baseline or first row, and why."""
    c = frames.base or frames.configurations[0]
    for prefix, what in [("probe/accuracy/", "probe"), ("val/accuracy/", "head")]:
        ends = {
            m: [float(r.series[prefix + m].value[-1]) for r in c.curves if prefix + m in r.series]
            for m in modalities(frames)
        }
        means = {m: float(np.mean(v)) for m, v in ends.items() if v}
        if len(means) > 1 and np.isfinite(list(means.values())).all():
            return min(means, key=lambda m: means[m]), f"lowest final {what} accuracy of “{c.label}”"
    return None, ""


def prime(frames: RunFrames) -> list[Item]:
    """Tell the prime learning window as a number per encoder, the weaker encoder set off."""
    weak, why = weaker(frames)
    rows: list[list[Cell]] = []
    strong: set[int] = set()
    for c in frames.configurations:
        for m in modalities(frames):
            found = {r.seed: w for r in c.curves if (w := prime_window(r, m)) is not None}
            if not found:
                continue
            if m == weak:
                strong.add(len(rows))
            reached = {s: w[0] for s, w in found.items() if w[0] is not None}
            probes = {s: w[1] for s, w in found.items() if w[1] is not None}
            state = f"{len(reached)} of {len(found)}"
            when = estimate(reached) if reached else Cell("not reached")
            rows.append([*texts(c.label, m, state), when, estimate(probes, PERCENT)])
    if not rows:
        return []
    epochs = "epochs until the Fisher trace\nis at half its peak"
    numbers = ["seeds that\nreached it", epochs, "probe accuracy\nthen (%)"]
    notes = [
        f"Fisher trace as a running median of {SMOOTH} logged values; means over the seeds that reached half the peak. "
        f"{INTERVALS}"
    ]
    if weak is not None:
        notes.append(f"Bold: the weaker encoder, {weak} ({why}).")
    head = columns("configuration", "encoder", numbers=numbers)
    return [Item("", as_html(Table("", head, rows, notes, strong)))]


def _no_comparison(frames: RunFrames) -> str:
    if frames.single and any("val/accuracy" in run.series for run in frames.runs):
        return "there is one configuration only; its accuracy is among the learning curves"
    return "no val/accuracy in history.csv"


LOSS, *LAST = COMMON
MULTIMODAL = [
    Section("Validation accuracy", accuracy, _no_comparison),
    Section("Learning curves per modality", learning, "val/accuracy, val/mae or probe/accuracy in history.csv"),
    Section("Confusion matrix", confusion, no_confusion),
    Section("Prime learning window", prime, "finite fisher/<modality> in history.csv"),
    Section("Updates and staleness", timeline, "rows in timeline.csv"),
    Section("Schedule", schedule, "tau, k, S, G, D or U of a modality in history.csv"),
    LOSS,
    Section("Loss shares", shares, "share/ in history.csv"),
    Section("Gradients per group", gradients, "grad_norm, grad_share, delta or update_ratio in history.csv"),
    Section("Fisher trace", fisher, "fisher/ in history.csv"),
    Section("Fusion against unimodal gradient", cosine, "cosine/ in history.csv"),
    Section("Learning rate", learning_rates, "lr/ in history.csv"),
    *LAST,
]
