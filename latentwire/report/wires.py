"""The summary of wires and the sections of their page."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

from latentwire.report.capacity import capacity
from latentwire.report.evaluation_tables import (
    ENDS,
    evaluations_table,
    kinds_table,
    method_notes,
    method_table,
    ordered,
    percent,
    result_table,
    sizes_table,
    tests_table,
)
from latentwire.report.inside import INSIDE
from latentwire.report.stored import evaluated, evaluations, f1_of, methods_of, plain, predictions, ratio_of, series
from latentwire.report.timing import timing
from suite.report import figures as fig
from suite.report.data import RunRecord
from suite.report.frames import RunFrames
from suite.report.sections import COMMON, Item, Section, loss_shares, one_line
from suite.report.summary import state, state_table
from suite.report.tables import (
    ABSENT,
    INTERVALS,
    PERCENT,
    Cell,
    Column,
    Table,
    as_html,
    columns,
    estimate,
    number,
    texts,
)

SHOWN = ("wire", "joint", "oracle")  # kinds of rows of a comparison, beside the ends and these:
RIVALS: tuple[str, ...] = (
    *("gist", "icae", "static_prefix", "kv_compaction", "text_lm_coded", "text_zstd"),
    *("lm_byte_budget", "zstd_byte_budget", "id_byte_budget"),
)
ANSWERS = 24
ALL_RULES = 12  # rules of acceptance that stand open although all are met
INDICATORS = (
    ("collapse/distinct", "different answers / different gold answers"),
    ("collapse/commonest", "share of the commonest answer"),
    ("collapse/top5", "gold first token among the five likeliest"),
    ("collapse/margin", "first token: best minus second (nats)"),
    ("collapse/entropy", "first token: entropy (nats)"),
    ("collapse/effective_rank", "effective rank of the latents"),
)


# -- summary ------------------------------------------------------------------------------------------------------
def f1_cell(runs: list[RunRecord], key: str) -> Cell:
    """Show F1 with its interval, see `f1_of`."""
    got = f1_of(runs, key)
    return Cell(ABSENT) if got is None else percent(got.mean, got.low, got.high, got.hint)


def wire_tables(frames: RunFrames) -> list[Table]:
    """Show all methods of one configuration, or of several each one's wires between their two ends."""
    if not any(evaluated(c) for c in frames.configurations):
        return [state_table(frames, ["No run has been evaluated yet."])]
    if not frames.single:
        return [_comparison(frames)]
    runs = evaluated(frames.configurations[0])
    if len(runs) == 1:
        return [result_table(methods_of(runs[0]), runs[0].result.get("evaluation_notes") or ())]
    return [_over_seeds(runs)]


def _over_seeds(runs: list[RunRecord]) -> Table:
    first = methods_of(runs[0])
    shared = {k: m for k, m in first.items() if all(k in methods_of(r) for r in runs)}

    def value(key: str, name: str, scale: float, digits: int) -> Cell:
        return _mean(runs, _reader(key, name), digits, scale)

    note = f"{len(runs)} seeds. F1: interval over seeds and passages (bootstrap). Others, {INTERVALS}"
    return method_table(shared, lambda key: f1_cell(runs, key), value, [note, *method_notes(first)])


def _comparison(frames: RunFrames) -> Table:
    rows, strong = [], set()
    for c in frames.configurations:
        runs = evaluated(c)
        if not runs:
            rows.append([*texts(c.label, ABSENT, state(c)), *[Cell(ABSENT)] * 9])
            continue
        methods = methods_of(runs[0])
        for key in ordered(methods):
            m = methods[key]
            if m["kind"] not in SHOWN and series(key, m) not in (*ENDS, *RIVALS):
                continue
            text = {run.seed: _of_text(run, m["model"]) for run in runs}
            relative = {
                run.seed: f1 / t for run in runs if (t := text[run.seed]) and (f1 := _value(run, key, "f1")) is not None
            }
            if m["kind"] == "wire":
                strong.add(len(rows))
            rows.append(
                [
                    *texts(c.label, key, state(c), m["M"]),
                    _mean(runs, _ratio(m), 1),
                    f1_cell(runs, key),
                    estimate(relative, 1, 3),
                    _mean(runs, _reader(key, "em"), 1, PERCENT),
                    _mean(runs, _reader(key, "nll"), 3),
                    _mean(runs, _reader(key, "positions"), 1),
                    _mean(runs, _reader(key, "bytes"), 1),
                    _mean(runs, _reader(key, "questions_seen"), 0),
                ]
            )
    numbers = [
        "seeds",
        "M",
        "tokens\nper latent",
        "F1 %\n[95 %]",
        "F1 /\ntext F1",
        "EM %",
        "NLL\nnats/token",
        "positions",
        "bytes",
    ]
    numbers += ["questions\nseen"]
    note = "F1: bootstrap over seeds and passages; of one seed over its passages, which says nothing of other seeds. "
    note += f"Others, {INTERVALS} "
    note += "The reports of single runs have all baselines."
    head = columns("configuration", "method", numbers=numbers)
    return Table("Wires between their two ends", head, rows, [note], strong)


