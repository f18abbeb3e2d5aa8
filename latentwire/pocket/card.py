"""What a pocket model can do, and the card that says so."""

from __future__ import annotations

from typing import cast

import torch
from transformers import PreTrainedModel

from latentwire.pocket import drill
from latentwire.pocket.training import Trainer


def evaluate(
    model: PreTrainedModel, questions: drill.Questions, contexts: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the exact match on test contexts by shape, with and without the context."""
    out = {}
    for people, facts in ((1, 4), (2, 4), (3, 4), (4, 4), (2, 6)):
        held = drill.passages_of(people, facts, "test", contexts, seed)
        out[f"{people}x{facts}"] = tuple(drill.exact_match(model, questions, held, w) for w in (True, False))
    return cast(dict[str, tuple[float, float]], out)


def card(name: str, trainer: Trainer, scores: dict[str, tuple[float, float]], command: str) -> str:
    """Say what the model is, how it was made and what it can do, as markdown."""
    spec, state = trainer.spec, trainer.state
    a = spec.architecture
    threads, version = torch.get_num_threads(), torch.__version__.split("+")[0]
    count = sum(p.numel() for p in trainer.model.parameters())
    held = drill.passages_of(3, 4, "test", spec.eval_contexts, trainer.seed)
    sizes = [len(trainer.questions.style.encode(p.text)) for p in held]
    table = "\n".join(
        f"| {k.split('x')[0]} | {k.split('x')[1]} | {with_text:.4f} | {without:.4f} |"
        for k, (with_text, without) in scores.items()
    )
    log = "\n".join(f"- {line}" for line in state.log or [])
    return f"""# {name}

A {a.family}-class decoder ({a.layers} layers, width {a.width}, {a.heads} heads, {a.kv_heads} key-value heads, inner
width {a.inner}, {count:,} parameters, tied embeddings) with a {spec.tokenizer.kind} tokenizer of
{len(trainer.tokenizer)} pieces. It knows nothing but how to read: trained on generated biographies
(`latentwire/data/biographies.py`), it answers questions about persons and relations from the text before them.

    {command}

Seed {trainer.seed}; {state.total} steps, {state.seconds / 60:.1f} minutes of wall time, threads: {threads}, torch
{version}. Weights are stored as float16; the numbers below are of the stored weights.

Exact match on {spec.eval_contexts} fresh test contexts per row, all questions about each. Test contexts hold only
combinations (person, relation, value) that training never shows; guessing a value of the right kind is 0.031.
Three-person contexts have {min(sizes)} to {max(sizes)} tokens (mean {sum(sizes) / len(sizes):.0f}).

| people | facts each | EM with the context | EM without |
|---|---|---|---|
{table}

{log}
"""
