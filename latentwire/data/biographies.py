"""A generated corpus of little biographies whose every answer must be looked up by person *and* relation.

A context tells `people` different persons, `facts_per_person` facts of each, one sentence a fact. Everything is drawn
uniformly: the set of persons, the set of relations of each person, one of 32 values per fact, the order of the persons
and of each one's sentences, one of three wordings per sentence and of two per question.

**Hold-out.** For each pair (person, relation) the 32 values are dealt to the splits once and for all: 24 to train, 4 to
val, 4 to test. A test context holds test combinations only, so none of its facts was ever trained on, while every word
in it is known.

**Entropy.** The facts of a context are the set {(person, relation, value)}. The world allows

    N = C(persons, people) · [C(relations, facts_per_person) · 32^facts_per_person]^people

such sets, all equally likely, and `Passage.bits` = log2 N: what an ideal message costs whose receiver knows the world,
but not which of its combinations the split was given. Order and wording are not facts and are not counted.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, overload

from callbacks.errors import UserError
from callbacks.ranges import Count, Seed, Steps
from latentwire.data.base import Passage, Question, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
HELD_OUT = 8  # one part in eight of all combinations for val, one for test


@dataclass(frozen=True)
class Relation:
    """Describes one kind of fact: its 32 values, and how it is told and asked for."""

    name: str
    values: tuple[str, ...]
    told: tuple[str, ...]
    asked: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """Holds all that can be said: persons by name, and relations."""

    persons: tuple[str, ...]
    relations: tuple[Relation, ...]

    def words(self) -> list[str]:
        """Return sentences and questions that hold all words a tokenizer needs pieces for, in a fixed order."""
        lines = []
        for relation in self.relations:
            for i, value in enumerate(relation.values):
                for j, told in enumerate(relation.told):
                    lines.append(told.format(person=self.persons[(i + j) % len(self.persons)], value=value))
            lines += [asked.format(person=person) for asked in relation.asked for person in self.persons]
        return lines


PERSONS = tuple(
    """Adam Alice Anna Arthur Boris Carla Clara Daniel David Diana Edgar Elena Emil Emma Felix Frank George Grace Hanna
    Helen Hugo Ivan Jacob Jane Julia Karl Laura Leo Linda Lucas Maria Martin Nora Oscar Paul Peter Rosa Simon Thomas
    Victor""".split()
)

RELATIONS = (
    Relation(
        "job",
        tuple(
            """baker butcher carpenter dentist driver farmer fisher gardener guard hunter jeweller judge lawyer
            librarian mason mechanic miner nurse painter pilot plumber porter potter printer sailor singer smith
            soldier surgeon tailor teacher weaver""".split()
        ),
        (
            "Every day at work {person} is a {value}.",
            "To earn a living {person} became a {value}.",
            "In the daily job {person} is the {value}.",
        ),
        ("What is the job of {person}?", "What does {person} work as?"),
    ),
    Relation(
        "city",
        tuple(
            """Athens Berlin Bern Boston Cairo Chicago Delhi Denver Dublin Florence Geneva Hamburg Havana Houston Kyoto
            Lima Lisbon London Madrid Miami Milan Moscow Munich Nairobi Oslo Paris Prague Rome Seoul Tokyo Vienna
            Warsaw""".split()
        ),
        (
            "For many years the home of {person} was {value}.",
            "With the whole family {person} lives in {value}.",
            "In a small house {person} lives in {value}.",
        ),
        ("What is the city of {person}?", "Where does {person} live?"),
    ),
    Relation(
        "pet",
        tuple(
            """badger bear camel cat cow crow deer dog dove duck falcon ferret fox frog goat goose hamster hen horse
            lizard monkey mouse parrot pig pony rabbit raven sheep snake swan tortoise wolf""".split()
        ),
        (
            "As a pet at home {person} has a {value}.",
            "Behind the house {person} keeps a pet {value}.",
            "Of all the pets {person} owns a {value}.",
        ),
        ("What is the pet of {person}?", "What pet does {person} keep?"),
    ),
    Relation(
        "food",
        tuple(
            """apples bacon beans bread cabbage cake carrots cheese cherries chicken corn dates figs fish garlic grapes
            honey lemons lentils melon mushrooms noodles nuts olives onions pasta pears plums potatoes rice soup
            tomatoes""".split()
        ),
        (
            "For lunch and dinner {person} eats {value}.",
            "At the table {person} likes to eat {value}.",
            "Of all the food {person} likes {value}.",
        ),
        ("What is the food of {person}?", "What does {person} like to eat?"),
    ),
    Relation(
        "instrument",
        tuple(
            """accordion banjo bassoon bugle cello clarinet cornet cymbals drums fiddle flute gong guitar harmonica harp
            horn kazoo keyboard lute mandolin oboe organ piano piccolo recorder saxophone sitar trombone trumpet tuba
            viola violin""".split()
        ),
        (
            "In the evening band {person} plays the {value}.",
            "To make some music {person} plays the {value}.",
            "On the stage {person} plays the {value}.",
        ),
        ("What is the instrument of {person}?", "What does {person} play?"),
    ),
    Relation(
        "language",
        tuple(
            """Arabic Basque Bengali Catalan Chinese Czech Danish Dutch English Estonian Finnish French German Greek
            Hebrew Hindi Hungarian Irish Italian Japanese Korean Latin Latvian Norwegian Persian Polish Russian Spanish
            Swedish Thai Turkish Welsh""".split()
        ),
        (
            "With friends at home {person} speaks {value}.",
            "In letters and books {person} writes {value}.",
            "At school long ago {person} learned {value}.",
        ),
        ("What is the language of {person}?", "What does {person} speak?"),
    ),
)

WORLD = World(PERSONS, RELATIONS)


def seed_of(*parts: object) -> int:
    """Return a 64-bit seed from any printable parts; the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")


