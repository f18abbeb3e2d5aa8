"""Rung 1: the text's own embeddings, and its own keys and values, through the path of latents; batch against alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from latentwire.baselines.replay import Replay
from latentwire.examples import prompt_of
from latentwire.ladder import options
from latentwire.ladder.subject import Subject
from latentwire.ladder.verdict import Check, Verdict, judged
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Ids, Prefix
from latentwire.lm.prompts import Prompt

EXACT = 1e-5  # nats: the same numbers in the same order
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}  # nats
MASK = (
    "give every forward pass of FrozenLM an attention_mask with 1 on every latent and 0 on padding, and position_ids "
    "(latentwire.lm.layout.lay_out_text); no key of the configuration does this"
)

Answers = tuple[list[list[int]], torch.Tensor]  # answers as ids, NLL of the gold answers


def replay(subject: Subject, o: options.ReplayOptions) -> Verdict:
    """Test the path to the models, not what was trained on them: adapters are off."""
    checks: list[Check] = []
    for name, lm in subject.lms.items():
        with torch.no_grad(), lm.adapters_off():
            checks += _replayed(subject, name, lm, o.questions)
            checks += _batched(subject, name, lm, o.questions)
    return judged(1, checks)


def _replayed(subject: Subject, name: str, lm: FrozenLM, n: int) -> list[Check]:
    pairs = subject.pairs("val", n)
    prompts = [prompt_of(lm, p, q) for p, q in pairs]
    longest = int(subject.cfg.evaluation.max_new_tokens)
    text = _alone(lm, [Prefix(text_ids=[p.context]) for p in prompts], [p.question for p in prompts], prompts, longest)
    checks = []
    for baseline in (Replay("question"), Replay("raw")):
        prefixes = [baseline.prefix(lm, [p], [q], 0) for p, q in pairs]
        again = _alone(lm, prefixes, [baseline.follows(p) for p in prompts], prompts, longest)
        remedy = f"latents must stand behind the head and before the question, unscaled and unmasked; {MASK}"
        checks += _compared(subject, name, f"embedding replay ({baseline.anchor})", text, again, EXACT, lm, remedy)
    wire = subject.wire
    values = wire.latents(subject.tokens([subject.message(*pairs[0])])).values
    if wire.prefix(values, name).kv is not None and all(p.context for p in prompts):
        start = len(lm.style.head)
        caches = [lm.keys_and_values([*lm.style.head, *p.context]) for p in prompts]
        prefixes = [Prefix(kv=[(k[:, :, start:], v[:, :, start:]) for k, v in cache]) for cache in caches]
        again = _alone(lm, prefixes, [p.question for p in prompts], prompts, longest)
        remedy = f"keys of latents must stand at positions {start} onwards, behind the head's; {MASK}"
        checks += _compared(
            subject, name, "replay of keys and values", text, again, ROUNDING.get(lm.dtype, 0.2), lm, remedy
        )
    return checks


def _batched(subject: Subject, name: str, lm: FrozenLM, n: int) -> list[Check]:
    """Read different passages and questions of different lengths in one batch, behind latents and behind text."""
    pairs = subject.pairs("val", n)
    prompts = [prompt_of(lm, p, q) for p, q in pairs]
    longest = int(subject.cfg.evaluation.max_new_tokens)
    values = subject.wire.latents(subject.tokens([subject.message(p, q) for p, q in pairs])).values
    latents = subject.wire.prefix(values, name)
    # one row is asked twice over, so that there is padding even where all questions are of one length
    follows = [p.cue if subject.whole else p.question for p in prompts]
    follows[0] = (*follows[0], *follows[0])
    once = lm.cached(latents)
    kinds: list[tuple[str, Callable[[list[int]], Prefix]]] = [
        ("latents", latents.select),
        ("latents read once, as in training,", lambda rows: (once if len(rows) > 1 else latents).select(rows)),
        ("text", lambda rows: Prefix(text_ids=[prompts[i].context for i in rows])),
    ]
    checks = []
    for kind, prefix in kinds:
        alone = _alone(lm, [prefix([i]) for i in range(len(pairs))], follows, prompts, longest)
        whole = _read(lm, prefix(list(range(len(pairs)))), follows, prompts, longest)
        what = f"{kind} in a padded batch"
        checks += _compared(subject, name, what, alone, whole, ROUNDING.get(lm.dtype, 0.2), lm, MASK)
    return checks


def _read(lm: FrozenLM, prefix: Prefix, follows: Ids, prompts: Sequence[Prompt], longest: int) -> Answers:
    nll = lm.answer_logprobs(prefix, follows, [p.answer for p in prompts]).nll()
    return lm.generate(prefix, follows, longest), nll.float().cpu()


def _alone(lm: FrozenLM, prefixes: Sequence[Prefix], follows: Ids, prompts: Sequence[Prompt], longest: int) -> Answers:
    parts = [
        _read(lm, prefix, [asked], [prompt], longest)
        for prefix, asked, prompt in zip(prefixes, follows, prompts, strict=True)
    ]
    return [ids for answers, _ in parts for ids in answers], torch.cat([nll for _, nll in parts])


def _compared(
    subject: Subject, name: str, what: str, expected: Answers, found: Answers, bound: float, lm: FrozenLM, remedy: str
) -> list[Check]:
    """Count other answers and take the largest difference in NLL; in half precision rounding may decide near ties."""
    other = [i for i, (a, b) in enumerate(zip(expected[0], found[0], strict=True)) if a != b]
    exact = bound == EXACT or lm.dtype in (torch.float32, torch.float64)
    said = ""
    if other:
        a, b = (lm.style.decode(read[0][other[0]]) for read in (expected, found))
        said = f"{what}: {len(other)} of {len(found[0])} answers differ, {b!r} instead of {a!r} ({lm.name})"
    gap = float((expected[1] - found[1]).abs().max())
    label = subject.label(what, name)
    return [
        Check(f"{label}: answers that differ", len(other), high=0 if exact else None, remedy=remedy, found=said),
        Check(f"{label}: largest difference in NLL", gap, high=bound, remedy=remedy,
              found=f"{what}: NLL differs by {gap:.3g} nats, {bound:g} is rounding ({lm.name})"),
    ]  # fmt: skip
