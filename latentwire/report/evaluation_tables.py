"""The tables of an evaluation: every method with its interval, paired tests, bytes, kinds of questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from suite.report.labels import Labels, labels
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, number, p_value, signed, texts

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
    ("positions", "positions", 1, 1),
    ("bytes", "bytes", 1, 1),
    ("payload\nbytes", "payload", 1, 1),
    ("questions\nseen", "questions_seen", 1, 0),
    ("encode\nms", "encode_ms", 1, 1),
    ("send\nms", "send_ms", 1, 2),
    ("inject\nms", "inject_ms", 1, 2),
    ("prefill\nms", "prefill_ms", 1, 1),
    ("answer\nms", "answer_ms", 1, 1),
)
ENDS = ("text", "token_budget", "whole_prompt_budget", "no_context")  # what a wire stands between
ORDER = ("text", "wire", "joint", "oracle", "baseline", "control")


def ordered(methods: Methods) -> list[str]:
    """Order names as tables show them: the text first, then wires, joint answers, baselines by F1, controls."""

    def rank(name: str) -> tuple[int, float, str]:
        row = methods[name]
        kind = "text" if name.partition("/")[0] == "text" else str(row["kind"])
        return ORDER.index(kind), -float(row["f1"]) if kind == "baseline" else 0.0, name

    return sorted(methods, key=rank)


def percent(value: float, low: float | None, high: float | None, note: str = "") -> Cell:
    """Show shares as `81.2 [78.0, 84.1]`."""
    text = f"{value * PERCENT:.1f}"
    if low is not None and high is not None:
        text += f" [{low * PERCENT:.1f}, {high * PERCENT:.1f}]"
    return Cell(text, value * PERCENT, note)


def title(name: str, method: Mapping[str, Any]) -> Cell:
    """Build the first cell of a row; what is no fair comparison, or has less training than the wire, says so."""
    share = float(method.get("budget_share", 1.0))
    less = f" ({share * PERCENT:.3g} % of the wire's training)" if share < 1 else ""
    return Cell(f"{name}{less}" if method["fair"] else f"{name}{less} (unfair)", None, str(method["remark"]))


def remarks(methods: Methods) -> str:
    """Say what the rows are, as one footnote."""
    told = {str(methods[n]["remark"]): n.partition("/")[0] for n in reversed(ordered(methods)) if methods[n]["remark"]}
    return "; ".join(f"{name}: {text}" for text, name in reversed(told.items())) + "."


def method_table(
    methods: Methods, f1: Callable[[str], Cell], value: Callable[[str, str, float, int], Cell], notes: Sequence[str]
) -> Table:
    """Build one row per method.

    Args:
        methods: the methods by name.
        f1: the cell of a method's F1.
        value: the cell of a method's number, by its key, scale and digits.
        notes: the footnotes.
    """
    order = ordered(methods)
    rows = [
        [title(name, methods[name]), *texts(methods[name]["M"]), f1(name)]
        + [value(name, key, scale, digits) for _, key, scale, digits in NUMBERS]
        + texts(methods[name]["track"], "yes" if methods[name]["learned"] else "no")
        for name in order
    ]
    head = [*columns("method", numbers=["M", "F1 %\n[95 %]", *(n[0] for n in NUMBERS)]), *columns("model", "learned")]
    strong = {i for i, name in enumerate(order) if methods[name]["kind"] == "wire"}
    return Table("Methods", head, rows, [*notes], strong).without_empty()


def method_notes(methods: Methods) -> list[str]:
    """Say what the numbers and the rows are."""
    questions = sorted({int(m["n"]) for m in methods.values()})
    return [
        f"{', '.join(map(str, questions))} questions; intervals: percentile bootstrap over passages. "
        "NLL and KL: mean over the answer's tokens, then over questions. Distinct: different answers over different "
        "gold answers. Positions: latents or tokens read before the question. Bytes of text: packed token ids, without "
        "a frame; of messages and coded texts: header and checksum included, the payload without. Encode and send: per "
        "message; inject, prefill (up to the answer's first token) and answer (the tokens after it): per question, in "
        "batches.",
        remarks(methods),
    ]


def result_table(methods: Methods, notes: Sequence[str] = ()) -> Table:
    """Show all methods of one evaluation."""

    def f1(name: str) -> Cell:
        m = methods[name]
        return percent(m["f1"], m.get("f1_low"), m.get("f1_high"))

    def value(name: str, key: str, scale: float, digits: int) -> Cell:
        found = methods[name].get(key)
        return number(None if found is None else found * scale, digits)

    return method_table(methods, f1, value, [*method_notes(methods), *notes])


def tests_table(tests: Sequence[Mapping[str, Any]]) -> Table:
    """Compare each wire with each other method: paired differences of F1 and NLL, exact McNemar test on EM."""
    rows = []
    for t in tests:
        low, high = signed(t["low"] * PERCENT, 1), signed(t["high"] * PERCENT, 1)
        f1 = Cell(f"{signed(t['f1_difference'] * PERCENT, 1)} [{low}, {high}]", t["f1_difference"] * PERCENT)
        names, only = texts(f"{t['wire']} on {t['model']}", t["against"]), texts(t["em_only_wire"], t["em_only_other"])
        rows.append([*names, f1, _nll_difference(t), *only, p_value(t["p_mcnemar"])])
    numbers = ["Δ F1\n[95 %]", "Δ NLL, nats\n[95 %]", "EM: only\nthe wire", "EM: only\nthe other", "p\nMcNemar"]
    note = "Paired by question; p values are not adjusted for multiple comparisons."
    return Table("", columns("wire", "against", numbers=numbers), rows, [note]).without_empty()


def _nll_difference(test: Mapping[str, Any]) -> Cell:
    value = test.get("nll_difference")
    if value is None:
        return Cell(ABSENT)
    return Cell(f"{signed(value, 3)} [{signed(test['nll_low'], 3)}, {signed(test['nll_high'], 3)}]", value)


def sizes_table(title: str, sizes: Mapping[str, Mapping[str, float]], messages: Mapping[str, float]) -> Table:
    """Show bytes per passage: messages beside UTF-8, zstd, token ids, KV and the entropy of the facts."""
    known = (
        ("text, UTF-8", "utf8"),
        ("text, zstd level 19", "zstd"),
        ("token ids, packed", "token_ids"),
        ("keys and values", "kv"),
        ("entropy of the facts", "entropy"),
    )
    found = [(what, model, s[key], s["utf8"]) for model, s in sizes.items() for what, key in known if key in s]
    utf8 = next(iter(sizes.values()))["utf8"]
    found += [(f"message: {name}", "all", size, utf8) for name, size in messages.items()]
    rows = [[*texts(what, model), number(size, 1), number(size / text, 3)] for what, model, size, text in found]
    head = columns("what is sent", "model", numbers=["bytes\nper passage", "/ UTF-8"])
    note = "zstd: each text alone, without a dictionary; messages include header and checksum."
    return Table(title, head, rows, [note], set(range(len(rows) - len(messages), len(rows))))


def kinds_table(title: str, kinds: Mapping[str, Mapping[str, Mapping[str, float]]], names: Sequence[str]) -> Table:
    """Show F1 by kind of question, a column per method."""
    rows = []
    for kind in sorted({kind for name in names for kind in kinds[name]}):
        found = [kinds[name].get(kind) for name in names]
        count = max(int(score.get("n", 0)) for score in found if score)
        rows.append([*texts(kind, count), *[number(score["f1"] * PERCENT if score else None, 1) for score in found]])
    return Table(title, columns("kind", numbers=["questions", *names]), rows)


def evaluations_table(evaluations: Sequence[Mapping[str, Any]]) -> Table:
    """Show F1 of every method in all evaluations of one run side by side, by what was asked differently."""
    common = set.intersection(*(set(e["asked"]["baselines"]) for e in evaluations))
    asked = [
        {**e["asked"], "baselines": {k: v for k, v in e["asked"]["baselines"].items() if k in common}}
        for e in evaluations
    ]
    told = labels(asked, Labels())
    same = len(set(told)) < len(told)  # they differ in which baselines there are alone: the rows say so
    named = [e["evaluation"][:6] if same else f"{text}\n{e['evaluation'][:6]}" for e, text in zip(evaluations, told)]
    methods: dict[str, Mapping[str, Any]] = {}
    for e in evaluations:
        methods = {**methods, **{k: m for k, m in e["methods"].items() if k not in methods}}
    rows = []
    for name in ordered(methods):
        found = [e["methods"].get(name) for e in evaluations]
        cells = [Cell(ABSENT) if m is None else percent(m["f1"], m.get("f1_low"), m.get("f1_high")) for m in found]
        rows.append([title(name, methods[name]), *cells])
    questions = ", ".join(str(max(int(m["n"]) for m in e["methods"].values())) for e in evaluations)
    note = (
        f"F1 % [95 %], oldest first; {questions} questions. The folders are named by the hash in each column's title."
    )
    strong = {i for i, name in enumerate(ordered(methods)) if methods[name]["kind"] == "wire"}
    return Table("Evaluations", columns("method", numbers=named), rows, [note], strong)
