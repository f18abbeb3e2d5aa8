"""What stands on the ladder: a configuration with its models, texts and a fresh wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from omegaconf import DictConfig

from callbacks.errors import UserError
from latentwire.baselines.base import Baseline
from latentwire.build import Inputs, build_inputs, build_wire
from latentwire.data.base import Passage, Question, Split
from latentwire.encoders.base import Tokens
from latentwire.examples import is_continuation, whole_prompt_text
from latentwire.lm.frozen import FrozenLM
from latentwire.wire import LatentWire
from suite.config.instantiate import build_node
from suite.runs.job import seed_everything

Pair = tuple[Passage, Question]


@dataclass
class Subject:
    """Holds a configuration and what it builds.

    Attributes:
        cfg: the configuration.
        inputs: its models and data.
        wire: the wire, fresh, calibrated, in evaluation mode; rung 3 trains it and rung 4 looks at it.
        device: device that everything computes on.
    """

    cfg: DictConfig
    inputs: Inputs
    wire: LatentWire
    device: torch.device

    @classmethod
    def build(cls, cfg: DictConfig) -> Subject:
        """Seed and build. Raises UserError for what cannot be built."""
        seed_everything(int(cfg.seed))
        inputs = build_inputs(cfg)
        wanted = str(cfg.trainer.accelerator)
        gpu = wanted in ("gpu", "cuda", "auto") and torch.cuda.is_available()
        subject = cls(cfg, inputs, build_wire(cfg, inputs), torch.device("cuda" if gpu else "cpu"))
        subject.place()
        return subject

    def place(self) -> None:
        """Put wire and models on the device, the wire in evaluation mode."""
        self.wire.to(self.device).eval()
        for lm in self.lms.values():
            lm.to(self.device)

    @property
    def lms(self) -> Mapping[str, FrozenLM]:
        """The models that read, by name."""
        return self.inputs.lms

    @property
    def whole(self) -> bool:
        """Whether the message holds the question as well."""
        return self.wire.whole_prompt

    @cached_property
    def score(self) -> str:
        """What counts as right: `EM`, or `first token` where texts are continued, which nobody does word by word."""
        return "first token" if is_continuation(self.passages("train", 1)[0].questions[0]) else "EM"

    @cached_property
    def baselines(self) -> dict[str, Baseline]:
        """The configured baselines, by name."""
        return {str(name): build_node(node) for name, node in self.cfg.baselines.items() if node is not None}

    def label(self, what: str, model: str) -> str:
        """Return `what`, with the model's name where there are several."""
        return what if len(self.lms) == 1 else f"{what}/{model}"

    def passages(self, split: Split, n: int) -> list[Passage]:
        """Return the first n passages of a split, fewer where it has fewer.

        Raises:
            UserError: the split is empty.
        """
        found = self.inputs.corpus.split(split)
        if len(found) == 0:
            raise UserError(f"corpus, split {split}", "no passages", "at least one", f"set corpus.{split}=100")
        return [found[i] for i in range(min(n, len(found)))]

    def pairs(self, split: Split, n: int) -> list[Pair]:
        """Return n questions about different passages, of different kinds where there are some."""
        return [(p, p.questions[i % len(p.questions)]) for i, p in enumerate(self.passages(split, n))]

    def message(self, passage: Passage, question: Question) -> str:
        """Return the text that is encoded for this question."""
        return whole_prompt_text(passage, question) if self.whole else passage.text

    def tokens(self, texts: list[str]) -> Tokens:
        """Tokenise texts for the encoder, on the device."""
        return self.wire.encoder.tokenize(texts).to(self.device)


def unregistered(subject: Subject) -> list[str]:
    """Return trainable parameters of readers (LoRA) that the wire does not hold: nobody trains or saves them."""
    known = {id(p) for p in subject.wire.parameters()}
    return [
        f"LoRA of {name}: {n}"
        for name, lm in subject.lms.items()
        for n, p in lm.model.named_parameters()
        if p.requires_grad and id(p) not in known
    ]


def without_word(text: str, k: int) -> str:
    """Return the text without its word k."""
    words = text.split(" ")
    return " ".join(words[:k] + words[k + 1 :])


def questions_without_a_word(question: Question) -> list[Question]:
    """Return the question without each of its words in turn; nothing for one word, or where a text is continued."""
    words = question.text.strip().split(" ")
    if is_continuation(question) or len(words) < 2:
        return []
    return [replace(question, text=without_word(question.text.strip(), k)) for k in range(len(words))]
