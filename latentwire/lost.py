"""What finished wires lose of facts that were planted to be lost: `python -m latentwire.study lost`.

Every finished wire of the study `catalogue` at 4x reads texts of about its own length from three corpora (after arXiv
2412.17483), each with facts that a compression loses easily and ordinary facts of the same texts:

    lost_boundary   values that start a chunk of the text           against values inside of one
    lost_surprise   one fact that breaks the pattern of its text    against those that follow it
    lost_along      the later half of a list                        against its first half

The wires were trained on ordinary biographies and are not trained here; of wires trained on such texts see the study
`lost_trained`. A minute of a core for three wires, resumable; it writes docs/results/lost.md.

    python -m latentwire.study lost --wires DIR     where the runs of the catalogue lie
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from callbacks.errors import UserError
from callbacks.files.atomic import write_text
from latentwire.catalogue import KEYS, RATIOS, name
from latentwire.cells import cell
from latentwire.data.base import Corpus, Passage
from latentwire.data.planted import LostAlongTheWay, LostByTheBoundary, LostIfSurprising
from latentwire.data.squad_metrics import best, f1
from latentwire.examples import Example, examples
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.page.scores import WIRE, points
from latentwire.pocket import load as reader
from latentwire.reader_study import AT_ONCE, NEW, READERS, enough
from latentwire.report.evaluation_tables import percent
from latentwire.report.stored import methods_of
from latentwire.restore import load
from suite.report import read_runs
from suite.report.data import RunRecord
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, markdown, number, texts
from suite.runs.command import command, command_parser
from suite.statistics import Bootstrap, hierarchical_bootstrap

PAGE = Path("docs/results/lost.md")
PASSAGES = 40
SEEDS = 3  # of the catalogue: wires with fewer are not finished
SLOTS = 13  # of the catalogue's wires at 4x
READ = 0.1  # F1 of ordinary facts below which a wire does not read, and nothing can be said of what it loses
N_BOOT = 2000
TEXT = "the text itself"
AGAINST = {
    "lost_boundary": ("a value starts a chunk", "it lies inside of one"),
    "lost_surprise": ("a fact breaks the pattern", "it follows it"),
    "lost_along": ("the later half of the list", "its first half"),
}
HEAD = """# What compression loses first

Written by `python -m latentwire.study lost`, none of it by hand; started again, only what is missing is computed.
Finished wires of the [catalogue](catalogue.md) at 4x, trained on ordinary biographies of two people and six facts, read
{passages} test texts of each of three corpora in which loss was planted (after arXiv 2412.17483), {slots} latents each.
Nothing is trained here: a wire has learned no pattern that a fact could break, as [wires trained on these
corpora](lost_trained.md) have. Ordinary facts are the others of the same texts: a row compares planted and ordinary
questions within a text, and every corpus asks the same reader on the text itself. F1: 95 % bootstrap over seeds and
passages; differences are paired by seed and passage. *As trained*: F1 on biographies as in training, from the run.
{missing}"""
Told = Callable[[str], bool]  # whether a kind of question asks for a planted fact
Scores = Mapping[int, Sequence[float]]  # F1 of every question in order, by seed


@dataclass(frozen=True)
class Asked:
    """Holds a corpus' test questions.

    Attributes:
        passages: the passages.
        groups: the passage of every question, in order.
        planted: whether every question asks for a planted fact.
    """

    passages: Sequence[Passage]
    groups: Sequence[str]
    planted: Sequence[bool]

    @classmethod
    def of(cls, corpus: str, passages: Sequence[Passage]) -> Asked:
        """Take them from passages of one of the corpora."""
        told = planted(corpus, [q.kind for p in passages for q in p.questions])
        groups = [p.group for p in passages for _ in p.questions]
        return cls(passages, groups, [told(q.kind) for p in passages for q in p.questions])


def corpora(passages: int) -> dict[str, Corpus]:
    """Return the corpora, as long as the texts of the catalogue."""
    return {
        "lost_boundary": LostByTheBoundary(people=2, facts_per_person=3, slots=SLOTS, test=passages),
        "lost_surprise": LostIfSurprising(people=2, facts_per_person=2, test=passages),
        "lost_along": LostAlongTheWay(items=6, test=passages),
    }


def planted(corpus: str, kinds: Iterable[str]) -> Told:
    """Return what tells planted kinds of a corpus from ordinary ones, given all of its kinds."""
    if corpus == "lost_along":
        places = sorted(set(kinds))
        later = set(places[len(places) // 2 :])
        return lambda kind: kind in later
    return lambda kind: kind in ("boundary", "surprise")


@torch.no_grad()
def answered(lm: FrozenLM, passages: Sequence[Passage], prefix: Callable[[Sequence[Example]], Prefix]) -> list[float]:
    """Let a reader answer all questions of passages; return F1 of each, in order.

    Args:
        lm: the reader.
        passages: the passages.
        prefix: gives what is read of some examples.
    """
    asked, found = examples(lm, passages), []
    for start in range(0, len(asked), AT_ONCE):
        batch = asked[start : start + AT_ONCE]
        answers = lm.generate(prefix(batch), [e.prompt.question for e in batch], NEW)
        pairs = zip(answers, batch, strict=True)
        found += [float(best(f1, lm.style.decode(ids), e.question.answers)) for ids, e in pairs]
    return found


def of_run(run_dir: Path, asked: Mapping[str, Asked]) -> dict[str, list[float]]:
    """Let the first reader of a finished run answer from its messages of every corpus; F1 by corpus."""
    loaded = load(run_dir)
    model = loaded.wire.models[0]
    found = {}
    for corpus, of in asked.items():
        values = loaded.wire.encode([p.text for p in of.passages])
        place = {p.id: i for i, p in enumerate(of.passages)}

        def prefix(batch: Sequence[Example], values: torch.Tensor = values, place: Any = place) -> Prefix:
            return loaded.wire.prefix(values[[place[e.passage.id] for e in batch]], model)

        found[corpus] = answered(loaded.inputs.lms[model], of.passages, prefix)
    return found


def of_text(asked: Mapping[str, Asked]) -> dict[str, list[float]]:
    """Let the catalogue's reader answer from the texts themselves; F1 by corpus."""
    lm = reader(READERS[0])
    return {
        corpus: answered(lm, of.passages, lambda batch: Prefix(text_ids=[e.prompt.context for e in batch]))
        for corpus, of in asked.items()
    }


