"""From a checked configuration to the parts of a run: language models and corpus, wire, module, loaders, trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from callbacks.errors import UserError
from callbacks.files.folders import make_folder
from callbacks.stages.lr import LRStep
from callbacks.step.console import rank_zero_print
from callbacks.step.pipeline import StepPipeline
from latentwire.checkpoints import read_checkpoint, take_over
from latentwire.data.base import Corpus, Passage, Split
from latentwire.encoders.base import Encoder, build_encoder
from latentwire.encoders.slots import LatentLayout
from latentwire.footprint import line
from latentwire.lm.frozen import FrozenLM
from latentwire.names import refuse_strangers
from latentwire.objectives.base import Needs, Objective, together
from latentwire.objectives.teacher import Teacher
from latentwire.stages import largest_batch, nested_of, stages_of, steps_of
from latentwire.tracking import tags
from latentwire.train.batches import Contexts
from latentwire.train.curriculum import Curriculum, Period, slots_for
from latentwire.train.curriculum_stage import CurriculumStage
from latentwire.train.lengths import lengths
from latentwire.train.module import WireModule
from latentwire.train.nested import budgets, refuse_unordered
from latentwire.train.noise import Noise
from latentwire.train.placement import refuse_shared_places
from latentwire.train.positions import check_training
from latentwire.train.reader_shape import reader_shape
from latentwire.train.stages_check import let_hear, refuse_all_frozen, refuse_partly, refuse_untrained
from latentwire.warm_start import WarmStart, freeze
from latentwire.wire import LatentWire
from latentwire.wire_parts import FIXED, frozen, taken, told
from suite.config.instantiate import build_node
from suite.loader import EpochBatches, ResumableLoader
from suite.runs.job import Run
from suite.shell import assemble, build_callbacks

LARGEST_CACHE = 100_000  # passages whose teacher is kept


@dataclass
class Inputs:
    """Holds what a run reads: models and data.

    Attributes:
        lms: the models that read, by name.
        encoder_lm: the model that the encoder stands on.
        corpus: passages with questions.
        texts: texts of training passages, to measure scales on.
        lengths: mean number of tokens of these texts as contexts, by model.
    """

    lms: dict[str, FrozenLM]
    encoder_lm: FrozenLM
    corpus: Corpus
    texts: list[str]
    lengths: dict[str, float]

    @property
    def tokens(self) -> float:
        """The mean number of tokens of a text for the first model: what ratios refer to."""
        return next(iter(self.lengths.values()))


@dataclass
class Parts:
    """Holds what a run consists of."""

    inputs: Inputs
    module: WireModule
    trainer: L.Trainer
    pipeline: StepPipeline
    train: ResumableLoader
    val: ResumableLoader


def build_inputs(cfg: DictConfig, announce: bool = False) -> Inputs:
    """Build corpus and language models.

    Args:
        cfg: the whole configuration.
        announce: whether memory and time are estimated and said before any model is loaded.
    """
    refuse_strangers(cfg)
    corpus: Corpus = build_node(cfg.corpus)
    passages = corpus.split("train")
    texts = [passages[i].text for i in range(min(int(cfg.wire.measured_texts), len(passages)))]
    if not texts:
        raise UserError(
            "corpus.train, wire.measured_texts", "no training text", "one or more", "set wire.measured_texts=256"
        )
    if announce:
        rank_zero_print(line(cfg, passages))
    lms: dict[str, FrozenLM] = {str(name): build_node(node) for name, node in cfg.lms.items()}
    for name, device in (OmegaConf.select(cfg, "placement.devices") or {}).items():
        lms[str(name)].pin(str(device), str(name))
    encoder_lm = next(iter(lms.values()))
    if cfg.encoder_lm is not None:
        same = [str(name) for name, node in cfg.lms.items() if node == cfg.encoder_lm]
        encoder_lm = lms[same[0]] if same else build_node(cfg.encoder_lm)
    tokens = {name: sum(len(lm.style.encode(text.strip() + "\n")) for text in texts) for name, lm in lms.items()}
    return Inputs(lms, encoder_lm, corpus, texts, {name: count / len(texts) for name, count in tokens.items()})


def bare_wire(
    cfg: DictConfig, lms: Mapping[str, FrozenLM], encoder_lm: FrozenLM, slots: int, texts: Sequence[str] | None
) -> LatentWire:
    """Put the parts of a wire together, neither calibrated nor loaded.

    Args:
        cfg: the whole configuration.
        lms: the models that read, by name; those of `adaptation` are adapted.
        encoder_lm: the model that the encoder stands on.
        slots: number of latents of a message, private ones included.
        texts: training texts that the models are measured on; None: nothing is, as a saved state will be loaded.

    Raises:
        UserError: parts that do not fit together.
    """
    d_z, track = int(cfg.wire.d_z), str(cfg.wire.track)
    private = {str(k): int(v) for k, v in cfg.wire.private.items()}
    nested = nested_of(cfg)
    lengths = budgets(nested, slots)
    spread = nested is not None and nested.order == "spread" and bool(lengths)
    apart = nested is not None and nested.apart and bool(lengths)
    layout = LatentLayout(slots - sum(private.values()), private, lengths, spread, apart)
    encoder = build_encoder(build_node(cfg.encoder), encoder_lm, d_z, [name for name, _ in layout.parts])
    codec = build_node(cfg.codec)(d_z=d_z)
    adapter = build_node(cfg.adapter)
    injectors = {
        name: build_node(cfg.injector)(d_z=d_z, lm=lm, texts=texts, adapter=adapter) for name, lm in lms.items()
    }
    if texts is not None:
        for lm in lms.values():
            lm.measure(texts)
    adapted = {str(name): build_node(node).apply(lms[str(name)]) for name, node in cfg.adaptation.items()}
    settings: Any = OmegaConf.to_container(cfg.encoder, resolve=True)
    meaning = {
        "encoder": {key: value for key, value in settings.items() if key not in encoder.places},
        "codec": OmegaConf.to_container(cfg.codec, resolve=True),
        "d_z": d_z,
        "track": track,
        "encoder_lm": None if encoder.lm is None else encoder.lm.fingerprint(),
    }
    return LatentWire(encoder, codec, injectors, layout, meaning, adapted, track == "whole_prompt")


def noise_of(cfg: DictConfig, objectives: Mapping[str, Objective]) -> Noise | None:
    """Build what is read in training otherwise than in evaluation; None where nothing is."""
    keys = {"sampling": "scheduled_sampling", "dropout": "slot_dropout", "text": "text_warm_up"}
    found = {name: build_node(cfg.loader[key]) for name, key in keys.items() if cfg.loader.get(key) is not None}
    masked = max(o.masked for o in objectives.values())
    return Noise(int(cfg.seed), masked=masked, **found) if found or masked else None


def build_wire(cfg: DictConfig, inputs: Inputs) -> LatentWire:
    """Build the wire, calibrated on training texts, with what other runs bring to it.

    With `wire.from_run` encoder and codec are that run's and fixed. `wire.start_from` brings all that the run has,
    `init` single parts, which count where both name one. An injector that no run brings starts behind the adapter that
    one does. What `freeze` names is out of training.
    """
    w = cfg.wire
    earlier = None if w.from_run is None else read_checkpoint(Path(str(w.from_run)))
    slots = w.slots
    if slots is None:
        slots = earlier["latentwire"]["slots"] if earlier else slots_for(inputs.tokens, float(w.ratio))
    wire = bare_wire(cfg, inputs.lms, inputs.encoder_lm, int(slots), inputs.texts)
    wire.encoder.fit(inputs.texts, wire.layout)
    if wire.layout.budgets and not wire.layout.apart:
        refuse_unordered(wire.encoder, inputs.texts, wire.layout)
    if earlier is not None:
        for name, part in (("encoder", wire.encoder), ("codec", wire.codec)):
            take_over(part, earlier, f"wire.{name}.", f"wire.from_run={w.from_run}")
        wire.fix()
    start = w.get("start_from")
    begun = None if start is None else read_checkpoint(Path(str(start)))
    if begun is not None:
        take_over(wire.encoder, begun, "wire.encoder.", f"wire.start_from={start}")
    warm, held = WarmStart(taken(cfg), inputs.lms, w), frozen(cfg)
    for name in warm.kinds(FIXED):
        warm.take(wire.part(name), name)
        wire.freeze(*({name} & set(held)))  # before calibration, which encodes in training mode
    first: Period = build_node(cfg.stages[0])
    wire.codec.take(first.codes)
    own = wire.layout
    at_first = own if first.ratio is None else own.with_slots(slots_for(inputs.tokens, first.ratio))
    wire.calibrate(inputs.texts, at_first, earlier is None and "codec" not in warm.asked)
    fresh = set(wire.injectors)
    if begun is not None:
        for name, injector in wire.injectors.items():
            prefix = f"wire.injectors.{name}."
            if any(key.startswith(prefix) for key in begun["state_dict"]):  # a model that is new starts from the text
                take_over(injector, begun, prefix, f"wire.start_from={start}")
                fresh.remove(name)
    for name in warm.kinds(("adapter", "injector", "lora")):
        warm.take(wire.part(name), name)
    # what lies behind an adapter was fitted to the one that was there before
    behind = [n for n in wire.injectors if n in fresh and f"adapter.{n}" in warm.asked]
    behind = [n for n in behind if f"injector.{n}" not in warm.asked]
    if behind:
        wire.refit(inputs.texts, at_first, behind)
    wire.freeze(*(name for name in held if not name.startswith("head.")))
    wire.provenance |= warm.provenance
    return wire


def build_module(
    cfg: DictConfig, inputs: Inputs, steps: int, cache: Path, train: Sequence[Passage]
) -> tuple[WireModule, Needs]:
    """Build the module; return it and what its objectives need of a batch."""
    periods, objectives = stages_of(cfg)
    curriculum = Curriculum(periods, steps)
    needs = together({name: o.needs for name, o in objectives.items()}, str(cfg.wire.track) == "whole_prompt")
    noise = noise_of(cfg, objectives)
    needs = needs if noise is None or noise.text is None else replace(needs, context=True)
    wire = build_wire(cfg, inputs)
    let_hear(objectives, wire.encoder)
    ratios = [p.ratio for p in curriculum.periods if p.ratio is not None]
    layouts = [wire.layout, *(wire.layout.with_slots(slots_for(inputs.tokens, ratio)) for ratio in ratios)]
    if wire.layout.apart:
        layouts += [wire.layout.prefix(k, "wire.nested") for k in wire.layout.budgets]
    readers = {name: reader_shape(wire, name, lm, inputs.texts, layouts) for name, lm in inputs.lms.items()}
    for objective in objectives.values():
        objective.prepare(readers, int(cfg.wire.d_z))
    warm, held = WarmStart(taken(cfg), inputs.lms, cfg.wire), frozen(cfg)
    for name in warm.kinds(("head",)):
        warm.take(objectives[name.partition(".")[2]], name)
    for name in held:
        if name.startswith("head."):
            freeze(objectives[name.partition(".")[2]], name)
    wire.provenance |= warm.provenance
    teachers: dict[str, Teacher] = {}
    if cfg.teacher.cache and any(o.teaches for o in objectives.values()):
        if len(train) > LARGEST_CACHE:
            raise UserError(
                "teacher.cache=true",
                f"{len(train)} training passages",
                f"at most {LARGEST_CACHE}",
                f"set teacher.cache=false (the teacher is asked in every step) or corpus.train={LARGEST_CACHE}",
            )
        make_folder(cache, f"paths.cache={cfg.paths.cache}", "set paths.cache=data_cache, or another folder")
        teachers = {name: Teacher.cached(lm, train, int(cfg.teacher.top_k), cache) for name, lm in inputs.lms.items()}
    refuse_partly(periods, objectives)
    weights = {name: o.weight for name, o in objectives.items()}
    reaches = {name: o.reaches for name, o in objectives.items()}
    module = WireModule(
        wire,
        inputs.lms,
        objectives,
        CurriculumStage(curriculum, weights, float(cfg.observe_smoothing), reaches),
        build_node(cfg.optimizer),
        build_node(cfg.lr_schedule),
        {str(k): float(v) for k, v in cfg.group_lr.items()},
        inputs.tokens,
        teachers,
        int(cfg.teacher.top_k),
        validation_length(cfg),
        inputs.texts,
        accumulation(cfg),
        bool(cfg.placement.shard),
        nested_of(cfg),
        int(cfg.seed),
        noise,
    )
    refuse_untrained(periods, objectives, module.groups())
    refuse_all_frozen(periods, objectives, module.groups(), held)
    return module, needs


def held_out(cfg: DictConfig, inputs: Inputs, encoder: Encoder, whole_prompt: bool) -> Contexts:
    """Return what a run validates on: always the same passages and questions.

    Args:
        cfg: the whole configuration.
        inputs: its models and data.
        encoder: the encoder, whose tokenizer is used.
        whole_prompt: whether the question is encoded with its context.
    """
    n, split = cfg.loader, inputs.corpus.split("val")
    passages = [split[i] for i in range(min(len(split), int(n.eval_passages)))]
    return Contexts(passages, encoder, inputs.lms, int(n.eval_questions), Needs(whole_prompt=whole_prompt), 0)


def validation_length(cfg: DictConfig) -> int:
    """Return how long an answer in validation may be, in tokens; it decides which weights are kept.

    Runs of versions that had no such key validated with the length of their evaluation.
    """
    return int(cfg.loader.get("eval_max_new_tokens", cfg.evaluation.max_new_tokens))


def accumulation(cfg: DictConfig) -> int:
    """Return the number of parts that a batch is read in; runs of versions that had no such key have one.

    Raises:
        UserError: more parts than a batch has contexts.
    """
    count, most = int(cfg.loader.get("accumulate", 1)), int(cfg.loader.batch_size)
    if count > most:
        raise UserError(
            "loader.accumulate", str(count), f"1 to {most}: parts of loader.batch_size", "set loader.accumulate=1"
        )
    return count


def build(cfg: DictConfig, run: Run) -> Parts:
    """Build everything for one run; the run directory exists.

    Raises:
        UserError: no end of training, or data that do not suffice.
    """
    periods, _ = stages_of(cfg)
    refuse_shared_places(cfg)
    inputs = build_inputs(cfg, announce=True)
    n = cfg.loader
    passages = inputs.corpus.split("train")
    largest = largest_batch(cfg, periods)
    per_epoch = len(passages) if n.steps_per_epoch is None else int(n.steps_per_epoch) * largest
    steps = steps_of(cfg, periods, len(passages))
    if steps is None:
        raise UserError("trainer.max_epochs", "no end of training", "a number", "set trainer.max_epochs=16")
    module, needs = build_module(cfg, inputs, steps, Path(str(cfg.paths.cache)) / "teacher", passages)
    if module.wire.provenance:
        rank_zero_print(f"init: {told(module.wire.provenance)}")
    encoder, layout = module.wire.encoder, module.wire.layout
    encoder.checkpointing = bool(cfg.placement.checkpointing)
    for lm in inputs.lms.values():
        lm.checkpointing = encoder.checkpointing
    ratios = [p.ratio for p in module.curriculum.curriculum.periods if p.ratio is not None]
    layouts = [layout, *(layout.with_slots(slots_for(inputs.tokens, ratio)) for ratio in ratios)]
    injectors = module.wire.injectors
    slots = {n: injectors[n].columns(max(sum(at.counts(n)) for at in layouts)) for n in inputs.lms}
    teaches = any(o.teaches or o.compares for o in module.objectives.values())
    new: dict[Split, int] = {"train": validation_length(cfg), "val": validation_length(cfg)}
    new[cfg.evaluation.split] = int(cfg.evaluation.max_new_tokens)
    counted = [lengths(inputs.corpus.split(s), encoder, inputs.lms, n).told(s, n) for s, n in new.items()]
    if (of_corpus := getattr(inputs.corpus, "told", None)) is not None:
        rank_zero_print(f"corpus: {of_corpus()}")
    rank_zero_print(f"lengths: {'. '.join(counted)}")
    check_training(passages, encoder, inputs.lms, slots, needs, teaches)
    train = Contexts(passages, encoder, inputs.lms, int(n.questions), needs, int(cfg.seed), per_epoch)
    val = held_out(cfg, inputs, encoder, needs.whole_prompt)
    stages = [module.curriculum, LRStep()]
    trainer, pipeline = assemble(cfg, run, build_callbacks(cfg, run), stages, tags(cfg))
    ranks = (trainer.global_rank, trainer.world_size)
    least = min((p.batch_size or 1 for p in periods), default=1)
    if least < trainer.world_size:
        key, most = "loader.batch_size, stages.<n>.batch_size", trainer.world_size
        raise UserError(key, str(least), f"{most} or more: one context per rank", f"set loader.batch_size={most}")
    loaders = [
        ResumableLoader(train, EpochBatches(len(train), largest, int(cfg.seed), True, *ranks), int(n.workers)),
        ResumableLoader(val, EpochBatches(len(val), int(n.eval_batch_size), 0, False, *ranks), 0),
    ]
    return Parts(inputs, module, trainer, pipeline, *loaders)
