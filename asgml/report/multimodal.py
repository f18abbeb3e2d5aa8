"""Sections for multimodal training: curves per modality, updates and staleness, gradients, schedule, Fisher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from suite.report import figures as fig
from suite.report.data import Run
from suite.report.figures import INK, Line, colours
from suite.report.frames import RunFrames, position
from suite.report.sections import (
    SECTIONS,
    Item,
    Section,
    configuration,
    cost,
    events,
    grid,
    loss,
    one_line,
    seeds_note,
)
from suite.report.tables import Cell, Column, Table, as_html, estimate

PERCENT = 100.0
SMOOTH = 5  # logged values per running median of the Fisher trace


def accuracy(frames: RunFrames) -> list[Item]:
    """Fused validation accuracy of all configurations in one figure, on the axes epochs, updates and compute."""
    if frames.single:
        return []
    shown, sentence = frames.shown(lambda run: "val/accuracy" in run.series)
    figure = fig.compared(shown, "val/accuracy", "validation accuracy (%)", PERCENT, frames.baseline)
    if figure is None:
        return []
    note = "Buttons change the horizontal axis. Click a name to hide or show it, double-click to see it alone."
    return [Item("", figure, f"{seeds_note(shown)} {note} {sentence}".strip())]


def learning(frames: RunFrames) -> list[Item]:
    """Per configuration: fused accuracy, unimodal head and probe of each modality."""
    tint = colours(frames.modalities)
    lines = [Line("val/accuracy", "fused", INK)]
    for m in frames.modalities:
        lines += [
            Line(f"val/accuracy/{m}", f"{m} head", tint[m]),
            Line(f"probe/accuracy/{m}", f"{m} probe (EMA)", tint[m], "dot"),
        ]
    return grid(frames, "", ("val/accuracy", "probe/accuracy/"), lines, "validation accuracy (%)", scale=PERCENT)


def gap(frames: RunFrames) -> list[Item]:
    """Utilisation gap between the strongest and the weakest probe."""
    return one_line(frames, "Probe gap", "probe/gap", "gap (percentage points)", PERCENT)


def shares(frames: RunFrames) -> list[Item]:
    """Share of each loss term."""
    tint = colours([*frames.modalities, "fusion"])
    lines = [Line(f"share/{m}", m, tint[m]) for m in ["fusion", *frames.modalities]]
    note = "Share of each term in the training loss (fusion loss and gamma times each unimodal loss)."
    return grid(frames, "", ("share/",), lines, "share of the loss", note, draw=fig.stacked)


def timeline(frames: RunFrames) -> list[Item]:
    """What each encoder did: step by step, then over the whole run; one seed per configuration."""
    shown, sentence = frames.shown(lambda run: run.timeline is not None)
    picked = [(c, run) for c in shown if (run := next((r for r in c.curves if r.timeline is not None), None))]
    if not picked:
        return []
    seen = {a for _, run in picked if run.timeline is not None for a in fig.actions_of(run.timeline)}
    swatches = fig.legend({meaning: (colour, "fill") for a, (colour, meaning) in fig.ACTIONS.items() if a in seen})
    seeds = ", ".join(map(str, sorted({run.seed for _, run in picked})))
    strips = [(c.label, f) for c, run in picked if (f := fig.raster(run, frames.modalities)) is not None]
    windows = f"One column per step: the first and the last steps of seed {seeds}. Age and scale on hover."
    over, fresh = [], []
    for c, run in picked:
        for m in frames.modalities:
            name = m if frames.single else f"{c.label} · {m}"
            table = run.timeline[run.timeline["modality"] == m] if run.timeline is not None else None
            if table is not None and set(fig.actions_of(table)) <= {"update", "missing", "veto"}:
                fresh.append(name)
            elif (figure := fig.actions_over_run(run, m)) is not None:
                over.append((name, figure))
    items = [Item("Step by step", swatches, f"{windows} {sentence}".strip()), Item("", strips, wide=True)]
    if over:
        note = "Areas: share of steps per action (left). Black line: mean age of the applied gradients (right)."
        items.append(Item("Over the run", over, note))
    if fresh:
        items.append(Item("", "", f"Only fresh updates, apart from missing and vetoed steps: {', '.join(fresh)}."))
    return items


@dataclass(frozen=True)
class Quantity:
    """A family of series `<prefix>/<name>`, one curve per name."""

    prefix: str
    title: str
    y: str
    log: bool = False
    steps: bool = False  # keeps its value until the next point


def quantities(frames: RunFrames, names: list[str], families: list[Quantity]) -> list[Item]:
    """One grid per quantity with a panel per configuration; with one configuration, one grid of all quantities."""
    tint = colours(names)

    def lines(q: Quantity) -> list[Line]:
        return [Line(f"{q.prefix}/{n}", n, tint[n], shape="hv" if q.steps else "linear") for n in names]

    items = {q: grid(frames, q.title, (q.prefix + "/",), lines(q), q.y, log=q.log) for q in families}
    if any(isinstance(part.body, list) for found in items.values() for part in found):
        return [item for found in items.values() for item in found]
    panels = [(q.title, p.body) for q, found in items.items() for p in found if isinstance(p.body, dict)]
    if not panels:
        return []
    heads = [found[0] for found in items.values() if found]
    captions = dict.fromkeys(head.caption for head in heads)
    return [Item("", heads[0].body, " ".join(captions)), Item("", panels)]


def gradients(frames: RunFrames) -> list[Item]:
    """Gradient norm, share, parameter movement and update-to-weight ratio per parameter group."""
    families = [
        Quantity("grad_norm", "Gradient norm", "‖g‖ (unscaled)", log=True),
        Quantity("grad_share", "Gradient share", "share of the total norm"),
        Quantity("delta", "Parameter movement per step", "‖Δparam‖", log=True),
        Quantity("update_ratio", "Update-to-weight ratio", "‖Δparam‖ / ‖param‖", log=True),
    ]
    return quantities(frames, frames.groups, families)


def schedule(frames: RunFrames) -> list[Item]:
    """The schedule's variables per modality: delay, period, and the signals that set them."""
    families = [
        Quantity("tau", "Delay tau", "steps", steps=True),
        Quantity("k", "Update period k", "steps", steps=True),
        Quantity("S", "Speed score S", "relative to the mean"),
        Quantity("G", "Gradient signal G", "relative to the mean"),
        Quantity("D", "Loss descent D", "relative to the mean"),
        Quantity("U", "Probe utilisation U", "accuracy (0–1)"),
    ]
    return quantities(frames, frames.modalities, families)


