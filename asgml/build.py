"""From a checked configuration to data, module and trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf

from asgml.data.datamodule import MultimodalData
from asgml.methods.base import Method
from asgml.model.net import MultimodalNet
from asgml.rhythm.config import Asgml
from asgml.rhythm.stage import build_stages
from asgml.train.modulation import Modulation
from asgml.train.module import MultimodalModule
from asgml.train.teachers import load_teachers
from callbacks.errors import UserError
from callbacks.run.checkpoint import StepCheckpoint
from callbacks.run.history_logger import HistoryLogger
from callbacks.stages.clip import GroupClip
from callbacks.stages.lr import LRStep
from callbacks.stages.probe import ProbeEMA
from callbacks.step.phases import ORDER
from callbacks.step.pipeline import StepPipeline
from callbacks.step.stage import Stage
from suite.config.instantiate import build_node
from suite.runs.identity import meaningful
from suite.runs.job import Run


@dataclass
class Parts:
    """What a run consists of."""

    data: MultimodalData
    module: MultimodalModule
    trainer: L.Trainer
    pipeline: StepPipeline


def build_data(cfg: DictConfig) -> MultimodalData:
    """The data module, prepared and checked."""
    data = MultimodalData(build_node(cfg.data), **OmegaConf.to_container(cfg.loader), seed=cfg.seed)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup()
    return data


def build_module(cfg: DictConfig, data: MultimodalData, probe: ProbeEMA | None) -> tuple[MultimodalModule, list[Stage]]:
    """The module and the stages that its mode needs."""
    config: Asgml = build_node(cfg.asgml)
    net: MultimodalNet = build_node(cfg.model)(spec=data.spec, seed=int(cfg.seed))
    if cfg.trainer.precision in ("64", "64-true"):
        net = net.double()
    methods: dict[str, Method] = {name: build_node(node) for name, node in cfg.methods.items()}
    trainable = [m for m in net.modalities if any(p.requires_grad for p in net.groups()[m])]
    for method in methods.values():
        trainable = [m for m in method.active(net.modalities) if m in trainable]
    rhythm, buffer, mask = build_stages(config, trainable, data.spec.dominant, probe, int(cfg.seed))
    module = MultimodalModule(
        net,
        methods,
        rhythm,
        build_node(cfg.optimizer),
        build_node(cfg.lr_schedule),
        OmegaConf.to_container(cfg.group_lr),  # type: ignore[arg-type]
        config.gamma,
        any(n < len(data.table("train")) for n in data.present_counts["train"].values()),
        int(cfg.cosine_every),
        int(cfg.seed),
        load_teachers(cfg, net, methods),
    )
    stages: list[Stage | None] = [rhythm, Modulation(methods), buffer, mask]
    return module, [s for s in stages if s is not None]


def build(cfg: DictConfig, run: Run) -> Parts:
    """Everything for one run; the run directory exists."""
    data = build_data(cfg)
    nodes = {name: node for name, node in cfg.callbacks.items() if node is not None}
    config: Asgml = build_node(cfg.asgml)
    probe = None
    if "probe" in nodes:
        probe = build_node(nodes.pop("probe"))(classes=len(data.spec.classes), seed=int(cfg.seed))
    elif config.uses_probes:
        raise UserError(
            "callbacks.probe",
            "null",
            f"probes, which asgml.mode={config.mode} reads",
            "drop the override callbacks.probe=null",
        )
    module, stages = build_module(cfg, data, probe)
    others: list[L.Callback] = []
    for name, node in nodes.items():
        if name == "checkpoint":
            continue
        callback = build_node(node)
        if isinstance(callback, GroupClip) and callback.max_norm is None and not callback.bounds:
            continue
        (stages if isinstance(callback, Stage) else others).append(callback)
    stages += [LRStep(), *([probe] if probe else [])]
    pipeline = StepPipeline(sorted(stages, key=lambda s: ORDER.index(s.name)))
    checkpoint = build_node(cfg.callbacks.checkpoint)(
        dirpath=str(run.dir / "checkpoints"), config_hash=run.hash, config=meaningful(cfg)
    )
    assert isinstance(checkpoint, StepCheckpoint)
    trainer = build_trainer(cfg, run, [pipeline, *others, checkpoint])
    return Parts(data, module, trainer, pipeline)


def build_trainer(cfg: DictConfig, run: Run, callbacks: list[L.Callback]) -> L.Trainer:
    """The trainer of the configuration, with what Lightning would get silently wrong made explicit."""
    loggers: list[Any] = [HistoryLogger(str(run.dir))]
    if run.is_main:
        for node in (n for n in cfg.logger.values() if n is not None):
            loggers.append(build_node(node)(run_dir=str(run.dir), run_id=run.hash, group=run.name))
    extra: dict[str, Any] = {}
    options = OmegaConf.to_container(cfg.trainer, resolve=True)
    assert isinstance(options, dict)
    cpu = options["accelerator"] == "cpu" or (options["accelerator"] == "auto" and not torch.cuda.is_available())
    if options["precision"] == "16-mixed" and cpu:
        # Lightning would run bf16 without a scaler here, and say so only in a warning
        extra["plugins"] = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]
        options["precision"] = None
    devices = options["devices"]
    many = (isinstance(devices, int) and devices > 1) or int(options.get("num_nodes") or 1) > 1
    if many:
        if options["strategy"] not in ("auto", "ddp"):
            raise UserError(
                "trainer.strategy",
                str(options["strategy"]),
                "auto or ddp",
                "encoders that skip their graph need DDP with find_unused_parameters=True",
            )
        # without it a step in which an encoder runs without a graph silently desynchronises the ranks
        options["strategy"] = DDPStrategy(find_unused_parameters=True)
    options.pop("_target_")
    return L.Trainer(
        **{str(k): v for k, v in options.items()},
        **extra,
        callbacks=callbacks,
        logger=loggers,
        default_root_dir=str(run.dir),
        enable_checkpointing=True,
        use_distributed_sampler=False,
    )
