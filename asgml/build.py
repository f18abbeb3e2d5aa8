"""build: from a checked configuration to data, module and trainer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf
from torch.nn.modules.batchnorm import _BatchNorm

from asgml.data.datamodule import MultimodalData
from asgml.faults.catalogue import check_fault
from asgml.methods.base import Method
from asgml.model.net import MultimodalNet
from asgml.rhythm.config import Asgml
from asgml.rhythm.stages import rhythm_stages
from asgml.rhythm.yoked import read_treated, treated_run
from asgml.tracking import tags
from asgml.train.method_support import check_masking, check_methods
from asgml.train.modulation import Modulation
from asgml.train.module import MultimodalModule
from asgml.train.task import task_of
from asgml.train.teachers import AUTO, load_teachers, unimodal_ceilings
from asgml.train.warm_start import PARTS, warm_start
from callbacks.errors import UserError
from callbacks.stages.lr import LRStep
from callbacks.stages.probe import ProbeEMA
from callbacks.step.pipeline import StepPipeline
from callbacks.step.stage import Stage
from suite.config.instantiate import build_node
from suite.runs.job import Run
from suite.shell import assemble, build_callbacks


@dataclass
class Parts:
    """Holds what a run consists of.

    Attributes:
        data: the data module, prepared and checked.
        module: the module under training.
        trainer: the trainer with its callbacks and loggers.
        pipeline: the pipeline of the trainer.
    """

    data: MultimodalData
    module: MultimodalModule
    trainer: L.Trainer
    pipeline: StepPipeline


def judge(cfg: DictConfig) -> None:
    """Refuse a configuration that no data could make right: everything that needs no data is built once.

    Modalities that the source can name without reading the data are judged as well.

    Raises:
        UserError: a value out of its range, or parts that do not fit each other.
    """
    config: Asgml = build_node(cfg.asgml)
    check_fault(cfg, config)
    methods: dict[str, Method] = {name: build_node(node) for name, node in cfg.methods.items()}
    for node in (cfg.lr_schedule, cfg.optimizer, cfg.model, *cfg.callbacks.values()):
        if node is not None:
            build_node(node)
    if cfg.callbacks.get("gate") is None:
        raise UserError(
            "callbacks.gate",
            "null",
            "the gate, which refuses steps that are not finite, and whose host read brings the losses that are logged",
            "leave callbacks.gate=null out",
        )
    if cfg.callbacks.get("probe") is None and config.uses_probes:
        refuse_without_probe(config, [], None)
    check_masking(config.masking if config.kind == "frequency" and config.skips else None, methods)
    check_methods(methods, config.delays or config.skips, regression=False)
    source = build_node(cfg.data)
    if hasattr(source, "modality_names"):
        names: list[str] = source.modality_names()
        for method in methods.values():
            names = [m for m in method.active(source.modality_names()) if m in names]
        if config.mode in ("staleness", "frequency"):
            (config.taus if config.mode == "staleness" else config.ks)(names, getattr(source, "dominant", None))


def build(cfg: DictConfig, run: Run) -> Parts:
    """Build everything for one run, whose directory exists.

    Raises:
        UserError: data or configuration from which no run can be built.
    """
    data = build_data(cfg)
    task = task_of(data.spec, cfg.loss)
    callbacks = build_callbacks(cfg, run, classes=data.spec.outputs, selects_by=task.selects_by)
    if task.name == "regression":  # probes score classes
        callbacks = {name: c for name, c in callbacks.items() if not isinstance(c, ProbeEMA)}
    probe = next((c for c in callbacks.values() if isinstance(c, ProbeEMA)), None)
    module, stages = build_module(cfg, data, probe)
    trainer, pipeline = assemble(cfg, run, callbacks, [*stages, LRStep()], tags(cfg))
    return Parts(data, module, trainer, pipeline)


def build_data(cfg: DictConfig) -> MultimodalData:
    """Build the data module, prepared and checked."""
    loader: dict[str, Any] = OmegaConf.to_container(cfg.loader)  # type: ignore[assignment]
    loader.pop("accumulate", None)  # the module's
    data = MultimodalData(build_node(cfg.data), **loader, seed=cfg.seed)
    data.prepare_data()
    data.setup()
    return data


def build_module(cfg: DictConfig, data: MultimodalData, probe: ProbeEMA | None) -> tuple[MultimodalModule, list[Stage]]:
    """Build the module and the stages that its mode needs.

    Raises:
        UserError: a decision reads probes, and there are none.
    """
    config: Asgml = build_node(cfg.asgml)
    check_fault(cfg, config)
    task = task_of(data.spec, cfg.loss)
    if task.name == "regression" and config.uses_probes:
        raise UserError(
            "asgml.boost" if config.boosts else "asgml.adaptive.signal",
            f"asgml.mode={config.mode}{' with the boost' if config.boosts else ''} in a regression: it reads probes, "
            "which score classes",
            "a rhythm that does not read probes",
            "set asgml.mode=sync asgml.boost.enabled=false" if config.boosts else "set asgml.adaptive.signal=speed",
        )
    if task.name == "regression" and config.waits(list(data.spec.modalities), data.spec.dominant):
        first = next(iter(data.spec.modalities))
        raise UserError(
            "asgml.delayed",
            "'dominant' in a regression of data that name no dominant modality; probes, which would find it, score "
            "classes",
            "the modality that is delayed, by name",
            f"set asgml.delayed={first}, or asgml.mode=sync to delay nobody",
        )
    net: MultimodalNet = build_node(cfg.model)(spec=data.spec, seed=int(cfg.seed))
    if cfg.trainer.precision in ("64", "64-true"):
        net = net.double()
    if cfg.get("init") is not None:
        warm_start(net, Path(str(cfg.init.weights)).expanduser(), cfg.init.get("parts") or PARTS, data.spec)
    methods: dict[str, Method] = {name: build_node(node) for name, node in cfg.methods.items()}
    trainable = [m for m in net.modalities if any(p.requires_grad for p in net.groups()[m])]
    for method in methods.values():
        trainable = [m for m in method.active(net.modalities) if m in trainable]
    if config.mode == "adaptive" and config.adaptive.ceilings == AUTO:
        config = replace(config, adaptive=replace(config.adaptive, ceilings=unimodal_ceilings(cfg, trainable)))
    if probe is None:
        refuse_without_probe(config, trainable, data.spec.dominant)
    treated = read_treated(treated_run(cfg), config, trainable) if config.yoked else None
    rhythm, stages = rhythm_stages(config, trainable, data.spec.dominant, probe, int(cfg.seed), treated)
    module = MultimodalModule(
        net,
        methods,
        rhythm,
        build_node(cfg.optimizer),
        build_node(cfg.lr_schedule),
        group_lr=OmegaConf.to_container(cfg.group_lr),  # type: ignore[arg-type]
        gamma=config.gamma,
        may_miss=any(n < len(data.table("train")) for n in data.present_counts["train"].values()),
        cosine_every=int(cfg.cosine_every),
        seed=int(cfg.seed),
        teachers=load_teachers(cfg, net, methods),
        task=task,
        accumulate=accumulated(cfg, net),
    )
    return module, [*stages, Modulation(methods)]


def accumulated(cfg: DictConfig, net: MultimodalNet) -> int:
    """Return in how many parts encoders take a batch. Raises UserError for encoders whose rows see each other."""
    parts = int(cfg.loader.get("accumulate", 1))  # runs of versions without the key have one
    seeing = next((m for m, e in net.encoders.items() if any(isinstance(x, _BatchNorm) for x in e.modules())), None)
    if parts > 1 and seeing is not None:
        raise UserError(
            "loader.accumulate",
            f"{parts} parts for the encoder of {seeing}, whose batch norm would see each part alone",
            "encoders without batch norm, or the whole batch at once",
            "set model=resnet18_gn or model=small, or loader.accumulate=1",
        )
    return parts


def refuse_without_probe(config: Asgml, modalities: list[str], dominant: str | None) -> None:
    """Refuse a rhythm whose decisions read probes.

    Args:
        config: the `asgml` node.
        modalities: the modalities that are trained.
        dominant: the modality that the data set names as dominant, or None.

    Raises:
        UserError: the schedule, the boost or `delayed: dominant` needs probes.
    """
    if config.uses_probes:
        raise UserError(
            "callbacks.probe",
            "null",
            f"probes, which asgml.mode={config.mode}{' with the boost' if config.boosts else ''} reads",
            "leave callbacks.probe=null out, or set asgml.mode=sync asgml.boost.enabled=false",
        )
    if config.waits(modalities, dominant):
        raise UserError(
            "callbacks.probe",
            "null",
            "probes, which find the modality that asgml.delayed=dominant means: this data set names none",
            f"leave callbacks.probe=null out, or set asgml.delayed={modalities[0]}",
        )
