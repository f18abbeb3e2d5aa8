"""The rows of the study `lost_trained`: one wire for each corpus in which loss is planted, trained on it."""

from __future__ import annotations

from latentwire.catalogue import EPOCHS

RATIO = 8  # where wires begin to lose answers
SIZES = {
    "lost_boundary": {"people": 2, "facts_per_person": 3, "slots": 7},  # of texts of about 50 tokens at this ratio
    "lost_surprise": {"people": 2, "facts_per_person": 2},
    "lost_along": {"items": 6},
}


def row(corpus: str) -> tuple[str, ...]:
    """Return the overrides of a corpus' wire, its label among them."""
    words = [f"label={corpus}", f"corpus={corpus}", *(f"corpus.{key}={n}" for key, n in SIZES[corpus].items())]
    return (*words, f"wire.ratio={RATIO}", "curriculum=ratio", f"trainer.max_epochs={EPOCHS}")


ROWS = tuple(row(corpus) for corpus in SIZES)
