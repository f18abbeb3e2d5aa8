"""`docs/results/faults.md`: what every fault costs, and whether their sum may explain the predecessor's table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asgml.faults.catalogue import FAULTS
from asgml.faults.pairs import PAIRS, Pair
from asgml.report.methods_table import DIFFERENCE, SPLITS, same_numbers
from asgml.report.naming import metric
from callbacks.files.atomic import write_text
from suite.report import RunRecord, group_runs
from suite.report.frames import Configuration
from suite.report.summary import Comparison, compare, limit_notes, per_seed, state
from suite.report.tables import ABSENT, PERCENT, Table, columns, estimate, markdown, signed, texts
from suite.statistics import Estimate, mean_interval

PAGE = Path("docs/results/faults.md")

# The only published numbers of an earlier implementation (accuracy in %); what the ± stands for is not published.
BASELINE = (60.3, 0.7)
PREDECESSOR = {"frequency": (60.5, 1.2), "staleness": (59.3, 0.9)}
# Of its code it is known that it broke specification A2.1, A2.2 and A2.3.
GAMMA = "gamma 4"
KNOWN = ("off_by_one", "zeroed_gradients", "in_phase")


@dataclass(frozen=True)
class Found:
    """A pair with its finished runs.

    Attributes:
        pair: the pair.
        exact: the runs of the exact code.
        faulty: the runs with the fault.
    """

    pair: Pair
    exact: Configuration
    faulty: Configuration

    def costs(self, split: str) -> dict[int, float]:
        """Return the accuracy of the faulty run less that of the exact one in percentage points, by seed."""
        exact, faulty = per_seed(self.exact, metric(split)), per_seed(self.faulty, metric(split))
        return {seed: PERCENT * (faulty[seed] - exact[seed]) for seed in sorted(exact.keys() & faulty.keys())}


def find_pairs(runs: Sequence[RunRecord]) -> list[Found]:
    """Return the pairs of which both sides have runs, in the order of `PAIRS`."""
    grouped = group_runs(runs, everything=True) if runs else []
    known = {c.label: c for frames in grouped for c in frames.configurations}
    return [Found(p, known[p.settings], known[p.label]) for p in PAIRS if {p.settings, p.label} <= known.keys()]


def summed_cost(found: Sequence[Found], split: str) -> Estimate | None:
    """Return the sum of the costs of several faults with its interval, None without a seed that all have.

    The costs of one seed are added first, so that the interval knows how they vary together.

    Args:
        found: the pairs with their runs.
        split: the split whose accuracy counts.
    """
    costs = [f.costs(split) for f in found]
    common = set.intersection(*map(set, costs)) if costs else set()
    return mean_interval([sum(c[seed] for c in costs) for seed in sorted(common)]) if common else None


def table(found: Sequence[Found]) -> Table:
    """Return the table of all pairs: both accuracies, the paired difference and its tests, at both moments."""
    shown = ("exact %\n{at}", "faulty %\n{at}", *DIFFERENCE)
    numbers = [what.format(at=at) for at in SPLITS.values() for what in shown]
    head = columns("fault", "settings", numbers=["seeds", *numbers])
    compared = {s: compare([(f.faulty, f.exact) for f in found], metric(s)) for s in SPLITS}
    rows = []
    for i, f in enumerate(found):
        row = texts(f.pair.name, f.pair.settings, state(f.faulty))
        for split, comparisons in compared.items():
            row += [estimate(per_seed(c, metric(split)), PERCENT) for c in (f.exact, f.faulty)]
            row += comparisons[i].cells()
        rows.append(row)
    return Table("", head, rows, _notes(found, compared))


def _notes(found: Sequence[Found], compared: Mapping[str, Sequence[Comparison]]) -> list[str]:
    last, best = (sum(c.adjusted is not None for c in comparisons) for comparisons in compared.values())
    notes = [
        "Δ: test accuracy of the faulty run less that of the exact one in percentage points, paired by seed, with its "
        "95 % t interval; below 0 the fault costs accuracy. p: paired t test; Holm over "
        f"{last} tests (last epoch) and {best} (best validation epoch). {ABSENT} means that no test exists.",
        *limit_notes(compared["test"]),
    ]
    same = [f.pair.label for f in found if same_numbers(f.faulty, f.exact)]
    if same:
        notes.append(f"The same numbers with every seed, so that nothing of the fault acted: {'; '.join(same)}.")
    for f in found:
        skipped = [run.counter("skipped").get("", 0.0) for run in f.faulty.finished]
        steps = [run.counter("committed").get("", 0.0) + s for run, s in zip(f.faulty.finished, skipped)]
        if any(skipped):
            share = PERCENT * sum(skipped) / sum(steps)
            notes.append(f"{f.pair.label}: {share:.0f} % of all steps were skipped.")
        loads = [_load(c) for c in (f.exact, f.faulty)]
        if loads[0] and loads[1] and loads[1] > 2 * loads[0]:
            notes.append(
                f"{f.pair.label}: at its worst the delay stood at {loads[1]:.1f} times the limit of stability, "
                f"where the exact code stood at {loads[0]:.1f} (`callbacks.StabilityGuard`, mean over seeds)."
            )
    return notes


def _load(c: Configuration) -> float | None:
    """Return the largest load that the guard measured, over all groups, as a mean over seeds; None without any."""
    worst = [(run.result.get("counters") or {}).get("stability", {}).get("worst") for run in c.finished]
    found = [max(group["load"] for group in groups.values()) for groups in worst if groups]
    return sum(found) / len(found) if found else None


def _interval(e: Estimate) -> str:
    between = "" if e.low is None or e.high is None else f" [{signed(e.low)}, {signed(e.high)}]"
    return f"{signed(e.mean)}{between}"


def verdict(total: Estimate) -> str:
    """Return what the sum of the costs says about a row that showed no gain."""
    if total.low is None or total.high is None:
        return "one seed has no interval: whether they explain that no gain was seen is open"
    if total.high < 0:
        return "they **may explain** that no gain was seen, if costs add and carry over"
    if total.low > 0:
        return "they helped here, and **do not explain** that no gain was seen"
    return (
        "the interval contains 0: they are **not shown to explain** that no gain was seen, and a cost of up to "
        f"{-total.low:.1f} points in all is not excluded either"
    )


def explanation(row: str, found: Sequence[Found]) -> str:
    """Return the paragraph on a row of the predecessor's table, `frequency` or `staleness`."""
    (accuracy, spread), (base, base_spread) = PREDECESSOR[row], BASELINE
    gap, gap_spread = accuracy - base, math.hypot(spread, base_spread)
    text = (
        f"**{row.capitalize()}**: {accuracy:.1f} ± {spread:.1f} against {base:.1f} ± {base_spread:.1f} of the "
        f"baseline, a difference of {signed(gap, 1)} ± {gap_spread:.1f}."
    )
    concerned = [pair for pair in PAIRS if pair.row == row]
    mine = [f for f in found if f.pair in concerned]
    code = [f for f in mine if f.pair.fault != GAMMA]
    known = [f for f in mine if f.pair.fault in KNOWN]
    parts = [("All faults that it can have had", mine), ("The errors of the code among them", code)]
    if known != code:
        parts.append(("Those that it is known to have had", known))
    lines = []
    for lead, some in parts:
        last, best = (summed_cost(some, split) for split in SPLITS)
        if len(mine) < len(concerned) or last is None or best is None:
            return f"{text} Not every fault that concerns this row has been run with a common seed: nothing is said."
        names = ", ".join(dict.fromkeys(f"`{f.pair.fault}`" for f in some))
        lines.append(
            f"- {lead} ({names}): {_interval(last)} points at the last epoch, {_interval(best)} at the best validation "
            f"epoch. At the last epoch {verdict(last)}. With that sum taken away, the difference would be "
            f"{signed(gap - last.mean, 1)}."
        )
    return "\n".join([text, "", *lines])


