"""Whether everything that training will read fits, asked before it begins: nothing is found out in its middle."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from callbacks.errors import UserError
from latentwire.data.base import Passage, Question
from latentwire.encoders.base import Encoder
from latentwire.examples import is_continuation
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.prompts import Prompt, render_all
from latentwire.objectives.base import Needs

AT_ONCE = 256  # passages that are tokenised together
GENERATED = 500  # passages that are looked at of a split that is made while it is read


@dataclass(frozen=True)
class Longest:
    """Names the prompt that takes the most positions, its answer included.

    Attributes:
        tokens: the number of positions.
        passage: the passage's name.
        question: the question's name.
    """

    tokens: int
    passage: str
    question: str


def longest_prompt(lm: FrozenLM, passages: Sequence[Passage], slots: int | None = None) -> Longest:
    """Return the longest prompt over all questions of some passages, however long; tokenised in batches.

    Args:
        lm: the model that reads; its positions are no limit here.
        passages: the passages, with at least one question.
        slots: number of latents that stand in the place of the text; None: the text itself.
    """
    style, found = replace(lm.style, max_tokens=sys.maxsize), Longest(0, "", "")
    left = iter(passages)
    while batch := list(islice(left, AT_ONCE)):
        asked = [(p, q) for p in batch for q in p.questions]
        plain = [(p, q) for p, q in asked if not is_continuation(q)]
        prompts = render_all(style, [(p.text if slots is None else None, q.text, q.answers[0]) for p, q in plain])
        rest = [(p, q) for p, q in asked if is_continuation(q)]
        texts = style.encode_all([p.text for p, _ in rest])
        ends = style.encode_all([q.answers[0] for _, q in rest])
        prompts += [Prompt(style.head, text, (), (), end) for text, end in zip(texts, ends, strict=True)]
        for (p, q), prompt in zip([*plain, *rest], prompts, strict=True):
            tokens = len(prompt.ids) if slots is None else len(prompt.ids) - len(prompt.context) + slots
            if tokens > found.tokens:
                found = Longest(tokens, p.id, q.id)
    return found


def check_training(
    passages: Sequence[Passage],
    encoder: Encoder,
    lms: Mapping[str, FrozenLM],
    slots: Mapping[str, int],
    needs: Needs,
    teaches: bool,
) -> None:
    """Refuse a training split of which something will not fit into the encoder or into a model's positions.

    A split that is stored is looked at as a whole, of one that is made while it is read the first `GENERATED` passages.

    Args:
        passages: the split.
        encoder: the encoder; it refuses texts that are too long for it.
        lms: the models that read, by name.
        slots: the largest number of latents that each of them reads in training.
        needs: what the objectives need of a batch.
        teaches: whether a teacher reads the texts themselves.

    Raises:
        UserError: the longest prompt and its question, with what to set; or the encoder's, about a text.
    """
    looked = passages if isinstance(passages, list | tuple) else [*islice(iter(passages), GENERATED)]
    if encoder.overflow == "refuse" and not needs.whole_prompt:
        for i in range(0, len(looked), AT_ONCE):
            encoder.tokenize([p.text for p in looked[i : i + AT_ONCE]])
    for name, lm in lms.items():
        read = [("latents, question and answer", longest_prompt(lm, looked, slots[name]))]
        if teaches:
            read.append(("text, question and answer", longest_prompt(lm, looked)))
        if "text" in needs.kinds and needs.cue is not None:
            whole = [replace(p, questions=(Question(p.id, needs.cue, (p.text,), ""),)) for p in looked]
            read.append(("latents, cue and text", longest_prompt(lm, whole, slots[name])))
        for what, found in read:
            if found.tokens > lm.max_tokens:
                raise UserError(
                    f"train split on {name}, question {found.question}",
                    f"{found.tokens} tokens of {what}",
                    f"at most {lm.max_tokens} positions",
                    "choose shorter texts (corpus.*) or a reader with more positions (readers=…)",
                )
