"""`python -m asgml.feedback.run experiment=surfaces`: both stages of a feedback system, its evaluation, its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig

from asgml.data.ranges import BatchSize, Pixels
from asgml.feedback.about import ABOUT
from asgml.model.variants import ContextName, VariantName
from callbacks.ranges import GREAT, MANY, Bounds, Count, Layers, NonNegative, Positive, Rate, Share, Steps, Workers
from suite.config.check import Common
from suite.config.parts import CallbackPart, LoggerPart, OptimizerPart, TrainerPart
from suite.config.wording import Built
from suite.runs.job import Run
from suite.runs.launch import launch
from suite.runs.stopping import ends_on_interrupt
from suite.runs.study import Program

if TYPE_CHECKING:
    from asgml.feedback.build import Parts

PROGRAM_NAME = "asgml.feedback"
Loops = Annotated[int, Bounds("1 to 100 loops (feedback=false has none)", ge=1, le=100, example=3)]
Heads = Annotated[int, Bounds("a whole number from 1 to a billion", ge=1, le=MANY, example=4)]
AdapterWeight = Annotated[float, Bounds("a share from 0 to 1", ge=0, le=1, example=0.1)]
LogitScale = Annotated[float, Bounds("a finite number above 0, 1e37 at most", gt=0, le=GREAT, example=100)]


@dataclass
class Loader:
    """The `loader` node.

    Attributes:
        eval_batch_size: the number of pictures in a batch of validation and test; it changes no number.
        workers: the number of loader processes of training; it changes no number.
    """

    eval_batch_size: BatchSize
    workers: Workers


@dataclass
class TextStage:
    """The `stages.text` node: the text adapters learn anchors, against the frozen image tower.

    Attributes:
        epochs: the length of the stage; 0 leaves it out.
        batch_size: the number of pictures in a batch, over all ranks.
        lr: the learning rate.
        halve_at: the steps of the stage from which on the rate is halved, once for each.
        apart: the weight of anchors that look alike.
        surgery: the block from which on values attend to values (20 of 24 as published); null is the tower as it is.
    """

    epochs: Steps
    batch_size: BatchSize
    lr: Rate
    halve_at: list[Count]
    apart: NonNegative
    surgery: Layers | None


@dataclass
class ImageStage:
    """The `stages.image` node: image adapters and cross-attention, the text adapters held.

    Attributes:
        epochs: the length of the stage; 0 leaves it out.
        batch_size: the number of pictures in a batch, over all ranks.
        lr: the learning rate.
        halve_at: the steps of the stage from which on the rate is halved, once for each.
        supervised: the loops whose loss counts: the mean of `all`, or the `last`.
    """

    epochs: Steps
    batch_size: BatchSize
    lr: Rate
    halve_at: list[Count]
    supervised: Literal["all", "last"]


@dataclass
class StagesNode:
    """The `stages` node.

    Attributes:
        text: stage 1.
        image: stage 2.
    """

    text: TextStage
    image: ImageStage


@dataclass
class InitNode:
    """The `init` node: directories of earlier runs on the same CLIP, whose best weights training starts from.

    Attributes:
        text_adapter: the run whose text adapters and projection are taken.
        image_adapter: the run whose image adapters and projections are taken.
    """

    text_adapter: str | None
    image_adapter: str | None


@dataclass
class LayersNode:
    """The `layers` node: the blocks after which something happens, counted from 1.

    Attributes:
        image_adapters: the blocks of the image tower with an adapter.
        text_adapters: those of the text tower.
        levels: the blocks whose patches are compared with the texts, rising.
        image_reads: the block after which the image reads the text.
        text_reads: the block after which the text reads the image.
    """

    image_adapters: list[Layers]
    text_adapters: list[Layers]
    levels: list[Layers]
    image_reads: Layers
    text_reads: Layers


@dataclass
class ScoreNode:
    """The `score` node: how maps become scores.

    Attributes:
        blur: the side of the Gaussian on a map, in patches, odd: 7 for industrial surfaces, 9 for medical ones.
        sigma: its standard deviation in patches: 1 and 1.5.
        detection: the share of a picture's own probability in its score; the rest is its largest pixel.
    """

    blur: Layers
    sigma: Positive
    detection: Share


@dataclass
class Tree(Common):
    """Types the nodes of the feedback configuration tree.

    Attributes:
        data: the data source.
        clip: the frozen CLIP.
        size: the side that pictures are stretched to, a multiple of CLIP's patches.
        loader: the batches.
        feedback: whether the towers read each other; false is the same model without, in one pass: the control.
        loops: the number of feedback loops.
        variant: how what is read joins its stream: full, scaled, normalised, norm_matched, learnable.
        image_context: what the image reads: the tokens of its class's prompts, or their mean as one token.
        image_weight: the weight of what the image reads; null is 0.1 (1 in `full`).
        text_weight: the weight of what the text reads; null is 0.1 (1 in `full`).
        heads: the number of heads of the attention between the towers.
        adapter_weight: the weight of the adapters.
        logit_scale: the factor on cosines: 100 as CLIP's own, less for one without knowledge.
        layers: the blocks where things happen; null is as published, in proportion to the number of blocks.
        stages: the two stages of training.
        init: the earlier runs that training starts from.
        score: how maps become scores.
        optimizer: the optimiser, a factory that is called with the parameter groups; rates are the stages'.
        trainer: the options of Lightning's trainer.
        callbacks: the callbacks and stages, by name; null leaves one out.
        logger: the loggers beside the run's own tables, by name; null leaves one out.
        label: the name of the configuration in tables and figures; null takes what differs between compared runs.
    """

    data: Annotated[Any, Built("asgml.feedback.data.sources.SurfaceSource")]
    clip: Annotated[Any, Built("asgml.feedback.model.FrozenCLIP")]
    size: Pixels
    loader: Loader
    feedback: bool
    loops: Loops
    variant: VariantName
    image_context: ContextName
    image_weight: NonNegative | None
    text_weight: NonNegative | None
    heads: Heads
    adapter_weight: AdapterWeight
    logit_scale: LogitScale
    layers: LayersNode | None
    stages: StagesNode
    init: InitNode
    score: ScoreNode
    optimizer: OptimizerPart
    trainer: TrainerPart
    callbacks: dict[str, CallbackPart | None]
    logger: dict[str, LoggerPart | None]
    label: str | None


def dead(cfg: DictConfig) -> dict[str, str]:
    """Return the keys without effect under this configuration, each with the reason."""
    reasons = {
        "optimizer.lr": "every stage has its own rate (stages.text.lr, stages.image.lr)",
        "trainer.max_epochs": "the stages say how long they are (stages.text.epochs, stages.image.epochs)",
    }
    if not cfg.feedback:
        for key in (
            "loops",
            "variant",
            "image_context",
            "image_weight",
            "text_weight",
            "heads",
            "stages.image.supervised",
        ):
            reasons[key] = "feedback=false"
        reasons["callbacks.share"] = "feedback=false"
    elif cfg.loops == 1:
        reasons["text_weight"] = "in one loop the text reads nothing"
        reasons["stages.image.supervised"] = "there is one loop"
    for name in ("text", "image"):
        if cfg.stages[name].epochs == 0:
            for key in cfg.stages[name]:
                if key != "epochs":
                    reasons[f"stages.{name}.{key}"] = f"stages.{name}.epochs=0"
    return reasons


def earlier(cfg: DictConfig) -> dict[str, Path]:
    """Return the checkpoints of the runs that this one starts from, by the key that names them."""
    named = {f"init.{key}": cfg.init[key] for key in ("text_adapter", "image_adapter")}
    folders = {key: Path(str(run)).expanduser() for key, run in named.items() if run is not None}
    return {key: folder / "checkpoints" / "best.ckpt" for key, folder in folders.items()}


def judge(cfg: DictConfig) -> None:
    """Refuse a configuration that no data could make right; nothing of the data is read."""
    from asgml.feedback.build import judge as judge_parts

    judge_parts(cfg)


def foresee(cfg: DictConfig) -> dict[str, str]:
    """Return what is known of a run before it starts (`plan=true`)."""
    from asgml.feedback.foreseen import foresee as known

    return known(cfg)


def train(cfg: DictConfig, run: Run) -> dict[str, Any]:
    """Do one run from data to result, and return the result."""
    from asgml.feedback.build import build
    from asgml.feedback.tracking import findings
    from suite.shell import closing_loggers, quiet_lightning
    from suite.tracking import publish

    quiet_lightning()
    parts = build(cfg, run)
    with closing_loggers(parts.trainer):
        result = fit_and_evaluate(cfg, run, parts)
        publish(parts.trainer.loggers, run.dir, result, findings(run.dir))
        return result


def fit_and_evaluate(cfg: DictConfig, run: Run, parts: Parts) -> dict[str, Any]:
    """Train, then evaluate the last and the best-validation weights on val and test, and return the result.

    Raises:
        RuntimeError: a weight of the CLIP has moved.
    """
    from asgml.feedback.data.seen import seen_by, write_seen
    from asgml.feedback.pictures import save_pictures
    from asgml.feedback.report.sections import FOLDER
    from callbacks.run.stored import read_checkpoint
    from suite.report import single_report
    from suite.shell import best_checkpoint, best_moment

    trainer, module, data = parts.trainer, parts.module, parts.data
    if run.is_main:
        write_seen(run.dir, seen_by(data.splits, [path.parents[1] for path in earlier(cfg).values()]))
    trainer.fit(module, datamodule=data, ckpt_path=str(run.resume_from) if run.resume_from else None, weights_only=True)
    if module.model.clip.moved():
        raise RuntimeError(f"weights of {module.model.clip.name} have moved, which are frozen")
    result: dict[str, Any] = {
        "counters": parts.pipeline.counters(),
        "clip": module.fingerprint,
        "classes": data.classes,
        "pictures": data.summary(),
        "parameters": {name: sum(p.numel() for p in params) for name, params in module.groups().items()},
        "per_class": {},
        **best_moment(trainer),
    }
    for suffix, path in (("", None), ("_best", best_checkpoint(run))):
        if path is not None:
            module.load_state_dict(read_checkpoint(path, config_hash=run.hash)["state_dict"])
        trainer.validate(module, datamodule=data, verbose=False)
        trainer.test(module, datamodule=data, verbose=False)
        for split in ("val", "test"):
            result[f"{split}{suffix}"] = dict(module.metrics[split])
            result["per_class"][f"{split}{suffix}"] = module.per_class[split]
    if run.is_main:
        save_pictures(module, data.surfaces["test"], run.dir / FOLDER)
        result["report"] = single_report(run.dir, {**result, "status": "finished"}).name
    return result


PROGRAM = Program(PROGRAM_NAME, train, dead, Tree, earlier, judge)


@ends_on_interrupt
def main() -> None:
    """Run the command line of `python -m asgml.feedback.run`."""
    launch(PROGRAM_NAME, train, dead, schema=Tree, earlier=earlier, judge=judge, about=ABOUT, foresee=foresee)


if __name__ == "__main__":
    main()
