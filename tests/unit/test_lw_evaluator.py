"""The evaluator: its numbers are those of a slow literal loop, and no method is measured otherwise than another."""

from __future__ import annotations

import json
import math

import pytest
import torch
from lw_toys import tiny_lm
from torch import Tensor

from callbacks.errors import UserError
from latentwire.baselines.budget import LegacyTruncation, TokenBudget, WholePromptBudget
from latentwire.baselines.pooled import MeanPooled
from latentwire.baselines.replay import Replay
from latentwire.baselines.text import NoContext, Text
from latentwire.data.base import Passage, Question
from latentwire.data.squad_metrics import exact_match, f1, normalize
from latentwire.examples import prompt_of, whole_prompt_text
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.scoring.evaluation import Evaluation
from latentwire.scoring.evaluator import Evaluator
from suite.statistics import bootstrap_interval, mcnemar

M, NEW = 5, 6
NAMES = ("Ann", "Bob", "Eve", "Max", "Kim", "Leo")
PASSAGES = [
    Passage(
        f"p{i}",
        f"{name} has a {'big ' * (i % 3)}cat and lives near {place}.",
        (
            Question(f"q{i}a", f"what does {name} have?", ("a cat", "cat"), "pet"),
            Question(f"q{i}b", "where?", (place, f"near {place}"), "city"),
        ),
        f"group{i // 2}",
        8.0 * (i + 1),
    )
    for i, (name, place) in enumerate(zip(NAMES, ("Rome", "Oslo", "Bern", "Lima", "Kyiv", "Riga"), strict=True))
]


class FirstTokens:
    """A wire that sends the embeddings of the first M tokens: it must fare exactly as the token budget."""

    def __init__(self, lms: dict[str, FrozenLM], whole: bool = False):
        self.lms, self.slots, self.end = lms, M, "" if whole else "\n"

    def encode(self, texts: list[str]) -> Tensor:
        ids = [next(iter(self.lms.values())).style.encode(t.strip() + self.end)[:M] for t in texts]
        return torch.tensor(ids).unsqueeze(-1).float()

    def prefix(self, values: Tensor, model: str) -> Prefix:
        return Prefix(embeds=self.lms[model].embed(values[..., 0].long()))

    def message_bytes(self) -> int:
        return 33


class Lookup:
    """A wire with free latents per text: what an ideal encoder might send."""

    def __init__(self, lm: FrozenLM, texts: list[str]):
        self.lm, self.slots, self.number = lm, 16, {t: i for i, t in enumerate(texts)}
        generator = torch.Generator().manual_seed(0)
        self.values = (0.5 * torch.randn(len(texts), self.slots, lm.d_model, generator=generator)).requires_grad_(True)

    def encode(self, texts: list[str]) -> Tensor:
        return self.values[[self.number[t] for t in texts]].detach()

    def prefix(self, values: Tensor, model: str) -> Prefix:
        return Prefix(embeds=values)

    def message_bytes(self) -> int:
        return 4 * self.slots * self.lm.d_model


def evaluate(lm: FrozenLM, **more) -> Evaluation:
    baselines = {
        "text": Text(),
        "no_context": NoContext(),
        "token_budget": TokenBudget(),
        "legacy_truncation": LegacyTruncation(),
        "replay": Replay(),
        "replay_raw": Replay("raw"),
        "mean_pooled": MeanPooled(),
    }
    options = {"max_new_tokens": NEW, "batch_size": 5, "n_boot": 300} | more
    return Evaluator({lm.name: lm}, PASSAGES, baselines, **options).run({"wire": FirstTokens({lm.name: lm})})


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm()


@pytest.fixture(scope="module")
def found(lm) -> Evaluation:
    return evaluate(lm)


def rows_of(found: Evaluation, method: str) -> list[dict]:
    return [r for r in found.rows if r["method"] == method]


def literal(lm: FrozenLM, ids: list[int], answer: tuple[int, ...]) -> tuple[Tensor, str]:
    """Log-probabilities at the answer, and the greedy text, of one prompt on the bare model."""
    scores = lm.model(input_ids=torch.tensor([[*ids, *answer]])).logits[0].double().log_softmax(-1)
    made: list[int] = []
    while len(made) < NEW:
        token = int(lm.model(input_ids=torch.tensor([[*ids, *made]])).logits[0, -1].argmax())
        if token in lm.stop_ids:
            break
        made.append(token)
    return scores[len(ids) - 1 : len(ids) - 1 + len(answer)], lm.style.decode(made)