def _value(run: RunRecord, key: str, name: str) -> float | None:
    return (methods_of(run).get(key) or {}).get(name)


def _reader(key: str, name: str) -> Callable[[RunRecord], float | None]:
    return lambda run: _value(run, key, name)


def _mean(runs: list[RunRecord], value: Callable[[RunRecord], float | None], digits: int, scale: float = 1.0) -> Cell:
    return estimate({r.seed: float(v) for r in runs if (v := value(r)) is not None}, scale, digits)


def _ratio(method: Mapping[str, Any]) -> Callable[[RunRecord], float | None]:
    return lambda run: ratio_of(run, method)


def _of_text(run: RunRecord, model: str) -> float | None:
    """Return F1 of the text on this model; for joint rows the best model's."""
    models = model.split("+")
    found = [m["f1"] for k, m in methods_of(run).items() if plain(k, m) == "text" and m["model"] in models]
    return max(found) if found else None


# -- sections -----------------------------------------------------------------------------------------------------
def bounds_of(verdict: Mapping[str, Any]) -> str:
    """Say between what a verdict's value had to lie: `> 0` where equal fails, else `≥ 0`."""
    signs = (("min", ">"), ("max", "<")) if verdict.get("strict") else (("min", "≥"), ("max", "≤"))
    return " and ".join(f"{sign} {verdict[side]:g}" for side, sign in signs if verdict.get(side) is not None)


def verdicts(frames: RunFrames) -> list[Item]:
    """Judge the acceptance thresholds."""
    rows, failed, total = [], 0, 0
    for c in frames.configurations:
        for run in c.runs:
            for v in run.result.get("acceptance") or []:
                total, failed = total + 1, failed + (not v["passed"])
                bounds = bounds_of(v)
                told = texts(c.label, run.seed, v["stage"], v["rule"], v["what"])
                verdict = _judged(v)
                rows.append([*told, number(_number(v["value"]), 3), *texts(bounds), verdict])
    if not rows:
        return []
    titles = ("configuration", "seed", "stage", "rule", "metric", "value", "bound", "verdict")
    table = Table("", [Column(t, t in ("seed", "value")) for t in titles], rows)
    table.strong = {i for i, row in enumerate(rows) if row[-1].look == "bad"}
    heading, body = f"{total - failed} of {total} passed", as_html(table)
    if failed or total <= ALL_RULES:
        return [Item(heading, body, "Failed verdicts are in bold." if failed else "")]
    return [Item(heading, f"<details><summary>all {total} rules</summary>{body}</details>")]


def _judged(verdict: Mapping[str, Any]) -> Cell:
    why = verdict.get("remark", "")
    return Cell("✓ PASS", None, why, "good") if verdict["passed"] else Cell("✗ FAIL", None, why, "bad")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else float("nan") if value is None else float(str(value))


def sizes(frames: RunFrames) -> list[Item]:
    """Show message bytes against other ways to send the text."""
    found = []
    for c in frames.configurations:
        runs = [r for r in evaluated(c) if r.result.get("sizes")]
        if runs:
            wires = {k: m["bytes"] for k, m in methods_of(runs[0]).items() if m["kind"] == "wire"}
            found.append(Item("", as_html(sizes_table(c.label, runs[0].result["sizes"], wires))))
    return found


def paired(frames: RunFrames) -> list[Item]:
    """Show paired tests of the wire against every method, run by run."""
    found = []
    for c in frames.configurations:
        for run in evaluated(c):
            if run.result.get("tests"):
                opened, heading = " open" if frames.single else "", html.escape(f"{c.label}, seed {run.seed}")
                folded = f"<summary>{heading}</summary>{as_html(tests_table(run.result['tests']))}"
                found.append(Item("", f"<details{opened}>{folded}</details>"))
    return found


