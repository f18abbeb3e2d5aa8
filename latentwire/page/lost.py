"""The page of the study `lost`: which wire fails on which planted loss, ordinary facts of the same texts beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.files.atomic import write_text
from latentwire.lost import CONTEXTS, CORPORA, EPOCHS, KEYS, WIRES, name
from latentwire.page.curve import seeds
from latentwire.page.scores import TEXT, WIRE, configurations, methods, points
from latentwire.report.evaluation_tables import percent
from latentwire.report.stored import evaluated, plain, predictions
from suite.report.data import RunRecord
from suite.report.frames import Configuration
from suite.report.summary import N_BOOT
from suite.report.tables import ABSENT, Cell, Table, columns, markdown, texts
from suite.statistics import Bootstrap, hierarchical_bootstrap

PAGE = Path("docs/results/lost.md")
READ = 0.1  # F1 of ordinary facts below which a wire does not read, and nothing can be said of what it loses
Rows = Mapping[int, Sequence[Mapping[str, Any]]]  # a method's predictions by seed
Told = Callable[[str], bool]  # whether a kind of question asks for a planted fact
HEAD = """# What compression loses first

Written by `python -m latentwire.study lost`, none of it by hand; started again, only what is missing runs. {state}

Three corpora plant what gist tokens were seen to lose (arXiv 2412.17483): *boundary*, values that are the first token
of a chunk of the text; *surprise*, one fact that breaks the pattern of its text; *along*, the places of a list, of
which the later half counts as planted. Ordinary facts are the other ones of the same texts. About 50 tokens,
4 per latent; every wire learned each corpus from {steps} steps of {contexts} texts and up to six questions about each,
nothing tuned. Runs are short on purpose: what counts is a row's difference, not its height. F1: 95 % bootstrap over
seeds and passages; differences are paired by seed and passage, each with its planted and its ordinary questions.
"""
PLANTED: dict[str, tuple[str, str]] = {
    "lost_boundary": ("value starts a chunk", "value inside"),
    "lost_surprise": ("breaks the pattern", "follows it"),
    "lost_along": ("later half of the list", "first half"),
}


def write(runs: Sequence[RunRecord], wanted: int) -> Path:
    """Write the page of a study from its runs; return the page's path.

    Args:
        runs: the runs.
        wanted: the number of the study's seeds.
    """
    return write_text(PAGE, page(configurations(runs, [name(*key) for key in KEYS]), wanted))


def page(found: Sequence[Configuration], wanted: int) -> str:
    """Return the page.

    Args:
        found: the configurations that were evaluated.
        wanted: the number of the study's seeds.
    """
    known = {c.label: c for c in found}
    missing = [name(*k) for k in KEYS if name(*k) not in known or len(evaluated(known[name(*k)])) < wanted]
    told = f"Seeds: {seeds(found)}." + (f" **Not finished**: {', '.join(missing)}." if missing else "")
    head = HEAD.format(state=told, steps=60 * EPOCHS, contexts=CONTEXTS)
    if not found:
        return head + "\nNo run of the study has been evaluated yet.\n"
    return "\n".join([head, verdict(known, wanted), markdown([table(known, wanted)])])


def planted(corpus: str, kinds: Sequence[str]) -> Told:
    """Return what tells planted kinds of a corpus from ordinary ones, given all of its kinds."""
    if corpus == "lost_along":
        places = sorted(set(kinds))
        later = set(places[len(places) // 2 :])
        return lambda kind: kind in later
    return lambda kind: kind in ("boundary", "surprise")


def by_passage(rows: Sequence[Mapping[str, Any]], told: Told) -> dict[str, tuple[float, float]]:
    """Return F1 of planted and of ordinary questions of each passage that has both, means over its questions."""
    parts: dict[str, tuple[list[float], list[float]]] = {}
    for r in rows:
        parts.setdefault(str(r["group"]), ([], []))[0 if told(str(r["kind"])) else 1].append(float(r["f1"]))
    return {group: (sum(p) / len(p), sum(o) / len(o)) for group, (p, o) in parts.items() if p and o}


def split(rows: Rows, corpus: str) -> tuple[Bootstrap, Bootstrap, Bootstrap]:
    """Return F1 of planted and of ordinary facts, and the first minus the second, each with its interval."""
    told = planted(corpus, [str(r["kind"]) for part in rows.values() for r in part])
    found = {seed: by_passage(part, told) for seed, part in rows.items()}
    groups = list(next(iter(found.values())))
    first, second = ({seed: [f[g][n] for g in groups] for seed, f in found.items()} for n in (0, 1))
    a, b = (hierarchical_bootstrap(x, groups=groups, n_boot=N_BOOT) for x in (first, second))
    return a, b, hierarchical_bootstrap(first, second, groups=groups, n_boot=N_BOOT)


def rows_of(c: Configuration, key: str) -> Rows:
    """Return a method's predictions by seed."""
    method = methods(c)[key]
    found = {run.seed: predictions(run).get((plain(key, method), method["model"])) for run in evaluated(c)}
    return {seed: rows for seed, rows in found.items() if rows}


def verdict(known: Mapping[str, Configuration], wanted: int) -> str:
    """Say which finished wire loses which planted facts."""
    lines = []
    for corpus in CORPORA:
        fails, keeps, unread = [], [], []
        for wire in WIRES:
            c = known.get(name(corpus, wire))
            if c is None or len(evaluated(c)) < wanted:
                continue
            _, ordinary, d = split(rows_of(c, WIRE), corpus)
            told = f"`{' '.join(wire)}` ({points(d)})"
            (unread if ordinary.estimate < READ else fails if d.high < 0 else keeps).append(told)
        part = [f"lost by {', '.join(fails)}"] if fails else []
        part += [f"no loss beside ordinary facts is seen with {', '.join(keeps)}"] if keeps else []
        part += [f"nothing is decided where ordinary facts are not read, {', '.join(unread)}"] if unread else []
        lines.append(f"{corpus}: {'; '.join(part) if part else 'no wire has all its seeds yet'}.")
    return f"**Verdict.** In points of F1, planted minus ordinary. {' '.join(lines)}\n"


def table(known: Mapping[str, Configuration], wanted: int) -> Table:
    """Show every wire on every corpus under the text itself, those that have not run as well."""
    lines = []
    for corpus in CORPORA:
        some = next((known[name(corpus, wire)] for wire in WIRES if name(corpus, wire) in known), None)
        if some is not None:
            lines.append([*texts(corpus, "the text itself"), *_cells(rows_of(some, TEXT), corpus), *texts(ABSENT)])
        for wire in WIRES:
            c = known.get(name(corpus, wire))
            if c is None:
                lines.append([*texts(corpus, " ".join(wire)), *[Cell(ABSENT)] * 3, *texts("not run")])
                continue
            n = len(evaluated(c))
            done = str(n) if n >= wanted else f"{n} of {wanted}, not finished"
            lines.append([*texts(corpus, " ".join(wire)), *_cells(rows_of(c, WIRE), corpus), *texts(done)])
    titles = ["planted\nF1 % [95 %]", "ordinary\nF1 % [95 %]", "planted minus\nordinary", "seeds"]
    notes = [f"{corpus}: {first} against {second}." for corpus, (first, second) in PLANTED.items()]
    return Table("", columns("corpus", "wire", numbers=titles), lines, notes)


def _cells(rows: Rows, corpus: str) -> list[Cell]:
    a, b, d = split(rows, corpus)
    return [*(percent(x.estimate, x.low, x.high) for x in (a, b)), Cell(points(d), d.estimate)]
