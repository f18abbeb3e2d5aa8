"""Rung 0: the same ids reach training, evaluation, every baseline and the encoder; nothing is cut on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from latentwire.baselines.training import Amount
from latentwire.data.base import Passage, spread
from latentwire.examples import is_continuation, prompt_of
from latentwire.ladder import options
from latentwire.ladder.subject import Pair, Subject, questions_without_a_word, without_word
from latentwire.ladder.verdict import Check, Verdict, judged
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.prompts import Prompt, cue_text
from latentwire.objectives.base import Needs
from latentwire.objectives.teacher import ask
from latentwire.rivals import training_budget
from latentwire.scoring.evaluator import Evaluator
from latentwire.train import batches, validation
from latentwire.train.batches import Contexts

MOVED = 1e-4  # relative change of latents that is more than rounding
RENDER = "render every prompt with latentwire.lm.prompts.render and cut nothing behind it"


def parity(subject: Subject, o: options.ParityOptions) -> Verdict:
    """Compare what models are given, where it enters them and token by token, with the one renderer's prompt."""
    pairs = subject.pairs("train", o.passages)
    lost = [word for lm in subject.lms.values() for pair in pairs for word in unread_words(lm, pair, o.words)]
    paths = 0
    other: list[str] = []
    for name in subject.lms:
        for i, pair in enumerate(pairs):
            compared, found = differences(subject, name, pair, learned=i == 0)
            other, paths = other + found, paths + compared
    cut = [(text, n) for text, n in cut_texts(subject, pairs) if n]
    longest = max((n for _, n in cut), default=0) + subject.wire.encoder.max_tokens
    unsent = unsent_words(subject, pairs, o.words)
    return judged(
        0,
        [
            Check("prompt words that are not rendered", len(lost), high=0, found=_first("the prompt is cut", lost),
                  remedy=f"a question is never cut: {RENDER}; for room set corpus.* to shorter contexts"),
            Check("paths that read other ids", len(other), high=0, found=_first("read otherwise", other),
                  remedy=f"{RENDER}: training (latentwire.train.batches), evaluation and baselines alike"),
            Check("texts cut by the encoder", len(cut), high=0,
                  found=_first("the encoder cuts texts", [f"{text[-60:]!r} by {n} tokens" for text, n in cut]),
                  remedy=f"set encoder.max_tokens={longest} or more and encoder.overflow=refuse"),
            Check("words that do not reach the latents", len(unsent), high=0,
                  found=_first("the encoder is not given", unsent),
                  remedy="let encoder.tokenize hand on every token (encoder.max_tokens, encoder.overflow=refuse), the "
                  "question's too where wire.track=whole_prompt"),
            Check("comparisons with the renderer's prompt", paths),
        ],
    )  # fmt: skip


def _first(what: str, listed: Sequence[str]) -> str:
    if not listed:
        return ""
    return f"{what}: {listed[0]}" + (f", and {len(listed) - 1} more" if len(listed) > 1 else "")


# -- what is rendered ---------------------------------------------------------------------------------------------
def unread_words(lm: FrozenLM, pair: Pair, most: int) -> list[str]:
    """Return words of question and context whose absence changes nothing in the prompt: they were cut from it."""
    passage, question = pair
    prompt = prompt_of(lm, passage, question)
    found = []
    words = question.text.strip().split(" ")
    for word, shorter in zip(words, questions_without_a_word(question)):
        if prompt_of(lm, passage, shorter).question == prompt.question:
            found.append(f"{word!r} of the question {question.text!r} ({lm.name})")
    said = cue_text(lm.style.instruction)
    cue = (*lm.style.encode(said), *lm.style.tail)
    if not is_continuation(question) and prompt.question[-len(cue) :] != cue:
        found.append(f"the cue {said!r} after the question {question.text!r} ({lm.name})")
    words = passage.text.split(" ")
    for k in spread(len(words), most) if len(words) > 1 else ():
        shorter_text = replace(passage, text=without_word(passage.text, k))
        if prompt_of(lm, shorter_text, question).context == prompt.context:
            found.append(f"{words[k]!r} of the context of {passage.id} ({lm.name})")
    return found