def kinds(frames: RunFrames) -> list[Item]:
    """Show F1 by kind of question: wires and the ends of the scale."""
    found = []
    for c in frames.configurations:
        run = next((r for r in evaluated(c) if r.result.get("kinds")), None)
        if run is None:
            continue
        methods = methods_of(run)
        names = [k for k in ordered(methods) if methods[k]["kind"] == "wire" or plain(k, methods[k]) in ENDS]
        known = [k for k in names if k in run.result["kinds"]]
        found.append(Item("", as_html(kinds_table(f"{c.label}, seed {run.seed}", run.result["kinds"], known))))
    return found


def side_by_side(frames: RunFrames) -> list[Item]:
    """Show all evaluations of a run, where there are several."""
    found = []
    for c in frames.configurations:
        for run in evaluated(c):
            if len(several := evaluations(run.path)) > 1:
                found.append(Item(f"{c.label}, seed {run.seed}", as_html(evaluations_table(several))))
    return found


def answers(frames: RunFrames) -> list[Item]:
    """Show answers side by side: questions that the wire missed, then questions that it got."""
    found = []
    for c in frames.configurations[:4]:
        run = next((r for r in evaluated(c) if predictions(r)), None)
        if run is None:
            continue
        rows = predictions(run)
        methods = methods_of(run)
        wires = [k for k in ordered(methods) if methods[k]["kind"] == "wire"]
        if not wires:
            continue
        first = methods[wires[0]]
        name, model = plain(wires[0], first), first["model"]
        beside = [k for k, m in methods.items() if m["model"] == model and k != wires[0]]
        shown = [k for k in ordered(methods) if k in beside and _answers(rows, methods, k)]
        mine = rows.get((name, model), [])
        wrong = [i for i, r in enumerate(mine) if r["em"] < 1]
        right = [i for i, r in enumerate(mine) if r["em"] == 1]
        chosen = _spread(wrong, ANSWERS // 2) + _spread(right, ANSWERS // 2)
        cells = []
        for i in chosen:
            r = mine[i]
            others = [_answers(rows, methods, k)[i] for k in shown]
            marked = [Cell(("✓ " if o["em"] == 1 else "") + (o["prediction"] or "(nothing)")) for o in [r, *others]]
            cells.append([*texts(r["text"], r["gold"]), *marked])
        table = Table(f"{c.label}, seed {run.seed}", columns("question", "gold", wires[0], *shown), cells)
        note = f"The wire missed {len(wrong)} of {len(mine)} questions; these are spread over the test set. "
        note += "✓: exact match."
        found.append(Item("", as_html(table), note))
    return found


def _answers(
    rows: Mapping[tuple[str, str], list[dict[str, Any]]], methods: Mapping[str, Mapping[str, Any]], key: str
) -> list[dict[str, Any]]:
    return rows.get((plain(key, methods[key]), methods[key]["model"]), [])


def _spread(indices: list[int], count: int) -> list[int]:
    if len(indices) <= count:
        return indices
    return [indices[i * len(indices) // count] for i in range(count)]


def shares(frames: RunFrames) -> list[Item]:
    """Draw the share of each objective in the loss: a weight says little, the share says who drives the step."""
    names = sorted({n.removeprefix("share/") for run in frames.runs for n in run.series if n.startswith("share/")})
    return loss_shares(frames, fig.colours(names, {}))


def collapse(frames: RunFrames) -> list[Item]:
    """Draw the indicators of collapse, validation by validation."""
    return [item for name, y in INDICATORS for item in one_line(frames, name.removeprefix("collapse/"), name, y)]


def validation(frames: RunFrames) -> list[Item]:
    """Draw validation F1 and NLL at the run's own ratio."""
    return [
        *one_line(frames, "F1", "val/f1", "validation F1 (%)", PERCENT),
        *one_line(frames, "NLL", "val/nll", "validation NLL (nats per token)"),
    ]


WIRES = [
    Section("Acceptance", verdicts, "acceptance in result.json"),
    Section("Evaluations", side_by_side, "second evaluation of a run in its evaluations/"),
    Section("Capacity", capacity, "F1 in the methods of result.json"),
    Section("Bytes", sizes, "sizes in result.json"),
    Section("Break-even", timing, "breakeven.json (python -m latentwire.study breakeven RUN)"),
    Section("Paired tests", paired, "tests in result.json"),
    Section("Kinds of questions", kinds, "kinds in result.json"),
    Section("Answers side by side", answers, "predictions.jsonl of a wire, in the first 4 configurations"),
    Section("Validation", validation, "val/f1 or val/nll in history.csv"),
    *INSIDE,
    Section("Loss shares", shares, "share/<objective> in history.csv"),
    Section("Collapse indicators", collapse, "collapse/<indicator> in history.csv"),
    *COMMON,
]
