"""How much memory and time a run will take, from its configuration alone: said before any weight is loaded.

Models are built on the meta device, which holds shapes and no numbers. What a step keeps follows from counting what the
backward pass of a transformer layer needs; the numbers are right within a factor of about 1.5 on the pocket models, and
mean to tell gigabytes from hundreds of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import AutoModelForCausalLM

from latentwire.adapters.calibration import AT_ONCE
from latentwire.data.base import Passage
from latentwire.injectors.combined import Combined
from latentwire.injectors.latent_adapters import LatentAdapters, places
from latentwire.injectors.sized_prefix import SizedPrefix
from latentwire.lm import loading
from latentwire.lm.prompts import QUESTION, cue_text
from latentwire.train.curriculum import slots_for
from suite.config.instantiate import build_node
from suite.config.signature import locate
from suite.runs.inputs import all_files
from suite.runs.reads import Files

LOOKED = 32  # passages whose lengths are taken
QUANTIZED = 4.5 / 8  # bytes a weight takes in 4 bits, with a scale in float32 for 64 of them
ADAM = 16  # bytes a trained number takes: itself, its gradient and two moments in float32


@dataclass(frozen=True)
class Model:
    """Holds the sizes of one language model.

    Attributes:
        name: its name in the configuration.
        weights: number of its weights.
        matrices: number of those that every token is multiplied with: all but the tables of tokens and positions.
        layers: number of its layers.
        width: width of its states.
        inner: width inside its feed-forward part.
        kv: numbers that a token takes in the cache.
        vocabulary: number of its tokens.
        size: bytes of a number.
        stored: bytes of all its weights; those of linear maps take 4.5 bits where they are quantised.
    """

    name: str
    weights: int
    matrices: int
    layers: int
    width: int
    inner: int
    kv: int
    vocabulary: int
    size: int
    stored: int


@dataclass(frozen=True)
class Load:
    """Holds what a step reads.

    Attributes:
        texts: number of texts in a batch.
        rows: number of questions about them.
        tokens: tokens of a text.
        asked: tokens of a question and its answer.
        answer: tokens of an answer.
        slots: latents of a message.
        parts: number of parts that the questions are read in, one after the other.
        checkpointing: whether only what goes into a layer is kept.
        columns: positions that a reader spends on a message; None: as many as it has slots.
    """

    texts: int
    rows: int
    tokens: int
    asked: int
    answer: int
    slots: int
    parts: int = 1
    checkpointing: bool = False
    columns: int | None = None


@dataclass(frozen=True)
class Footprint:
    """Holds bytes by what takes them, and the operations of a step.

    Attributes:
        weights: the language models.
        trained: what is trained, with gradients and Adam's moments.
        cache: keys and values of latents and questions in a step.
        activations: all else that a step keeps for its backward pass, or the encoder's hidden states before it.
        calibration: the largest batch of what is measured before training.
        operations: multiplications and additions of a step.
    """

    weights: int
    trained: int
    cache: int
    activations: int
    calibration: int
    operations: float

    @property
    def peak(self) -> int:
        """The largest sum that stands at one time: calibration ends before there are moments and gradients."""
        return self.weights + max(self.trained + self.cache + self.activations, self.trained // 4 + self.calibration)


def model_of(name: str, config: Any, dtype: str, quantized: bool = False) -> Model:
    """Return the sizes of a model, built on the meta device.

    Args:
        name: its name in the configuration.
        config: its configuration.
        dtype: type of its weights.
        quantized: whether its linear maps are stored in 4 bits.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config(decoder=True)
    weights = sum(p.numel() for p in model.parameters())
    tables = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    named = (getattr(text, key, None) for key in ("intermediate_size", "ffn_dim", "n_inner"))
    inner = next((int(n) for n in named if n), 4 * text.hidden_size)
    layers, size = text.num_hidden_layers, loading.DTYPES[dtype].itemsize
    head_of = model.get_output_embeddings()
    maps = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head_of)
    return Model(
        name,
        weights,
        weights - tables,
        layers,
        text.hidden_size,
        inner,
        2 * layers * heads * head,
        text.vocab_size,
        size,
        int((weights - maps) * size + maps * QUANTIZED) if quantized else weights * size,
    )


