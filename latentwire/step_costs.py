"""Measures a training step beside the bare passes of its language models, for `python -m latentwire.bench`."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.table import Table
from torch.nn import functional as F
from transformers import DynamicCache

from callbacks.errors import UserError
from latentwire.build import Parts, build
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix, lay_out_text, right_padded
from latentwire.train.batches import Batch, Rows
from suite.config.compose import Composer
from suite.runs.identity import config_hash
from suite.runs.job import Run, seed_everything

BOUND = 1.15  # of a step over the bare passes
WARM_UP = 5  # steps that are not counted: memory is allocated in them
STEP, ENCODER, READER, WIRE = "step", "encoder, frozen pass", "reader, forward and backward", "wire"
TRAINED = "trained parts, forward and backward"


@dataclass
class Turns:
    """Holds the seconds of everything that takes turns.

    Attributes:
        wall: seconds on the clock, by what took them.
        cpu: seconds of the process, all threads together; other processes do not count.
    """

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def note(self, what: str, since: tuple[float, float]) -> None:
        """Note that `what` took the time since `now()`."""
        for times, start, end in zip((self.wall, self.cpu), since, now(), strict=True):
            times.setdefault(what, []).append(end - start)

    def ms(self, what: str) -> tuple[float, float]:
        """Return the median milliseconds on the clock and of the process; `TRAINED` is `WIRE` less `ENCODER`."""
        if what == TRAINED:
            return tuple(a - b for a, b in zip(self.ms(WIRE), self.ms(ENCODER), strict=True))  # type: ignore[return-value]
        wall, cpu = (1e3 * statistics.median(times[what][WARM_UP:]) for times in (self.wall, self.cpu))
        return wall, cpu

    def ratio(self, more: Sequence[str] = ()) -> tuple[float, float]:
        """Return the step over the bare passes, on the clock and of the process; `more` is added to the passes."""
        passes = [self.ms(what) for what in (ENCODER, READER, *more)]
        step = self.ms(STEP)
        return step[0] / sum(p[0] for p in passes), step[1] / sum(p[1] for p in passes)


def now() -> tuple[float, float]:
    """Return the seconds of the clock and of the process."""
    return time.perf_counter(), time.process_time()


class Bare(L.Callback):
    """Does the bare passes after each step, with transformers and torch alone, on the batch of the step.

    Limits: the last in the list of callbacks; one reader, on the CPU; an encoder that stands on a language model as it
    is (`encoder=lm_hidden`).
    """

    def __init__(self, module: Any):
        self.module, self.turns = module, Turns()
        (self.name,) = module.lms
        self.lm: FrozenLM = module.lms[self.name]
        self._since: tuple[float, float] | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self._since is not None:
            self.turns.note(STEP, self._since)
        passes: list[tuple[str, Callable[[], Any]]] = [
            (ENCODER, encoder_pass(self.module.wire.encoder, batch)),
            (READER, reader_pass(self.lm, self._prefix(batch), batch.rows[self.name]["answer"])),
            (WIRE, lambda: self._wire(batch)),
        ]
        for what, run in passes:
            since = now()
            run()
            self.turns.note(what, since)
        self._since = now()

    def _prefix(self, batch: Batch) -> Prefix:
        """Return what the reader reads, cut from what made it."""
        wire = self.module.wire
        with torch.no_grad():
            prefix = wire.prefix(wire.latents(batch.tokens).values, self.name)
        if prefix.embeds is not None:
            return Prefix(embeds=prefix.embeds.requires_grad_())
        return Prefix(kv=[(k.contiguous().requires_grad_(), v.contiguous().requires_grad_()) for k, v in prefix.kv])

    def _wire(self, batch: Batch) -> None:
        wire = self.module.wire
        prefix = wire.prefix(wire.latents(batch.tokens).values, self.name)
        made = [prefix.embeds] if prefix.kv is None else [t for pair in prefix.kv for t in pair]
        parameters = [p for p in wire.parameters() if p.requires_grad]
        torch.autograd.grad(made, parameters, [torch.ones_like(t) for t in made], allow_unused=True)


def encoder_pass(encoder: Any, batch: Batch) -> Callable[[], Any]:
    """Return the pass of the encoder's language model over the batch, its input laid out already."""
    lm: FrozenLM = encoder.lm
    tokens, head = batch.tokens, torch.tensor(lm.style.head, dtype=torch.long)
    ids = torch.cat([head.expand(len(tokens.ids), -1), tokens.ids], 1)
    mask = torch.cat([torch.ones(len(tokens.ids), len(head), dtype=torch.bool), tokens.mask], 1).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)

    @torch.no_grad()
    def run() -> Any:
        return lm.decoder(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, output_hidden_states=True
        )

    return run


