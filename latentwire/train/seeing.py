"""What objectives see of a part of a batch beside its scored rows: the text itself, and what a teacher says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from latentwire.examples import prompt_of
from latentwire.injectors.base import Injector
from latentwire.lm.frozen import FrozenLM
from latentwire.objectives.base import Objective, TopK
from latentwire.objectives.teacher import Teacher, ask_all
from latentwire.train.batches import Batch
from latentwire.train.parts import Part


@dataclass(frozen=True)
class Taught:
    """Holds what the teacher says where answers are predicted: distributions, and states by number."""

    tokens: TopK | None = None
    states: Mapping[int, Tensor] = field(default_factory=dict)


def compared(active: Mapping[str, Objective], name: str) -> list[int]:
    """Return the numbers of the states of the model `name` that some objective compares, rising."""
    return sorted({number for o in active.values() for number in o.compares.get(name, ())})


def teach(
    lm: FrozenLM,
    known: Teacher | None,
    k: int,
    batch: Batch,
    part: Part,
    active: Mapping[str, Objective],
    name: str,
) -> Taught:
    """Return what objectives want of a teacher, which is not asked where they want nothing.

    Args:
        lm: the model, which teaches itself with its adapters off.
        known: its cached distributions; None: it is asked.
        k: number of tokens of a distribution that are kept apart.
        batch: the batch.
        part: the part.
        active: the objectives that weigh something.
        name: the model's name in the batch.
    """
    layers, tells = compared(active, name), any(o.teaches for o in active.values())
    tokens = known.of([q.id for _, q in part.asked], lm.output_device) if tells and known is not None else None
    if not layers and (tokens is not None or not tells):
        return Taught(tokens)
    found, states = ask_all(lm, [prompt_of(lm, batch.passages[b], q) for b, q in part.asked], k, layers)
    return Taught(found if tokens is None else tokens, states)


def text_embeddings(lm: FrozenLM, batch: Batch, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a model's embeddings (B, T, d_model) of the texts and their mask (B, T), without gradient."""
    ids, mask = batch.context[name]
    with torch.no_grad():
        embeds = lm.embed(ids)
    return embeds.to(device), mask.to(device)


def text_scale(lm: FrozenLM) -> float:
    """Return the RMS over all entries of a model's embeddings of real text, as measured."""
    return float(lm.embedding_rms.pow(2).mean().sqrt())


def both_states(
    injector: Injector, latents: Tensor, batch: Batch, name: str, counts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the states of an injector's model for latents, and those of the texts, both as of `Seen.states`."""
    ids, mask = batch.context[name]
    return injector.states(latents), injector.text_states(ids, mask, counts)
