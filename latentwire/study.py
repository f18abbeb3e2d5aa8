"""Named studies of latentwire: tables of configurations over seeds, resumable, with a report at the end.

python -m latentwire.study wire_demo        # the second half of `make demo`: two minutes
python -m latentwire.study pocket           # docs/results/pocket.md; hours
python -m latentwire.study further          # docs/results/further.md: 16x, one more family, whole prompts; hours
python -m latentwire.study pocket paths.runs=DIR    # further overrides go to every run
python -m latentwire.study breakeven RUN    # from how many reads on a wire takes less time
python -m latentwire.study family RUN --reader NAME    # what one more reader of a finished wire costs
python -m latentwire.study catalogue        # every encoder with every injector at 4x and 8x; some hours
python -m latentwire.study nested           # one wire of every budget against a wire trained for each; hours
python -m latentwire.study embed_transforms # what readers make of transformed embeddings; minutes, trains nothing
python -m latentwire.study anchors          # what may stand around embeddings of a text; minutes, trains nothing
python -m latentwire.study sequence_compression # which of six poolings keeps the answer; 45 minutes
python -m latentwire.study pca_adapter      # fewer numbers per token, an adapter on reconstruction or answers; minutes
python -m latentwire.study annealing        # the answers' weight beside reconstruction, fixed or annealed; 30 minutes
python -m latentwire.study lost             # what finished wires of the catalogue lose first; minutes, trains nothing
python -m latentwire.study lost_trained     # what wires lose that were trained on such texts; ten minutes
python -m latentwire.study together RUN     # two messages read together against one message of both texts
python -m latentwire.study two_readers RUN  # two readers of one message: joint answers, abstention, private slots
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentwire.catalogue import EXPERIMENT as CATALOGUE
from latentwire.catalogue import ROWS as PAIRS
from latentwire.lost_rows import ROWS as PLANTED
from latentwire.run import Tree, again, dead, earlier, judge, train
from suite.runs.study import Command, Program, Study, label, main

if TYPE_CHECKING:
    from suite.report import RunRecord

PROGRAM = Program("latentwire", train, dead, Tree, earlier, judge, again)
# Training-free rivals are in the experiment; these train for as long as the wire, which more than doubles a run: at 8x
# alone, where wires begin to lose answers.
TRAINED = (
    "baseline=[text,no_context,token_budget,best_sentence,legacy_truncation,mean_pooled,pca,replay,kv_compaction,"
    "text_lm_coded,text_zstd,lm_byte_budget,zstd_byte_budget,id_byte_budget,static_prefix,gist,icae]"
)
DEEP = ("label=4x deep_prefix", "wire.ratio=4")
SOFT = ("label=4x soft_prefix", "injector=soft_prefix", "curriculum=from_text", "trainer.max_epochs=18")
EIGHT_ALONE = ("label=8x deep_prefix", "wire.ratio=8", "curriculum=ratio", "trainer.max_epochs=20")
EIGHT = (*EIGHT_ALONE, TRAINED)
SIXTEEN = ("label=16x deep_prefix", "wire.ratio=16", "curriculum=ratio_16", "trainer.max_epochs=30")
EIGHT_RVQ = (
    "label=8x rvq 16 bits",
    "+wire.start_from=<8x deep_prefix>",
    "wire.ratio=8",
    "codec=rvq",
    "codec.stages=2",
    "wire.measured_texts=1024",
    "trainer.max_epochs=20",
)
BOTH = (
    "label=4x both",
    "+wire.start_from=<4x deep_prefix>",
    "readers=pocket_both",
    "trainer.max_epochs=28",
)
LATER = (
    "label=4x later qwen",
    "wire.from_run=<4x deep_prefix>",
    "readers=pocket_qwen",
    "+lm@encoder_lm=pocket_llama",
    "curriculum=states_first",
    "adapter=refiner",
    "trainer.max_epochs=36",
)
WHOLE = (
    "label=4x whole prompt",
    "+wire.start_from=<4x deep_prefix>",
    "wire.track=whole_prompt",
    "baseline=[text,no_context,whole_prompt_budget]",
    "acceptance.evaluation.above_the_fair_budget.minus=methods.whole_prompt_budget.f1_high",
    "loader.batch_size=48",
    "loader.questions=1",
    "trainer.max_epochs=20",
)


ROWS = (DEEP, EIGHT, EIGHT_RVQ, SOFT)
HARDER = (DEEP, SIXTEEN, LATER, WHOLE, BOTH)
SEEDS = (0, 1, 2)


def pocket_page(runs: Sequence[RunRecord]) -> Path:
    """Write page, figure and report of the study `pocket` from its runs; return the page's path."""
    from latentwire.page.writing import write

    return write(runs, [label(row) for row in ROWS], len(SEEDS))