def fisher(frames: RunFrames) -> list[Item]:
    """Fisher trace of each encoder."""
    tint = colours(frames.modalities)
    return grid(
        frames,
        "",
        ("fisher/",),
        [Line(f"fisher/{m}", m, tint[m]) for m in frames.modalities],
        "Fisher trace",
        log=True,
    )


def cosine(frames: RunFrames) -> list[Item]:
    """Cosine between the fusion-path and the unimodal-path gradient at the feature."""
    tint = colours(frames.modalities)
    note = "At the feature: 1 same direction, 0 unrelated, below 0 in conflict."
    return grid(frames, "", ("cosine/",), [Line(f"cosine/{m}", m, tint[m]) for m in frames.modalities], "cosine", note)


def learning_rates(frames: RunFrames) -> list[Item]:
    """Learning rate per parameter group."""
    groups = sorted({n.removeprefix("lr/") for r in frames.runs for n in r.series if n.startswith("lr/")})
    tint = colours(groups)
    return grid(
        frames, "", ("lr/",), [Line(f"lr/{g}", g, tint[g], shape="hv") for g in groups], "learning rate", log=True
    )


def prime_window(run: Run, modality: str) -> tuple[float | None, float | None] | None:
    """Epochs until an encoder's Fisher trace has fallen to half its peak, and its probe accuracy (0–1) then.

    The trace is a running median of SMOOTH logged values. None where no finite trace was logged; (None, None)
    where half the peak was not reached; the accuracy is None where no probe was logged by then.
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
    epochs = position(run, series, "epoch")
    if epochs is None or below.size == 0:
        return None, None
    at = peak + int(below[0])
    probe = run.series.get(f"probe/accuracy/{modality}")
    known = [] if probe is None else probe.value[probe.step <= series.step[at]]
    return float(epochs[at]), float(known[-1]) if len(known) else None


def weaker(frames: RunFrames) -> tuple[str | None, str]:
    """The modality with the lowest final probe (else head) accuracy in the baseline or first row, and why."""
    c = frames.base or frames.configurations[0]
    for prefix, what in [("probe/accuracy/", "probe"), ("val/accuracy/", "head")]:
        ends = {
            m: [float(r.series[prefix + m].value[-1]) for r in c.curves if prefix + m in r.series]
            for m in frames.modalities
        }
        means = {m: float(np.mean(v)) for m, v in ends.items() if v}
        if len(means) > 1 and np.isfinite(list(means.values())).all():
            return min(means, key=lambda m: means[m]), f"lowest final {what} accuracy of “{c.label}”"
    return None, ""


def prime(frames: RunFrames) -> list[Item]:
    """The prime learning window as a number, per encoder; the weaker encoder set off."""
    weak, why = weaker(frames)
    rows: list[list[Cell]] = []
    strong: set[int] = set()
    for c in frames.configurations:
        for m in frames.modalities:
            found = {r.seed: w for r in c.curves if (w := prime_window(r, m)) is not None}
            if not found:
                continue
            if m == weak:
                strong.add(len(rows))
            reached = {s: w[0] for s, w in found.items() if w[0] is not None}
            probes = {s: w[1] for s, w in found.items() if w[1] is not None}
            state = f"{len(reached)} of {len(found)}"
            text = estimate(reached) if reached else Cell("not reached")
            rows.append([Cell(c.label), Cell(m), Cell(state), text, estimate(probes, PERCENT)])
    if not rows:
        return []
    columns = [
        Column("configuration", numeric=False),
        Column("encoder", numeric=False),
        Column("seeds that\nreached it"),
        Column("epochs until the Fisher trace\nis at half its peak"),
        Column("probe accuracy\nthen (%)"),
    ]
    notes = [
        f"Fisher trace as a running median of {SMOOTH} logged values. ±: half of the 95 % t interval over the "
        "seeds that reached half the peak."
    ]
    if weak is not None:
        notes.append(f"Bold: the weaker encoder, {weak} ({why}).")
    return [Item("", as_html(Table("", columns, rows, notes, strong)))]


def _probes(frames: RunFrames) -> list[Item]:
    return [*learning(frames), *gap(frames)]


MULTIMODAL = [
    Section("Validation accuracy", accuracy, "val/accuracy in history.csv, and more than one configuration"),
    Section("Learning curves per modality", _probes, "val/accuracy or probe/accuracy in history.csv"),
    Section("Prime learning window", prime, "fisher/<modality> in history.csv"),
    Section("Updates and staleness", timeline, "timeline.csv"),
    Section("Schedule", schedule, "tau, k, S, G, D or U in history.csv"),
    Section("Loss", loss, "train/loss or val/loss in history.csv"),
    Section("Loss shares", shares, "share/ in history.csv"),
    Section("Gradients per group", gradients, "grad_norm, grad_share, delta or update_ratio in history.csv"),
    Section("Fisher trace", fisher, "fisher/ in history.csv"),
    Section("Fusion against unimodal gradient", cosine, "cosine/ in history.csv"),
    Section("Learning rate", learning_rates, "lr/ in history.csv"),
    Section("Gate decisions and events", events, "rows in events.csv"),
    Section("Time and memory", cost, "time/step_ms or memory/peak_mb in history.csv"),
    Section("Configuration and versions", configuration, "config.yaml or versions in result.json"),
]
SECTIONS["asgml"] = MULTIMODAL
