"""Scheduled sampling, slot dropout and the norms of objectives: what they read, and that off is off to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kills import Kill, Killed
from lw_runs import config, fit, history, prepare
from lw_toys import tiny_lm
from torch import Tensor

from callbacks.errors import UserError
from latentwire.lm.layout import Prefix
from latentwire.train import parts as pieces
from latentwire.train.batches import Rows
from latentwire.train.parts import Part
from latentwire.train.sampling import ScheduledSampling
from latentwire.train.slot_dropout import SlotDropout

SHORT = ["trainer.max_epochs=1", "loader.steps_per_epoch=4", "callbacks.checkpoint.every_n_steps=1"]
SAMPLING = ["curriculum=scheduled_sampling", "loader.scheduled_sampling.start=0", "loader.scheduled_sampling.steps=2"]


def weights(folder: Path, *more: str, resume: bool = False) -> dict[str, Tensor]:
    return fit(config(folder, *SHORT, *more), resume=resume).module.state_dict()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(x, b[k]) for k, x in a.items())


def resumed(folder: Path, *more: str) -> dict[str, Tensor]:
    cfg = config(folder, *SHORT, *more, runs="broken")
    with pytest.raises(Killed):
        fit(cfg, [Kill(2, False)])
    return fit(cfg, resume=True).module.state_dict()


# -- scheduled sampling
def test_a_share_of_nothing_is_teacher_forcing_and_a_share_of_some_is_not(tmp_path: Path) -> None:
    plain = weights(tmp_path)
    assert equal(plain, weights(tmp_path, *SAMPLING, "loader.scheduled_sampling.last=0.0"))
    some = weights(tmp_path, *SAMPLING)
    assert not equal(plain, some)
    assert equal(some, resumed(tmp_path, *SAMPLING))
    parts = weights(tmp_path, *SAMPLING, "loader.accumulate=2")  # the same draws, other roundings
    for name, x in some.items():
        torch.testing.assert_close(parts[name], x, rtol=0, atol=1e-4, msg=name)


def test_tokens_that_are_read_are_the_models_own_and_scores_are_of_gold_ones() -> None:
    lm = tiny_lm()
    ask, gold = list(lm.style.encode("Where?")), [[*lm.style.encode("Oslo"), 2], [*lm.style.encode("a"), 2]]
    rows = Rows([0, 0], [tuple(ask)] * 2, [tuple(a) for a in gold])
    prefix = Prefix(embeds=torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0)))
    both = prefix.select([0, 0])
    forced = lm.answer_logprobs(both, [ask] * 2, gold)
    every = ScheduledSampling(first=1.0, last=1.0).read(lm, prefix, rows, ["p", "q"], seed=0, t=0)
    assert every is not None
    best = forced.scores.argmax(-1).tolist()
    assert every == [(*best[:4], 2), (best[5], 2)]  # the last one is never read
    found = lm.answer_logprobs(both, [ask] * 2, gold, every)
    assert torch.equal(found.tokens, forced.tokens)
    # literally: one token after the other behind the same embeddings
    text = torch.cat([prefix.embeds[0], lm.embed(torch.tensor([*ask, *every[0][:-1]]))])  # type: ignore[index]
    head = lm.embed(torch.tensor(list(lm.style.head)))
    with torch.no_grad():
        logits = lm.model(inputs_embeds=torch.cat([head, text])[None]).logits[0, -5:]
    torch.testing.assert_close(found.scores[:5], logits.log_softmax(-1), rtol=0, atol=1e-4)
    law = ScheduledSampling(last=0.3, steps=10, start=5)
    assert [law.share(t) for t in (0, 5, 10, 15, 99)] == pytest.approx([0, 0, 0.15, 0.3, 0.3])
    assert law.read(lm, prefix, rows, ["p", "q"], seed=0, t=3) is None
    drawn = [law.read(lm, prefix, rows, [str(i), "q"], seed=0, t=20)[0] for i in range(200)]  # type: ignore[index]
    share = np.mean([[a != b for a, b in zip(d[:4], gold[0][:4], strict=True)] for d in drawn], 0)
    differs = np.array([a != b for a, b in zip(best[:4], gold[0][:4], strict=True)])
    assert np.abs(share[differs] - 0.3).max() < 0.12


# -- masked reconstruction
def test_masked_reconstruction_reads_a_share_of_the_text_and_scores_all_of_it(tmp_path: Path) -> None:
    more = ["objective=[answer_ce,masked_reconstruction]", "objectives.masked_reconstruction.share=0.99"]
    cfg = config(tmp_path, *SHORT, *more)
    parts = prepare(cfg)
    module: Any = parts.module
    batch = parts.train.dataset.__getitems__([(i, 0) for i in range(3)])  # type: ignore[attr-defined]
    lm, name = module.lms["tiny_llama"], "tiny_llama"
    whole, (first, second) = Part(batch.asked, batch.rows), pieces.parts(batch, 2)
    rows = batch.rows[name]["text"]
    read = module.noise.instead(name, lm, batch, whole, 0)(Prefix(), {"text": rows})["text"]
    halves = [module.noise.instead(name, lm, batch, p, 0)(Prefix(), p.rows[name])["text"] for p in (first, second)]
    assert read == [*halves[0], *halves[1]]
    hidden = [[a == lm.style.eos for a in ids[:-1]] for ids in read]
    assert np.mean([x for row in hidden for x in row]) > 0.95
    for ids, gold in zip(read, rows.answer, strict=True):
        assert all(a in (b, lm.style.eos) for a, b in zip(ids, gold, strict=True))
        assert ids[-1] == gold[-1]
    fit(cfg)
    lost = history(cfg, "train/loss/masked_reconstruction")
    plain = config(tmp_path, *SHORT, "objective=[answer_ce,text_reconstruction]", runs="plain")
    fit(plain)
    assert lost[0] != history(plain, "train/loss/text_reconstruction")[0]


# -- slot dropout
def test_slots_are_missed_by_the_law_and_never_all() -> None:
    law = SlotDropout(first=0.5, last=0.85, steps=10)
    assert [law.keep(t) for t in (0, 5, 10, 1000)] == pytest.approx([0.5, 0.675, 0.85, 0.85])
    for t in (0, 10):
        kept = law.kept([(0, n, 0) for n in range(500)], 8, seed=3, t=t)
        assert kept.shape == (500, 8, 1)
        assert float(kept.float().mean()) == pytest.approx(law.keep(t), abs=0.03)
        assert torch.equal(kept, law.kept([(0, n, 0) for n in range(500)], 8, seed=3, t=t))
        assert torch.equal(kept[7:9], law.kept([(0, 7, 0), (0, 8, 0)], 8, seed=3, t=t))  # no neighbour matters
    assert bool(SlotDropout(first=0.001, last=0.001).kept([(0, n, 0) for n in range(300)], 3, 0, 0).any(1).all())


def test_a_run_with_slot_dropout_resumes_and_validates_on_whole_messages(tmp_path: Path) -> None:
    more = ["curriculum=slot_dropout", "loader.slot_dropout.steps=3", "objective=[answer_ce,continuation]"]
    whole = weights(tmp_path, *more)
    assert equal(whole, resumed(tmp_path, *more))
    assert not equal(whole, weights(tmp_path, "objective=[answer_ce,continuation]"))
    parts = prepare(config(tmp_path, *SHORT, *more))
    module: Any = parts.module
    batch = parts.train.dataset.__getitems__([(i, 0) for i in range(3)])  # type: ignore[attr-defined]
    coded = module.wire.latents(batch.tokens)
    seen = module.noise.latents(coded, batch, 0).values
    missed = (seen == 0).all(-1)
    assert 0 < int(missed.sum()) < missed.numel()
    assert torch.equal(seen[~missed], coded.values[~missed])
    steps = [(module.noise.latents(coded, batch, t).values == 0).all(-1) for t in range(6)]
    assert any(not torch.equal(steps[0], other) for other in steps[1:])  # drawn anew in every step


# -- norms of objectives
def test_norms_of_objectives_are_those_of_their_terms_and_change_nothing(tmp_path: Path) -> None:
    terms = "objective=[answer_ce,answer_length,embedding_reconstruction]"
    more = [terms, "codec=rvq", "codec.size=4", "callbacks=wire_by_objective", "callbacks.objective_norms.every=2",
            "callbacks.progress=null", "callbacks.audit.within=4", "callbacks.diagnostics.every=1"]  # fmt: skip
    plain = weights(
        tmp_path,
        terms,
        "codec=rvq",
        "codec.size=4",
        "callbacks.diagnostics.every=1",
    )
    cfg = config(tmp_path, *SHORT, *more)
    assert equal(plain, fit(cfg).module.state_dict())
    assert equal(plain, resumed(tmp_path, *more))
    found = {name: history(cfg, f"objective_norm/{name}") for name in ("answer_ce", "answer_length", "codec")}
    assert [len(v) for v in found.values()] == [3, 3, 3]  # steps 1, 2 and 4
    assert min(found["answer_ce"]) > 0
    assert not history(cfg, "objective_norm/embedding_reconstruction/injector:tiny_llama")  # out of its reach
    groups = [f"objective_norm/answer_ce/{g}" for g in ("encoder", "adapter:tiny_llama", "injector:tiny_llama")]
    literal = sum(history(cfg, g)[0] ** 2 for g in groups) ** 0.5
    assert found["answer_ce"][0] == pytest.approx(literal, rel=1e-4)
    alone = config(tmp_path, *SHORT, *more[1:], runs="alone")  # one term: its norm is that of the step
    fit(alone)
    whole = [history(alone, f"grad_norm/{g.split('/', 2)[2]}")[0] for g in groups]
    assert [history(alone, g)[0] for g in groups[1:]] == pytest.approx(whole[1:], rel=1e-4)
    with pytest.raises(UserError, match=r"loader\.accumulate"):
        fit(config(tmp_path, *SHORT, *more, "loader.accumulate=2", runs="parts"))