@cache
def dealt(world: World) -> dict[tuple[int, int, Split], tuple[int, ...]]:
    """Deal the values (by index) of each (person, relation) to the splits; see the module's text."""
    hands: dict[tuple[int, int, Split], tuple[int, ...]] = {}
    for p, person in enumerate(world.persons):
        for r, relation in enumerate(world.relations):
            order = list(range(len(relation.values)))
            random.Random(seed_of("hold-out", person, relation.name)).shuffle(order)
            part = len(order) // HELD_OUT
            hands[p, r, "val"] = tuple(order[:part])
            hands[p, r, "test"] = tuple(order[part : 2 * part])
            hands[p, r, "train"] = tuple(order[2 * part :])
    return hands


def fact_bits(world: World, people: int, facts_per_person: int) -> float:
    """Return log2 of the number of fact sets that the world allows (formula in the module's text).

    All relations must have the same number of values.
    """
    values = len(world.relations[0].values)
    one = math.comb(len(world.relations), facts_per_person) * values**facts_per_person
    return math.log2(math.comb(len(world.persons), people)) + people * math.log2(one)


class Biographies:
    """Generates the corpus of the module's text, split by split on demand, so that length costs nothing.

    Args:
        people: number of persons in a context.
        facts_per_person: number of facts told of each, of different relations (six in the built-in world).
        seed: seed of the passages; the hold-out never depends on it.
        train: length of the training split.
        val: length of the validation split.
        test: length of the test split.
        world: names, values and wordings; None: the built-in ones.
    """

    def __init__(
        self,
        people: Count = 3,
        facts_per_person: Count = 4,
        seed: Seed = 0,
        train: Steps = 1_000_000,
        val: Steps = 500,
        test: Steps = 500,
        world: World | None = None,
    ):
        self.world = world or WORLD
        for name, value, most in (
            ("people", people, len(self.world.persons)),
            ("facts_per_person", facts_per_person, len(self.world.relations)),
        ):
            if value > most:
                raise UserError(f"corpus.{name}", str(value), f"1 to {most}", f"set corpus.{name}={most} or less")
        self.people, self.facts_per_person, self.seed = people, facts_per_person, seed
        self.sizes: dict[Split, int] = {"train": train, "val": val, "test": test}
        self.bits = fact_bits(self.world, people, facts_per_person)

    def split(self, name: Split) -> Sequence[Passage]:
        """Return the passages of a split, made when they are looked at."""
        return Passages(self, name, self.sizes[name])

    def passage(self, split: Split, index: int) -> Passage:
        """Make passage `index` of a split: a function of the arguments and of the corpus' own, and of nothing else."""
        name = f"bio/{self.people}x{self.facts_per_person}/{self.seed}/{split}/{index}"
        draw = random.Random(seed_of(name))
        world, hands = self.world, dealt(self.world)
        sentences, questions = [], []
        for p in draw.sample(range(len(world.persons)), self.people):
            person = world.persons[p]
            for r in draw.sample(range(len(world.relations)), self.facts_per_person):
                relation = world.relations[r]
                value = relation.values[draw.choice(hands[p, r, split])]
                sentences.append(draw.choice(relation.told).format(person=person, value=value))
                text = draw.choice(relation.asked).format(person=person)
                questions.append(Question(f"{name}/{person}/{relation.name}", text, (value,), relation.name))
        return Passage(name, " ".join(sentences), tuple(questions), name, self.bits)


class Maker(Protocol):
    """Makes any passage of a split by its number."""

    def passage(self, split: Split, index: int) -> Passage:
        """Make passage `index` of a split."""
        ...


class Passages(Sequence[Passage]):
    """Makes the first `size` passages of a split when they are looked at."""

    def __init__(self, corpus: Maker, split: Split, size: int):
        self.corpus, self.name, self.size = corpus, split, size

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Passage: ...

    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...

    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self.corpus.passage(self.name, i) for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(f"{self.name} has {self.size} passages, not a number {index}")
        return self.corpus.passage(self.name, index % self.size)
