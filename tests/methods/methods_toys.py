"""What the number tests of the methods share: a step as Python floats, and softmax and cross-entropy by the book."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from toys import Capture, asgml, toy_batches, toy_spec, train

Row = list[float]


@dataclass
class Seen:
    """One step in plain numbers: labels, rows that have each modality, features, logits, and what a method says."""

    y: list[int]
    rows: dict[str, list[int]]
    features: dict[str, list[Row]]
    logits: list[Row]
    unimodal: dict[str, list[Row]]
    weight: list[Row]  # of the concat fusion, (C, sum d)
    bias: Row
    more: Any = None


def look(more: Callable[[Any], Any] | None = None) -> Callable[[Any], Seen]:
    """For `Capture`: the module's step as `Seen`, with `more(module)`."""

    def seen(module: Any) -> Seen:
        step, fusion = module.step, module.net.fusion.linear
        everyone = list(range(len(step.y)))
        return Seen(
            step.y.tolist(),
            {m: everyone if p is None else [i for i in everyone if bool(p[i])] for m, p in step.present.items()},
            {m: f.tolist() for m, f in step.features.items()},
            step.logits.tolist(),
            {m: z.tolist() for m, z in step.unimodal.items()},
            fusion.weight.tolist(),
            fusion.bias.tolist(),
            more(module) if more else None,
        )

    return seen


def observe(
    methods: dict[str, Any], modalities: int = 2, steps: int = 4, epochs: int = 1, more: Any = None, **options: Any
) -> tuple[Any, Capture]:
    """A run on toy batches (some rows missing, one batch without the second of three modalities) and what it showed."""
    spec = toy_spec(modalities)
    batches = toy_batches(
        steps,
        spec,
        partly={1: ["visual"], 2: ["audio", "visual"]},
        missing={3: ["visual"]} if modalities > 2 else {},
        seed=options.pop("data_seed", 0),
    )
    capture = Capture(look(more))
    run = train(asgml(), batches, spec=spec, methods=methods, extra=[capture], epochs=epochs, **options)
    return run, capture


def softmax(z: Sequence[float]) -> Row:
    top = max(z)
    e = [math.exp(v - top) for v in z]
    return [v / sum(e) for v in e]


def cross_entropy(z: Sequence[float], y: int) -> float:
    return -math.log(softmax(z)[y])


def entropy(p: Sequence[float]) -> float:
    return -sum(v * math.log(v) for v in p)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def flat(gradients: Sequence[Any]) -> Row:
    """All entries of a group's gradients, in order."""
    return [v for g in gradients for v in g.flatten().tolist()]
