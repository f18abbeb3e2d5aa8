"""The rows of the study `catalogue`: kinds of encoders and injectors at two ratios, on equal terms.

Every run of `pocket_smoke`'s short texts sees equally many questions. What differs beside encoder and injector is the
curriculum within them: embeddings (`soft_prefix`, `coprocessor`) begin with one latent per token, and what reads
8 tokens per latent begins with 4, as `conf/latentwire/curriculum` asks for.
"""

from __future__ import annotations

from itertools import product

EXPERIMENT = "pocket_smoke"
EPOCHS = 8  # of 60 steps: three minutes of a core at most
ENCODERS = ("lm_hidden", "lm_lora", "comprexit", "token", "byte", "pca")
ALONE = ("interlingua",)  # a reading of states that its own objectives would train first: with one injector alone
INJECTORS = ("deep_prefix", "latent_adapters", "soft_prefix", "coprocessor")
RATIOS = (4, 8)
EMBEDDED = ("soft_prefix", "coprocessor")  # injectors whose latents stand where embeddings of text do
PCA_CHUNK = {4: 5, 8: 9}  # tokens per slot of the longest text


def name(encoder: str, injector: str, ratio: int) -> str:
    """Return what tables call a row."""
    return f"{encoder} {injector} {ratio}x"


def row(encoder: str, injector: str, ratio: int) -> tuple[str, ...]:
    """Return the overrides of a row, its label among them."""
    curriculum = "from_text" if injector in EMBEDDED else "ratio" if ratio > RATIOS[0] else "single"
    words = [f"label={name(encoder, injector, ratio)}", f"encoder={encoder}", f"injector={injector}"]
    words += [f"wire.ratio={ratio}", f"curriculum={curriculum}", f"trainer.max_epochs={EPOCHS}"]
    # an injector that starts as the text reads noise of a fresh encoder with certainty: worse than uniform at first
    words += ["callbacks.uniform_bound=null"]
    return (*words, f"encoder.chunk={PCA_CHUNK[ratio]}") if encoder == "pca" else tuple(words)


KEYS = (*product(ENCODERS, INJECTORS, RATIOS), *product(ALONE, INJECTORS[:1], RATIOS))
ROWS = tuple(row(*key) for key in KEYS)