def split(scores: Scores, asked: Asked) -> tuple[Bootstrap, Bootstrap, Bootstrap]:
    """Return F1 of planted and of ordinary facts, and the first minus the second, each with its interval.

    A passage counts once, with the mean of its planted and that of its ordinary questions; one without either does not.
    """
    parts: dict[str, tuple[list[int], list[int]]] = {}
    for i, (group, special) in enumerate(zip(asked.groups, asked.planted, strict=True)):
        parts.setdefault(group, ([], []))[0 if special else 1].append(i)
    both = {group: pair for group, pair in parts.items() if pair[0] and pair[1]}

    def means(of: Sequence[float], n: int) -> list[float]:
        return [sum(of[i] for i in pair[n]) / len(pair[n]) for pair in both.values()]

    first, second = ({seed: means(of, n) for seed, of in scores.items()} for n in (0, 1))
    a, b = (hierarchical_bootstrap(x, groups=list(both), n_boot=N_BOOT) for x in (first, second))
    return a, b, hierarchical_bootstrap(first, second, groups=list(both), n_boot=N_BOOT)


def verdict(found: Mapping[str, Mapping[str, Scores]], asked: Mapping[str, Asked]) -> str:
    """Say which wire loses which planted facts."""
    lines = []
    for corpus, of in asked.items():
        fails: list[str] = []
        gains: list[str] = []
        keeps: list[str] = []
        unread: list[str] = []
        for wire, by_corpus in found.items():
            _, ordinary, d = split(by_corpus[corpus], of)
            told = fails if d.high < 0 else gains if d.low > 0 else keeps
            where = unread if ordinary.high < READ else told
            where.append(f"`{wire}` ({points(d)})" if where is not unread else f"`{wire}`")
        part = [f"lost by {', '.join(fails)}"] if fails else []
        part += [f"kept better than ordinary facts by {', '.join(gains)}"] if gains else []
        part += [f"not told apart from them with {_few(keeps)}"] if keeps else []
        part += [f"undecided for {_few(unread)}, by which ordinary facts are not read either"] if unread else []
        lines.append(f"*{corpus}* ({AGAINST[corpus][0]}): {'; '.join(part)}.")
    return f"**Verdict.** In points of F1, planted minus ordinary. {' '.join(lines)}\n"


def _few(names: Sequence[str]) -> str:
    """Return up to three names, and how many there are of more: the tables have them all."""
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} wires"


