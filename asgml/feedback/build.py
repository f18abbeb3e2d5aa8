"""build: from a checked configuration to data, module and trainer of a feedback system."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import lightning as L
from omegaconf import DictConfig, open_dict

from asgml.feedback.data.sources import SurfaceSource
from asgml.feedback.judged import judge_score
from asgml.feedback.model.clip import FrozenCLIP
from asgml.feedback.model.system import FeedbackModel, Layers
from asgml.feedback.tracking import tags
from asgml.feedback.train.data import SurfaceData
from asgml.feedback.train.evaluated import EvaluatedModule
from asgml.feedback.train.module import FeedbackModule
from asgml.feedback.train.stage_clock import StageClock
from asgml.feedback.train.stages import Plan, StageOf
from callbacks.errors import UserError
from callbacks.run.stored import read_checkpoint
from callbacks.stages.branch_share import BranchShare
from callbacks.step.pipeline import StepPipeline
from suite.config.instantiate import build_node
from suite.runs.job import Run
from suite.runs.provenance import read_result
from suite.shell import assemble, build_callbacks

LEAST_SIDE = 16  # of pictures that can be rendered
#: what `init.<key>` takes over, by the beginnings of its names in a checkpoint
PARTS = {
    "text_adapter": ("model.text_adapters.", "model.text_projection."),
    "image_adapter": ("model.image_adapters.", "model.patch_projections.", "model.picture_projection."),
}


@dataclass
class Parts:
    """Holds what a run consists of.

    Attributes:
        data: the data module.
        module: the module under training.
        trainer: the trainer with its callbacks and loggers.
        pipeline: the pipeline of the trainer.
    """

    data: SurfaceData
    module: FeedbackModule
    trainer: L.Trainer
    pipeline: StepPipeline


def judge(cfg: DictConfig) -> None:
    """Refuse a configuration that no data could make right.

    Raises:
        UserError: a value out of its range, or parts that do not fit each other.
    """
    plan_of(cfg)
    for node in (cfg.data, cfg.optimizer, *cfg.callbacks.values()):
        if node is not None:
            build_node(node)
    judge_score(cfg)
    if cfg.callbacks.get("gate") is None:
        expected = "the gate, whose host read brings the losses that are logged"
        raise UserError("callbacks.gate", "null", expected, "leave callbacks.gate=null out")
    if cfg.feedback and cfg.variant == "full":
        for key in ("image_weight", "text_weight"):
            if cfg[key] is not None:
                found = f"{cfg[key]} with variant=full, which adds what is read at full scale"
                raise UserError(key, found, "null", f"set variant=norm_matched, or leave {key} out")


def plan_of(cfg: DictConfig) -> Plan:
    """Return the stages over epochs."""
    text, image = cfg.stages.text, cfg.stages.image
    return Plan(
        [
            StageOf("text", int(text.epochs), int(text.batch_size), float(text.lr), tuple(text.halve_at)),
            StageOf("image", int(image.epochs), int(image.batch_size), float(image.lr), tuple(image.halve_at)),
        ]
    )


def build(cfg: DictConfig, run: Run) -> Parts:
    """Build everything for one run, whose directory exists.

    Raises:
        UserError: data or configuration from which no run can be built.
    """
    plan = plan_of(cfg)
    source: SurfaceSource = build_node(cfg.data)
    splits = source.splits(int(cfg.seed))
    data = SurfaceData(
        splits, int(cfg.size), plan, int(cfg.loader.eval_batch_size), int(cfg.loader.workers), int(cfg.seed)
    )
    module = build_module(cfg, data.classes, plan)
    callbacks = build_callbacks(cfg, run, selects_from=plan.last_begins)
    if "image_reads" not in module.trained:  # nobody reads, or it is not trained
        callbacks = {name: c for name, c in callbacks.items() if not isinstance(c, BranchShare)}
    trainer, pipeline = assemble(by_stages(cfg, plan), run, callbacks, [module.clock], tags(cfg))
    return Parts(data, module, trainer, pipeline)


def build_module(cfg: DictConfig, classes: list[str], plan: Plan) -> FeedbackModule:
    """Build the module, with what `init` names taken over.

    Raises:
        UserError: a CLIP that is not there, layers that it does not have, or an earlier run that does not fit.
    """
    model = build_model(cfg, classes)
    _check_surgery(cfg, model.clip)
    text = cfg.stages.text
    module = FeedbackModule(
        model,
        StageClock(plan),
        build_node(cfg.optimizer),
        cfg.stages.image.supervised,
        text.surgery,
        float(text.apart),
        int(cfg.score.blur),
        float(cfg.score.sigma),
        float(cfg.score.detection),
    )
    for key in PARTS:
        if cfg.init[key] is not None:
            take_over(module, key, Path(str(cfg.init[key])).expanduser())
    return module


def build_model(cfg: DictConfig, classes: list[str]) -> FeedbackModel:
    """Build the model with initial weights.

    Raises:
        UserError: a CLIP that is not there, layers that it does not have, or pictures that its patches do not divide.
    """
    clip: FrozenCLIP = build_node(cfg.clip)
    size, patch = int(cfg.size), clip.patch_size
    if size % patch:
        near = max(round(size / patch), -(-LEAST_SIDE // patch)) * patch
        raise UserError("size", str(size), f"a multiple of {patch}, the patch of {clip.name}", f"set size={near}")
    return FeedbackModel(
        clip,
        classes,
        loops=int(cfg.loops) if cfg.feedback else 0,
        layers=layers_of(cfg.layers),
        adapter_weight=float(cfg.adapter_weight),
        variant=cfg.variant,
        image_weight=cfg.image_weight,
        text_weight=cfg.text_weight,
        heads=int(cfg.heads),
        seed=int(cfg.seed),
        image_context=cfg.image_context,
        logit_scale=float(cfg.logit_scale),
    )


def build_finished(cfg: DictConfig, classes: list[str]) -> EvaluatedModule:
    """Build what is evaluated, with initial weights that finished ones replace; `init` and the data are not read.

    Args:
        cfg: the configuration of the run.
        classes: the names of the classes that prompts are made of.
    """
    score = cfg.score
    module = EvaluatedModule(build_model(cfg, classes), int(score.blur), float(score.sigma), float(score.detection))
    return module.double() if cfg.trainer.precision in ("64", "64-true") else module


def _check_surgery(cfg: DictConfig, clip: FrozenCLIP) -> None:
    """Refuse a path of values that begins behind the last block."""
    text = cfg.stages.text
    if text.epochs and text.surgery is not None and text.surgery > clip.image_blocks:
        expected = f"a block of {clip.name}, which has {clip.image_blocks}, or null for none"
        raise UserError("stages.text.surgery", str(text.surgery), expected, "set stages.text.surgery=null")


def layers_of(node: DictConfig | None) -> Layers | None:
    """Return the places that the `layers` node names; None for the published ones."""
    if node is None:
        return None
    image, text, levels = (tuple(map(int, node[key])) for key in ("image_adapters", "text_adapters", "levels"))
    return Layers(image, text, levels, int(node.image_reads), int(node.text_reads))


def by_stages(cfg: DictConfig, plan: Plan) -> DictConfig:
    """Return a tree whose trainer ends with the last stage, and asks for the loader of each epoch's stage."""
    tree = copy.deepcopy(cfg)
    with open_dict(tree):
        tree.trainer.max_epochs = plan.epochs
        tree.trainer.reload_dataloaders_every_n_epochs = 1
    return tree


