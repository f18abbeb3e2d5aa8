"""What is known of a feedback run before it starts, for `plan=true`: its steps, memory and operations by stage."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict
from torch import Tensor

from asgml.feedback.build import build_module, plan_of
from asgml.feedback.train.data import SurfaceData
from asgml.feedback.train.module import FeedbackModule
from asgml.feedback.train.stages import Plan, StageOf
from asgml.model.footprint import kept_and_counted, trained_bytes
from suite.config.instantiate import build_node
from suite.loader import EpochBatches

MIB = 2**20
NO_DATA = "known once the data are there"
NO_CLIP = "known for a CLIP in a folder: clip.source=FOLDER"


def foresee(cfg: DictConfig) -> dict[str, str]:
    """Return steps, memory and operations of a run, in words.

    Memory is that of the frozen CLIP, of trained weights, gradients and optimiser, and of what a batch keeps for the
    backward pass, in float32; it and the operations are measured on one picture. Surfaces that would be rendered
    first and a CLIP that would be fetched are left alone, and `init` is not read.

    Raises:
        UserError: data that are there and unusable, or a CLIP that does not fit the configuration.
    """
    source: Any = build_node(cfg.data)
    if not getattr(source, "present", True):
        return {"steps": NO_DATA, "memory": NO_DATA}
    plan, seed = plan_of(cfg), int(cfg.seed)
    data = SurfaceData(source.splits(seed), int(cfg.size), plan, int(cfg.loader.eval_batch_size), 0, seed)
    pictures = len(data.surfaces["train"])
    steps = dict[str, int]()
    for s in plan.stages:
        steps[s.name] = s.epochs * len(EpochBatches(pictures, s.batch_size, seed, train=True))
    parts = ", ".join(f"{steps[s.name]} in {s.epochs} epochs of stage {s.name}" for s in plan.stages)
    told = {"steps": f"{sum(steps.values())}: {parts}; {pictures} training pictures"}
    if "source" in cfg.clip and not Path(str(cfg.clip.source)).expanduser().is_dir():
        return {**told, "memory": NO_CLIP}
    return told | _costs(cfg, _fresh(cfg, data.classes, plan), data, steps)


def kept_and_operations(module: FeedbackModule, stage: StageOf, batch: dict[str, Tensor]) -> tuple[int, int]:
    """Return the bytes that a batch keeps for the backward pass of a stage, and the operations of both passes.

    Args:
        module: the module, on the CPU; afterwards the groups of this stage alone ask for gradients.
        stage: the stage.
        batch: pictures with classes, masks and labels, as a loader gives them.
    """
    for name, weights in module.groups().items():
        for p in weights:
            p.requires_grad_(name in stage.trains)
    loss = module.text_loss if stage.name == "text" else module.image_loss
    owned = (*module.parameters(), *module.buffers(), *module.model.clip.model.parameters())
    found = kept_and_counted(owned, lambda: loss(batch).backward())
    module.zero_grad(set_to_none=True)
    return found


def _fresh(cfg: DictConfig, classes: list[str], plan: Plan) -> FeedbackModule:
    tree = copy.deepcopy(cfg)
    with open_dict(tree):
        tree.init = {key: None for key in cfg.init}  # a run that is not there yet changes no size
    return build_module(tree, classes, plan)


def _costs(cfg: DictConfig, module: FeedbackModule, data: SurfaceData, steps: dict[str, int]) -> dict[str, str]:
    clip = sum(p.numel() * p.element_size() for p in module.model.clip.model.parameters())
    weights = [p for name, params in module.groups().items() if name in module.trained for p in params]
    optimizer = build_node(cfg.optimizer)([{"params": weights}])
    least, count = trained_bytes(weights, optimizer), sum(p.numel() for p in weights)
    train = data.surfaces["train"]
    present = len({s.class_name for s in train.samples})
    batches = [{name: value.expand(n, *value.shape) for name, value in train[0].items()} for n in (1, 2)]
    kept, operations = dict[str, float](), 0
    for stage in module.plan.stages:
        one, two = (kept_and_operations(module, stage, batch) for batch in batches)
        # a class that nobody has been read for runs once, however many pictures a batch has of it
        rows, classes = stage.batch_size, min(stage.batch_size, present)
        kept[stage.name], done = (b * rows + (a - b) * classes for a, b in ((x, y - x) for x, y in zip(one, two)))
        operations += done * steps[stage.name]
    most = max(kept, key=lambda name: kept[name])
    told = (
        f"about {(clip + least + kept[most]) / MIB:,.0f} MiB in float32: {clip / MIB:,.1f} for the frozen CLIP, "
        f"{least / MIB:,.1f} for {count:,} trained weights, their gradients and the optimiser, {kept[most] / MIB:,.0f} "
        f"for what a batch of stage {most} keeps"
    )
    return {"memory": told, "compute": f"about {operations / 1e12:,.3g} TFLOP in all epochs, forward and backward"}