def estimate(models: Sequence[Model], load: Load, trained: int) -> Footprint:
    """Estimate a run.

    Args:
        models: the models that read; the first is the encoder's.
        load: what a step reads.
        trained: number of trained weights.
    """
    first, n = models[0], load
    states = n.texts * n.tokens * first.width * (first.layers + 1)
    rows = -(-n.rows // n.parts)
    columns = n.slots if n.columns is None else n.columns
    cache = sum(2 * rows * (columns + n.asked) * m.kv * m.size for m in models)
    kept = 0
    for m in models:
        # frozen matrices keep no input; per layer stay those of two norms, the queries, what attention gives, and
        # gate, its activation and the other branch of the feed-forward part
        inside = (4 * m.width + 3 * m.inner) * m.size
        layers = m.layers * m.width * m.size + inside if n.checkpointing else m.layers * inside
        kept += rows * n.asked * layers
        kept += 3 * rows * n.answer * m.vocabulary * 4
    injected = sum(6 * n.texts * columns * m.kv * 4 for m in models)
    hidden = states * (2 * first.size + 2 * 4)  # as the model gives them and as they are mixed; one of these stays
    share = AT_ONCE / n.texts
    operations = 2.0 * first.matrices * n.texts * n.tokens
    passes = 6.0 if n.checkpointing else 4.0
    operations += sum(passes * m.matrices * n.rows * n.asked for m in models) + 6.0 * trained * n.texts * n.slots
    return Footprint(
        sum(m.stored for m in models),
        trained * ADAM,
        cache,
        max(kept + injected + states * 4, hidden),
        int(share * (hidden + injected)),
        operations,
    )


def trained_weights(cfg: DictConfig, models: Sequence[Model]) -> int:
    """Return about how many weights are trained: the encoder's own layers, adapters, injectors, LoRA."""
    d_z, width = int(cfg.wire.d_z), int(cfg.encoder.get("width", 0))
    own = cfg.encoder.get("layers")  # a number of layers, or the numbers of states of a frozen model
    refiner = int(cfg.encoder.get("refiner_layers", 0))
    layers = refiner + (own if isinstance(own, int) else 0)
    count = models[0].width * width + 12 * layers * width**2 + width * d_z
    count += refiner * (width + 1) if cfg.encoder.get("halting") else 0
    for m in models:
        with torch.device("meta"):
            adapter = build_node(cfg.adapter)(d_z=d_z, d_out=int(cfg.injector.get("width", m.width)), target=1.0)
        count += sum(p.numel() for p in adapter.parameters()) + injector_weights(cfg.injector, m, d_z)
        if m.name in cfg.adaptation:
            count += 8 * m.layers * m.width * int(cfg.adaptation[m.name].get("rank", 8))
    return count


def injector_weights(node: DictConfig, m: Model, d_z: int) -> int:
    """Return about how many weights an injector has behind its adapter.

    Args:
        node: its configuration.
        m: the model that reads.
        d_z: width of a latent.
    """
    kind, width = locate(node._target_), int(node.get("width", 0))
    if kind in (LatentAdapters, Combined):
        at = len(places(node.get("layers"), m.layers, m.name))
        count = at * 2 * width * (width + m.width) + int(node.get("slots", 1024)) * width
        if kind is LatentAdapters:
            return count
        return count + width * int(node.prefix.get("width", m.width)) + injector_weights(node.prefix, m, width)
    hidden = int(node.get("hidden", 0))
    count = width * m.kv + hidden * (d_z + m.kv)
    if kind is SizedPrefix:  # attention, a feed-forward part four times as wide, a vector for every position
        count += 12 * width**2 + int(node.get("length") or 0) * width
    return count


def columns_of(node: DictConfig) -> int | None:
    """Return the positions that a reader spends on a message, by its injector; None: as many as there are slots."""
    kind = locate(node._target_)
    if kind is Combined:
        return columns_of(node.prefix)
    length = node.get("length") if kind is SizedPrefix else None
    return 0 if kind is LatentAdapters else None if length is None else int(length)


def sources_of(cfg: DictConfig) -> dict[str, str]:
    """Return the folder or hub id of every model that has a `config.json`, by name."""
    files = all_files(cfg)
    found = {str(name): source_of(files, f"lms.{name}", node) for name, node in cfg.lms.items()}
    return {name: source for name, source in found.items() if source is not None}


def source_of(files: Files, key: str, node: DictConfig) -> str | None:
    """Return the folder or hub id of a model that has a `config.json`; None where its node tells neither.

    Args:
        files: the files that a run reads, by role.
        key: the key of the model's node.
        node: the node.
    """
    own = [p for role, p in files.items() if role.startswith(f"{key}.") and role.endswith("/config.json")]
    return str(Path(str(own[0])).parent) if own else OmegaConf.select(node, "source")


def load_of(cfg: DictConfig, passages: Sequence[Passage], count: Callable[[list[str]], list[int]]) -> Load:
    """Return what a step reads, by the lengths of the first passages.

    Args:
        cfg: the whole configuration.
        passages: the training split.
        count: texts to their numbers of tokens.
    """
    looked = [passages[i] for i in range(min(LOOKED, len(passages)))]
    texts = count([p.text for p in looked])
    cue = cue_text(OmegaConf.select(next(iter(cfg.lms.values())), "instruction"))
    questions = [q for p in looked for q in p.questions]
    asked = max(count([f"{QUESTION}{q.text}\n{cue}" for q in questions]), default=0)
    answer = 1 + max(count([q.answers[0] for q in questions]), default=0)
    slots = cfg.wire.slots or slots_for(sum(texts) / len(texts), float(cfg.wire.ratio))
    batch = int(cfg.loader.batch_size)
    parts, again = int(cfg.loader.get("accumulate", 1)), bool(OmegaConf.select(cfg, "placement.checkpointing"))
    rows = batch * int(cfg.loader.questions)
    spent = columns_of(cfg.injector)
    return Load(batch, rows, max(texts), asked + answer - 1, answer, int(slots), parts, again, spent)


def steps_of(cfg: DictConfig, passages: Sequence[Passage]) -> int:
    """Return about how many steps a run takes at most."""
    per_epoch = cfg.loader.steps_per_epoch or max(1, len(passages) // int(cfg.loader.batch_size))
    epochs, most = int(cfg.trainer.max_epochs or -1), int(cfg.trainer.max_steps)
    planned = [n for n in (epochs * int(per_epoch), most) if n > 0]
    return min(planned, default=0)


def operations_per_second(device: torch.device) -> float:
    """Return the rate of a product of two matrices, half of which a model reaches."""
    x = torch.randn(512, 512, device=device)
    x @ x
    start, turns = time.perf_counter(), 4
    for _ in range(turns):
        y = x @ x
    float(y[0, 0])  # waits for an accelerator
    return turns * 2 * 512**3 / (time.perf_counter() - start) / 2


def line(cfg: DictConfig, passages: Sequence[Passage]) -> str:
    """Return what is said at the start of a run; a model that cannot be found is left to its loading to complain of."""
    sources = sources_of(cfg)
    silent = [str(name) for name in cfg.lms if str(name) not in sources]
    models, tokenizers = [], []
    for name, source in sources.items():
        try:
            config = loading.configuration(source)
            tokenizers.append(loading.tokenizer_of(source, config))
            node = cfg.lms[name]
            models.append(model_of(name, config, str(node.get("dtype", "float32")), node.get("quantize") is not None))
        except (AttributeError, KeyError, OSError, ValueError):
            silent.append(name)
    if len(models) < max(1, len(sources)):
        return f"memory: not estimated, as {', '.join(silent)} cannot be read without its weights"
    silent += [str(cfg.encoder[key]) for key in ("source", "anchor_source") if cfg.encoder.get(key) is not None]

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizers[0](texts, add_special_tokens=False)["input_ids"]] if texts else []

    load = load_of(cfg, passages, count)
    trained = trained_weights(cfg, models)
    found = estimate(models, load, trained)
    kind = "cuda" if str(cfg.trainer.accelerator) in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
    seconds = found.operations / operations_per_second(torch.device(kind))
    parts = ("weights", "trained", "cache", "activations", "calibration")
    told = ", ".join(f"{part} {_bytes(getattr(found, part))}" for part in parts)
    beside = f", {', '.join(silent)} not counted" if silent else ""
    steps = steps_of(cfg, passages)
    return (
        f"memory: about {_bytes(found.peak)} at the peak ({told}{beside}); {trained / 1e6:.2g} M trained weights; "
        f"about {seconds:.2g} s a step of {load.texts} texts of {load.tokens} tokens and {load.rows} questions, "
        f"{seconds * steps / 3600:.2g} h for {steps} steps"
    )


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
