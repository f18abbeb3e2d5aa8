"""The page of the study `catalogue`: encoders × injectors at two ratios, with what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from callbacks.files.atomic import write_text
from latentwire.catalogue import EPOCHS, INJECTORS, KEYS, name
from latentwire.page.curve import seeds
from latentwire.page.scores import BUDGET, TEXT, WIRE, configurations, f1, methods, reader
from latentwire.report.stored import evaluated, f1_of
from latentwire.report.wires import f1_cell
from suite.report.data import RunRecord
from suite.report.frames import Configuration
from suite.report.summary import per_seed
from suite.report.tables import ABSENT, PERCENT, Cell, Table, columns, estimate, markdown, number, texts

PAGE = Path("docs/results/catalogue.md")
UNREAD = 0.05  # nats per token of a swap gap below which a wire is called unread
HEAD = """# Every encoder with every injector

Written by `python -m latentwire.study catalogue` (`make catalogue`), none of it by hand; started again, only what is
missing runs. {state}

Runs are short on purpose, {epochs} epochs of `pocket_smoke` (texts of six facts, about 50 tokens), three minutes of a
core at most: the table says what is learned from equally many questions, not what a wire can reach. Curricula within
these questions are those that injector and ratio ask for: embeddings begin with one latent per token, 8x with 4x.
Encoders: a frozen language model's states (`lm_hidden`), the same with LoRA (`lm_lora`), its states of all layers moved
by a transport plan (`comprexit`), the reader's embeddings (`token`), bytes from scratch (`byte`, without the stage of
`curriculum=byte_alignment` that teaches it the reader's embeddings first), principal components (`pca`, fitted and not
trained: its adapter and injector are). States behind a semantic anchor (`interlingua`) stand with `deep_prefix` alone,
trained on answers as all are. `st_query` needs the extra `sentence` and is not here.
"""
TABLE = """## At {ratio}x

F1: 95 % bootstrap over seeds and passages. NLL: nats per token of the gold answer. Swap gap: by how much that is higher
with the message of another passage; at 0 nothing is read of messages. Positions: latents that the reader attends to
before every question, and the tokens that its rivals have; they are columns of its input or places of its cache, but
with `latent_adapters`, whose latents a few layers read beside and which spends none of these. Bytes: a message with
header and checksum. Times are per message or question in batches, on a machine that did other work as well. Trained
parameters: all parts together.
"""


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
    told = state(known, wanted)
    if not found:
        return HEAD.format(state=told, epochs=EPOCHS) + "\nNo run of the study has been evaluated yet.\n"
    parts = [HEAD.format(state=f"Seeds: {seeds(found)}. {told}", epochs=EPOCHS), ends(found[0]), verdict(known, wanted)]
    for ratio in sorted({r for *_, r in KEYS}):
        parts += [TABLE.format(ratio=ratio), markdown([table(known, ratio, wanted)])]
    return "\n".join(parts)


def state(known: Mapping[str, Configuration], wanted: int) -> str:
    """Say how many rows have all their seeds; which have not, the tables say."""
    whole = sum(len(evaluated(c)) >= wanted for c in known.values())
    if whole == len(KEYS):
        return f"All {whole} rows have {wanted} seeds."
    return f"**Not finished**: {whole} of {len(KEYS)} rows have all {wanted} seeds, {len(known)} have one at least."


def ends(c: Configuration) -> str:
    """Say what the text itself and no text at all score."""
    every = methods(c)
    told = [f"{key} {PERCENT * f1(c, key):.1f} %" for key in (TEXT, BUDGET, "no_context") if key in every]
    return f"Beside the wires, on the same questions at `{c.label}`: F1 of {', '.join(told)}.\n"


def verdict(known: Mapping[str, Configuration], wanted: int) -> str:
    """Say which wire is best at each ratio, and which intervals reach it; of finished rows alone."""
    lines = []
    for ratio in sorted({r for *_, r in KEYS}):
        own = {k: known[name(*k)] for k in KEYS if k[2] == ratio and name(*k) in known}
        scores = {k: f1_of(evaluated(c), WIRE) for k, c in own.items() if len(evaluated(c)) >= wanted}
        got = {k: s for k, s in scores.items() if s is not None}
        if not got:
            lines.append(f"At {ratio}x no row has all its seeds yet, and nothing is decided.")
            continue
        best = max(got, key=lambda k: got[k].mean)
        reach, floor = (lambda s: s.mean if s.high is None else s.high), got[best].low
        low = got[best].mean if floor is None else floor
        near = [f"`{k[0]} {k[1]}`" for k, s in got.items() if k != best and reach(s) >= low]
        also = f"; not told apart from it: {', '.join(near)}" if near else "; no other interval reaches its own"
        missing = sum(k[2] == ratio for k in KEYS) - len(got)
        rest = f" ({missing} rows are not finished)" if missing else ""
        lines.append(
            f"At {ratio}x `{best[0]} {best[1]}` answers best, F1 {PERCENT * got[best].mean:.1f} %{also}{rest}."
        )
    dead = unread(known, wanted)
    if dead:
        below = f"a swap gap below {UNREAD} nats per token; F1 is that of guesses"
        lines.append(f"Messages are not read ({below}): {', '.join(dead)}.")
    return f"**Verdict.** {' '.join(lines)}\n"


def unread(known: Mapping[str, Configuration], wanted: int) -> list[str]:
    """Return the finished rows whose answers do not depend on their message."""
    gaps = {k: per_seed(c, reader(WIRE, "swap_gap")) for k, c in known.items() if len(evaluated(c)) >= wanted}
    return [f"`{k}`" for k, gap in gaps.items() if gap and sum(gap.values()) / len(gap) < UNREAD]


def table(known: Mapping[str, Configuration], ratio: int, wanted: int) -> Table:
    """Show all rows of a ratio, injectors together, those that have not run as well."""
    rows = []
    for key in sorted((k for k in KEYS if k[2] == ratio), key=lambda k: INJECTORS.index(k[1])):
        c = known.get(name(*key))
        rows.append(
            [*texts(key[1], key[0]), *([Cell(ABSENT)] * 9 + texts("not run") if c is None else cells(c, wanted))]
        )
    titles = [
        "F1 %\n[95 %]",
        "NLL\nnats/token",
        "swap gap\nnats/token",
        "positions",
        "bytes",
        "encode\nms",
        "inject\nms",
    ]
    titles += ["trained\nparameters", "questions\nseen", "seeds"]
    return Table("", columns("injector", "encoder", numbers=titles), rows)


def cells(c: Configuration, wanted: int) -> list[Cell]:
    """Return the numbers of a row that has run."""
    runs = evaluated(c)
    sizes = [_mean(c, key, 0) for key in ("positions", "bytes")]
    times = [_mean(c, key, 2) for key in ("encode_ms", "inject_ms")]
    trained = sum((runs[0].result.get("parameters") or {}).values())
    done = str(len(runs)) if len(runs) >= wanted else f"{len(runs)} of {wanted}, not finished"
    nll, gap = (estimate(per_seed(c, reader(WIRE, key)), digits=3) for key in ("nll", "swap_gap"))
    seen = _mean(c, "questions_seen", 0)
    return [f1_cell(runs, WIRE), nll, gap, *sizes, *times, Cell(f"{trained:,}", trained), seen, *texts(done)]


def _mean(c: Configuration, key: str, digits: int) -> Cell:
    values = per_seed(c, reader(WIRE, key))
    return number(sum(values.values()) / len(values) if values else None, digits)
