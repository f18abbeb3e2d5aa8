"""From a checked configuration to language models, wire, module and trainer; and from a finished run to its wire."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError
from callbacks.run.manifest import verify
from callbacks.stages.lr import LRStep
from callbacks.step.pipeline import StepPipeline
from latentwire.data.base import Corpus, Passage
from latentwire.encoders.base import build_encoder
from latentwire.encoders.slots import SHARED, LatentLayout
from latentwire.lm.frozen import FrozenLM
from latentwire.objectives.base import Kind, Objective
from latentwire.objectives.likelihood import Continuation, TextReconstruction
from latentwire.objectives.reconstruction import EmbeddingReconstruction
from latentwire.objectives.teacher import Teacher
from latentwire.train.batches import Contexts, Needs
from latentwire.train.curriculum import Plan, slots_for
from latentwire.train.curriculum_stage import CurriculumStage
from latentwire.train.module import WireModule
from latentwire.wire import LatentWire, text_lengths
from suite.config.instantiate import build_node
from suite.loader import EpochBatches, ResumableLoader
from suite.runs.job import Run, read_result
from suite.shell import assemble, build_callbacks


@dataclass
class LoRA:
    """LoRA on a language model that reads: another track than a frozen one.

    Args:
        rank, alpha: scale is alpha / rank.
        layers: on the first so many layers; None: on all.
        targets: linear layers by the last part of their name.
    """

    rank: int = 8
    alpha: float = 16.0
    layers: int | None = None
    targets: list[str] | None = None

    def apply(self, lm: FrozenLM) -> list[tuple[str, torch.nn.Parameter]]:
        """Puts it on the model; returns its parameters by name."""
        from peft import LoraConfig

        reach = lm.n_layers if self.layers is None else min(self.layers, lm.n_layers)
        targets = self.targets or ["q_proj", "k_proj", "v_proj", "o_proj"]
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            target_modules=targets,
            layers_to_transform=list(range(reach)),
        )
        return lm.adapt(config)


@dataclass
class Source:
    """What a run reads: models and data.

    Attributes:
        lms: the models that read, by name.
        encoder_lm: the model that the encoder stands on.
        corpus: passages with questions.
        texts: of training passages, to measure scales on.
        lengths: mean tokens of these texts by model.
    """

    lms: dict[str, FrozenLM]
    encoder_lm: FrozenLM
    corpus: Corpus
    texts: list[str]
    lengths: dict[str, float]

    @property
    def tokens(self) -> float:
        """Mean tokens of a text for the first model: what ratios refer to."""
        return next(iter(self.lengths.values()))


@dataclass
class Parts:
    """What a run consists of."""

    source: Source
    module: WireModule
    trainer: L.Trainer
    pipeline: StepPipeline
    train: ResumableLoader
    val: ResumableLoader


def build_source(cfg: DictConfig) -> Source:
    """Language models and corpus."""
    if not cfg.lms:
        raise UserError("lms", "no language model", "at least one that reads", "choose readers=pocket_llama")
    lms: dict[str, FrozenLM] = {str(name): build_node(node) for name, node in cfg.lms.items()}
    encoder_lm = next(iter(lms.values()))
    if cfg.encoder_lm is not None:
        same = [str(name) for name, node in cfg.lms.items() if node == cfg.encoder_lm]
        encoder_lm = lms[same[0]] if same else build_node(cfg.encoder_lm)
    corpus: Corpus = build_node(cfg.corpus)
    passages = corpus.split("train")
    texts = [passages[i].text for i in range(min(int(cfg.wire.measured_texts), len(passages)))]
    if not texts:
        raise UserError("corpus", "an empty training split", "training passages", "check the corpus")
    return Source(lms, encoder_lm, corpus, texts, text_lengths(lms, texts))


def build_wire(cfg: DictConfig, source: Source) -> LatentWire:
    """The wire, calibrated on training texts; with `wire.from_run`, encoder and codec are that run's and fixed."""
    w = cfg.wire
    earlier = None if w.from_run is None else _checkpoint(Path(str(w.from_run)), "best")
    slots = w.slots
    if slots is None:
        slots = earlier["latentwire"]["slots"] if earlier else slots_for(source.tokens, float(w.ratio))
    private = {str(k): int(v) for k, v in w.private.items()}
    layout = LatentLayout(int(slots) - sum(private.values()), private)
    slices = [name for name in (SHARED, *private) if name == SHARED or private[name] > 0]
    if layout.shared == 0:
        slices.remove(SHARED)
    encoder: Any = build_encoder(build_node(cfg.encoder), source.encoder_lm, int(w.d_z), slices)
    codec = build_node(cfg.codec)(d_z=int(w.d_z))
    adapter = build_node(cfg.adapter)
    injectors = {
        name: build_node(cfg.injector)(d_z=int(w.d_z), lm=lm, texts=source.texts, adapter=adapter)
        for name, lm in source.lms.items()
    }
    for lm in source.lms.values():
        lm.measure(source.texts)
    unknown = set(cfg.adaptation) - set(source.lms)
    if unknown:
        raise UserError(f"adaptation.{min(map(str, unknown))}", "no such model", " | ".join(source.lms), "correct it")
    adapted = {str(name): build_node(node).apply(source.lms[str(name)]) for name, node in cfg.adaptation.items()}
    if hasattr(encoder, "fit"):
        encoder.fit(source.texts, layout)
    meaning = {
        "encoder": OmegaConf.to_container(cfg.encoder, resolve=True),
        "codec": OmegaConf.to_container(cfg.codec, resolve=True),
        "d_z": int(w.d_z),
        "track": str(w.track),
        "encoder_lm": source.encoder_lm.fingerprint() if hasattr(encoder, "lm") else None,
    }
    wire = LatentWire(encoder, codec, injectors, layout, meaning, adapted, str(w.track) == "whole_prompt")
    if earlier is not None:
        _adopt(wire, earlier, str(w.from_run))
    start = w.get("start_from")
    begun = None if start is None else _checkpoint(Path(str(start)), "best")
    if begun is not None:
        _take_over(wire.encoder, begun, "wire.encoder.", f"wire.start_from={start}")
    first = build_node(cfg.stages[0])
    codec.take(first.codes)
    ratio = first.ratio
    wire.calibrate(source.texts, layout if ratio is None else layout.with_shared(slots_for(source.tokens, ratio)))
    if begun is not None:
        for name, injector in wire.injectors.items():
            prefix = f"wire.injectors.{name}."
            if any(key.startswith(prefix) for key in begun["state_dict"]):  # a model that is new starts from the text
                _take_over(injector, begun, prefix, f"wire.start_from={start}")
    return wire