@pytest.mark.parametrize("method", ["text", "no_context", "token_budget", "legacy_truncation", "wire"])
def test_every_number_is_that_of_a_slow_literal_loop(lm, found, method) -> None:
    rows = rows_of(found, method)
    questions = [(p, q) for p in PASSAGES for q in p.questions]
    assert [r["question"] for r in rows] == [q.id for _, q in questions], "in the order of the passages"
    for r, (p, q) in zip(rows, questions, strict=True):
        prompt = prompt_of(lm, p, q)
        reads = {
            "text": prompt.context + prompt.question,
            "no_context": prompt.question,
            "legacy_truncation": (prompt.context + prompt.question)[:M],
        }.get(method, prompt.context[:M] + prompt.question)
        scores, text = literal(lm, [*prompt.bos, *reads], prompt.answer)
        teacher, _ = literal(lm, [*prompt.bos, *prompt.context, *prompt.question], prompt.answer)
        gold = [-float(scores[t, token]) for t, token in enumerate(prompt.answer)]
        p_first = sorted(scores[0].exp().tolist(), reverse=True)
        likeliest = scores[0].argsort(descending=True).tolist()
        firsts = {lm.style.encode(" " + a)[0] for a in q.answers}
        assert r["prediction"] == text
        assert r["nll"] == pytest.approx(sum(gold) / len(gold), abs=1e-4)
        assert r["em"] == max(exact_match(text, a) for a in q.answers)
        assert r["f1"] == pytest.approx(max(f1(text, a) for a in q.answers))
        assert r["first_token_top1"] == (likeliest[0] in firsts)
        assert r["first_token_top5"] == bool(firsts & set(likeliest[:5]))
        assert r["entropy"] == pytest.approx(-sum(x * math.log(x) for x in p_first), abs=1e-4)
        assert r["margin"] == pytest.approx(math.log(p_first[0] / p_first[1]), abs=1e-4)
        divergence = sum(float((t.exp() * (t - s)).sum()) for t, s in zip(teacher, scores, strict=True))
        assert r["kl_to_text"] == pytest.approx(divergence / len(gold), abs=1e-4)
        assert (p.id, p.group, q.kind, q.answers[0]) == (r["passage"], r["group"], r["kind"], r["gold"])
    numbers = found.methods[method]
    for name in ("f1", "em", "nll", "first_token_top1", "first_token_top5", "kl_to_text", "entropy", "margin"):
        assert numbers[name] == pytest.approx(sum(r[name] for r in rows) / len(rows)), name
    golds = {normalize(q.answers[0]) for _, q in questions}
    assert numbers["distinct"] == len({normalize(r["prediction"]) for r in rows}) / len(golds)


def test_a_wire_of_m_embeddings_and_a_budget_of_m_tokens_are_the_same(found) -> None:
    wire, budget = rows_of(found, "wire"), rows_of(found, "token_budget")
    assert found.methods["wire"]["M"] == found.methods["token_budget"]["M"] == M
    for a, b in zip(wire, budget, strict=True):
        assert a["prediction"] == b["prediction"]
        assert a["nll"] == pytest.approx(b["nll"], abs=1e-5)


def test_so_is_a_wire_of_the_keys_and_values_of_these_tokens(lm, found) -> None:
    class FirstKeys(FirstTokens):
        def prefix(self, values: Tensor, model: str) -> Prefix:
            head = len(lm.style.head)
            caches = [lm.keys_and_values([*lm.style.head, *row]) for row in values[..., 0].long().tolist()]
            layers = [list(zip(*row, strict=True)) for row in zip(*caches, strict=True)]
            return Prefix(kv=[(torch.cat(k)[:, :, head:], torch.cat(v)[:, :, head:]) for k, v in layers])

    keys = Evaluator({lm.name: lm}, PASSAGES, {}, NEW, n_boot=50).run({"keys": FirstKeys({lm.name: lm})})
    for a, b in zip(rows_of(keys, "keys"), rows_of(found, "token_budget"), strict=True):
        assert a["prediction"] == b["prediction"]
        assert a["nll"] == pytest.approx(b["nll"], abs=1e-5)


@pytest.mark.parametrize("method", ["replay", "replay_raw"])
def test_replay_is_text(found, method) -> None:
    for a, b in zip(rows_of(found, method), rows_of(found, "text"), strict=True):
        assert a["prediction"] == b["prediction"]
        assert a["nll"] == pytest.approx(b["nll"], abs=1e-5)
        assert abs(a["kl_to_text"]) < 1e-4


def test_batches_change_nothing(lm, found) -> None:
    alone = evaluate(lm, batch_size=1)
    for a, b in zip(found.rows, alone.rows, strict=True):
        assert {k: v for k, v in a.items() if not isinstance(v, float)} == {
            k: v for k, v in b.items() if not isinstance(v, float)
        }
        for name, value in a.items():
            if isinstance(value, float):
                assert value == pytest.approx(b[name], abs=1e-4), name


