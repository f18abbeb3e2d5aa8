"""What monitors saw during training, as pictures: sizes and directions of latents, nearest tokens, answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from latentwire.data.base import spread
from latentwire.monitors.records import ANSWERS, LATENTS, Record, read
from suite.report import figures as fig
from suite.report.data import RunRecord
from suite.report.figures import INK, PALETTE, Line
from suite.report.frames import RunFrames
from suite.report.sections import Item, Section, grid
from suite.report.tables import ABSENT, Cell, Table, as_html, columns, texts

MOST_CONFIGURATIONS = 4  # of which pages show records; curves show all
MOST_MOMENTS = 6  # in one table or figure
LONGEST = 160  # characters of a text in a note
NOTHING = "(nothing)"
REFERENCES = {
    "embeddings": "embeddings",
    "keys": "keys, layer by layer",
    "values": "values, layer by layer",
    "reads": "stream, behind each layer that reads latents",
}
SPACES = {
    "embeddings": "embedding table",
    "values": "values of the first layer",
    "head": "language-model head, of what the last layer that reads latents adds",
}


def recorded(frames: RunFrames, kind: str) -> Iterator[tuple[str, list[Record]]]:
    """Yield the title and the records of the first run with some, for the first few configurations."""
    for c in frames.configurations[:MOST_CONFIGURATIONS]:
        found: list[tuple[RunRecord, list[Record]]] = [(run, r) for run in c.curves if (r := read(run.path, kind))]
        if found:
            run, kept = found[0]
            yield f"{c.label}, seed {run.seed}", kept


def moments(kept: Sequence[Record]) -> tuple[str, list[int]]:
    """Return what tells records apart, `epoch` or `step`, and its value for each; epochs count from 1 as in curves."""
    epochs = [int(r["epoch"]) + 1 for r in kept]
    return ("epoch", epochs) if len(set(epochs)) == len(epochs) else ("step", [int(r["step"]) for r in kept])


def some(kept: list[Record]) -> list[Record]:
    """Return a few of the records, the first and the last among them."""
    return [kept[i] for i in spread(len(kept), MOST_MOMENTS)]


# -- latents ------------------------------------------------------------------------------------------------------
def sizes(frames: RunFrames) -> list[Item]:
    """Draw the RMS of every slot over epochs, in units of what the model's own text has at that place."""
    found = []
    for title, kept in recorded(frames, LATENTS):
        unit, at = moments(kept)
        for model, last in kept[-1]["models"].items():
            for part, size in last["sizes"].items():
                if size["ratio"] is None:
                    continue
                z = np.array([r["models"][model]["sizes"][part]["ratio"] for r in kept], float).T
                real = ", ".join(f"{value:.3g}" for value in size["text"])
                told = f"1 is the RMS of the model's own {REFERENCES.get(part, part)} on training texts: {real}."
                panels = [
                    ("every slot", fig.ratios(z, at, unit, "slot")),
                    ("mean over slots; band: smallest to largest; dashed: text", _against_text(z, at, unit)),
                ]
                found.append(Item(f"{title}: {part} of {model}", [(label, figure) for label, figure in panels], told))
    return found


def _against_text(z: np.ndarray, at: Sequence[int], unit: str) -> fig.Figure:
    x = np.array(at, float)
    edge = {"line": {"width": 0}, "hoverinfo": "skip"}
    told = {"hovertemplate": "%{x}: × %{y:.3g}<extra></extra>"}
    traces = [
        fig.trace_of(x, z.min(0), "smallest", **edge),
        fig.trace_of(x, z.max(0), "largest", **edge, fill="tonexty", fillcolor=fig.rgba(PALETTE[0], 0.16)),
        fig.trace_of(x, z.mean(0), "mean", mode="lines+markers", line={"color": PALETTE[0], "width": 1.8}, **told),
    ]
    line = {"color": INK, "width": 1.4, "dash": "dash"}
    text = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": line}
    low, high = min(1.0, float(z.min())), max(1.0, float(z.max()))
    span = [low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)]
    return fig.style(
        traces,
        xaxis=fig.axis_of(unit, tickformat="d"),
        yaxis=fig.axis_of("RMS / RMS of text", range=span),
        shapes=[text],
    )


def directions(frames: RunFrames) -> list[Item]:
    """Draw effective ranks over training, and the singular values of all latents at a few moments."""
    lines = [
        Line("latents/effective_rank", "all latents", INK),
        Line("latents/slot_rank", "slots of a message, centred", PALETTE[0]),
        Line("collapse/effective_rank", "messages, centred", PALETTE[1]),
    ]
    note = "exp of the entropy of the normalised singular values (Roy and Vetterli, 2007)."
    found = grid(frames, "Effective rank", ("latents/effective_rank",), lines, "effective rank", note)
    panels = [(title, _spectra(kept)) for title, kept in recorded(frames, LATENTS)]
    if panels:
        told = "Singular values of all latents, the largest of each moment at 1; from light (early) to dark (late)."
        found.append(Item("Spectrum", panels, told))
    return found


def _spectra(kept: list[Record]) -> fig.Figure:
    chosen = some(kept)
    unit, at = moments(chosen)
    traces = []
    for i, (record, moment) in enumerate(zip(chosen, at, strict=True)):
        values = np.array(record["latents"]["spectrum"], float)
        y = values / values[0] if values[0] > 0 else values
        y = np.where(y > 0, y, np.nan)  # a logarithm has no place for 0
        colour = fig.rgba(PALETTE[0], 0.25 + 0.75 * (i + 1) / len(chosen))
        told = f"{unit} {moment}<br>%{{x}}: %{{y:.3g}}<extra></extra>"
        x = np.arange(1, values.size + 1)
        traces.append(fig.trace_of(x, y, f"{unit} {moment}", line={"color": colour, "width": 1.8}, hovertemplate=told))
    axis = fig.axis_of("singular value / largest", type="log")
    return fig.style(traces, 340, xaxis=fig.axis_of("number"), yaxis=axis, showlegend=True)


