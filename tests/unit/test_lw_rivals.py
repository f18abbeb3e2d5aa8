"""Trained rivals have the wire's own budget: its stream, its questions, its schedule, its validation; fitted once."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from lw_parts import lessons
from lw_runs import config, prepare
from lw_toys import tiny_lm
from test_lw_evaluator import NEW, PASSAGES, M

from callbacks.errors import UserError
from callbacks.stages.lr import LRSchedule
from latentwire.baselines import training
from latentwire.baselines.memory import MemorySlots
from latentwire.baselines.pca import PCA
from latentwire.baselines.static import StaticPrefix
from latentwire.lm.frozen import FrozenLM
from latentwire.rivals import own_amount, training_budget, whole_amount
from latentwire.scoring.evaluator import Evaluator
from latentwire.train.stream import Stream


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm()


def test_a_rival_reads_the_passages_and_questions_of_the_wire_in_the_same_order(tmp_path) -> None:
    cfg = config(tmp_path, "trainer.max_epochs=2")
    parts = prepare(cfg)
    budget = training_budget(cfg, parts.inputs.corpus)
    wire: list[list[tuple[str, str]]] = []
    for epoch in range(2):
        parts.train.batches.set_epoch(epoch)
        for items in parts.train.batches:
            batch = parts.train.dataset.__getitems__(items)  # type: ignore[attr-defined]
            wire.append([(batch.passages[b].id, q.id) for b, q in batch.asked])
    a = budget.amount
    stream = Stream(budget.train, a.questions, budget.seed, budget.steps_per_epoch * a.contexts)
    rival = [[(ps[b].id, q.id) for b, q in asked] for ps, asked in islice(stream.batches(a.contexts), a.steps)]
    assert rival == wire
    assert a.asked == sum(map(len, wire)) == 2 * 6 * 3 * 2
    assert budget.schedule.kind == cfg.lr_schedule.kind
    assert {p.id for p in budget.val}.isdisjoint(p.id for p in parts.inputs.corpus.split("test"))


def test_what_an_earlier_run_has_read_belongs_to_the_budget(tmp_path) -> None:
    first = config(tmp_path, "trainer.max_epochs=3")
    corpus = prepare(first).inputs.corpus
    folder = next((tmp_path / "runs" / "pocket_smoke").iterdir())
    later = config(tmp_path, "trainer.max_epochs=1", f"+wire.start_from={folder}")
    own = own_amount(later, corpus)
    both = whole_amount(later, corpus)
    assert both.asked == own.asked + own_amount(first, corpus).asked == 4 * own.asked
    assert both.steps == 4 * own.steps


def test_the_rate_follows_the_schedule_with_its_warm_up(lm, monkeypatch) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def spy(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    schedule = LRSchedule("cosine", warmup_steps=4)
    StaticPrefix(lr=0.1).fit(lm, lessons(PASSAGES, 12, per_epoch=6, schedule=schedule), M)
    assert rates == pytest.approx([0.1 * schedule.factor(6, 2)(t) for t in range(12)])
    assert rates[0] < rates[4]
    assert rates[-1] < rates[4]


@pytest.mark.parametrize(("metric", "best"), [("nll", 3), ("f1", 1)])
def test_the_best_validation_is_kept_and_only_validation_is_asked(lm, monkeypatch, metric, best) -> None:
    scores = [(0.0, 5.0), (0.6, 4.0), (0.6, 4.5), (0.2, 1.0), (0.5, 3.0)]  # F1 and NLL
    seen, asked = [], set()

    def score(lm, renderer, read, questions, new) -> dict[str, float]:
        asked.update(p.id for p in questions[0])
        seen.append(read(*zip(*[(p, p.questions[0]) for p in questions[0]], strict=True)).embeds[0].clone())
        f1, nll = scores[len(seen) - 1]
        return {"f1": f1, "nll": nll}

    monkeypatch.setattr(training, "_score", score)
    static = StaticPrefix(lr=0.3)
    static.fit(lm, lessons(PASSAGES[:4], 11, val=PASSAGES[4:], per_epoch=3, metric=metric), M)
    assert len(seen) == len(scores), "untrained, after every epoch, and at the end"
    assert torch.equal(static.learned(lm, M).embeds, seen[best])
    assert not torch.equal(seen[best], seen[best + 1])
    assert asked == {p.id for p in PASSAGES[4:]}


def test_a_validation_is_scored_as_an_evaluation_scores_it(lm, monkeypatch) -> None:
    found: list[list[dict[str, float]]] = []
    monkeypatch.setattr(
        "latentwire.baselines.static.learn_answers", lambda *given: found.append(training.learn_answers(*given))
    )
    static = StaticPrefix(lr=0.3)
    budget = lessons(PASSAGES[:4], 3, val=PASSAGES[4:], max_new_tokens=NEW)
    static.fit(lm, budget, M)
    passages, asked = Stream(budget.val, 1, 0).draw([(0, 0), (1, 0)])[:2]
    same = [replace(p, questions=(q,)) for p, (_, q) in zip(passages, asked, strict=True)]
    monkeypatch.setattr(static, "fit", lambda *_: None)
    m = Evaluator({"tiny": lm}, same, {"s": static}, NEW, n_boot=10).run({}, slots=M).methods["s"]
    best = min(found[0], key=lambda v: v["nll"])
    assert (m["nll"], m["f1"]) == pytest.approx((best["nll"], best["f1"]), rel=1e-4)


@pytest.mark.parametrize("rival", [StaticPrefix(), MemorySlots("keys", rank=2), MemorySlots(rank=2), PCA(d_z=4)])
def test_what_a_rival_has_learned_is_read_and_not_fitted_again(lm, rival, tmp_path, monkeypatch) -> None:
    train = [replace(p, text=" ".join(random.Random(i).sample(p.text.split(), 6))) for i, p in enumerate(PASSAGES)]
    budget = lessons(train, 2)
    asked = [p.questions[0] for p in train[:1]]
    rival.fit(lm, budget, M, tmp_path)
    before = rival.prefix(lm, train[:1], asked, M)
    (path,) = tmp_path.iterdir()
    assert path.suffix == ".safetensors"
    again = type(rival)(**{k: v for k, v in vars(rival).items() if not k.startswith("_") and k != "share"})
    monkeypatch.setattr(type(rival), "learn", lambda *_: pytest.fail("fitted again"))
    again.fit(lm, budget, M, tmp_path)
    after = again.prefix(lm, train[:1], asked, M)
    for a, b in zip(_tensors(before), _tensors(after), strict=True):
        assert torch.equal(a, b)
    assert again.told(lm, M) == rival.told(lm, M)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="it is fitted again"):
        again.fit(lm, budget, M, tmp_path)


def test_everything_that_determines_a_fit_is_in_its_key(lm) -> None:
    budget = lessons(PASSAGES, 2)
    keys = [
        StaticPrefix().key(lm, budget, M),
        StaticPrefix(lr=0.5).key(lm, budget, M),
        StaticPrefix(share=0.5).key(lm, budget, M),
        StaticPrefix().key(lm, budget, M + 1),
        StaticPrefix().key(tiny_lm("qwen2"), budget, M),
        StaticPrefix().key(lm, lessons(PASSAGES, 3), M),
        StaticPrefix().key(lm, replace(budget, seed=1), M),
        StaticPrefix().key(lm, replace(budget, data="other"), M),
        StaticPrefix().key(lm, replace(budget, schedule=LRSchedule("cosine")), M),
    ]
    assert len(set(keys)) == len(keys)
    assert StaticPrefix().key(lm, lessons(PASSAGES, 2), M) == keys[0]


def test_a_smaller_budget_is_told_in_the_row(lm, tmp_path: Path) -> None:
    rivals = {"whole": StaticPrefix(), "quarter": StaticPrefix(share=0.25)}
    found = Evaluator({"tiny": lm}, PASSAGES, rivals, 1, budget=lessons(PASSAGES, 8), rivals=tmp_path, n_boot=10)
    methods = found.run({}, slots=M).methods
    assert [methods[n]["questions_seen"] for n in rivals] == [32, 8]
    assert [methods[n]["budget_share"] for n in rivals] == [1.0, 0.25]


def test_what_learns_must_learn_first_and_needs_passages(lm) -> None:
    for baseline in (PCA(), StaticPrefix(), MemorySlots()):
        with pytest.raises(UserError, match="call fit first"):
            baseline.prefix(lm, PASSAGES, [p.questions[0] for p in PASSAGES], M)
        for budget in (None, lessons([], 1), lessons(PASSAGES, 1, val=[])):
            with pytest.raises(UserError, match="no training passages"):
                baseline.fit(lm, budget, M)


def _tensors(prefix) -> list[torch.Tensor]:
    return [prefix.embeds] if prefix.kv is None else [t for pair in prefix.kv for t in pair]