def build_module(
    cfg: DictConfig, source: Source, steps: int, cache: Path, train: Sequence[Passage]
) -> tuple[WireModule, Needs]:
    """The module, and what its objectives ask of a batch."""
    wire = build_wire(cfg, source)
    objectives: dict[str, Objective] = {str(name): build_node(node) for name, node in cfg.objectives.items()}
    if not objectives:
        raise UserError("objectives", "none", "at least one", "choose objective=answer_ce")
    plan = Plan([build_node(node) for node in cfg.stages], steps)
    needs = needs_of(objectives, wire.whole_prompt)
    ratios = [s.ratio for s in plan.stages if s.ratio is not None]
    fewest = min([wire.slots, *(slots_for(source.tokens, r) for r in ratios)])
    longest = max(len(lm.style.encode(text)) for lm in source.lms.values() for text in source.texts)
    for objective in objectives.values():
        objective.prepare({n: lm.d_model for n, lm in source.lms.items()}, int(cfg.wire.d_z), -(-longest // fewest))
    teachers: dict[str, Teacher] = {}
    if cfg.teacher.cache and any(o.teaches for o in objectives.values()):
        if len(train) > LARGEST_CACHE:
            raise UserError(
                "teacher.cache=true",
                f"{len(train)} training passages",
                f"at most {LARGEST_CACHE}",
                "set teacher.cache=false (the teacher is asked in every step) or a smaller corpus.train",
            )
        teachers = {name: Teacher.cached(lm, train, int(cfg.teacher.top_k), cache) for name, lm in source.lms.items()}
    curriculum = CurriculumStage(plan, {name: o.weight for name, o in objectives.items()}, float(cfg.observe_smoothing))
    module = WireModule(
        wire,
        source.lms,
        objectives,
        curriculum,
        build_node(cfg.optimizer),
        build_node(cfg.lr_schedule),
        {str(k): float(v) for k, v in cfg.group_lr.items()},
        source.tokens,
        teachers,
        int(cfg.teacher.top_k),
        int(cfg.evaluation.max_new_tokens),
    )
    return module, needs


LARGEST_CACHE = 100_000


def needs_of(objectives: Mapping[str, Objective], whole_prompt: bool) -> Needs:
    """What a batch must hold for these objectives."""
    kinds: set[Kind] = {kind for o in objectives.values() for kind in o.needs}
    if any(o.teaches for o in objectives.values()):
        kinds.add("answer")
    texts = [o for o in objectives.values() if isinstance(o, TextReconstruction)]
    rests = [o for o in objectives.values() if isinstance(o, Continuation)]
    embeds = [o for o in objectives.values() if isinstance(o, EmbeddingReconstruction)]
    if whole_prompt and (texts or rests or embeds):
        raise UserError(
            "wire.track=whole_prompt",
            "an objective on the text alone",
            "objectives on answers",
            "drop it, or use wire.track=question_text",
        )
    if len(texts) > 1 or len(rests) > 1:
        raise UserError("objectives", "two of one kind on the text", "one", "drop one")
    return Needs(
        frozenset(kinds),
        cue=texts[0].cue if texts else "",
        low=rests[0].low if rests else 0.5,
        high=rests[0].high if rests else 0.5,
        context=bool(embeds),
        whole_prompt=whole_prompt,
    )


def build(cfg: DictConfig, run: Run) -> Parts:
    """Build everything for one run; the run directory exists.

    Raises:
        UserError: several devices, no end of training, or data that do not suffice.
    """
    if cfg.trainer.devices not in (1, "1", [0]) or int(cfg.trainer.get("num_nodes") or 1) > 1:
        raise UserError(
            "trainer.devices",
            str(cfg.trainer.devices),
            "1: runs of a sweep can share a machine instead",
            "set trainer.devices=1",
        )
    source = build_source(cfg)
    n = cfg.loader
    passages = source.corpus.split("train")
    per_epoch = len(passages) if n.steps_per_epoch is None else int(n.steps_per_epoch) * int(n.batch_size)
    limits = [int(cfg.trainer.max_steps)] if cfg.trainer.max_steps > 0 else []
    if (cfg.trainer.max_epochs or -1) > 0:
        limits.append(int(cfg.trainer.max_epochs) * max(1, per_epoch // int(n.batch_size)))
    if not limits:
        raise UserError("trainer.max_epochs, trainer.max_steps", "neither", "an end of training", "set one of them")
    steps = min(limits)
    module, needs = build_module(cfg, source, steps, Path(str(cfg.paths.cache)) / "teacher", passages)
    if "wrong" in needs.kinds and int(n.batch_size) < 2:
        raise UserError("loader.batch_size", "1 with mismatched latents", "2 or more", "set loader.batch_size=2")
    encoder = module.wire.encoder
    train = Contexts(passages, encoder, source.lms, int(n.questions), needs, int(cfg.seed), per_epoch)
    held = source.corpus.split("val")
    held = [held[i] for i in range(min(len(held), int(n.eval_passages)))]
    asked = Needs(frozenset({"answer"}), whole_prompt=needs.whole_prompt)
    val = Contexts(held, encoder, source.lms, int(n.eval_questions), asked, 0)
    loaders = [
        ResumableLoader(train, EpochBatches(len(train), int(n.batch_size), int(cfg.seed), train=True), int(n.workers)),
        ResumableLoader(val, EpochBatches(len(val), int(n.eval_batch_size), 0, train=False), 0),
    ]
    trainer, pipeline = assemble(cfg, run, build_callbacks(cfg, run), [module.curriculum, LRStep()])
    return Parts(source, module, trainer, pipeline, *loaders)


@dataclass
class Loaded:
    """A finished run's wire, in evaluation mode, with what it reads."""

    cfg: DictConfig
    source: Source
    wire: LatentWire


def load(run_dir: Path, which: str = "best") -> Loaded:
    """Rebuilds the wire of a run from `config.yaml` and a checkpoint, every trained tensor verified.

    Args:
        run_dir: the run's directory.
        which: `best` or `last`.

    Raises:
        UserError: no such run or checkpoint, language models that are not those of the run, or a checkpoint that
            does not hold all that was trained.
    """
    checkpoint = _checkpoint(run_dir, which)
    config = run_dir / "config.yaml"
    if not config.exists():
        raise UserError(str(config), "not there", "the run's configuration", "give the directory that a run has made")
    cfg = OmegaConf.load(config)
    assert isinstance(cfg, DictConfig)
    source = build_source(cfg)
    for name, lm in source.lms.items():
        lm.verify(checkpoint["latentwire"]["models"][name])
    wire = build_wire(cfg, source)
    own = _part(checkpoint, "wire.")
    wire.load_state_dict(own["state_dict"])
    verify(own, wire, str(run_dir / "checkpoints" / f"{which}.ckpt"))
    return Loaded(cfg, source, wire.eval())


def _part(checkpoint: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """State and manifest of a submodule."""

    def cut(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in mapping.items() if k.startswith(prefix)}

    manifest = checkpoint["manifest"]
    tensors = cut(manifest["tensors"])
    return {"state_dict": cut(checkpoint["state_dict"]), "manifest": {**manifest, "tensors": tensors}}


def _checkpoint(run_dir: Path, which: str) -> dict[str, Any]:
    path = run_dir / "checkpoints" / f"{which}.ckpt"
    if not path.exists():
        status = read_result(run_dir).get("status", "no result.json") if run_dir.is_dir() else "no such folder"
        raise UserError(str(path), f"not there (run: {status})", "a finished run of latentwire", "give its directory")
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(str(path), str(error).splitlines()[0], "an intact checkpoint", "train the run again") from error
    if "latentwire" not in found:
        raise UserError(str(path), "a checkpoint of another program", "one of latentwire", "give another directory")
    return found


def _adopt(wire: LatentWire, checkpoint: Mapping[str, Any], where: str) -> None:
    """Takes encoder and codec of another run and fixes them."""
    for name, part in (("encoder", wire.encoder), ("codec", wire.codec)):
        _take_over(part, checkpoint, f"wire.{name}.", f"wire.from_run={where}")
    wire.fix()


def _take_over(part: torch.nn.Module, checkpoint: Mapping[str, Any], prefix: str, where: str) -> None:
    own = _part(checkpoint, prefix)
    name = prefix.removeprefix("wire.").rstrip(".")
    try:
        part.load_state_dict(own["state_dict"])
    except RuntimeError as error:
        raise UserError(
            where,
            f"another {name}: {str(error).splitlines()[-1].strip()}",
            f"the {name} of that run",
            f"use its settings of {name}, wire.d_z and encoder_lm",
        ) from error
    verify(own, part, where)
