"""The rows of the study `sequence_compression`: six poolings of the same states, each with the objective that fits it.

Where slot j is made of the tokens of chunk j, each token's embedding can be asked back from its slot
(`embedding_reconstruction`). Queries that are free to read anything, and vectors that several slots share, tie no slot
to a place: of them the whole text is asked back through the reader (`text_reconstruction`). Every row learns answers as
well, from equally many questions, with equal weights; nothing is tuned. Three controls: answers alone for the plainest
and the freest pooling, and the free queries under the objective of chunks, which they cannot fit.
"""

from __future__ import annotations

EXPERIMENT = "pocket_smoke"
EPOCHS, CONTEXTS = 4, 8  # of 60 steps; in a step, six questions each: half a minute of a core
PASSAGES = 80  # of the test split
WEIGHT = 0.3  # of reconstruction, where answers have 1
PLACES, WHOLE, ALONE = "embedding_reconstruction", "text_reconstruction", "answers alone"
FITTING = {
    "chunk_mean": PLACES,
    "strided_conv": PLACES,
    "hierarchical": PLACES,
    "transport": PLACES,
    "pool_expand": WHOLE,
    "cross_attention": WHOLE,
}
CONTROLS = (("chunk_mean", ALONE), ("cross_attention", ALONE), ("cross_attention", PLACES))
KEYS = (*FITTING.items(), *CONTROLS)


def name(pooling: str, beside: str) -> str:
    """Return what tables call a row: the pooling and what it learns beside answers."""
    return f"{pooling} {beside}"


def row(pooling: str, beside: str) -> tuple[str, ...]:
    """Return the overrides of a row, its label among them."""
    words = [f"label={name(pooling, beside)}", f"pooling@encoder.pooling={pooling}", f"trainer.max_epochs={EPOCHS}"]
    words += [f"loader.batch_size={CONTEXTS}", f"evaluation.passages={PASSAGES}"]
    if beside == ALONE:
        return (*words, "objective=[answer_ce]")
    return (*words, f"objective=[answer_ce,{beside}]", f"objectives.{beside}.weight.value={WEIGHT}")


ROWS = tuple(row(*key) for key in KEYS)
