"""The rows of the study `lost`: what wires lose of texts in which loss was planted (after arXiv 2412.17483).

Three corpora of about 50 tokens, each with facts that a compression loses easily and ordinary facts of the same texts:
values that start a chunk, a fact that breaks the pattern of its text, the places of a list. Three wires learn each of
them from equally many questions at the same ratio: the usual one, the same states under another injector, and an
encoder that sees no context before it pools.
"""

from __future__ import annotations

from itertools import product

EXPERIMENT = "pocket_smoke"
EPOCHS, CONTEXTS = 4, 8  # of 60 steps; in a step, six questions each at most: half a minute of a core
PASSAGES = 120  # of the test split: a text has one planted fact or two
WIRES = (("lm_hidden", "deep_prefix"), ("token", "deep_prefix"), ("lm_hidden", "latent_adapters"))
# corpus: overrides that make its texts as long as those of the experiment, at 4 tokens per latent
CORPORA: dict[str, tuple[str, ...]] = {
    "lost_boundary": ("corpus.people=2", "corpus.facts_per_person=3", "corpus.slots=13", "wire.slots=13"),
    "lost_surprise": ("corpus.people=2", "corpus.facts_per_person=2", "wire.ratio=4"),
    "lost_along": ("corpus.items=6", "wire.ratio=4"),
}
KEYS = tuple((corpus, wire) for wire, corpus in product(WIRES, CORPORA))


def name(corpus: str, wire: tuple[str, str]) -> str:
    """Return what tables call a row."""
    return f"{corpus} {' '.join(wire)}"


def row(corpus: str, wire: tuple[str, str]) -> tuple[str, ...]:
    """Return the overrides of a row, its label among them."""
    encoder, injector = wire
    words = [f"label={name(corpus, wire)}", f"corpus={corpus}", f"encoder={encoder}", f"injector={injector}"]
    words += [f"trainer.max_epochs={EPOCHS}", f"loader.batch_size={CONTEXTS}", f"evaluation.passages={PASSAGES}"]
    # an injector that starts as the text reads noise of a fresh encoder with certainty: worse than uniform at first
    return (*words, "callbacks.uniform_bound=null", *CORPORA[corpus])


ROWS = tuple(row(*key) for key in KEYS)
