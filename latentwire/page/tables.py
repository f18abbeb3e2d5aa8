"""The tables of the page: both costs beside F1, wires against rivals, and what was asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latentwire.page.scores import BUDGET, CODED, TEXT, beside, gain, methods, ratios, reader, wires
from latentwire.report.evaluation_tables import ordered
from latentwire.report.stored import evaluated
from latentwire.report.wires import f1_cell
from suite.report.frames import Configuration
from suite.report.summary import per_seed, state
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, estimate, number, signed, texts

#: rivals below a wire in the short table, where they were evaluated: at its positions, then in its bytes
BELOW = (BUDGET, "kv_compaction", "static_prefix", "gist", "icae", "lm_byte_budget")


@dataclass(frozen=True)
class Target:
    """What was asked of a configuration: F1 of its wires over that of the text on the same reader, at least."""

    label: str
    ratio: float


TARGETS = (
    Target("4x deep_prefix", 0.98),
    Target("4x soft_prefix", 0.90),
    Target("8x deep_prefix", 0.95),
    Target("16x deep_prefix", 0.95),
    Target("8x rvq 16 bits", 0.95),
    Target("4x both", 0.95),
    Target("4x later qwen", 0.98),
    Target("4x whole prompt", 0.95),
)


def short_table(found: Sequence[Configuration]) -> Table:
    """Show the text, whole and coded by its reader, then every wire with the rivals at its positions or bytes."""
    rows: list[list[Cell]] = []
    strong: set[int] = set()
    if found:
        first = found[0]
        wire = wires(first)[0]
        for name, called in ((TEXT, "the text"), (CODED, "the text, coded by its reader")):
            key = beside(first, wire, name)
            rows += [] if key is None else [short_row(first, key, called)]
    for c in found:
        for wire in wires(c):
            _, _, model = wire.partition("/")
            strong.add(len(rows))
            rows.append(short_row(c, wire, f"{c.label}: {model}" if model else c.label))
            for key in (k for name in BELOW if (k := beside(c, wire, name))):
                rows.append(short_row(c, key, f"— {key.partition('/')[0]}"))
    titles = ["positions\nbefore the question", "bytes\nsent", "F1 %\n[95 %]", "questions\nseen"]
    return Table("", columns("what the model reads", numbers=titles), rows, [], strong)


def short_row(c: Configuration, key: str, called: str) -> list[Cell]:
    """Return both costs of a method, its F1, and how many questions it was trained on."""
    runs = evaluated(c)
    costs = [estimate(per_seed(c, reader(key, name)), digits=0) for name in ("positions", "bytes", "questions_seen")]
    positions, size, seen = (Cell(cell.text.removesuffix(" ± 0"), cell.value, cell.hint) for cell in costs)
    return [*texts(called), positions, size, f1_cell(runs, key), seen]


def rivals_table(c: Configuration, wire: str) -> Table:
    """Compare a wire with every other method on its reader: both costs, times, and the difference of F1."""
    known = methods(c)
    rows = []
    own = [k for k in ordered(known) if known[k]["model"] == known[wire]["model"]]
    for key in own:
        got = None if key == wire else gain(c, wire, key)
        delta = ABSENT if got is None else f"{signed(got.estimate * PERCENT, 1)} [{signed(got.low * PERCENT, 1)}, "
        delta += "" if got is None else f"{signed(got.high * PERCENT, 1)}]"
        costs = [_plain(c, key, name, digits) for name, digits in (("positions", 0), ("bytes", 0))]
        rows.append(
            [
                *texts(key if known[key]["fair"] else f"{key} (no fair comparison)"),
                f1_cell(evaluated(c), key),
                Cell(delta, None if got is None else got.estimate),
                estimate(per_seed(c, reader(key, "nll")), digits=3),
                *costs,
                _plain(c, key, "questions_seen", 0),
                *(_plain(c, key, f"{name}_ms", 1) for name in ("encode", "send", "inject", "prefill")),
            ]
        )
    titles = ["F1 %\n[95 %]", "Δ F1: wire\nminus this", "NLL\nnats/token", "positions", "bytes", "questions\nseen"]
    titles += [f"{name}\nms" for name in ("encode", "send", "inject", "prefill")]
    strong = {own.index(wire)}
    return Table("", columns("method", numbers=titles), rows, [], strong).without_empty()


def _plain(c: Configuration, key: str, name: str, digits: int) -> Cell:
    """Return the mean over seeds alone: a size, or a time on a machine that does other things as well."""
    values = per_seed(c, reader(key, name))
    return number(sum(values.values()) / len(values) if values else None, digits)


def targets_table(found: Sequence[Configuration], labels: Sequence[str]) -> Table:
    """Show what was asked of the labels and what was found, by seed: met means by every seed."""
    known = {c.label: c for c in found}
    rows = []
    for target in (t for t in TARGETS if t.label in labels):
        asked = f"at least {target.ratio:g} × the F1 of the text"
        c = known.get(target.label)
        if c is None:
            rows.append(texts(target.label, asked, ABSENT, ABSENT, "not run"))
            continue
        for wire in wires(c):
            got = ratios(c, wire)
            by_seed = ", ".join(f"{value:.3f}" for _, value in sorted(got.items()))
            reached = sum(value >= target.ratio for value in got.values())
            met = "met" if got and reached == len(got) else f"missed by {len(got) - reached} of {len(got)} seeds"
            name = target.label if wire == "wire" else f"{target.label}: {wire.partition('/')[2]}"
            rows.append(texts(name, asked, by_seed, state(c), met))
    return Table("", columns("wire", "asked", "found, by seed", "seeds", "verdict"), rows)
