"""Three generated corpora that plant the failures of compressed contexts (Deng et al. 2024, arXiv 2412.17483).

The study of gist tokens finds three patterns in what compression loses. Each corpus here plants one of them in the
grammar of `biographies`, so that readers of biographies read it, and says by `Question.kind` which questions ask for
the planted facts: an evaluation's table by kind has a row for them and one for the others of the same texts.

    lost by the boundary   facts whose value is the first token of a chunk       `boundary` against `inside`
    lost if surprising     a fact that nothing in the text lets one expect       `surprise` against `predictable`
    lost along the way     a long list that is to be given back item by item     `item 01`, `item 02`, …

The third differs from the paper, where one long answer is an exact copy: readers that answer in a word never learned to
say a list, so it is asked for one item at a time, and an error cannot lead to the next one. What is seen is the place
in the list.

The hold-out is that of `biographies`: no (person, relation, value) of one split is in another one, and none of val and
test was trained on by a reader of biographies. `Passage.bits` is log2 of the number of fact sets that can be told, as
there.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Annotated

from callbacks.errors import UserError
from callbacks.ranges import Bounds, Count, Seed, Steps
from latentwire.data.base import Passage, Question, Split, ranked
from latentwire.data.biographies import SPLITS, WORLD, Passages, dealt, fact_bits, seed_of

SHORTEST = 8  # units of the shortest sentence
ORDERS = 64  # orders and wordings that are tried of one set of facts
DRAWS = 64  # sets of facts that are tried for one passage
RELATIONS = len(WORLD.relations)
VALUES = len(WORLD.relations[0].values)

Chunks = Annotated[int, Bounds("2 to 65535 chunks", ge=2, le=65535)]
Frequent = Annotated[int, Bounds("1 to 31 of 32 values", ge=1, le=VALUES - 1)]


@dataclass(frozen=True)
class Fact:
    """Holds one fact of the world of biographies, by index, with its value's word."""

    person: int
    relation: int
    value: str

    def told(self, wording: int) -> str:
        """Return the sentence in one of the relation's wordings."""
        relation = WORLD.relations[self.relation]
        return relation.told[wording].format(person=WORLD.persons[self.person], value=self.value)

    def question(self, passage: str, draw: random.Random, kind: str) -> Question:
        """Return the question in one of its wordings, drawn."""
        relation, person = WORLD.relations[self.relation], WORLD.persons[self.person]
        text = draw.choice(relation.asked).format(person=person)
        return Question(f"{passage}/{person}/{relation.name}", text, (self.value,), kind)


def units(text: str) -> list[str]:
    """Return a text's words and marks, which are the tokens of `pocket_llama`, one by one."""
    return re.findall(r"\w+|[^\w\s]", text)


