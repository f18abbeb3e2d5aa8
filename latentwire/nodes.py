"""The plain nodes of the latentwire configuration tree: those without a `_target_`, with what their keys mean."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, Literal

from callbacks.ranges import MANY, NOT_EMPTY, Bounds, Count, Slots, Workers
from suite.config.wording import Built

LatentWidth = Annotated[int, Bounds("a width from 1 to 65536", ge=1, le=65536, example=64)]
Ratio = Annotated[float, Bounds("a finite factor of 1 or more", ge=1, lt=inf, example=4)]
# of 40 draws one lies beyond each end of a 95 % interval
Draws = Annotated[int, Bounds("40 draws or more, a billion at most", ge=40, le=MANY, example=2000)]


@dataclass
class Loader:
    """The `loader` node; batches count contexts, several questions are asked about each.

    Attributes:
        batch_size: number of contexts in a training batch, over all ranks.
        questions: number of questions about each of them, drawn anew every time.
        steps_per_epoch: number of training steps in an epoch; null reads the training split once.
        eval_passages: number of passages of the validation split that are validated on.
        eval_questions: number of questions about each of them.
        eval_batch_size: number of contexts in a validation batch.
        workers: number of loader processes; it changes no number.
        eval_max_new_tokens: longest answer in validation, in tokens.
        accumulate: number of parts that a batch is read in, one after the other, for one step; it saves memory and
            changes no number but for rounding.
        scheduled_sampling: the model's own tokens that answers are read with in training
            (`latentwire.train.ScheduledSampling`); null: none.
        slot_dropout: slots that training misses (`latentwire.train.SlotDropout`); null: none.
        text_warm_up: latents that training reads as their text (`latentwire.train.TextWarmUp`); null: none.
    """

    batch_size: Count
    questions: Count
    steps_per_epoch: Count | None
    eval_passages: Count
    eval_questions: Count
    eval_batch_size: Count
    workers: Workers
    eval_max_new_tokens: Count = 8
    accumulate: Count = 1
    scheduled_sampling: Annotated[Any, Built("latentwire.train.ScheduledSampling", "leave {key} out")] | None = None
    slot_dropout: Annotated[Any, Built("latentwire.train.SlotDropout", "leave {key} out")] | None = None
    text_warm_up: Annotated[Any, Built("latentwire.train.TextWarmUp", "leave {key} out")] | None = None


@dataclass
class WireNode:
    """The `wire` node: M and d_z, who owns which slots, what is compressed.

    Attributes:
        d_z: width of a latent.
        ratio: tokens of a text, as the first reader counts them, per latent.
        slots: number M of latents in a message, in place of the ratio.
        private: number of slots that only one model reads, by model; M counts them.
        track: `question_text` sends the question as text, `whole_prompt` compresses it with the context.
        measured_texts: number of training texts that scales are measured on.
        from_run: directory of a run whose encoder and codec are taken and fixed: a new model for old messages.
        start_from: directory of a run whose encoder and injectors training goes on from (another codec, another ratio).
        nested: how many slots of a message a step of training reads (`latentwire.train.NestedBudgets`); null: all.
    """

    d_z: LatentWidth
    ratio: Ratio
    slots: Slots | None
    private: dict[str, Literal[0] | Slots]
    track: Literal["question_text", "whole_prompt"]
    measured_texts: Count
    from_run: str | None
    start_from: str | None = None
    nested: Annotated[Any, Built("latentwire.train.Nested", "leave {key} out, or set curriculum=nested")] | None = None


@dataclass
class InitNode:
    """The `init` node: parts that begin with the best weights of finished runs, each with the run's directory.

    Attributes:
        encoder: the encoder of that run.
        codec: the codec, its codebooks or scales.
        adapter: adapters, by reader.
        injector: injectors without their adapters, by reader.
        lora: LoRA weights, by reader.
        head: the parameters that an objective has of its own, by objective.
    """

    encoder: str | None = None
    codec: str | None = None
    adapter: dict[str, str] | None = None
    injector: dict[str, str] | None = None
    lora: dict[str, str] | None = None
    head: dict[str, str] | None = None


@dataclass
class TeacherNode:
    """The `teacher` node; see `latentwire.objectives.teacher`.

    Attributes:
        top_k: number of most probable tokens whose probabilities the teacher passes on; all others are one tail.
        cache: whether the teacher is asked once for the whole training split and remembered (finite splits only).
    """

    top_k: Count
    cache: bool


@dataclass
class EvaluationNode:
    """The `evaluation` node; see `latentwire.scoring.evaluator`.

    `latentwire.scoring.evaluator.Evaluator` takes the other keys.

    Attributes:
        split: the split that is evaluated.
        passages: number of its passages; all their questions are asked.
        slots: lengths of prefixes of messages that are scored beside whole ones, e.g. `[13, 7]`, of a wire that was
            trained with nested budgets; null: none.
        decode: how answers are decoded (`latentwire.lm.Decoding`), e.g.
            `{_target_: latentwire.lm.Decoding, min_new_tokens: 2}`; null: greedily.
    """

    split: Literal["val", "test"]
    passages: Count
    max_new_tokens: Count
    batch_size: Count
    n_boot: Draws
    slots: Annotated[list[Slots], NOT_EMPTY] | None = None
    decode: Annotated[Any, Built("latentwire.lm.Decoding", "set {key}._target_=latentwire.lm.Decoding")] | None = None


@dataclass
class HFNode:
    """The `hf` node of `readers=hf`; see `latentwire.lm.FrozenLM.load`.

    Attributes:
        source: the folder of the model, or its hub id.
        dtype: type of its weights, `float32`, `bfloat16` or `float16`.
        device_map: accelerate's placement, e.g. `auto`; null: one device.
        max_memory: the most that `device_map` may put on a device, e.g. `{0: 40GiB, cpu: 100GiB}`.
        quantize: `nf4` or `fp4`, weights in 4 bits by bitsandbytes; null: as they are.
        attn: implementation of the attention, `eager`, `sdpa` or `flash_attention_2`; null: transformers' choice.
        is_chat: whether prompts stand in the tokenizer's chat template; null: where it has one.
        template: keyword arguments of the chat template, e.g. `{enable_thinking: false}`.
        instruction: how answers are to be given, which stands before every answer; null: nothing.
        date: the day that a chat template takes it to be, so that a prompt is the same on every day.
    """

    source: str
    dtype: str
    device_map: str | None
    max_memory: dict[str, str] | None
    quantize: str | None
    attn: str | None
    is_chat: bool | None
    template: dict[str, Any] | None
    instruction: str | None
    date: str


@dataclass
class PlacementNode:
    """The `placement` node: where models lie and what they keep, none of which changes a number but for rounding.

    Attributes:
        checkpointing: whether layers of the readers, and of a language model that the encoder trains, are computed
            again in the backward pass in place of being kept.
        shard: whether the layers of the readers lie in pieces on all ranks, gathered when they run (FSDP); it needs
            several ranks, each with an accelerator.
        devices: the readers that have a device of their own, by name, e.g. `{qwen25_7b: cuda:1}`.
    """

    checkpointing: bool
    shard: bool
    devices: dict[str, str]
