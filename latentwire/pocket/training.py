"""How a pocket model is trained.

Two courses. First random sequences told twice, until the model copies by looking up: without it, training on
biographies sticks at "right relation, wrong person". Then biographies with questions, from one person to several, each
stage until it is answered; then a cool-down.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from callbacks.errors import UserError
from callbacks.ranges import NOT_EMPTY, Count, NonNegative, Positive, Rate, Share, ShareBelowOne
from callbacks.run.stored import read_saved, write_checkpoint
from latentwire.data.biographies import WORLD, Biographies
from latentwire.lm.prompts import ANSWER, QUESTION, plain
from latentwire.pocket import drill
from latentwire.pocket.architecture import Architecture, build
from latentwire.pocket.tokenizers import TokenizerKind, build_tokenizer, used_ids

SAVE_EVERY = 30.0  # seconds


@dataclass(frozen=True)
class Recipe:
    """Says how to train.

    Args:
        repeat_steps: most steps of the first course.
        repeat_until: accuracy that ends it early.
        repeat_rows: number of rows of its batches.
        repeat_lengths: shortest and longest sequence of its batches.
        repeat_lr: its learning rate.
        stages: stages of the second course; a stage is a list of [people, facts per person], taken in turn.
        until: accuracy of the worst of a stage's shapes (running average) that ends it, one per stage.
        steps: most steps of the second course without the cool-down.
        cooldown: number of steps in which the learning rate then falls to zero.
        rows: number of contexts in a batch.
        questions: number of questions about each.
        lr: learning rate of the second course.
        weight_decay: weight decay of the matrices.
        beta2: second decay of AdamW.
        clip: largest norm of a step's gradient.
        ramp: number of steps in which the learning rate rises at the start of a course.
        context_weight: weight of the context's own cross-entropy beside the answers'.

    Raises:
        UserError: no stage, or not one bound per stage.
    """

    repeat_steps: Count
    repeat_until: Share
    repeat_rows: Count
    repeat_lengths: tuple[Count, Count]
    repeat_lr: Rate
    stages: Annotated[list[Annotated[list[tuple[Count, Count]], NOT_EMPTY]], NOT_EMPTY]
    until: list[Share]
    steps: Count
    cooldown: Count
    rows: Count
    questions: Count
    lr: Rate
    weight_decay: NonNegative
    beta2: ShareBelowOne
    clip: Positive
    ramp: Count
    context_weight: NonNegative

    def __post_init__(self) -> None:
        if not self.stages or len(self.stages) != len(self.until):
            raise UserError(
                "pocket.recipe.until",
                f"{len(self.until)} values for {len(self.stages)} stages",
                "one per stage, and at least one stage",
                f"set pocket.recipe.until=[{','.join(['0.9'] * max(1, len(self.stages)))}]",
            )


@dataclass(frozen=True)
class Vocabulary:
    """Says which tokenizer; see `latentwire.pocket.tokenizers.build_tokenizer`."""

    kind: TokenizerKind
    vocab_size: Count


@dataclass(frozen=True)
class Pocket:
    """Holds everything that makes a pocket model; node `pocket` of the tree.

    Attributes:
        architecture: sizes of the model.
        tokenizer: its vocabulary.
        recipe: how it is trained.
        eval_contexts: number of test contexts of each size that the finished model is scored on.
    """

    architecture: Architecture
    tokenizer: Vocabulary
    recipe: Recipe
    eval_contexts: Count


@dataclass
class State:
    """Says where training stands; what a checkpoint holds beside weights and optimiser."""

    course: int = 0  # 0 repetition, 1 biographies, 2 cool-down, 3 done
    stage: int = 0
    step: int = 0  # in this course
    total: int = 0
    seconds: float = 0.0
    repeat_accuracy: float = 0.0
    repeat_steps: int = 0
    accuracy: dict[str, float] | None = None  # running average per shape of the stage
    log: list[str] | None = None


def lines() -> list[str]:
    """Return what the tokenizers learn from: the world's sentences and the words of the prompt."""
    return [*WORLD.words(), *[f"{QUESTION}?\n", ANSWER, ".\n"] * 50]