def take_over(module: FeedbackModule, key: str, run_dir: Path) -> None:
    """Take one part of the best weights of an earlier run.

    Args:
        module: the module that gets them.
        key: the part, a key of `PARTS`.
        run_dir: the directory of that run.

    Raises:
        UserError: no checkpoint of a feedback run, one of another CLIP, or weights of other layers.
    """
    where, path = f"init.{key}={run_dir}", run_dir / "checkpoints" / "best.ckpt"
    if not path.is_file():
        raise UserError(where, f"no {path}", "the directory of a finished run", f"set init.{key}=RUNS/NAME/HASH")
    made_by = read_result(run_dir).get("hash")
    saved = read_checkpoint(path, f"repeat the command of {run_dir} with resume=never", made_by)
    if "feedback" not in saved:
        remedy = f"set init.{key} to a run of python -m asgml.feedback.run"
        raise UserError(where, "a checkpoint of another program", "one of asgml.feedback", remedy)
    module.model.clip.require(saved["feedback"]["clip"], where)
    theirs = {k: v for k, v in saved["state_dict"].items() if k.startswith(PARTS[key])}
    mine = {k: v for k, v in module.state_dict().items() if k.startswith(PARTS[key])}
    different = sorted(k for k in theirs.keys() | mine.keys() if k not in theirs or k not in mine)
    different += [k for k in mine if k in theirs and theirs[k].shape != mine[k].shape]
    if different:
        remedy = "set layers as it was in that run"
        raise UserError(where, f"{different[0]} is not in both", "the same layers", remedy)
    module.load_state_dict(theirs, strict=False)
