"""The table of an evaluation: every method with its interval; terminal, HTML, Markdown and LaTeX from one source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from suite.report.tables import ABSENT, Cell, Column, Table, number, p_value, signed

PERCENT = 100.0
Methods = Mapping[str, Mapping[str, Any]]
# column title, key in `methods.<name>`, scale, digits
NUMBERS: tuple[tuple[str, str, float, int], ...] = (
    ("EM %", "em", PERCENT, 1),
    ("NLL\nnats/token", "nll", 1, 3),
    ("first token\ntop-1 %", "first_token_top1", PERCENT, 1),
    ("top-5 %", "first_token_top5", PERCENT, 1),
    ("margin\nnats", "margin", 1, 2),
    ("entropy\nnats", "entropy", 1, 2),
    ("KL to text\nnats", "kl_to_text", 1, 3),
    ("swap gap\nnats", "swap_gap", 1, 3),
    ("distinct", "distinct", 1, 2),
    ("effective\nrank", "effective_rank", 1, 1),
    ("bytes", "bytes", 1, 1),
    ("encode\nms", "encode_ms", 1, 1),
    ("prefill\nms", "prefill_ms", 1, 1),
    ("answer\nms", "answer_ms", 1, 1),
)
ENDS = ("text", "token_budget", "whole_prompt_budget", "no_context")  # what a wire stands between
ORDER = ("text", "wire", "joint", "oracle", "baseline", "control")


def ordered(methods: Methods) -> list[str]:
    """Names as tables show them: the text first, then wires, joint answers, baselines by F1, controls."""

    def rank(name: str) -> tuple[int, float, str]:
        row = methods[name]
        kind = "text" if name.partition("/")[0] == "text" else str(row["kind"])
        return ORDER.index(kind), -float(row["f1"]) if kind == "baseline" else 0.0, name

    return sorted(methods, key=rank)


def percent(value: float, low: float | None, high: float | None, note: str = "") -> Cell:
    """`81.2 [78.0, 84.1]` from shares."""
    text = f"{value * PERCENT:.1f}"
    if low is not None and high is not None:
        text += f" [{low * PERCENT:.1f}, {high * PERCENT:.1f}]"
    return Cell(text, value * PERCENT, note)


def method_rows(methods: Methods) -> list[list[Cell]]:
    """One row per method: name, F1 with interval, NUMBERS, track."""
    rows = []
    for name in ordered(methods):
        m = methods[name]
        row = [title(name, m), Cell(str(m["M"])), percent(m["f1"], m.get("f1_low"), m.get("f1_high"))]
        for _, key, scale, digits in NUMBERS:
            row.append(Cell(ABSENT) if m.get(key) is None else number(m[key] * scale, digits))
        rows.append([*row, *words(m)])
    return rows


def words(method: Mapping[str, Any]) -> list[Cell]:
    """The last cells of a row: whether the language model is adapted, whether the method learned."""
    return [Cell(str(method["track"])), Cell("yes" if method["learned"] else "no")]


def title(name: str, method: Mapping[str, Any]) -> Cell:
    """The first cell of a row; what is no honest comparison says so."""
    return Cell(name if method["fair"] else f"{name} (unfair)", None, str(method["remark"]))


def remarks(methods: Methods) -> str:
    """What the rows are, as one footnote."""
    told = {str(methods[n]["remark"]): n.partition("/")[0] for n in reversed(ordered(methods)) if methods[n]["remark"]}
    return "; ".join(f"{name}: {text}" for text, name in reversed(told.items())) + "."


def method_columns() -> list[Column]:
    """The columns of `method_rows`."""
    numbers = [Column(title) for title, *_ in NUMBERS]
    return [
        Column("method", False),
        Column("M"),
        Column("F1 %\n[95 %]"),
        *numbers,
        Column("model", False),
        Column("learned", False),
    ]


def result_table(methods: Methods, notes: Sequence[str] = ()) -> Table:
    """All methods of one evaluation."""
    questions = {int(m["n"]) for m in methods.values()}
    said = [
        f"{', '.join(map(str, sorted(questions)))} questions; intervals: percentile bootstrap over passages. "
        "NLL and KL: mean over the answer's tokens, then over questions. Distinct: different answers over different "
        "gold answers. Bytes of text: packed token ids.",
        remarks(methods),
        *notes,
    ]
    table = Table("Methods", method_columns(), method_rows(methods), said)
    table.strong = {i for i, name in enumerate(ordered(methods)) if methods[name]["kind"] == "wire"}
    return table.without_empty()


def tests_table(tests: Sequence[Mapping[str, Any]]) -> Table:
    """Each wire against each other method: paired differences of F1 and NLL, exact McNemar test on EM."""
    rows = []
    for t in tests:
        text = (
            f"{signed(t['f1_difference'] * PERCENT, 1)} "
            f"[{signed(t['low'] * PERCENT, 1)}, {signed(t['high'] * PERCENT, 1)}]"
        )
        rows.append(
            [
                Cell(f"{t['wire']} on {t['model']}"),
                Cell(str(t["against"])),
                Cell(text, t["f1_difference"] * PERCENT),
                _nll_difference(t),
                Cell(str(t["em_only_wire"])),
                Cell(str(t["em_only_other"])),
                p_value(t["p_mcnemar"]),
            ]
        )
    columns = [
        Column("wire", False),
        Column("against", False),
        Column("Δ F1\n[95 %]"),
        Column("Δ NLL, nats\n[95 %]"),
        Column("EM: only\nthe wire"),
        Column("EM: only\nthe other"),
        Column("p\nMcNemar"),
    ]
    note = "Paired by question; p values are not adjusted for their number."
    return Table("The wire against each method", columns, rows, [note]).without_empty()


def _nll_difference(test: Mapping[str, Any]) -> Cell:
    value = test.get("nll_difference")
    if value is None:
        return Cell(ABSENT)
    return Cell(f"{signed(value, 3)} [{signed(test['nll_low'], 3)}, {signed(test['nll_high'], 3)}]", value)


def sizes_table(sizes: Mapping[str, Mapping[str, float]], messages: Mapping[str, float]) -> Table:
    """Bytes per passage: messages beside UTF-8, zstd, token ids, KV and the entropy of the facts."""
    rows = []
    for model, s in sizes.items():
        rows += [
            [Cell(title), Cell(model), number(s[key], 1), number(s[key] / s["utf8"], 3)]
            for title, key in (
                ("text, UTF-8", "utf8"),
                ("text, zstd level 19", "zstd"),
                ("token ids, packed", "token_ids"),
                ("keys and values", "kv"),
                ("entropy of the facts", "entropy"),
            )
            if key in s
        ]
    first = next(iter(sizes.values()))
    rows += [
        [Cell(f"message: {name}"), Cell("all"), number(size, 1), number(size / first["utf8"], 3)]
        for name, size in messages.items()
    ]
    columns = [Column("what is sent", False), Column("model", False), Column("bytes\nper passage"), Column("/ UTF-8")]
    note = "zstd: each text alone, without a dictionary; messages include header and checksum."
    table = Table("Bytes", columns, rows, [note])
    table.strong = {i for i, row in enumerate(rows) if row[0].text.startswith("message: ")}
    return table


def kinds_table(kinds: Mapping[str, Mapping[str, Mapping[str, float]]], names: Sequence[str]) -> Table:
    """F1 by kind of question, a column per method."""
    found = sorted({kind for name in names for kind in kinds[name]})
    rows = []
    for kind in found:
        count = max(int(kinds[name].get(kind, {}).get("n", 0)) for name in names)
        cells = [
            number(kinds[name][kind]["f1"] * PERCENT, 1) if kind in kinds[name] else Cell(ABSENT) for name in names
        ]
        rows.append([Cell(kind), Cell(str(count)), *cells])
    columns = [Column("kind", False), Column("questions"), *[Column(name) for name in names]]
    return Table("F1 % by kind of question", columns, rows)
