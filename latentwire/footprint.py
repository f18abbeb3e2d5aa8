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
from latentwire.lm import loading
from latentwire.lm.prompts import QUESTION, cue_text
from latentwire.train.curriculum import slots_for
from suite.runs.inputs import all_files

LOOKED = 32  # passages whose lengths are taken
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
    """

    texts: int
    rows: int
    tokens: int
    asked: int
    answer: int
    slots: int


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


def model_of(name: str, config: Any, dtype: str) -> Model:
    """Return the sizes of a model, built on the meta device.

    Args:
        name: its name in the configuration.
        config: its configuration.
        dtype: type of its weights.
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
    layers = text.num_hidden_layers
    return Model(
        name,
        weights,
        weights - tables,
        layers,
        text.hidden_size,
        inner,
        2 * layers * heads * head,
        text.vocab_size,
        loading.DTYPES[dtype].itemsize,
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
    cache = sum(2 * n.rows * (n.slots + n.asked) * m.kv * m.size for m in models)
    kept = 0
    for m in models:
        # frozen matrices keep no input; per layer stay those of two norms, the queries, what attention gives, and
        # gate, its activation and the other branch of the feed-forward part
        kept += n.rows * n.asked * m.layers * (4 * m.width + 3 * m.inner) * m.size
        kept += 3 * n.rows * n.answer * m.vocabulary * 4
    injected = sum(6 * n.texts * n.slots * m.kv * 4 for m in models)
    hidden = states * (2 * first.size + 2 * 4)  # as the model gives them and as they are mixed; one of these stays
    share = AT_ONCE / n.texts
    operations = 2.0 * first.matrices * n.texts * n.tokens
    operations += sum(4.0 * m.matrices * n.rows * n.asked for m in models) + 6.0 * trained * n.texts * n.slots
    return Footprint(
        sum(m.weights * m.size for m in models),
        trained * ADAM,
        cache,
        max(kept + injected + states * 4, hidden),
        int(share * (hidden + injected)),
        operations,
    )


def trained_weights(cfg: DictConfig, models: Sequence[Model]) -> int:
    """Return about how many weights are trained: the encoder's own layers, adapters, injectors, LoRA."""
    d_z, width = int(cfg.wire.d_z), int(cfg.encoder.get("width", 0))
    layers = int(cfg.encoder.get("refiner_layers", 0)) + int(cfg.encoder.get("layers") or 0) * ("lm" not in cfg.encoder)
    count = models[0].width * width + 12 * layers * width**2 + width * d_z
    expansion = int(cfg.adapter.get("expansion", 0))
    for m in models:
        out = int(cfg.injector.get("width", m.width))
        count += d_z * out + 2 * expansion * out**2 + ("width" in cfg.injector) * out * m.kv
        if m.name in cfg.adaptation:
            count += 8 * m.layers * m.width * int(cfg.adaptation[m.name].get("rank", 8))
    return count


def sources_of(cfg: DictConfig) -> dict[str, str]:
    """Return the folder or hub id of every model that has a `config.json`, by name."""
    files, found = all_files(cfg), {}
    for name, node in cfg.lms.items():
        own = [p for role, p in files.items() if role.startswith(f"lms.{name}.") and role.endswith("/config.json")]
        source = str(Path(str(own[0])).parent) if own else OmegaConf.select(node, "source")
        if source is not None:
            found[str(name)] = source
    return found


def load_of(cfg: DictConfig, passages: Sequence[Passage], count: Callable[[str], int]) -> Load:
    """Return what a step reads, by the lengths of the first passages.

    Args:
        cfg: the whole configuration.
        passages: the training split.
        count: text to its number of tokens.
    """
    looked = [passages[i] for i in range(min(LOOKED, len(passages)))]
    texts = [count(p.text) for p in looked]
    cue = cue_text(OmegaConf.select(next(iter(cfg.lms.values())), "instruction"))
    asked = max((count(f"{QUESTION}{q.text}\n{cue}") for p in looked for q in p.questions), default=0)
    answer = 1 + max((count(q.answers[0]) for p in looked for q in p.questions), default=0)
    slots = cfg.wire.slots or slots_for(sum(texts) / len(texts), float(cfg.wire.ratio))
    batch = int(cfg.loader.batch_size)
    return Load(batch, batch * int(cfg.loader.questions), max(texts), asked + answer - 1, answer, int(slots))


def operations_per_second(device: torch.device) -> float:
    """Return the rate of a product of two matrices, half of which a model reaches."""
    x = torch.randn(512, 512, device=device)
    x @ x
    start, turns = time.perf_counter(), 8
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
            models.append(model_of(name, config, str(cfg.lms[name].get("dtype", "float32"))))
        except (AttributeError, KeyError, OSError, ValueError):
            silent.append(name)
    if len(models) < max(1, len(sources)):
        return f"memory: not estimated, as {', '.join(silent)} cannot be read without its weights"
    load = load_of(cfg, passages, lambda text: len(tokenizers[0](text, add_special_tokens=False)["input_ids"]))
    trained = trained_weights(cfg, models)
    found = estimate(models, load, trained)
    kind = "cuda" if str(cfg.trainer.accelerator) in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
    seconds = found.operations / operations_per_second(torch.device(kind))
    parts = ("weights", "trained", "cache", "activations", "calibration")
    told = ", ".join(f"{part} {_bytes(getattr(found, part))}" for part in parts)
    beside = f", {', '.join(silent)} not counted" if silent else ""
    return (
        f"memory: about {_bytes(found.peak)} at the peak ({told}{beside}); {trained / 1e6:.2g} M trained weights; "
        f"about {seconds:.2g} s a step of {load.texts} texts of {load.tokens} tokens and {load.rows} questions"
    )


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