def tokens(frames: RunFrames) -> list[Item]:
    """Show the nearest token of every latent of a few texts at the end, and of one text over training."""
    found = []
    for title, kept in recorded(frames, LATENTS):
        unit, _ = moments(kept)
        for model, last in kept[-1]["models"].items():
            at_end = moments(kept)[1][-1]
            space = SPACES[last["space"]]
            names = [f"text {i + 1}" for i in range(len(last["nearest"]))]
            notes = [f"{n}: {_short(text)}" for n, text in zip(names, kept[-1]["samples"], strict=True)]
            head = f"{title}: {model}, {unit} {at_end}"
            table = Table("", columns("slot", *names), _by_slot(last["nearest"]), notes)
            told = f"The token whose row is nearest by cosine with the {space}; further tokens on hover."
            found.append(Item(head, as_html(table), told))
            chosen = some(kept)
            if len(chosen) > 1:
                several = [r["models"][model]["nearest"][0] for r in chosen]
                when = [f"{unit} {moment}" for moment in moments(chosen)[1]]
                over = Table("", columns("slot", *when), _by_slot(several))
                found.append(Item(f"{title}: {model}, text 1 over training", as_html(over)))
    return found


def _by_slot(messages: Sequence[Sequence[Sequence[tuple[str, float]]]]) -> list[list[Cell]]:
    """Return one row per slot and one column per message; messages may have different numbers of slots."""
    rows = []
    for slot in range(max(map(len, messages))):
        row = texts(slot + 1)
        for message in messages:
            if slot >= len(message):
                row.append(Cell(ABSENT))
                continue
            (token, cosine), *others = message[slot]
            hint = ", ".join(f"{t} {c:.2f}" for t, c in others)
            row.append(Cell(f"{token} {cosine:.2f}", cosine, hint))
        rows.append(row)
    return rows


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


# -- answers ------------------------------------------------------------------------------------------------------
def over_training(frames: RunFrames) -> list[Item]:
    """Show what was answered to the same questions over training, and the rates of empty and of containing answers."""
    lines = [
        Line("answers/contains_gold", "a reference is in the answer", PALETTE[2]),
        Line("val/em", "the answer is a reference", INK),
        Line("answers/empty", "empty", PALETTE[1]),
    ]
    prefixes = ("answers/contains_gold", "answers/empty")
    found = grid(frames, "Rates", prefixes, lines, "share of answers (%)", scale=100.0)
    for title, kept in recorded(frames, ANSWERS):
        chosen = some(kept)
        unit, at = moments(chosen)
        for model in kept[-1]["models"]:
            rows = [
                [
                    Cell(sample["question"] or _short(sample["text"]), None, sample["text"]),
                    Cell(" / ".join(dict.fromkeys(sample["gold"]))),
                    *(_answer(record["samples"][i], model) for record in chosen),
                ]
                for i, sample in enumerate(kept[-1]["samples"])
            ]
            head = columns("question", "gold", *(f"{unit} {moment}" for moment in at))
            told = "✓: exact match. The context of a question on hover."
            found.append(Item(f"{title}: {model}", as_html(Table("", head, rows)), told))
    return found


def _answer(sample: dict[str, Any], model: str) -> Cell:
    return Cell(("✓ " if sample["right"][model] else "") + (sample["answers"][model].strip() or NOTHING))


def histogram(frames: RunFrames) -> list[Item]:
    """Draw the commonest answers of the first and the last record, beside how often each is right."""
    found = []
    series = {"answers": PALETTE[0], "questions that it is the reference of": PALETTE[4]}
    for title, kept in recorded(frames, ANSWERS):
        ends = kept if len(kept) < 2 else [kept[0], kept[-1]]
        unit, at = moments(ends)
        panels = [
            (f"{title}: {model}, {unit} {moment}", _bars(record["models"][model], series))
            for model in kept[-1]["models"]
            for record, moment in zip(ends, at, strict=True)
        ]
        legend = fig.legend({name: (colour, "fill") for name, colour in series.items()})
        found += [Item("", legend), Item("", panels)]
    return found


def _bars(model: dict[str, Any], series: dict[str, str]) -> fig.Figure:
    top, n = model["top"], model["n"]
    names = [entry["answer"].strip() or NOTHING for entry in top]
    lengths = [[100 * entry[key] / n for entry in top] for key in ("count", "gold")]
    given = {title: (length, colour) for (title, colour), length in zip(series.items(), lengths, strict=True)}
    return fig.bars([_label(name) for name in names], given, "share of questions (%)")


def _label(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:24]}…"


INSIDE = (
    Section("Size of latents", sizes, f"inside/{LATENTS}-<step>.json with the size of text beside that of latents"),
    Section(
        "Directions of latents", directions, f"inside/{LATENTS}-<step>.json or latents/effective_rank in history.csv"
    ),
    Section("Nearest tokens", tokens, f"inside/{LATENTS}-<step>.json"),
    Section("Answers over training", over_training, f"inside/{ANSWERS}-<step>.json or answers/ in history.csv"),
    Section("Commonest answers", histogram, f"inside/{ANSWERS}-<step>.json"),
)
