"""An adversary trained on another reader's private slots: what they hold is found, what they do not hold is not."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from lw_runs import config, finish
from torch import Tensor

from callbacks.errors import UserError
from latentwire import adversary, two_readers
from latentwire.data.base import Passage, Question, Split
from latentwire.leakage import leakage, shows, slots_of, trained
from latentwire.report.two_readers import _leakage
from latentwire.restore import Loaded, load
from suite.report import markdown

READER, OWNER = "tiny_llama", "tiny_qwen2"
ANSWERS = ("red", "sea", "oak", "tin")


class Secrets:
    """A corpus whose texts are numbers, each with an answer that nothing else tells."""

    def __init__(self, train: int = 64, others: int = 16):
        draw, self.splits, number = random.Random(0), dict[str, list[Passage]](), 0
        for name, count in (("train", train), ("val", others), ("test", 4 * others)):
            self.splits[name] = []
            for _ in range(count):
                question = Question(f"q{number}", "Which?", (draw.choice(ANSWERS),), "which")
                self.splits[name].append(Passage(f"p{number}", f"Text {number}.", (question,), f"p{number}", None))
                number += 1

    def split(self, name: Split) -> Sequence[Passage]:
        return self.splits[name]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A wire of two tiny readers with private slots."""
    cfg = config(tmp_path_factory.mktemp("adversary"), "wire.slots=4", f"wire.private={{{READER}:1,{OWNER}:2}}",
                 "trainer.max_epochs=1", "loader.batch_size=8", "loader.questions=1", "loader.eval_passages=16",
                 "loader.eval_questions=1", "evaluation.n_boot=200", lms=("llama", "qwen2"))  # fmt: skip
    return load(finish(cfg))


def planted(loaded: Loaded, told: Callable[[Passage], Tensor], corpus: Secrets | None = None) -> Loaded:
    """The run with other data and a wire whose private slots of the owner are what `told` makes of a passage."""
    corpus = corpus or Secrets()
    slots, d = slots_of(loaded.wire.layout, OWNER), int(loaded.cfg.wire.d_z)
    values = {}
    for passages in corpus.splits.values():
        for p in passages:
            values[p.text] = torch.randn(4, d, generator=torch.Generator().manual_seed(int(p.id[1:])))
            values[p.text][slots] = told(p)
    wire = copy.copy(loaded.wire)
    wire.encode = lambda texts, *_: torch.stack([values[t] for t in texts])  # type: ignore[method-assign]
    wire.latents_of = wire.encode  # type: ignore[method-assign]
    texts = [p.text for p in corpus.split("train")]
    return replace(loaded, wire=wire, inputs=replace(loaded.inputs, corpus=corpus, texts=texts))


def answer_of(passage: Passage) -> Tensor:
    code = torch.randn(len(ANSWERS), 2, 8, generator=torch.Generator().manual_seed(7))
    return code[ANSWERS.index(passage.questions[0].answers[0])]


def noise_of(passage: Passage) -> Tensor:
    return torch.randn(2, 8, generator=torch.Generator().manual_seed(1000 + int(passage.id[1:])))


def rows_of(loaded: Loaded, steps: int = 40) -> list[dict]:
    test = loaded.inputs.corpus.split("test")
    seen = loaded.wire.encode(loaded.inputs.texts)
    name = f"slots of {OWNER}"
    return trained(loaded, test, READER, name, shows(loaded.wire.layout, READER, seen)[name], [1, 2], steps)


def test_slots_that_hold_the_answer_are_read_and_slots_of_noise_are_not(loaded: Loaded) -> None:
    (legible, null), (silent, _) = rows_of(planted(loaded, answer_of)), rows_of(planted(loaded, noise_of))
    value, low, high = legible["leak"]
    assert 0.3 < low < value < high
    assert legible["swap_gap"] > 0.3
    assert null["leak"] is None
    assert abs(null["swap_gap"]) < 0.3, "the null has learned nothing of a text"
    value, low, high = silent["leak"]
    assert low < 0 < high
    assert abs(value) < 0.2