def further_page(runs: Sequence[RunRecord]) -> Path:
    """Write page, figure and report of the study `further` from its runs; return the page's path."""
    from latentwire.family import measure
    from latentwire.page.writing import FURTHER, write
    from latentwire.report.family import cost_tables
    from suite.report import markdown

    places = {(run.label, run.seed): run.path for run in runs if run.finished}
    pairs = [
        (places[first], place)
        for (name, seed), place in places.items()
        if name == label(LATER) and (first := (label(DEEP), seed)) in places
    ]
    costs = [cost.plain() for cost in measure([first for first, _ in pairs], [added for _, added in pairs])]
    more = f"## What a reader costs\n\n{markdown(cost_tables(costs)[:1])}" if costs else ""
    return write(runs, [label(row) for row in HARDER], len(SEEDS), FURTHER, more)


# One training gives the curve that three trainings give point by point: F1 at 26, 13 and 7 latents of the same
# contexts. It is trained as long as the longest of the three.
NESTED = (
    "label=nested",
    "wire.ratio=4",
    "curriculum=nested",
    "wire.nested.budgets=[13,7]",
    "+evaluation.slots=[13,7]",
    "trainer.max_epochs=30",
)
BUDGETS = (NESTED, DEEP, EIGHT_ALONE, SIXTEEN)


def nested_page(runs: Sequence[RunRecord]) -> Path:
    """Write the page of the study `nested` from its runs; return its path."""
    from latentwire.page.budgets import write

    return write(runs, [label(row) for row in BUDGETS], len(SEEDS))


def catalogue_page(runs: Sequence[RunRecord]) -> Path:
    """Write the page of the study `catalogue` from its runs; return its path."""
    from latentwire.page.catalogue import write

    return write(runs, len(SEEDS))


def lost_trained_page(runs: Sequence[RunRecord]) -> Path:
    """Write the page of the study `lost_trained` from its runs; return its path."""
    from latentwire.lost_trained import write

    return write(runs, len(SEEDS))


def breakeven(program: Program, words: Sequence[str]) -> int:
    """Measure when the wire of a finished run pays in time (`latentwire.breakeven`)."""
    from latentwire.breakeven import main as measure

    return measure(words)


def family(program: Program, words: Sequence[str]) -> int:
    """Train one more reader of finished wires, and say what it took (`latentwire.family`)."""
    from latentwire.family import main as add

    return add(program, words)


def embed_transforms(program: Program, words: Sequence[str]) -> int:
    """Feed readers their own embeddings after transforms (`latentwire.embed_transforms`)."""
    from latentwire.embed_transforms import main as measure

    return measure(words)


def anchors(program: Program, words: Sequence[str]) -> int:
    """Put anchors and BOS around embeddings of a text (`latentwire.anchors`)."""
    from latentwire.anchors import main as measure

    return measure(words)


def sequence_compression(program: Program, words: Sequence[str]) -> int:
    """Pool texts in six ways and give them back to a reader (`latentwire.sequence_compression`)."""
    from latentwire.sequence_compression import main as measure

    return measure(words)


def pca_adapter(program: Program, words: Sequence[str]) -> int:
    """Send fewer numbers per token, and train an adapter on reconstruction or answers (`latentwire.pca_adapter`)."""
    from latentwire.pca_adapter import main as measure

    return measure(words)


def annealing(program: Program, words: Sequence[str]) -> int:
    """Weigh answers beside reconstruction, constantly or annealed (`latentwire.annealing`)."""
    from latentwire.annealing import main as measure

    return measure(words)


def lost(program: Program, words: Sequence[str]) -> int:
    """Let finished wires read facts that are easily lost, and ordinary ones beside (`latentwire.lost`)."""
    from latentwire.lost import main as measure

    return measure(words)


def together(program: Program, words: Sequence[str]) -> int:
    """Measure what two messages of a finished run lose against one of both texts (`latentwire.together`)."""
    from latentwire.together import main as measure

    return measure(words)


def two_readers(program: Program, words: Sequence[str]) -> int:
    """Pool the answers of all readers of a finished run, and test its private slots (`latentwire.two_readers`)."""
    from latentwire.two_readers import main as measure

    return measure(words)


STUDIES: dict[str, Study | Command] = {
    "breakeven": breakeven,
    "together": together,
    "two_readers": two_readers,
    "embed_transforms": embed_transforms,
    "anchors": anchors,
    "sequence_compression": sequence_compression,
    "pca_adapter": pca_adapter,
    "annealing": annealing,
    "lost": lost,
    "family": family,
    "catalogue": Study(CATALOGUE, SEEDS, PAIRS, catalogue_page),
    "lost_trained": Study(CATALOGUE, SEEDS, PLANTED, lost_trained_page),
    "nested": Study("pocket", SEEDS, BUDGETS, nested_page),
    "wire_demo": Study(
        "pocket_smoke", (0,), (("label=4x deep_prefix", "wire.ratio=4"), ("label=8x deep_prefix", "wire.ratio=8"))
    ),
    "pocket": Study("pocket", SEEDS, ROWS, pocket_page),
    "further": Study("pocket", SEEDS, HARDER, further_page),
}


if __name__ == "__main__":
    main(PROGRAM, STUDIES, __doc__)