def page(runs: Sequence[RunRecord]) -> str:
    """Return the page in Markdown."""
    found = find_pairs(runs)
    absent = [p.label for p in PAIRS if p not in {f.pair for f in found}]
    told = "\n".join(f"- `+fault={name}`: {fault.what} (specification {fault.rule})" for name, fault in FAULTS.items())
    paragraphs = "\n\n".join(explanation(row, found) for row in PREDECESSOR)
    text = f"""# What the faults of earlier code cost

Regenerated by `make faults`; started again, only what is missing runs. Each fault is replayed alone, beside the exact
code at the same settings and seeds. The exact code knows none of the faults (`asgml/faults/`), and a run that replays
one says so in its first line, its label and `result.json`. What is measured is the accuracy at the end: a fault that
only changes the way there does not show. Intervals are over seeds, on one test set.

{_setting(found)}

{markdown([table(found)]) if found else "No pair has been run."}
## Do they explain the predecessor's table?

{paragraphs}

The sums are made seed by seed; each interval stands alone and is not corrected for the others. They stand on two
assumptions that nothing here tests: that costs add, and that they carry over from rendered clips and small networks to
the predecessor's data and settings, which are not published. What its ± stands for is not published either; of a
difference the two are combined as if they were independent. That its code broke A2.1, A2.2 and A2.3 is known; of the
other faults, whether they were in the published runs is not.
`all_groups_gate` is left out of the sums: rows that reached 60 % had not stopped training. `clamped_descent` and
`zero_start_ema` concern an adaptive schedule, of which no number was published.

## The faults

{told}
- `{GAMMA}`: no error of the code but a weight, `asgml.gamma=4`: with two modalities 89 % of the first loss is unimodal.
  It also makes the encoders' steps larger at the same rate, which brings a delay nearer to its limit of stability
  ([stability.md](stability.md)): what it costs at a rate of its own is not measured here
"""
    if absent:
        text += f"\nNot run: {'; '.join(absent)}.\n"
    return text


def _setting(found: Sequence[Found]) -> str:
    """Tell what all runs have in common."""
    runs = [run for f in found for run in (*f.exact.finished, *f.faulty.finished)]
    if not runs:
        return ""
    optimisers = [run.config["optimizer"] for run in runs]
    epochs = ", ".join(sorted({str(run.config["trainer"]["max_epochs"]) for run in runs}))
    data = ", ".join(sorted({f"`{run.config['data']['_target_'].rpartition('.')[2]}`" for run in runs}))
    schedule = ", ".join(sorted({str(run.config["lr_schedule"]["kind"]) for run in runs}))
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    plain, heavy = (
        ", ".join(f"{rate:g}" for rate in sorted({o["lr"] for o in optimisers if bool(o["momentum"]) == momentum}))
        for momentum in (False, True)
    )
    with_momentum = f", but where the settings have it ({heavy} then)" if heavy else ""
    return (
        f"Data: {data}. {epochs} epochs, learning rate {schedule}, seeds {seeds}.\nSGD at {plain} without "
        f"momentum{with_momentum}. Nothing is tuned."
    )


def write_page(runs: Sequence[RunRecord], path: Path = PAGE) -> Path:
    """Write the page in one move, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, page(runs))