# -- what models read ---------------------------------------------------------------------------------------------
@contextmanager
def tapped(lm: FrozenLM) -> Iterator[list[Tensor]]:
    """Collect the embeddings (columns, d_model) that enter the model without gradient, one entry per forward.

    Prompts are always read as embeddings; what is read as ids (a text that is coded) is none.
    """
    seen: list[Tensor] = []

    def note(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        # a baseline that learns reads training batches
        if not torch.is_grad_enabled() and kwargs.get("inputs_embeds") is not None:
            seen.append(kwargs["inputs_embeds"][0])

    hook = lm.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def differences(subject: Subject, name: str, pair: Pair, learned: bool) -> tuple[int, list[str]]:
    """Count the paths to the model `name`, and name those on which it reads anything else than a question's prompt.

    Args:
        subject: what is judged.
        name: name of the model.
        pair: passage and question.
        learned: whether the baselines that learn are paths, too, which takes a while.
    """
    lm, (passage, question) = subject.lms[name], pair
    prompt = prompt_of(lm, passage, question)
    one = replace(passage, questions=(question,))
    found, paths = [], 0
    for path, before, follows, seen in _paths(subject, name, one, prompt, learned):
        paths += 1
        scored, asked = (*follows, *prompt.answer[:-1]), follows
        if not seen:
            found.append(f"{path} never asks {question.text!r}")
        for embeds in seen:
            if not any(_ends_with(lm, embeds, ids, before) for ids in (scored, asked)):
                given = prompt.answer[:-1]
                if given and _ends_with(lm, embeds, given, None):  # teacher-forced: the answer is read as well
                    embeds = embeds[: -len(given)]
                found.append(f"{path} reads {_said(lm, embeds, len(asked))!r} instead of {lm.style.decode(asked)!r}")
                break
    return paths, found


ReadPath = tuple[str, set[int] | None, tuple[int, ...], list[Tensor]]


def _paths(subject: Subject, name: str, passage: Passage, prompt: Prompt, learned: bool) -> Iterator[ReadPath]:
    """Yield path, columns before the text (None: any), text that must follow, and what the model read on it."""
    lm, wire, device = subject.lms[name], subject.wire, subject.device
    own = {name: lm}
    needs = Needs(whole_prompt=subject.whole)
    whole = (*lm.style.head, *prompt.context, *prompt.question)
    follows = prompt.cue if subject.whole else prompt.question
    data = Contexts([passage], wire.encoder, own, 1, needs, 0)
    batch = batches.on_device(data[0, 0], device)
    with torch.no_grad():
        prefix = wire.prefix(wire.latents(batch.tokens).values, name)
        # head and latents are columns, or a cache that was filled before
        head = len(lm.style.head)
        before = {0} if prefix.embeds is None else {0, head + prefix.embeds.shape[1]}
        before |= {head} if prefix.embeds is None and prefix.kv is None else set()  # latents in no column
        with tapped(lm) as seen:
            batches.read(lm, prefix, batch.rows[name], {"answer"})
        yield "training", before, follows, seen
        with tapped(lm) as seen:
            validation.score(validation.Scores(), batch, {name: prefix}, own, 1)
        yield "validation", before, follows, seen
        with tapped(lm) as seen:
            ask(lm, [prompt], min(8, lm.vocab_size))
        yield "teacher", {0}, whole, seen
    evaluator = Evaluator(own, [passage], {}, max_new_tokens=1, n_boot=2)
    with tapped(lm) as seen:
        evaluator.run({"wire": wire}, whole_prompt=["wire"] if subject.whole else [])
    yield "evaluation", before, follows, seen[1:]  # the first is the teacher of its KL
    few = Amount(steps=1, contexts=2, questions=1, asked=2)
    budget = training_budget(subject.cfg, subject.inputs.corpus, amount=few)
    for key, baseline in subject.baselines.items():
        if not baseline.fair or (baseline.track == "trained" and not learned):
            continue  # an unfair one is cut on purpose, and says so in its row
        with TemporaryDirectory() as folder:
            given: dict[str, Any] = {"budget": budget, "rivals": Path(folder)}
            baseline.allow(lm, wire.slots, wire.message_bytes())
            with lm.adapters_off():
                baseline.fit(lm, budget, wire.slots, Path(folder))  # training reads other questions
            evaluator = Evaluator(own, [passage], {key: baseline}, max_new_tokens=1, n_boot=2, **given)
            with tapped(lm) as seen:
                evaluator.run({}, slots=wire.slots)
        yield f"baseline {key}", None, prompt.question, seen[1:]


def _ends_with(lm: FrozenLM, embeds: Tensor, ids: Sequence[int], before: set[int] | None) -> bool:
    n = len(ids)
    if embeds.shape[0] < n or (before is not None and embeds.shape[0] - n not in before):
        return False
    return torch.equal(embeds[embeds.shape[0] - n :], lm.embed(torch.tensor(list(ids), dtype=torch.long)))


def _said(lm: FrozenLM, embeds: Tensor, n: int) -> str:
    """Return the last n columns as text, each as the token whose embedding is nearest."""
    table = lm.model.get_input_embeddings().weight.detach().float()
    return lm.style.decode(torch.cdist(embeds[-n:].float(), table).argmin(1).tolist())


# -- what the encoder reads ---------------------------------------------------------------------------------------
def cut_texts(subject: Subject, pairs: Sequence[Pair]) -> list[tuple[str, int]]:
    """Return each text with the number of its tokens that the encoder's tokenizer leaves out, told or untold."""
    encoder = subject.wire.encoder
    texts = [subject.message(p, q) for p, q in pairs]
    tokens = encoder.tokenize(texts)
    kept = tokens.mask.sum(1).tolist()
    return [(text, max(cut, len(encoder.ids(text)) - n)) for text, cut, n in zip(texts, tokens.cut, kept, strict=True)]


@torch.no_grad()
def unsent_words(subject: Subject, pairs: Sequence[Pair], most: int) -> list[str]:
    """Return words whose absence leaves the encoder's latents as they are."""
    found = []
    for passage, question in pairs:
        said = [subject.message(passage, question)]
        words = []
        if subject.whole:
            for word, shorter in zip(question.text.strip().split(" "), questions_without_a_word(question)):
                said.append(subject.message(passage, shorter))
                words.append(f"{word!r} of the question {question.text!r}")
        context = passage.text.split(" ")
        for k in spread(len(context), most) if len(context) > 1 else ():
            said.append(subject.message(replace(passage, text=without_word(passage.text, k)), question))
            words.append(f"{context[k]!r} of the context of {passage.id}")
        z = subject.wire.encoder(subject.tokens(said), subject.wire.layout).float().flatten(1)
        change = (z[1:] - z[0]).norm(dim=1) / z[0].norm()
        found += [word for word, moved in zip(words, change.tolist(), strict=True) if not moved > MOVED]
    return found
