"""Bounds that a correctly aligned metric cannot leave."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from callbacks.errors import UserError
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Ids, Prefix


@dataclass(frozen=True)
class Bounds:
    """Holds the mean NLL per answer token in nats: as measured, of a uniform guess, and with others' answers."""

    nll: float
    uniform: float
    shuffled: float


def excess(nll: float, vocab_size: int) -> float:
    """Return by how many nats per token an NLL is above ln(vocab_size), that of a uniform guess."""
    return nll - math.log(vocab_size)


def misaligned(where: str, nll: float, vocab_size: int, margin: float) -> UserError:
    """Return the error of an NLL that is more than `margin` nats above a uniform guess; `where` names the metric."""
    return UserError(
        where,
        f"{nll:.3f} nats per token at the start of training",
        f"less than ln({vocab_size}) + {margin:g} = {math.log(vocab_size) + margin:.3f}, a uniform guess and a margin: "
        "who guesses worse is certain of other tokens, as those are that stand one place off",
        "check that labels are not shifted, where prompts end, positions, and the mask on the prefix "
        "(python -m latentwire.ladder, rungs 0 and 1); where embeddings start as those of the text and are then "
        "disturbed (slots dropped, few codes, a new encoder) set injector.start=random, of injector=combined "
        "injector.prefix.start=random; for a reader that is that certain without a text set "
        "callbacks.uniform_bound=null",
    )


@torch.no_grad()
def check_bounds(lm: FrozenLM, prefix: Prefix, question_ids: Ids, answer_ids: Ids) -> Bounds:
    """Score a batch whose prefix tells the answers; demand nll < ln(vocabulary) and nll < shuffled.

    Raises:
        ValueError: all answers are the same, so nothing can be shuffled.
        UserError: a bound is broken: labels and positions do not match, or the model does not read the prefix.
    """
    n = len(answer_ids)
    other = [answer_ids[(i + 1) % n] for i in range(n)]
    differs = torch.tensor([list(a) != list(b) for a, b in zip(answer_ids, other, strict=True)])
    if not differs.any():
        raise ValueError("a shuffled bound needs different answers in the batch")
    nll = lm.answer_logprobs(prefix, question_ids, answer_ids).nll().cpu()
    wrong = lm.answer_logprobs(prefix, question_ids, other).nll().cpu()
    found = Bounds(float(nll.mean()), math.log(lm.vocab_size), float(wrong[differs].mean()))
    if excess(found.nll, lm.vocab_size) >= 0 or float(nll[differs].mean()) >= found.shuffled:
        raise UserError(
            f"NLL of {lm.name}",
            f"{found.nll:.3f} nats per token; with other answers {found.shuffled:.3f}",
            f"less than ln({lm.vocab_size}) = {found.uniform:.3f} and less than with other answers",
            "check that labels are not shifted, where prompts end, and the mask on the prefix",
        )
    return found
