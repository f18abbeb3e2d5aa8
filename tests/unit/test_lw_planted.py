"""Planted corpora: planted is what a question's kind says, held out is what is tested, and a pocket reads it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from callbacks.errors import UserError
from latentwire.data import LostAlongTheWay, LostByTheBoundary, LostIfSurprising
from latentwire.data.base import Passage, ranked
from latentwire.data.biographies import SPLITS, WORLD, dealt
from latentwire.data.planted import starts, units
from latentwire.encoders.pooling import chunk_borders
from latentwire.examples import examples
from latentwire.lm.layout import Prefix
from latentwire.pocket import load

MAKERS = (LostByTheBoundary, LostIfSurprising, LostAlongTheWay)
VALUES = {relation.name: relation.values for relation in WORLD.relations}
corpora = pytest.mark.parametrize("make", MAKERS)


def facts(passage: Passage) -> list[tuple[str, str, str]]:
    """Person, relation and value of every question, in order."""
    named = [q.id.rsplit("/", 2)[-2:] for q in passage.questions]
    return [(person, relation, q.answers[0]) for (person, relation), q in zip(named, passage.questions, strict=True)]


def sentences(passage: Passage) -> list[str]:
    return passage.text.removesuffix(".").split(". ")


@corpora
def test_a_passage_depends_on_its_number_and_seed_and_on_nothing_else(make: Callable) -> None:
    corpus, again = make(), make(train=7)
    backwards = [again.passage("train", i) for i in (2, 1, 0)]
    assert [corpus.passage("train", i) for i in (0, 1, 2)] == backwards[::-1]
    assert corpus.split("train")[3] == again.split("train")[-4]
    assert [len(corpus.split(s)) for s in SPLITS] == [1_000_000, 500, 500]
    assert make(seed=1).passage("train", 0).text != corpus.passage("train", 0).text


@corpora
def test_every_question_is_answered_by_its_own_sentence(make: Callable) -> None:
    for passage in make().split("test")[:20]:
        told = facts(passage)
        assert len({(person, relation) for person, relation, _ in told}) == len(told) == len(sentences(passage))
        for question, sentence, (person, relation, value) in zip(
            passage.questions, sentences(passage), told, strict=True
        ):
            assert person in question.text
            assert value in VALUES[relation]
            assert sentence.endswith(f" {value}")
            assert f" {person} " in sentence


@corpora
def test_no_fact_of_one_split_is_in_another(make: Callable) -> None:
    persons = {person: p for p, person in enumerate(WORLD.persons)}
    relations = {relation.name: r for r, relation in enumerate(WORLD.relations)}
    drawn = {s: {f for p in make().split(s)[:100] for f in facts(p)} for s in SPLITS}
    assert all(drawn[a].isdisjoint(drawn[b]) for a, b in itertools.combinations(SPLITS, 2))
    hands = dealt(WORLD)  # the readers of biographies were trained on its part of train
    for split in SPLITS:
        for person, relation, value in drawn[split]:
            hand = hands[persons[person], relations[relation], split]
            assert value in [VALUES[relation][v] for v in hand]


# -- lost by the boundary ---------------------------------------------------------------------------------------------
def test_chunks_start_where_an_encoder_cuts() -> None:
    for length, slots in ((105, 13), (99, 26), (50, 2), (16, 8)):
        start, _ = chunk_borders(torch.tensor([length]), slots)
        assert starts(length, slots) == set(start[0].tolist())


@pytest.mark.parametrize(("people", "count", "slots"), [(3, 4, 13), (3, 4, 26), (3, 4, 2), (2, 3, 6), (1, 4, 4)])
def test_a_question_is_of_the_boundary_if_its_value_starts_a_chunk_of_the_readers_tokens(
    people: int, count: int, slots: int
) -> None:
    encode = load("pocket_llama").style.encode
    for passage in LostByTheBoundary(people, count, slots).split("test")[:20]:
        ids = encode(passage.text)
        assert len(ids) == len(units(passage.text))
        first = set(chunk_borders(torch.tensor([len(ids)]), slots)[0][0].tolist())
        expected, end = [], 0
        for sentence, (_, _, value) in zip(sentences(passage), facts(passage), strict=True):
            end += len(encode(sentence + "."))
            assert ids[end - 2 : end - 1] == encode(value)
            expected.append("boundary" if end - 2 in first else "inside")
        assert [q.kind for q in passage.questions] == expected
        assert "boundary" in expected


def test_bits_of_boundary_texts_are_those_of_biographies() -> None:
    assert LostByTheBoundary().bits == pytest.approx(84.991, abs=1e-3)


# -- lost if surprising -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("people", "count", "frequent"), [(3, 3, 8), (2, 4, 16), (1, 1, 31)])
def test_the_surprise_is_in_nothing_like_the_pattern_around_it(people: int, count: int, frequent: int) -> None:
    places = set()
    for passage in LostIfSurprising(people, count, frequent).split("test")[:60]:
        kinds = [q.kind for q in passage.questions]
        assert sorted(kinds) == ["predictable"] * (people * count) + ["surprise"]
        at = kinds.index("surprise")
        places.add(at)
        pattern = facts(passage)
        person, relation, value = pattern.pop(at)
        assert person not in {p for p, _, _ in pattern}
        assert relation not in {r for _, r, _ in pattern}
        assert value not in ranked(VALUES[relation], 0)[:frequent]
        assert all(v in ranked(VALUES[r], 0)[:frequent] for _, r, v in pattern)
        words = [
            s.replace(p, "").replace(v, "") for s, (p, _, v) in zip(sentences(passage), facts(passage), strict=True)
        ]
        del words[at]
        assert words == words[:count] * people  # the same relations, order and wording of every person
    assert places == set(range(1, people * count + 1))


# -- lost along the way -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("items", [1, 12, 40])
def test_a_list_tells_items_apart_by_nothing_but_person_value_and_place(items: int) -> None:
    for passage in LostAlongTheWay(items).split("val")[:20]:
        told = facts(passage)
        assert len({person for person, _, _ in told}) == items
        assert (
            len({s.replace(p, "").replace(v, "") for s, (p, _, v) in zip(sentences(passage), told, strict=True)}) == 1
        )
        assert [q.kind for q in passage.questions] == [f"item {i + 1:02}" for i in range(items)]


# -- what cannot be made ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "arguments", "where"),
    [
        (LostByTheBoundary, {"people": 41}, "people"),
        (LostByTheBoundary, {"people": 1, "facts_per_person": 3}, "people"),
        (LostByTheBoundary, {"facts_per_person": 7}, "facts_per_person"),
        (LostByTheBoundary, {"slots": 49}, "slots"),
        (LostIfSurprising, {"facts_per_person": 6}, "facts_per_person"),
        (LostIfSurprising, {"people": 12}, "people"),
        (LostIfSurprising, {"frequent": 1}, "people"),
        (LostAlongTheWay, {"items": 41}, "items"),
    ],
)
def test_what_the_world_does_not_hold_is_refused(make: Callable, arguments: dict[str, int], where: str) -> None:
    with pytest.raises(UserError) as error:
        make(**arguments)
    assert error.value.where == f"corpus.{where}"


@corpora
def test_the_embedded_reader_answers_planted_questions_from_the_text(make: Callable) -> None:
    lm = load("pocket_llama")
    asked = examples(lm, make().split("test")[:4])
    said = lm.generate(Prefix(None, None, [e.prompt.context for e in asked]), [e.prompt.question for e in asked], 4)
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for e, ids in zip(asked, said, strict=True):
        ordinary = e.question.kind in ("inside", "predictable")
        hits[ordinary].append(lm.style.decode(ids) == e.question.answers[0])
    assert all(sum(hit) >= 0.9 * len(hit) for hit in hits.values())
