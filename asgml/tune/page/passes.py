"""What training costs, in forward and backward passes of encoders: counted from what was done, not timed.

Runs of a study share their machine, so their wall clock says nothing. What differs between rows is how often an encoder
is run and differentiated; evaluation, probes, fusion and heads are alike in all rows and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from asgml.data.spec import DataSpec, ModalitySpec
from asgml.methods.base import Method, uses
from asgml.methods.shared.tasks import Tasks
from asgml.model.net import MultimodalNet
from asgml.rhythm.config import Asgml
from callbacks.run.history import ACTIONS
from suite.config.instantiate import build_node

ROWS = 2  # of the batch that is counted: normalisation over a batch needs more than one


@dataclass(frozen=True)
class Passes:
    """What an encoder costs, in floating-point operations per batch of `ROWS`.

    Attributes:
        forward: of a forward pass.
        backward: of the backward pass to its weights: about twice that, less in the first layer.
    """

    forward: float
    backward: float


@dataclass(frozen=True)
class Work:
    """What one step of a row does with each encoder.

    Attributes:
        forwards: the forward passes of every step: one, and one more of a frozen teacher.
        backwards: the backward passes of a step that needs gradients: one per part into which the loss is split.
        free: the actions that need no gradient.
    """

    forwards: int = 1
    backwards: int = 1
    free: frozenset[str] = frozenset()

    def cost(self, action: str, encoder: Passes) -> float:
        """Return what a step costs in which the encoder did `action`; a modality that nobody had costs nothing."""
        if action == "missing":
            return 0.0
        backwards = 0 if action in self.free else self.backwards
        return self.forwards * encoder.forward + backwards * encoder.backward


def encoder_passes(config: Mapping[str, Any]) -> dict[str, Passes]:
    """Count the operations of every encoder of a run, by `torch.utils.flop_counter`.

    Multiplications and additions of matrix products and convolutions count, as they do there; elementwise operations
    and normalisation do not.

    Args:
        config: the run's resolved configuration; the shapes of its samples are read from its data.

    Raises:
        UserError: the data are not there.
    """
    tree: DictConfig = OmegaConf.create(dict(config))
    spec: DataSpec = build_node(tree.data).spec()
    net: MultimodalNet = build_node(tree.model)(spec=spec, seed=0)
    return {m: _counted(net, modality) for m, modality in spec.modalities.items()}


def _counted(net: MultimodalNet, modality: ModalitySpec) -> Passes:
    shape = (ROWS, *modality.shape)
    x = torch.zeros(shape, dtype=torch.long) if modality.kind == "tokens" else torch.zeros(shape)
    lengths = torch.full((ROWS,), modality.shape[0]) if modality.padded else None
    with FlopCounterMode(display=False) as forward:
        features = net.encode(modality.name, x, lengths)
    with FlopCounterMode(display=False) as backward:
        features.sum().backward()
    return Passes(forward.get_total_flops(), backward.get_total_flops())


def work_of(methods: Mapping[str, Any], rhythm: Asgml) -> Work:
    """Return what a step of a row does, from its methods and its rhythm.

    A held encoder needs no gradient where the masking is `hard` or a method holds it. `accumulate` needs it to
    accumulate, a delay to apply it later, and a control that only scales computes it as well. What a method does once
    an epoch (a survey, a re-initialisation) is not counted.

    Args:
        methods: the `methods` node of the run's configuration.
        rhythm: its rhythm.
    """
    built: list[Method] = [build_node(OmegaConf.create(dict(node))) for node in methods.values()]
    idle = any(uses(method, "idle") for method in built)
    hard = rhythm.skips and rhythm.masking == "hard"
    return Work(
        forwards=1 + any(uses(method, "teachers") for method in built),
        backwards=1 + any(isinstance(method, Tasks) for method in built),
        free=frozenset({"hold"}) if idle or hard else frozenset(),
    )


def spent(timeline: pd.DataFrame, work: Work, encoders: Mapping[str, Passes]) -> pd.Series:
    """Return what all steps before each step count have cost, by the number of committed steps from 1 on.

    Args:
        timeline: what every encoder did at every step (`timeline.csv`).
        work: what a step of the row does.
        encoders: what every encoder costs.
    """
    pairs = timeline[["modality", "action"]].drop_duplicates().itertuples(index=False, name=None)
    price = {(m, action): work.cost(action, encoders[m]) for m, action in pairs}
    each = pd.Series(
        [price[pair] for pair in zip(timeline["modality"], timeline["action"], strict=True)], index=timeline["step"] + 1
    )
    return each.groupby(level=0).sum().cumsum()


def updates(timeline: pd.DataFrame) -> pd.Series:
    """Return how many full updates all encoders together have made, by the number of committed steps from 1 on.

    A soft step, or one from the fusion path only, is no update.
    """
    full = timeline["action"].map(lambda action: ACTIONS[action].counter == "updates")
    return full.astype(int).groupby(timeline["step"] + 1).sum().cumsum()