def table(
    corpus: str,
    found: Mapping[str, Mapping[str, Scores]],
    text: Sequence[float],
    trained: Mapping[str, float],
    of: Asked,
) -> Table:
    """Show every wire on one corpus, under the text itself."""
    lines = [[*texts(TEXT), *cells({0: text}, of), Cell(ABSENT), *texts(ABSENT)]]
    for wire, by_corpus in found.items():
        own = [*cells(by_corpus[corpus], of), number(trained[wire] * PERCENT, 1), *texts(len(by_corpus[corpus]))]
        lines.append([*texts(wire), *own])
    titles = ["planted\nF1 % [95 %]", "ordinary\nF1 % [95 %]", "planted minus\nordinary", "as trained\nF1 %", "seeds"]
    return Table("", columns("wire", numbers=titles), lines)


def cells(scores: Scores, of: Asked) -> list[Cell]:
    """Show what `split` returns, in percent and points."""
    a, b, d = split(scores, of)
    return [*(percent(x.estimate, x.low, x.high) for x in (a, b)), Cell(points(d), d.estimate)]


def page(
    found: Mapping[str, Mapping[str, Scores]],
    text: Mapping[str, Sequence[float]],
    trained: Mapping[str, float],
    asked: Mapping[str, Asked],
    missing: Sequence[str],
) -> str:
    """Return the page.

    Args:
        found: F1 of every question by wire, corpus and seed.
        text: the same of the reader on the texts, by corpus.
        trained: F1 of every wire on texts as in training.
        asked: the questions, by corpus.
        missing: wires of the catalogue that are not finished.
    """
    told = f"**Not finished in the catalogue**: {', '.join(missing)}.\n" if missing else ""
    passages = len(next(iter(asked.values())).passages)
    parts = [HEAD.format(passages=passages, slots=SLOTS, missing=told), verdict(found, asked)]
    for corpus, of in asked.items():
        first, second = AGAINST[corpus]
        parts.append(f"## {corpus}\n\nPlanted: {first}. Ordinary: {second}. {sum(of.planted)} planted questions.\n")
        parts.append(markdown([table(corpus, found, text[corpus], trained, of)]))
    return "\n".join(parts)


def wires(folder: Path) -> dict[str, list[RunRecord]]:
    """Return the finished runs of the catalogue's wires at 4x by label, those with all seeds alone.

    Raises:
        UserError: no wire at 4x has all its seeds.
    """
    found: dict[str, dict[int, RunRecord]] = {}
    for run in read_runs([folder], "catalogue") if (folder / "catalogue").is_dir() else []:
        if run.finished and methods_of(run):
            found.setdefault(str(run.config.get("label")), {})[int(run.seed)] = run
    known = {label: [own[s] for s in sorted(own)] for label in _labels() if len(own := found.get(label, {})) >= SEEDS}
    if not known:
        expected, remedy = f"a wire at {RATIOS[0]}x with {SEEDS} seeds", "python -m latentwire.study catalogue"
        raise UserError(f"--wires {folder}", "no finished wire of the catalogue", expected, remedy)
    return known


def _labels() -> list[str]:
    return [name(*key) for key in KEYS if key[2] == RATIOS[0]]


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    p = command_parser("python -m latentwire.study lost", __doc__)
    p.add_argument("--wires", type=Path, default=Path("runs"), help="where the runs of the catalogue lie")
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where what is computed is kept (default: runs)")
    p.add_argument("--passages", type=int, default=PASSAGES, help="test passages of each corpus")
    p.add_argument("--out", type=Path, default=PAGE, help=f"the page (default: {PAGE})")
    return p


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    args = parser().parse_args(argv)
    enough(args)
    runs, n = wires(args.wires), args.passages
    asked = {c: Asked.of(c, [s[i] for i in range(n)]) for c, own in corpora(n).items() for s in [own.split("test")]}
    folder, told = args.runs / "lost", {"passages": n}
    by = {"wire": TEXT, "reader": reader(READERS[0]).fingerprint(), **told}
    text = cell(folder, by, partial(of_text, asked))
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for wire, own in runs.items():
        for run in own:
            trained_as = hashlib.sha256((run.path / "result.json").read_bytes()).hexdigest()  # a run may be done anew
            key = {"wire": wire, "seed": run.seed, "run": run.hash, "result": trained_as, **told}
            for corpus, scores in cell(folder, key, partial(of_run, run.path, asked)).items():
                found.setdefault(wire, {}).setdefault(corpus, {})[int(run.seed)] = scores
    trained = {w: sum(methods_of(r)[WIRE]["f1"] for r in own) / len(own) for w, own in runs.items()}
    missing = [label for label in _labels() if label not in runs]
    print(f"page: {write_text(args.out, page(found, text, trained, asked, missing))}")
    return 0