def test_the_same_seed_makes_the_same_adversary_and_nothing_of_the_run_moves(loaded: Loaded) -> None:
    run, wire = planted(loaded, answer_of), loaded.wire
    seen = run.wire.encode(run.inputs.texts)
    show = shows(wire.layout, READER, seen)[f"slots of {OWNER}"]
    before = {name: t.clone() for name, t in wire.state_dict().items()}
    prints = {name: lm.fingerprint() for name, lm in run.inputs.lms.items()}
    torch.manual_seed(5)
    first = adversary.train(run, READER, show, [1, 2], 3).state_dict()
    torch.manual_seed(6)
    drawn = torch.random.get_rng_state()
    second = adversary.train(run, READER, show, [1, 2], 3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), drawn), "it draws from a generator of its own"
    assert all(torch.equal(second[name], t) for name, t in first.items())
    own = wire.injectors[READER].state_dict()
    assert any(not torch.equal(own[name], t) for name, t in first.items())
    assert all(torch.equal(wire.state_dict()[name], t) for name, t in before.items())
    assert prints == {name: lm.fingerprint() for name, lm in run.inputs.lms.items()}


def test_the_null_learns_every_answer_from_the_message_of_another_passage(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planted(loaded, noise_of)
    owner = {noise_of(p)[0, 0].item(): p.id for split in run.inputs.corpus.splits.values() for p in split}  # type: ignore[attr-defined]
    met: list[tuple[list[str], list[str]]] = []

    def watched(values: Tensor) -> Tensor:
        met.append(([], [owner[v] for v in values[:, slots_of(run.wire.layout, OWNER)][:, 0, 0].tolist()]))
        return values[:, 1:]

    learn = adversary.learn_answers

    def asked(lm, budget, amount, read, net, lr):
        def reading(passages, questions):
            found = read(passages, questions)
            met[-1][0].extend(p.id for p in passages)
            return found

        return learn(lm, budget, amount, reading, net, lr)

    monkeypatch.setattr(adversary, "learn_answers", asked)
    for paired in (True, False):
        met.clear()
        adversary.train(run, READER, watched, [1, 2], 4, paired)
        pairs = [pair for passages, messages in met[1:] for pair in zip(passages, messages, strict=True)]
        assert {a == b for a, b in pairs} == {paired}
        texts = [p.id for p in run.inputs.corpus.split("train")]
        assert {a == b for a, b in zip(texts, met[0][1], strict=True)} == {paired}, "where it starts"


def test_a_leak_is_the_gap_beyond_that_of_the_null_on_the_same_questions() -> None:
    own, null = (1.0, 2.0, 0.5, 1.0), (0.0, 1.0, 0.5, 1.0)
    rows = [{"question": str(i), "group": str(i // 2), "swap_gap": gap, "nll": 1.0} for i, gap in enumerate(own)]
    other = [{**r, "swap_gap": gap, "nll": 9.0} for r, gap in zip(rows, null, strict=True)]
    found = adversary.leak(rows, other, 400, 0)
    assert (found.estimate, found.low, found.high) == (0.5, 0.0, 1.0), "passages are drawn; a worse null leaks nothing"
    with pytest.raises(ValueError, match="different questions"):
        adversary.leak(rows, other[::-1], 400, 0)


def test_both_readers_are_trained_on_the_slots_of_the_other_and_the_page_says_what_leaked(loaded: Loaded) -> None:
    passages = [loaded.inputs.corpus.split("test")[i] for i in range(3)]
    found = leakage(loaded, passages, 2)
    rows = {(r["reader"], r["name"]): r for r in found}
    for reader, owner in ((READER, OWNER), (OWNER, READER)):
        row = rows[reader, f"slots of {owner}, trained"]
        assert row["leak"][1] <= row["leak"][0] <= row["leak"][2]
        assert row["latents"] == rows[reader, f"slots of {owner}"]["latents"]
        assert rows[reader, f"slots of {owner}, null"]["leak"] is None
    page = markdown([_leakage({"leakage": found, "adversary": 2})])
    assert "2 steps each" in page
    assert "leak" in page


def test_what_no_adversary_can_be_trained_on_is_refused(loaded: Loaded, capsys: pytest.CaptureFixture[str]) -> None:
    run = planted(loaded, noise_of, Secrets(others=1))
    with pytest.raises(UserError, match=r"loader\.eval_passages"):
        adversary.budget_of(run, 4)
    assert two_readers.main(["anywhere", "--adversary", "-1"]) == UserError.EXIT_CODE
    assert "add --adversary" in capsys.readouterr().err
