"""The two ends of a wire: a `Writer` makes messages of texts, a `Reader` answers questions about messages.

Either is loaded from a bundle (`latentwire.bundle`) or taken from a run (`latentwire.restore`). Neither measures
anything, and neither knows a corpus.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from callbacks.errors import UserError
from latentwire import bundle
from latentwire.bundled_models import language_model, parted, placed, refuse_changes
from latentwire.codec.base import Codec
from latentwire.codec.message import cut, message_bytes, pack, unpack
from latentwire.data.base import Passage, Question
from latentwire.encoders.base import Encoder, build_encoder
from latentwire.encoders.slots import LatentLayout
from latentwire.examples import whole_prompt_text
from latentwire.injectors.base import Injector
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.prompts import render
from latentwire.segments import Unit, segments
from suite.config.instantiate import build_node

SHOWN = 4  # lost pieces in an error


@dataclass(frozen=True)
class Answer:
    """Holds what a model said.

    Attributes:
        model: the model's name.
        question: the question; None where the message held it.
        answer: the text, as the evaluator scores it.
        tokens: ids of the answer, without the stop token.
        logprobs: log-probability of every token in nats, the stop token's last where there was one.
        stopped: whether the model ended the answer itself; otherwise `max_new_tokens` did.
    """

    model: str
    question: str | None
    answer: str
    tokens: list[int]
    logprobs: list[float]
    stopped: bool


@dataclass(frozen=True)
class Writer:
    """Writes messages.

    Attributes:
        encoder: the encoder, in evaluation mode, with the language model that it stands on.
        codec: the codec.
        layout: slots of a message.
        identity: the wire's fingerprint (`LatentWire.identity`).
        whole_prompt: whether messages hold their question as well.
    """

    encoder: Encoder
    codec: Codec
    layout: LatentLayout
    identity: bytes
    whole_prompt: bool

    @classmethod
    def load(cls, folder: str | Path, lm: Mapping[str, Any] | None = None, trusted: Collection[str] = ()) -> Writer:
        """Load a writer bundle.

        Args:
            folder: its folder.
            lm: what differs on this machine in the arguments that load the language model, e.g.
                `{"source": "/models/x"}`.
            trusted: packages besides this suite's whose code the bundle may name.

        Raises:
            UserError: a damaged bundle, or a language model that is not the one that is needed.
        """
        found = bundle.read(Path(folder), "writer", trusted)
        s = found.settings
        node, rest = parted(s["encoder"], lm)
        stands_on = None
        if s["encoder_lm"] is None:
            refuse_changes(node, rest)
        else:
            stands_on = language_model(s["encoder_lm"], rest, found.path)
        layout = _layout(s["layout"])
        slices = [name for name, _ in layout.parts]
        codec = build_node(OmegaConf.create(s["codec"]))(d_z=s["d_z"])
        with placed(node, found.path):
            encoder = build_encoder(build_node(OmegaConf.create(node)), stands_on, s["d_z"], slices)
            _fill({"encoder": encoder, "codec": codec}, found)
        return cls(encoder, codec, layout, bytes.fromhex(s["identity"]), s["track"] == "whole_prompt")

    @property
    def message_bytes(self) -> int:
        """The bytes of a message; of the longest where they are entropy-coded."""
        return message_bytes(self.codec, self.layout.slots).total

    def lost(self, text: str) -> tuple[str, ...]:
        """Return the runs of characters of a text (or question) that no message can hold; see `Style.lost`."""
        return self.encoder.lost(text)

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        questions: Sequence[str] | None = None,
        lossy: bool = False,
        batch: int = 64,
        slots: int | None = None,
    ) -> list[bytes]:
        """Write one message per text, in the format of `latentwire.codec.message`.

        A text in a batch and the same text alone may differ in the last bits of their latents.

        Args:
            texts: the texts; every character counts, outer white space too.
            questions: one per text where messages hold them (`wire.track=whole_prompt`), and only there.
            lossy: whether a text is written although the encoder's tokenizer loses some of it.
            batch: how many texts are encoded together.
            slots: how many of their first slots messages have; None: all.

        Raises:
            UserError: an empty text, one that is longer than the encoder takes (also with `encoder.overflow=count`: a
                message holds all of its text) or that its tokenizer cannot represent, questions that are missing,
                empty or of no use, or fewer slots under a wire that was not trained with nested budgets.
        """
        sent = self.layout if slots is None else self.layout.prefix(slots, "--slots")
        encoded, kept = sent if sent.apart else self.layout, sent.slots
        if self.whole_prompt:
            if questions is None or len(questions) != len(texts) or not all(q.strip() for q in questions):
                raise UserError("--question", "none", "a question: these messages hold it", "add --question 'Who …?'")
            texts = [self._with_question(text, question) for text, question in zip(texts, questions, strict=True)]
        elif questions is not None:
            remedy = "leave out --question here and give it to python -m latentwire.answer"
            raise UserError("--question", repr(questions[0]), "none: these messages hold the text alone", remedy)
        for text in texts:
            _refuse_lost("text to encode", text, self.lost(text), self.encoder.lm, lossy)
        messages: list[bytes] = []
        for start in range(0, len(texts), batch):
            part = texts[start : start + batch]
            for text, ids in zip(part, self.encoder.all_ids(part), strict=True):
                self._refuse_length(text, len(ids))
            z = self.encoder(self.encoder.tokenize(part).to(_device(self.encoder)), encoded)
            messages += [pack(row[:kept], self.codec, self.identity) for row in z]
        return messages

    def segments(self, text: str, unit: Unit = "sentences", tokens: int | None = None) -> list[str]:
        """Split a long text into texts for messages of their own, which `Reader.answer` reads together.

        Args:
            text: the text.
            unit: what stays whole: `paragraphs`, `sentences` or `words`.
            tokens: largest number of the encoder's tokens of a segment; None: as many as the encoder takes.

        Raises:
            UserError: messages that hold their question, more tokens than the encoder takes, and as
                `latentwire.segments.segments`.
        """
        if self.whole_prompt:
            remedy = "encode each text with its question, and ask about one message at a time"
            raise UserError("--split", "messages that hold their question", "messages of texts alone", remedy)
        most = self.encoder.max_tokens if tokens is None else tokens
        if not 1 <= most <= self.encoder.max_tokens:
            expected = f"1 to {self.encoder.max_tokens}, which the encoder takes"
            remedy = f"set --segment-tokens {self.encoder.max_tokens}"
            raise UserError("--segment-tokens", str(most), expected, remedy)
        return segments(text, unit, lambda part: len(self.encoder.ids(part)), most)

    def cut(self, message: bytes, slots: int, where: str = "message") -> bytes:
        """Cut a message behind its first `slots` slots, without its text; see `latentwire.codec.message.cut`.

        Raises:
            UserError: a wire that was not trained with nested budgets, or whose shorter messages have other slots, more
                slots than the message has, no message of this wire or a damaged one.
        """
        self.layout.cut(slots, "--slots")
        return cut(message, self.codec, self.identity, slots, where)

    def _refuse_length(self, text: str, tokens: int) -> None:
        most = self.encoder.max_tokens
        if not tokens:
            raise UserError("text to encode", repr(text[:60]), "at least one token", "give a text with words in it")
        if tokens > most:
            raise UserError(
                "text to encode",
                f"{tokens} tokens, {tokens - most} too many: {text[:60]!r}…",
                f"at most {most}, as nothing is cut off a message",
                f"add --split sentences, or train with encoder.max_tokens={tokens}",
            )

    @staticmethod
    def _with_question(text: str, question: str) -> str:
        asked = Question("", question, ("",), "")
        return whole_prompt_text(Passage("", text, (asked,), "", None), asked)


@dataclass(frozen=True)
class Reader:
    """Reads messages with one language model.

    Attributes:
        name: the model's name.
        lm: the model, with its LoRA if it was adapted.
        codec: the codec.
        injector: the model's injector, in evaluation mode.
        layout: slots of a message.
        identity: the wire's fingerprint (`LatentWire.identity`).
        whole_prompt: whether messages hold their question as well.
        max_new_tokens: where an answer ends that the model does not end.
    """

    name: str
    lm: FrozenLM
    codec: Codec
    injector: Injector
    layout: LatentLayout
    identity: bytes
    whole_prompt: bool
    max_new_tokens: int

    @classmethod
    def load(cls, folder: str | Path, lm: Mapping[str, Any] | None = None, trusted: Collection[str] = ()) -> Reader:
        """Load a reader bundle; arguments and errors are those of `Writer.load`."""
        found = bundle.read(Path(folder), "reader", trusted)
        s = found.settings
        model = language_model(s["lm"], lm, found.path)
        codec = build_node(OmegaConf.create(s["codec"]))(d_z=s["d_z"])
        adapter = build_node(OmegaConf.create(s["adapter"]))
        injector = build_node(OmegaConf.create(s["injector"]))(d_z=s["d_z"], lm=model, texts=None, adapter=adapter)
        adapted = [] if s["adaptation"] is None else build_node(OmegaConf.create(s["adaptation"])).apply(model)
        lora = nn.ParameterDict({name.replace(".", "-"): parameter for name, parameter in adapted})
        _fill({"codec": codec, "injector": injector, "lora": lora}, found)
        layout = _layout(s["layout"])
        whole = s["track"] == "whole_prompt"
        identity = bytes.fromhex(s["identity"])
        return cls(s["model"], model, codec, injector, layout, identity, whole, s["max_new_tokens"])

    def cut(self, message: bytes, slots: int, where: str = "message") -> bytes:
        """Cut a message behind its first `slots` slots; see `Writer.cut`."""
        self.layout.cut(slots, "--slots")
        return cut(message, self.codec, self.identity, slots, where)

    def latents(self, messages: Sequence[bytes], where: Sequence[str]) -> Tensor:
        """Return what this model reads of messages, one behind the other, (1, M, d_z): M is the sum of theirs.

        Args:
            messages: the messages in the order in which they are read.
            where: their names in errors.

        Raises:
            UserError: no message, one that is none of this wire, damaged, or cut under a wire that was not trained for
                it, or several that hold a question each.
        """
        if not messages:
            raise UserError("messages", "none", "one or several", "give a file that latentwire.encode wrote")
        if self.whole_prompt and len(messages) > 1:
            expected = "one: each of them holds a question of its own"
            raise UserError(", ".join(where), f"{len(messages)} messages", expected, "ask about one message at a time")
        read = []
        for message, name in zip(messages, where, strict=True):
            values = unpack(message, self.codec, self.identity, name).to(_device(self.injector))
            read.append(self.layout.prefix(len(values), name).read(values[None], self.name))
        return torch.cat(read, 1)

    @torch.no_grad()
    def answer(
        self,
        message: bytes | Sequence[bytes],
        questions: Sequence[str] = (),
        where: str | Sequence[str] = "message",
        lossy: bool = False,
    ) -> list[Answer]:
        """Answer questions about a message, or several, greedily, as the evaluator does for the same passage.

        Several messages are read as one: their latents stand behind each other in the order that they are given in, and
        positions continue. The reader was trained on one at a time, and what it makes of more positions than that is
        to be measured (`python -m latentwire.study together RUN`).

        Args:
            message: bytes that a writer of the same wire wrote, or a sequence of such.
            questions: the questions, answered as one batch; none where messages hold theirs
                (`wire.track=whole_prompt`): there is one answer then.
            where: the message's name in errors, e.g. its file; of several, a name each.
            lossy: whether a question is asked although the model's tokenizer loses some of it.

        Raises:
            UserError: what `latents` raises, more latents than the model has positions for, or questions that are
                missing, empty, of no use, longer than the positions that are left, or that its tokenizer cannot
                represent.
        """
        messages = [message] if isinstance(message, bytes) else list(message)
        names = [where] * len(messages) if isinstance(where, str) else list(where)
        latents = self.latents(messages, names)
        if self.whole_prompt and questions:
            found = repr(questions[0])
            raise UserError("--question", found, "none: the message holds its question", "leave out --question")
        if not self.whole_prompt and (not questions or not all(q.strip() for q in questions)):
            raise UserError("--question", "none, or an empty one", "one or several", "add --question 'Who …?'")
        style, new = self.lm.style, self.max_new_tokens
        for question in questions:
            _refuse_lost("--question", question, style.lost(question), self.lm, lossy)
        spent = self.injector.columns(latents.shape[1])
        room = self.lm.max_tokens - spent - new
        if room <= len(style.head):
            raise UserError(
                ", ".join(names),
                f"{spent} latents, and {new} tokens of answer",
                f"less than the {self.lm.max_tokens} positions of {self.name}, which the question needs as well",
                "read fewer messages at a time, or cut them (--slots of latentwire.encode)",
            )
        if self.whole_prompt:
            follows = [render(style, None, "", max_tokens=room).cue]
        else:
            follows = [render(style, None, q, max_tokens=room).question for q in questions]
        prefix = self.injector(latents)
        made = self.lm.generate_scored(prefix.select([0] * len(follows)), follows, new)
        asked: list[str | None] = [None] if self.whole_prompt else [*questions]
        return [
            Answer(self.name, q, style.decode(tokens), tokens, logprobs, len(tokens) < new)
            for q, tokens, logprobs in zip(asked, made.tokens, made.logprobs, strict=True)
        ]


def _layout(settings: Mapping[str, Any]) -> LatentLayout:
    # bundles of versions that knew no budgets and no order do not name them
    budgets, spread = tuple(settings.get("budgets", ())), bool(settings.get("spread", False))
    private = {name: settings["private"][name] for name in settings.get("order", settings["private"])}
    return LatentLayout(settings["shared"], private, budgets, spread, bool(settings.get("apart", False)))


def told_lost(pieces: Sequence[str], text: str) -> str:
    """Say in one line what of a text is lost."""
    shown = ", ".join(repr(p if len(p) <= 20 else f"{p[:20]}…") for p in pieces[:SHOWN])
    more = f" and {len(pieces) - SHOWN} more" if len(pieces) > SHOWN else ""
    return f"{shown}{more}: {sum(map(len, pieces))} of {len(text)} characters are lost"


def _refuse_lost(where: str, text: str, pieces: Sequence[str], lm: FrozenLM | None, lossy: bool) -> None:
    nothing_left = sum(len(p) for piece in pieces for p in piece.split()) >= sum(map(len, text.split()))
    if pieces and (nothing_left or not lossy):
        name = "the encoder" if lm is None else lm.name
        raise UserError(
            where,
            told_lost(pieces, text),
            f"text that the tokenizer of {name} can represent",
            "spell it otherwise" + ("" if nothing_left else ", or add --lossy to go on without what is lost"),
        )


def _fill(parts: Mapping[str, nn.Module], found: bundle.Bundle) -> None:
    holder = nn.ModuleDict(parts)
    try:
        holder.load_state_dict(found.tensors)
    except RuntimeError as error:
        what = str(error).splitlines()[-1].strip()
        raise UserError(
            str(found.path), f"tensors of other parts: {what}", "those of its settings", bundle.AGAIN
        ) from error
    holder.requires_grad_(False).eval()


def _device(module: nn.Module) -> torch.device:
    return next((t.device for t in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