def starts(length: int, chunks: int) -> set[int]:
    """Return where chunks start: floor(j length / chunks), as `latentwire.encoders.pooling.chunk_borders` cuts."""
    return {j * length // chunks for j in range(chunks)}


def at_boundary(sentences: Sequence[str], chunks: int) -> list[bool]:
    """Tell of each sentence whether its value, the word before its full stop, is the first unit of a chunk."""
    ends, end = [], 0
    for sentence in sentences:
        end += len(units(sentence))
        ends.append(end)
    first = starts(end, chunks)
    return [end - 2 in first for end in ends]


class LostByTheBoundary:
    """Plants facts whose value is the first token of one of the chunks that a text is cut into.

    A context is one of `Biographies`. Its persons, sentences and wordings are put in another order until at least one
    value starts a chunk. Questions about such facts are of the kind `boundary`, all others `inside`. Chunks are counted
    in words and marks: the tokens of `pocket_llama` exactly. With a tokenizer of other pieces they are near only, by as
    many tokens as it has more of them.

    Facts are drawn uniformly, and anew where 64 orders put no value at a start: never of 300 texts of the defaults, of
    2 in 300 with two chunks, of most texts of four facts in two chunks, where `Passage.bits` is an upper bound.

    Args:
        people: number of persons in a context, with four facts in all at least.
        facts_per_person: number of facts told of each, of different relations, six at most.
        slots: number of chunks: the slots of the wire to be tested.
        seed: seed of the passages; the hold-out never depends on it.
        train: length of the training split.
        val: length of the validation split.
        test: length of the test split.

    Raises:
        UserError: more than the world has, chunks of a single token, or no text whose value starts a chunk.
    """

    def __init__(
        self,
        people: Count = 3,
        facts_per_person: Count = 4,
        slots: Chunks = 13,
        seed: Seed = 0,
        train: Steps = 1_000_000,
        val: Steps = 500,
        test: Steps = 500,
    ):
        _within("people", people, len(WORLD.persons))
        _within("facts_per_person", facts_per_person, RELATIONS)
        if people * facts_per_person < 4:
            found = f"{people} with {facts_per_person} facts each"
            raise UserError("corpus.people", found, "four facts or more", "set corpus.people=4")
        _within("slots", slots, people * facts_per_person * SHORTEST // 2)
        self.people, self.facts_per_person, self.slots, self.seed = people, facts_per_person, slots, seed
        self.sizes: dict[Split, int] = {"train": train, "val": val, "test": test}
        self.bits = fact_bits(WORLD, people, facts_per_person)

    def split(self, name: Split) -> Sequence[Passage]:
        """Return the passages of a split, made when they are looked at."""
        return Passages(self, name, self.sizes[name])

    def passage(self, split: Split, index: int) -> Passage:
        """Make passage `index` of a split: a function of the arguments and of the corpus' own, and of nothing else.

        Raises:
            UserError: no text was found in which a value starts a chunk.
        """
        name = f"boundary/{self.people}x{self.facts_per_person}/{self.slots}/{self.seed}/{split}/{index}"
        draw = random.Random(seed_of(name))
        for _ in range(DRAWS):
            lives = self._lives(split, draw)
            for _ in range(ORDERS):
                facts = [fact for life in draw.sample(lives, len(lives)) for fact in draw.sample(life, len(life))]
                sentences = [fact.told(draw.randrange(3)) for fact in facts]
                planted = at_boundary(sentences, self.slots)
                if any(planted):
                    kinds = ["boundary" if here else "inside" for here in planted]
                    return _passage(name, facts, sentences, kinds, draw, self.bits)
        expected, remedy = (
            "a text in which the value of a fact starts a chunk",
            "set corpus.people=3 and corpus.slots=13",
        )
        raise UserError("corpus.slots", f"{self.slots}, which no text suits", expected, remedy)

    def _lives(self, split: Split, draw: random.Random) -> list[list[Fact]]:
        """Draw the facts of each person, as `Biographies` does."""
        return [
            [_drawn(p, r, split, draw) for r in draw.sample(range(RELATIONS), self.facts_per_person)]
            for p in draw.sample(range(len(WORLD.persons)), self.people)
        ]


@cache
def hand(person: int, relation: int, split: Split, frequent: int, rare: bool) -> tuple[str, ...]:
    """Return the frequent or the rare values of a (person, relation) in a split; `frequent` of a relation's are so."""
    values = WORLD.relations[relation].values
    common = set(ranked(values, 0)[:frequent])
    return tuple(values[v] for v in dealt(WORLD)[person, relation, split] if (values[v] in common) != rare)


class LostIfSurprising:
    """Plants one fact that nothing lets expect into a text that goes by a pattern.

    The pattern: every person is told about in the same relations, order and wording, with values from the `frequent`
    ones of each relation. The surprise: among these sentences, never first, one about a person and a relation that
    occur nowhere else in the text, with one of the values that the pattern never has. Its question is of the kind
    `surprise`, all others `predictable`.

    Args:
        people: number of persons told about by the pattern.
        facts_per_person: number of relations in the pattern, five at most.
        frequent: number of values of each relation that the pattern takes; the others surprise.
        seed: seed of the passages; neither the hold-out nor which values are frequent depends on it.
        train: length of the training split.
        val: length of the validation split.
        test: length of the test split.

    Raises:
        UserError: more relations than leave one to surprise, or more persons than have frequent values in every split.
    """

    def __init__(
        self,
        people: Count = 3,
        facts_per_person: Count = 3,
        frequent: Frequent = 8,
        seed: Seed = 0,
        train: Steps = 1_000_000,
        val: Steps = 500,
        test: Steps = 500,
    ):
        _within("facts_per_person", facts_per_person, RELATIONS - 1)
        self.people, self.facts_per_person, self.frequent, self.seed = people, facts_per_person, frequent, seed
        patterns = combinations(range(RELATIONS), facts_per_person)
        most = min(len(self._able(relations, split)) for relations in patterns for split in SPLITS)
        if people > most:
            remedy = (
                f"set corpus.people={most}"
                if most
                else "set corpus.people=3, corpus.frequent=8 and corpus.facts_per_person=3"
            )
            expected = f"{most} at most, of whom every pattern has frequent values in every split"
            raise UserError("corpus.people", str(people), expected, remedy)
        self.sizes: dict[Split, int] = {"train": train, "val": val, "test": test}
        pattern = math.comb(RELATIONS, facts_per_person) * math.comb(len(WORLD.persons), people)
        surprise = (RELATIONS - facts_per_person) * (len(WORLD.persons) - people) * (VALUES - frequent)
        self.bits = math.log2(pattern * surprise) + people * facts_per_person * math.log2(frequent)

    def split(self, name: Split) -> Sequence[Passage]:
        """Return the passages of a split, made when they are looked at."""
        return Passages(self, name, self.sizes[name])

    def passage(self, split: Split, index: int) -> Passage:
        """Make passage `index` of a split: a function of the arguments and of the corpus' own, and of nothing else."""
        name = f"surprise/{self.people}x{self.facts_per_person}/{self.frequent}/{self.seed}/{split}/{index}"
        draw = random.Random(seed_of(name))
        relations = draw.sample(range(RELATIONS), self.facts_per_person)
        persons = draw.sample(self._able(relations, split), self.people)
        facts = [Fact(p, r, draw.choice(hand(p, r, split, self.frequent, False))) for p in persons for r in relations]
        wording = {r: draw.randrange(3) for r in range(RELATIONS)}
        strangers = [
            (p, r)
            for p in range(len(WORLD.persons))
            for r in range(RELATIONS)
            if p not in persons and r not in relations and hand(p, r, split, self.frequent, True)
        ]
        p, r = draw.choice(strangers)
        at = draw.randint(1, len(facts))
        facts.insert(at, Fact(p, r, draw.choice(hand(p, r, split, self.frequent, True))))
        kinds = ["surprise" if i == at else "predictable" for i in range(len(facts))]
        return _passage(name, facts, [f.told(wording[f.relation]) for f in facts], kinds, draw, self.bits)

    def _able(self, relations: Sequence[int], split: Split) -> list[int]:
        """Return the persons that have frequent values of all relations in a split."""
        everyone = range(len(WORLD.persons))
        return [p for p in everyone if all(hand(p, r, split, self.frequent, False) for r in relations)]


class LostAlongTheWay:
    """Tells a long list, one relation of many persons in one wording, and asks for every item by its person.

    A question's kind is its item's place, `item 01` onwards: a row each. All items of a list are alike but for person
    and value, so that nothing else than the place tells them apart.

    Args:
        items: number of persons in a list.
        seed: seed of the passages; the hold-out never depends on it.
        train: length of the training split.
        val: length of the validation split.
        test: length of the test split.

    Raises:
        UserError: more items than the world has persons.
    """

    def __init__(
        self,
        items: Count = 12,
        seed: Seed = 0,
        train: Steps = 1_000_000,
        val: Steps = 500,
        test: Steps = 500,
    ):
        _within("items", items, len(WORLD.persons))
        self.items, self.seed = items, seed
        self.sizes: dict[Split, int] = {"train": train, "val": val, "test": test}
        self.bits = math.log2(RELATIONS * math.comb(len(WORLD.persons), items)) + items * math.log2(VALUES)

    def split(self, name: Split) -> Sequence[Passage]:
        """Return the passages of a split, made when they are looked at."""
        return Passages(self, name, self.sizes[name])

    def passage(self, split: Split, index: int) -> Passage:
        """Make passage `index` of a split: a function of the arguments and of the corpus' own, and of nothing else."""
        name = f"along/{self.items}/{self.seed}/{split}/{index}"
        draw = random.Random(seed_of(name))
        relation, wording = draw.randrange(RELATIONS), draw.randrange(3)
        persons = draw.sample(range(len(WORLD.persons)), self.items)
        facts = [_drawn(p, relation, split, draw) for p in persons]
        kinds = [f"item {place:02}" for place in range(1, self.items + 1)]
        return _passage(name, facts, [f.told(wording) for f in facts], kinds, draw, self.bits)


def _within(key: str, value: int, most: int) -> None:
    if value > most:
        raise UserError(f"corpus.{key}", str(value), f"{most} at most", f"set corpus.{key}={most} or less")


def _drawn(person: int, relation: int, split: Split, draw: random.Random) -> Fact:
    return Fact(person, relation, WORLD.relations[relation].values[draw.choice(dealt(WORLD)[person, relation, split])])


def _passage(
    name: str, facts: Sequence[Fact], sentences: Sequence[str], kinds: Sequence[str], draw: random.Random, bits: float
) -> Passage:
    questions = tuple(fact.question(name, draw, kind) for fact, kind in zip(facts, kinds, strict=True))
    return Passage(name, " ".join(sentences), questions, name, bits)
