"""Rung 2: is a fresh prefix as large as text, and can the model read latents that no encoder made?"""

from __future__ import annotations

import torch
from torch import Tensor

from latentwire.data.squad_metrics import best, exact_match
from latentwire.examples import prompt_of
from latentwire.injectors.kv_statistics import measure_kv
from latentwire.injectors.rotary import RotaryPlacement
from latentwire.ladder import options
from latentwire.ladder.subject import Subject
from latentwire.ladder.verdict import Check, Verdict, judged
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import KeysValues, Prefix
from latentwire.lm.metrics import first_token

LOOK = 25  # steps between two looks at the answers


def channel(subject: Subject, o: options.ChannelOptions) -> Verdict:
    """Judge the scale first: a prefix of another size than text is not worth optimising."""
    checks: list[Check] = []
    for name in subject.lms:
        for what, factor in scales(subject, name).items():
            checks.append(
                Check(f"{subject.label('RMS over that of text', name)}: {what}", factor, o.scale_low, o.scale_high,
                      found=f"the fresh prefix ({what}) is {factor:.3g} times as large as text is for {name}",
                      remedy=f"bring it to the model's measured scale: adapter.calibration=batch with the measured "
                      f"target (divide by {factor:.3g}); a gain must start at 1")
            )  # fmt: skip
    if all(c.passed for c in checks):
        for name in subject.lms:
            checks += _optimised(subject, name, o)
    return judged(2, checks)


@torch.no_grad()
def scales(subject: Subject, name: str) -> dict[str, float]:
    """Return how much larger a prefix is than text, by what it consists of, on the texts that scales are measured on.

    Embeddings: RMS over all entries. Keys (before RoPE) and values: RMS of the deviation from the mean over text's
    tokens, the layer that is farthest from 1. Text is measured here and now, not taken from the injector.
    """
    lm, texts = subject.lms[name], subject.inputs.texts
    prefix = subject.wire.prefix(subject.wire.encode(texts), name)
    found: dict[str, float] = {}
    if prefix.embeds is not None:
        ids = torch.tensor([i for text in texts for i in lm.style.encode(text)], dtype=torch.long)
        found["embeddings"] = _rms(prefix.embeds) / _rms(lm.embed(ids))
    if prefix.kv is not None:
        found |= _kv_scales(lm, prefix.kv, texts)
    return found


def _kv_scales(lm: FrozenLM, kv: list[KeysValues], texts: list[str]) -> dict[str, float]:
    placement, start = RotaryPlacement(lm), len(lm.style.head)
    own = measure_kv(lm, placement, texts)
    factors: dict[str, list[float]] = {"keys": [], "values": []}
    for layer, (keys, values) in enumerate(kv):
        at = torch.arange(start, start + keys.shape[2], device=keys.device)
        for k, (what, x) in enumerate((("keys", placement.undo(keys.float(), at, layer)), ("values", values))):
            mean, std = own.mean[layer, k].to(x.device), own.std[layer, k]
            factors[what].append(_rms(x.float() - mean[:, None]) / _rms(std))
    return {what: max(each, key=lambda f: max(f, 1 / f) if f > 0 else float("inf")) for what, each in factors.items()}


def _rms(x: Tensor) -> float:
    return float(x.float().pow(2).mean().sqrt())


def _optimised(subject: Subject, name: str, o: options.ChannelOptions) -> list[Check]:
    """Let free latents, one set per message, follow the cross-entropy of answers.

    They start as noise with the mean and the spread, slot by slot and channel by channel, of the encoder's latents:
    where the injector expects them.
    """
    lm, wire = subject.lms[name], subject.wire
    asked = [(p, q) for p in subject.passages("train", o.passages) for q in p.questions]
    texts = list(dict.fromkeys(subject.message(p, q) for p, q in asked))
    source = [texts.index(subject.message(p, q)) for p, q in asked]
    prompts = [prompt_of(lm, p, q) for p, q in asked]
    follows = [p.cue if subject.whole else p.question for p in prompts]
    answers, longest = [p.answer for p in prompts], int(subject.cfg.evaluation.max_new_tokens)
    values = wire.encode(subject.inputs.texts)
    mean, std = values.mean(0), values.std(0)
    generator = torch.Generator().manual_seed(int(subject.cfg.seed))
    free = torch.randn(len(texts), *mean.shape, generator=generator).to(values).requires_grad_(True)
    optimiser = torch.optim.Adam([free], lr=o.lr)

    def prefix() -> Prefix:
        return lm.cached(wire.prefix(mean + std * free, name)).select(source)

    @torch.no_grad()
    def reached() -> float:
        if subject.score != "EM":
            return float(first_token(lm.answer_logprobs(prefix(), follows, answers)).top1.mean())
        made = [lm.style.decode(ids) for ids in lm.generate(prefix(), follows, longest)]
        return sum(best(exact_match, m, q.answers) for m, (_, q) in zip(made, asked, strict=True)) / len(asked)

    em, step, loss = 0.0, 0, torch.tensor(float("nan"))
    for step in range(1, o.steps + 1):
        loss = lm.answer_logprobs(prefix(), follows, answers).nll().mean()
        (free.grad,) = torch.autograd.grad(loss, [free])
        optimiser.step()
        if step % LOOK == 0 or step == o.steps:
            em = reached()
            if em == 1.0:
                break
    label = subject.label(f"{subject.score} of optimised latents", name)
    return [
        Check(label, em, low=o.em,
              found=f"{name} reads only {em:.2f} of {len(asked)} answers ({subject.score}) from latents "
              f"made for them in {step} steps (NLL {float(loss.detach()):.3g})",
              remedy=f"the channel is too narrow or not read: more latents (wire.slots above {wire.slots}, wire.d_z "
              f"above {int(subject.cfg.wire.d_z)}), injector=deep_prefix, or ladder.channel.steps"),
        Check(subject.label("steps", name), step),
        Check(subject.label("NLL of optimised latents", name), float(loss.detach())),
    ]  # fmt: skip