def reader_pass(lm: FrozenLM, prefix: Prefix, rows: Rows) -> Callable[[], Any]:
    """Return forward and backward of the reader on questions and answers behind latents, laid out already.

    Every question has keys and values of its own, so that none are gathered here.
    """
    head, slots = lm.style.head, prefix.latents
    with torch.no_grad():
        heads = lm.keys_and_values(head) if head else []
        own: Any = lm.cached(prefix).select(rows.source).kv
    leaves = [tuple(t.detach().requires_grad_() for t in pair) for pair in own]
    text = lay_out_text(rows.question, [a[:-1] for a in rows.answer], len(head) + slots, len(head) + slots)
    embeds = lm.embed(text.ids)
    answers, valid = right_padded(rows.answer)
    places = torch.arange(len(head), len(head) + slots)

    def cache_of(batch: int, pairs: Sequence[Any]) -> DynamicCache:
        cache = DynamicCache(config=lm.model.config)
        for kv in ([[t.expand(batch, -1, -1, -1) for t in pair] for pair in heads], pairs):
            for layer, (keys, values) in enumerate(kv):
                cache.update(keys, values, layer)
        return cache

    def run() -> None:
        if prefix.embeds is not None:  # latents that are embeddings are read once, whatever is asked about them
            read = cache_of(len(prefix.embeds), ())
            lm.decoder(
                inputs_embeds=prefix.embeds,
                position_ids=places.expand(len(prefix.embeds), -1),
                past_key_values=read,
                use_cache=True,
            )
            made = [t for keys, values, _ in read for t in (keys, values)]
            torch.autograd.backward(made, [torch.ones_like(t) for t in made])
        out = lm.model(
            inputs_embeds=embeds,
            attention_mask=text.mask,
            position_ids=text.positions,
            past_key_values=cache_of(len(rows), leaves),
            use_cache=True,
            logits_to_keep=answers.shape[1],
        )
        F.cross_entropy(out.logits[valid].float(), answers[valid]).backward()

    return run


def measure(overrides: Sequence[str], steps: int, folder: Path) -> Turns:
    """Train a pocket wire for so many steps and return what took how long.

    Args:
        overrides: of the configuration, as for `latentwire.run`.
        steps: number of steps, the warm-up not counted.
        folder: where the run directory is made.

    Raises:
        UserError: several readers, or an encoder that is no frozen language model.
    """
    parts = _parts(overrides, steps + WARM_UP + 1, folder)
    encoder: Any = parts.module.wire.encoder
    if len(parts.module.lms) != 1 or encoder.lm is None or not hasattr(encoder, "mix") or len(encoder.lora):
        raise UserError(
            "latentwire.bench",
            f"{len(parts.module.lms)} readers and {type(encoder).__name__}",
            "one reader and an encoder on a frozen language model",
            "set readers=pocket_llama encoder=lm_hidden",
        )
    bare = Bare(parts.module)
    parts.trainer.callbacks.append(bare)  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(io.StringIO()):  # what a run says at its start
        parts.trainer.fit(parts.module, parts.train)
    return bare.turns


def _parts(overrides: Sequence[str], steps: int, folder: Path) -> Parts:
    own = [
        "experiment=pocket",
        f"paths.runs={folder}/runs",
        f"paths.cache={folder}/cache",
        "trainer.enable_progress_bar=false",
        "callbacks.progress=null",
        "trainer.max_epochs=1",
        f"loader.steps_per_epoch={steps}",
        "wire.measured_texts=16",
    ]
    cfg = Composer("latentwire").compose([*own, *overrides])
    seed_everything(int(cfg.seed))
    run = folder / "runs" / "bench"
    run.mkdir(parents=True)
    return build(cfg, Run(run, config_hash(cfg), "bench", int(cfg.seed), None, True))


def table(turns: Turns) -> Table:
    """Return the medians and what they are of the step, and both ratios with the bound."""
    found = Table(title=f"a step of {len(turns.wall[STEP]) - WARM_UP}, {torch.get_num_threads()} threads, medians")
    for column in ("what", "ms", "CPU ms"):
        found.add_column(column, justify="left" if column == "what" else "right")
    for what in (STEP, ENCODER, READER, TRAINED):
        found.add_row(what, *(f"{x:.2f}" for x in turns.ms(what)))
    for name, more in ((f"step / passes (at most {BOUND})", ()), ("step / (passes + trained parts)", (TRAINED,))):
        found.add_row(name, *(f"{x:.3f}" for x in turns.ratio(more)))
    return found