def test_intervals_and_tests_can_be_recomputed_from_the_file(found, tmp_path) -> None:
    path = found.write(tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len(found.rows) == 11 * 12
    wire, text = ([r for r in rows if r["method"] == m] for m in ("wire", "text"))
    expected = bootstrap_interval([r["nll"] for r in wire], [r["group"] for r in wire], 300, 0)
    numbers = found.methods["wire"]
    assert (numbers["nll_low"], numbers["nll_high"]) == (expected.low, expected.high)
    assert numbers["nll_low"] < numbers["nll"] < numbers["nll_high"]
    test = next(t for t in found.tests if t["against"] == "text")
    exact = mcnemar([r["em"] == 1 for r in wire], [r["em"] == 1 for r in text])
    assert (test["em_only_wire"], test["em_only_other"], test["p_mcnemar"]) == (exact.only_a, exact.only_b, exact.p)
    assert test["f1_difference"] == pytest.approx(numbers["f1"] - found.methods["text"]["f1"])
    assert test["low"] <= test["f1_difference"] <= test["high"]
    assert test["nll_difference"] == pytest.approx(numbers["nll"] - found.methods["text"]["nll"])
    assert test["nll_low"] <= test["nll_difference"] <= test["nll_high"]
    assert {t["against"] for t in found.tests} == set(found.methods) - {"wire"}
    assert any("12 questions" in note for note in found.notes)
    json.dumps(found.result(), allow_nan=False)


def test_bytes_sizes_and_kinds(lm, found) -> None:
    contexts = [prompt_of(lm, p, p.questions[0]).context for p in PASSAGES]
    tokens = sum(map(len, contexts)) / 6
    sizes = found.sizes[lm.name]
    assert sizes["utf8"] == sum(len(p.text) for p in PASSAGES) / 6
    assert sizes["tokens"] == tokens
    assert sizes["kv"] == 2 * 2 * 2 * 8 * 4 * tokens  # k and v, layers, kv heads, head_dim, fp32
    assert sizes["entropy"] == 3.5
    packed = [math.ceil(9 * len(c) / 8) for c in contexts]  # 262 pieces: 9 bits
    assert sizes["token_ids"] == sum(packed) / 6
    bytes_of = {name: m["bytes"] for name, m in found.methods.items()}
    assert bytes_of["wire"] == bytes_of["wire:shuffled"] == 33
    assert bytes_of["text"] == pytest.approx(sum(packed) / 6)
    assert bytes_of["token_budget"] == math.ceil(9 * M / 8)
    assert bytes_of["no_context"] == 0
    assert bytes_of["mean_pooled"] == 2 * M * 32
    assert bytes_of["replay"] == pytest.approx(4 * 32 * tokens)
    assert found.result()["ratio"] == tokens / M
    kinds = found.kinds["wire"]
    assert {k: v["n"] for k, v in kinds.items()} == {"city": 6, "pet": 6}
    assert sum(v["f1"] for v in kinds.values()) / 2 == pytest.approx(found.methods["wire"]["f1"])


def test_an_optimised_wire_works_and_its_controls_do_not(lm) -> None:
    """The channel, latents free per text: right ones answer, wrong, mean and random ones are no context at all."""
    texts = [p.text for p in PASSAGES]
    wire = Lookup(lm, texts)
    pairs = [(i, prompt_of(lm, p, p.questions[1])) for i, p in enumerate(PASSAGES)]
    optimiser = torch.optim.Adam([wire.values], 0.05)
    for _ in range(200):
        prefix = Prefix(embeds=wire.values[[i for i, _ in pairs]])
        loss = lm.answer_logprobs(prefix, [p.question for _, p in pairs], [p.answer for _, p in pairs]).nll().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    asked = [Passage(p.id, p.text, p.questions[1:], p.group, p.bits) for p in PASSAGES]
    found = Evaluator({"tiny": lm}, asked, {"no_context": NoContext()}, NEW, n_boot=100).run({"wire": wire})
    m = found.methods
    assert m["wire"]["em"] == 1.0
    assert m["wire"]["swap_gap"] == pytest.approx(m["wire:shuffled"]["nll"] - m["wire"]["nll"])
    assert m["wire"]["swap_gap"] > 1
    assert m["wire"]["distinct"] == 1.0
    assert m["wire:mean"]["distinct"] == pytest.approx(1 / 6)
    assert m["wire"]["effective_rank"] > 3
    for name in ("no_context", "wire:shuffled", "wire:mean", "wire:random"):
        assert m[name]["f1"] <= 0.2, name
        assert m[name]["nll"] > m["wire"]["nll"] + 1, name


def test_two_models_rescore_each_other_and_the_oracle_bounds_them() -> None:
    lms = {"a": tiny_lm(), "b": tiny_lm("qwen2")}
    found = Evaluator(lms, PASSAGES, {"text": Text()}, NEW, n_boot=100).run({"wire": FirstTokens(lms)})
    rows = {(r["method"], r["model"], r["question"]): r for r in found.rows}
    for p in PASSAGES:
        for q in p.questions:
            own = {m: rows["wire", m, q.id] for m in lms}
            prompt = prompt_of(lms["a"], p, q)
            total = {
                judge: {
                    author: float(
                        literal(
                            lms[judge],
                            [*prompt.bos, *prompt.context[:M], *prompt.question],
                            (*lms[judge].style.encode(" " + own[author]["prediction"]), lms[judge].style.eos),
                        )[0]
                        .gather(
                            1,
                            torch.tensor(
                                [*lms[judge].style.encode(" " + own[author]["prediction"]), lms[judge].style.eos]
                            )[:, None],
                        )
                        .sum()
                    )
                    for author in lms
                }
                for judge in lms
            }
            expected = max(lms, key=lambda author: total["a"][author] + total["b"][author])
            assert rows["wire/joint", "a+b", q.id]["author"] == expected
            for judge in lms:
                best = max(lms, key=lambda author: total[judge][author])
                assert rows[f"wire/rescored by {judge}", "a+b", q.id]["author"] == best
            assert rows["wire/oracle", "a+b", q.id]["f1"] == max(own[m]["f1"] for m in lms)
    assert set(found.methods) > {"wire/a", "wire/b", "text/a", "wire:shuffled/b", "wire/joint", "wire/oracle"}
    assert {t["model"] for t in found.tests} == {"a", "b"}


def test_a_wire_that_holds_the_question_is_followed_by_the_cue_alone(lm) -> None:
    read: list[str] = []

    class Spy(FirstTokens):
        def encode(self, texts: list[str]) -> Tensor:
            read.extend(texts)
            return super().encode(texts)

    lms = {"tiny": lm}
    evaluator = Evaluator(lms, PASSAGES, {"budget": WholePromptBudget()}, NEW, n_boot=50)
    found = evaluator.run({"whole": Spy(lms, whole=True)}, whole_prompt=["whole"])
    own = [whole_prompt_text(p, q) for p in PASSAGES for q in p.questions]
    assert read[: len(own)] == own
    questions = [(p, q) for p in PASSAGES for q in p.questions]
    for r, (passage, question) in zip(rows_of(found, "whole"), questions, strict=True):
        prompt = prompt_of(lm, passage, question)
        _, text = literal(lm, [*prompt.bos, *prompt.context[:M], *prompt.cue], prompt.answer)
        assert r["prediction"] == text


def test_wires_of_different_m_and_a_missing_m_are_refused(lm) -> None:
    evaluator = Evaluator({"tiny": lm}, PASSAGES, {"text": Text()}, NEW, n_boot=50)
    with pytest.raises(UserError, match="one M"):
        evaluator.run({})
    with pytest.raises(UserError, match="one M"):
        evaluator.run({"wire": FirstTokens({"tiny": lm})}, slots=M + 1)
    with pytest.raises(UserError, match="the name of a wire as well"):
        evaluator.run({"text": FirstTokens({"tiny": lm})})
    assert evaluator.run({}, slots=M).methods["text"]["M"] == M


def test_latents_that_are_not_finite_are_a_clear_error(lm) -> None:
    wire = Lookup(lm, [p.text for p in PASSAGES])
    with torch.no_grad():
        wire.values[2, 0, 0] = math.nan
    with pytest.raises(UserError, match="latents of wire"):
        Evaluator({"tiny": lm}, PASSAGES, {}, NEW, n_boot=50).run({"wire": wire})


def test_continuations_are_scored_behind_the_last_tokens(lm) -> None:
    stories = [
        Passage(f"s{i}", p.text, (Question(f"c{i}", "", (" And so on, and on.",), "continuation"),), p.group, None)
        for i, p in enumerate(PASSAGES)
    ]
    baselines = {"text": Text(), "budget": TokenBudget("last"), "none": NoContext(), "raw": Replay("raw")}
    found = Evaluator({"tiny": lm}, stories, baselines, NEW, n_boot=50).run({}, slots=M)
    follows = lm.style.encode(" And so on, and on.")
    for name, keep in (("text", slice(None)), ("budget", slice(-M, None)), ("none", slice(0)), ("raw", slice(None))):
        for r, story in zip(rows_of(found, name), stories, strict=True):
            ids = lm.style.encode(story.text)[keep]
            scores, text = literal(lm, [*lm.style.head, *ids, follows[0]], follows[1:])
            assert r["nll"] == pytest.approx(-float(scores[range(len(follows) - 1), follows[1:]].mean()), abs=1e-4)
            assert r["prediction"] == text
