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
from torch import nn

from callbacks.errors import UserError
from latentwire import bundle
from latentwire.codec.base import Codec
from latentwire.codec.message import message_bytes, pack, unpack
from latentwire.data.base import Passage, Question
from latentwire.encoders.base import Encoder, build_encoder
from latentwire.encoders.slots import LatentLayout
from latentwire.examples import whole_prompt_text
from latentwire.injectors.base import Injector
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.prompts import render
from suite.config.instantiate import build_node
from suite.config.signature import locate, parameters

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
        if s["encoder_lm"] is None and lm:
            needed = "none: the encoder of this bundle stands on no language model"
            raise UserError(f"--lm {next(iter(lm))}", "a setting of a language model", needed, "leave out --lm")
        stands_on = None if s["encoder_lm"] is None else _language_model(s["encoder_lm"], lm, found.path)
        layout = LatentLayout(s["layout"]["shared"], s["layout"]["private"])
        slices = [name for name, _ in layout.parts]
        encoder = build_encoder(build_node(OmegaConf.create(s["encoder"])), stands_on, s["d_z"], slices)
        codec = build_node(OmegaConf.create(s["codec"]))(d_z=s["d_z"])
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
        self, texts: Sequence[str], questions: Sequence[str] | None = None, lossy: bool = False, batch: int = 64
    ) -> list[bytes]:
        """Write one message per text, in the format of `latentwire.codec.message`.

        A text in a batch and the same text alone may differ in the last bits of their latents.

        Args:
            texts: the texts; every character counts, outer white space too.
            questions: one per text where messages hold them (`wire.track=whole_prompt`), and only there.
            lossy: whether a text is written although the encoder's tokenizer loses some of it.
            batch: how many texts are encoded together.

        Raises:
            UserError: an empty text, one that is longer than the encoder takes (also with `encoder.overflow=count`: a
                message holds all of its text) or that its tokenizer cannot represent, or questions that are missing,
                empty or of no use.
        """
        if self.whole_prompt:
            if questions is None or len(questions) != len(texts) or not all(q.strip() for q in questions):
                raise UserError("--question", "none", "a question: these messages hold it", "add --question 'Who …?'")
            texts = [self._with_question(text, question) for text, question in zip(texts, questions, strict=True)]
        elif questions is not None:
            remedy = "leave out --question here and give it to python -m latentwire.answer"
            raise UserError("--question", repr(questions[0]), "none: these messages hold the text alone", remedy)
        for text in () if lossy else texts:
            _refuse_lost("text to encode", text, self.lost(text), self.encoder.lm)
        messages: list[bytes] = []
        for start in range(0, len(texts), batch):
            part = texts[start : start + batch]
            for text, ids in zip(part, self.encoder.all_ids(part), strict=True):
                self._refuse_length(text, len(ids))
            z = self.encoder(self.encoder.tokenize(part).to(_device(self.encoder)), self.layout)
            messages += [pack(row, self.codec, self.identity) for row in z]
        return messages

    def _refuse_length(self, text: str, tokens: int) -> None:
        most = self.encoder.max_tokens
        if not tokens:
            raise UserError("text to encode", repr(text[:60]), "at least one token", "give a text with words in it")
        if tokens > most:
            raise UserError(
                "text to encode",
                f"{tokens} tokens, {tokens - most} too many: {text[:60]!r}…",
                f"at most {most}, as nothing is cut off a message",
                f"write several messages, or train with encoder.max_tokens={tokens}",
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
        model = _language_model(s["lm"], lm, found.path)
        codec = build_node(OmegaConf.create(s["codec"]))(d_z=s["d_z"])
        adapter = build_node(OmegaConf.create(s["adapter"]))
        injector = build_node(OmegaConf.create(s["injector"]))(d_z=s["d_z"], lm=model, texts=None, adapter=adapter)
        adapted = [] if s["adaptation"] is None else build_node(OmegaConf.create(s["adaptation"])).apply(model)
        lora = nn.ParameterDict({name.replace(".", "-"): parameter for name, parameter in adapted})
        _fill({"codec": codec, "injector": injector, "lora": lora}, found)
        layout = LatentLayout(s["layout"]["shared"], s["layout"]["private"])
        whole = s["track"] == "whole_prompt"
        identity = bytes.fromhex(s["identity"])
        return cls(s["model"], model, codec, injector, layout, identity, whole, s["max_new_tokens"])

    @torch.no_grad()
    def answer(
        self, message: bytes, questions: Sequence[str] = (), where: str = "message", lossy: bool = False
    ) -> list[Answer]:
        """Answer questions about a message greedily, as the evaluator does for the same passage.

        Args:
            message: bytes that a writer of the same wire wrote.
            questions: the questions, answered as one batch; none where messages hold theirs
                (`wire.track=whole_prompt`): there is one answer then.
            where: the message's name in errors, e.g. its file.
            lossy: whether a question is asked although the model's tokenizer loses some of it.

        Raises:
            UserError: no message of this wire or a damaged one, or questions that are missing, empty, of no use, longer
                than the model's positions, or that its tokenizer cannot represent.
        """
        values = unpack(message, self.codec, self.identity, where)
        if self.whole_prompt and questions:
            found = repr(questions[0])
            raise UserError("--question", found, "none: the message holds its question", "leave out --question")
        if not self.whole_prompt and (not questions or not all(q.strip() for q in questions)):
            raise UserError("--question", "none, or an empty one", "one or several", "add --question 'Who …?'")
        style, new = self.lm.style, self.max_new_tokens
        for question in () if lossy else questions:
            _refuse_lost("--question", question, style.lost(question), self.lm)
        room = self.lm.max_tokens - len(self.layout.indices(self.name)) - new
        if self.whole_prompt:
            follows = [render(style, None, "", max_tokens=room).cue]
        else:
            follows = [render(style, None, q, max_tokens=room).question for q in questions]
        prefix = self.injector(self.layout.read(values[None].to(_device(self.injector)), self.name))
        made = self.lm.generate_scored(prefix.select([0] * len(follows)), follows, new)
        asked: list[str | None] = [None] if self.whole_prompt else [*questions]
        return [
            Answer(self.name, q, style.decode(tokens), tokens, logprobs, len(tokens) < new)
            for q, tokens, logprobs in zip(asked, made.tokens, made.logprobs, strict=True)
        ]


def told_lost(pieces: Sequence[str], text: str) -> str:
    """Say in one line what of a text is lost."""
    shown = ", ".join(repr(p if len(p) <= 20 else f"{p[:20]}…") for p in pieces[:SHOWN])
    more = f" and {len(pieces) - SHOWN} more" if len(pieces) > SHOWN else ""
    return f"{shown}{more}: {sum(map(len, pieces))} of {len(text)} characters are lost"


def _refuse_lost(where: str, text: str, pieces: Sequence[str], lm: FrozenLM | None) -> None:
    if pieces:
        name = "the encoder" if lm is None else lm.name
        raise UserError(
            where,
            told_lost(pieces, text),
            f"text that the tokenizer of {name} can represent",
            "spell it otherwise, or add --lossy to go on without what is lost",
        )


def _language_model(settings: Mapping[str, Any], changes: Mapping[str, Any] | None, path: Path) -> FrozenLM:
    """Load the language model that a bundle needs. Raises UserError where it is not there, or another one."""
    node = {**settings["node"], **(changes or {})}
    known = parameters(locate(node["_target_"])).names
    for key in changes or {}:
        if key not in known:
            raise UserError(f"--lm {key}", "no such setting", " | ".join(known), f"add --lm {known[0]}=…")
    place = next((key for key in ("source", "root") if key in known), known[0])
    remedy = f"add --lm {place}=FOLDER, where that model lies on this machine"
    try:
        lm: FrozenLM = build_node(OmegaConf.create(node))
    except UserError as error:
        key = error.where.rpartition(".")[2]
        if key in (changes or {}) and key != place:  # not where the files are, but what was asked for
            remedy = f"leave out --lm {key}={node[key]}"
        elif key == "device":
            remedy = "add --lm device=cpu"
        raise UserError(f"model of {path}: {error.where}", error.found, error.expected, remedy) from error
    for what, now in (("weights", lm.fingerprint()), ("tokenizer", lm.style.fingerprint())):
        if now != settings[what]:
            expected = f"{settings[what][:16]}…, the {what} that {path} was made with"
            if "dtype" in (changes or {}):
                remedy = "leave out --lm dtype=…: these are fingerprints of the weights as they were in training"
            raise UserError(f"{what} of {lm.name}", f"fingerprint {now[:16]}…", expected, remedy)
    return lm


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
