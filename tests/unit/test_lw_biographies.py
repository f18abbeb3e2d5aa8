"""The generated corpus: the same everywhere, nothing of the test seen in training, entropy exactly as stated."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from callbacks.errors import UserError
from latentwire.data.biographies import (
    SPLITS,
    WORLD,
    Biographies,
    Relation,
    World,
    dealt,
    fact_bits,
)

Facts = frozenset[tuple[str, str, str]]
TOLD = "{person} {value}"
TINY = World(
    ("Ada", "Ben", "Cas"),
    tuple(
        Relation(name, tuple(f"{name}{i}" for i in range(8)), told=(f"{TOLD}.", f"Say {TOLD}."), asked=("{person}?",))
        for name in ("art", "sum")
    ),
)


def facts(passage) -> Facts:
    return frozenset((*q.id.split("/")[-2:], q.answers[0]) for q in passage.questions)


def test_a_passage_depends_on_its_number_and_on_nothing_else() -> None:
    corpus, again = Biographies(), Biographies(train=7)
    backwards = [again.passage("train", i) for i in (2, 1, 0)]
    assert [corpus.passage("train", i) for i in (0, 1, 2)] == backwards[::-1]
    assert corpus.split("train")[3] == corpus.passage("train", 3) == again.split("train")[-4]
    assert len(corpus.split("val")) == 500
    assert [p.id for p in again.split("train")] == [p.id for p in corpus.split("train")[:7]]
    assert Biographies(seed=1).passage("train", 0).text != corpus.passage("train", 0).text
    with pytest.raises(IndexError):
        again.split("train")[7]


def test_the_committed_models_were_trained_on_this_corpus() -> None:
    text = " ".join(p.text for p in Biographies().split("train")[:5])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "32738062e965992d"


@pytest.mark.parametrize(("people", "count"), [(1, 6), (3, 4), (4, 3)])
def test_what_a_context_tells_is_what_can_be_asked(people: int, count: int) -> None:
    for passage in Biographies(people, count).split("test")[:20]:
        told = facts(passage)
        sentences = passage.text.removesuffix(".").split(". ")
        assert len(told) == len(sentences) == len(passage.questions) == people * count
        assert len({(person, relation) for person, relation, _ in told}) == people * count
        assert len({person for person, *_ in told}) == people
        for question, sentence in zip(passage.questions, sentences, strict=True):
            person, relation = question.id.split("/")[-2:]
            assert person in question.text
            assert relation == question.kind
            assert person in sentence
            assert question.answers[0] in sentence


def test_no_combination_of_person_relation_and_value_is_in_two_splits() -> None:
    hands = dealt(WORLD)
    for p in range(len(WORLD.persons)):
        for r, relation in enumerate(WORLD.relations):
            dealt_values = [v for split in SPLITS for v in hands[p, r, split]]
            assert sorted(dealt_values) == list(range(len(relation.values)))
            assert [len(hands[p, r, split]) for split in SPLITS] == [24, 4, 4]
    drawn = {split: {f for i in range(150) for f in facts(Biographies(4, 6).passage(split, i))} for split in SPLITS}
    assert all(drawn[a].isdisjoint(drawn[b]) for a, b in itertools.combinations(SPLITS, 2))
    values = {split: {value for *_, value in drawn[split]} for split in SPLITS}
    assert values["val"] | values["test"] <= values["train"]  # combinations are new, words are not


@pytest.mark.parametrize(("people", "count"), [(1, 1), (2, 1), (2, 2), (3, 1)])
def test_bits_count_every_set_of_facts_that_the_world_allows(people: int, count: int) -> None:
    relations = {r.name: r.values for r in TINY.relations}
    lives = [
        [frozenset((r, v) for r, v in zip(chosen, values, strict=True))
         for chosen in itertools.combinations(relations, count)
         for values in itertools.product(*(relations[r] for r in chosen))]
    ][0]  # fmt: skip
    everything: set[Facts] = set()
    for persons in itertools.combinations(TINY.persons, people):
        for told in itertools.product(lives, repeat=people):
            everything.add(frozenset((p, r, v) for p, life in zip(persons, told, strict=True) for r, v in life))
    corpus = Biographies(people, count, world=TINY)
    assert round(2**corpus.bits) == len(everything)
    passages = [corpus.passage(split, i) for split in SPLITS for i in range(50)]
    assert all(p.bits == corpus.bits and facts(p) in everything for p in passages)
    if people == count == 1:  # all of them do occur, equally often within a split
        drawn = [facts(corpus.passage("train", i)) for i in range(3600)]
        assert len(set(drawn)) == len(everything) * 6 // 8
        counts = [drawn.count(f) for f in set(drawn)]
        assert 60 < min(counts) <= max(counts) < 145


def test_bits_of_the_default_corpus() -> None:
    assert Biographies().bits == fact_bits(WORLD, 3, 4) == pytest.approx(84.991, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"people": 41}, "people"),
        ({"facts_per_person": 7}, "facts_per_person"),
    ],
)
def test_more_than_the_world_has_is_refused(arguments: dict[str, int], where: str) -> None:
    with pytest.raises(UserError) as error:
        Biographies(**arguments)
    assert error.value.where == f"corpus.{where}"