class Trainer:
    """Trains a pocket model, from nothing or from a checkpoint.

    Args:
        spec: what to train.
        seed: seed of weights and batches.
        folder: folder of the checkpoint.
    """

    def __init__(self, spec: Pocket, seed: int, folder: Path):
        self.spec, self.seed, self.folder = spec, seed, folder
        self.tokenizer: PreTrainedTokenizerFast = build_tokenizer(
            spec.tokenizer.kind, spec.tokenizer.vocab_size, lines()
        )
        self.model: PreTrainedModel = build(spec.architecture, self.tokenizer, seed)
        self.ids = used_ids(self.tokenizer, lines())
        pad = cast(int, self.tokenizer.pad_token_id)
        self.questions = drill.Questions(plain(self.tokenizer, spec.architecture.positions), pad)
        self.state = State(accuracy={}, log=[])
        self.optimizer = self._optimizer(spec.recipe.repeat_lr)

    @property
    def checkpoint(self) -> Path:
        """The file of the checkpoint."""
        return self.folder / "state.pt"

    def _optimizer(self, lr: float) -> torch.optim.AdamW:
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        recipe = self.spec.recipe
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, recipe.beta2))

    def save(self) -> None:
        """Write the checkpoint; a torn file cannot be left behind."""
        content = {
            "spec": repr((self.spec, self.seed)),
            "state": asdict(self.state),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_checkpoint(content, self.checkpoint)

    def restore(self) -> None:
        """Go on from the checkpoint. Raises UserError when it is damaged or belongs to another configuration."""
        held = read_saved(self.checkpoint, "add resume=never to the same command to begin anew")
        if held.get("spec") != repr((self.spec, self.seed)):
            raise UserError(
                str(self.checkpoint),
                "the checkpoint of another configuration or seed",
                "that of this command",
                "repeat the old command, or add resume=never to begin anew",
            )
        self.state = State(**held["state"])
        self.model.load_state_dict(held["model"])
        self.optimizer = self._optimizer(self.spec.recipe.lr)
        self.optimizer.load_state_dict(held["optimizer"])

    def train(self, stop_after: int | None = None) -> None:
        """Train to the end, or for `stop_after` steps (then a checkpoint is written)."""
        self.model.train()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("pretrain", total=None)
            begun, saved, before = time.monotonic(), time.monotonic(), self.state.seconds
            taken = 0
            while self.state.course < 3 and taken != stop_after:
                text, total = self._step()
                taken += 1
                self.state.seconds = before + time.monotonic() - begun
                progress.update(task, description=text, completed=self.state.step, total=total)
                if time.monotonic() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
            self.save()

    def _step(self) -> tuple[str, int]:
        """Take one step of the course that is on; return what to show, and the course's most steps."""
        s, r = self.state, self.spec.recipe
        assert s.accuracy is not None
        s.step += 1
        s.total += 1
        if s.course == 0:
            low, high = r.repeat_lengths
            seed = drill.step_seed(self.seed, s.step, "repeat")
            bos = cast(int, self.tokenizer.bos_token_id)
            batch = drill.repeated(self.ids, bos, r.repeat_rows, low, high, seed)
            loss, hits = drill.repetition_loss(self.model, batch)
            self._apply(loss, r.repeat_lr * min(1.0, s.step / r.ramp))
            s.repeat_accuracy += 0.05 * (hits - s.repeat_accuracy)
            text = f"repetition: accuracy {s.repeat_accuracy:.2f}"
            if s.repeat_accuracy >= r.repeat_until or s.step >= r.repeat_steps:
                s.repeat_steps = s.step
                self._note(f"repetition: accuracy {s.repeat_accuracy:.3f}")
                self._enter(1)
            return text, r.repeat_steps
        shapes = r.stages[s.stage]
        people, facts = shapes[s.total % len(shapes)]
        shape = f"{people}x{facts}"
        batch_seed = drill.step_seed(self.seed, s.total, "biographies")
        corpus = Biographies(people, facts, seed=self.seed)
        packed = self.questions.batch(corpus, "train", s.total * r.rows, r.rows, r.questions, batch_seed)
        loss, hits = drill.question_loss(self.model, packed, r.context_weight)
        left = 1.0 - s.step / r.cooldown if s.course == 2 else min(1.0, s.step / r.ramp)
        self._apply(loss, r.lr * left)
        s.accuracy[shape] = s.accuracy.get(shape, 0.0) + 0.1 * (hits - s.accuracy.get(shape, 0.0))
        text = f"biographies {', '.join(f'{k} {v:.2f}' for k, v in s.accuracy.items())}"
        if s.course == 2:
            if s.step >= r.cooldown:
                self._note(f"cool-down: {s.accuracy}")
                self._enter(3)
            return text + ", cooling down", r.cooldown
        answered = len(s.accuracy) == len(shapes) and min(s.accuracy.values()) >= r.until[s.stage]
        if answered or s.step >= r.steps:
            self._note(text)
            if s.stage + 1 < len(r.stages) and s.step < r.steps:
                s.stage += 1
                s.accuracy = {}
            else:
                self._enter(2)
        return text, r.steps

    def _apply(self, loss: Tensor, lr: float) -> None:
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.state.total}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def _enter(self, course: int) -> None:
        self.state.course, self.state.step = course, 0
        if course == 1:  # the moments of another task would only mislead
            self.optimizer = self._optimizer(self.spec.recipe.lr)

    def _note(self, text: str) -> None:
        assert self.state.log is not None
        line = f"step {self.state.total}, {self.state.seconds:.0f} s: {text}"
        self.state.log.append(line)
        print(line, flush=True)
