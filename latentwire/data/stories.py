"""Stories that a language model tells itself: beginnings to send, and how they go on.

They are sampled from the model once and kept, so that no text is needed beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
from transformers import DynamicCache

from callbacks.errors import UserError, quoted
from callbacks.files.atomic import write_text
from callbacks.files.folders import make_folder
from callbacks.files.sealed import read_json, sealed_json
from callbacks.ranges import Bounds, Count, Positive, Seed
from latentwire.data.base import Passage, Question, Split
from latentwire.lm.frozen import FrozenLM

BLOCK = 512  # stories sampled together: the unit of the cache
STORIES = "stories"  # the key of a cached block, and part of its name: blocks without a seal are not read
BORDER = "▁"  # begins the first piece of a word

Length = Annotated[int, Bounds("a length from 8 to 65536 tokens", ge=8, le=65536)]


class Stories:
    """Samples beginnings of stories, each with its continuation as the only question (see `is_continuation`).

    A story is sampled token by token from BOS. Text is its first `begin` tokens at most, the answer the next `rest` at
    most, both up to a word's end. Left out are stories that end before, and the few (about 8 % with stories260K) whose
    text the tokenizer would read as other ids than those that were sampled. At temperature 1 the mean NLL of the answer
    given the text therefore is the entropy that the teller itself leaves: no reader of the text can be below it but by
    chance.

    Splits come from different seeds. Blocks of stories are files of `cache`, whose names hold a hash of weights, pieces
    and settings: an interrupted sampling goes on at the next block. Rounding decides close draws, so another machine
    may tell other stories from the same seed; who compares numbers to the last digit copies the cache.

    Args:
        teller: the model that tells; its tokenizer marks the beginning of a word by `▁`.
        cache: folder of the sampled stories.
        begin: largest number of tokens of a text, 8 or more.
        rest: largest number of tokens of an answer, 8 or more.
        temperature: temperature of the sampling.
        seed: seed of all splits.
        train: number of training passages.
        val: number of validation passages.
        test: number of test passages.
    """

    def __init__(
        self,
        teller: FrozenLM,
        cache: str,
        begin: Length = 96,
        rest: Length = 32,
        temperature: Positive = 1.0,
        seed: Seed = 0,
        train: Count = 4096,
        val: Count = 128,
        test: Count = 400,
    ):
        self._sizes: dict[Split, int] = {"train": train, "val": val, "test": test}
        self._lm = teller
        self._begin, self._rest, self._temperature, self._seed = begin, rest, temperature, seed
        length = begin + rest + 1  # the one behind tells whether a word ends before it
        if length > self._lm.max_tokens:
            expected, remedy = f"below {self._lm.max_tokens} together", "set corpus.begin=96 and corpus.rest=32"
            raise UserError("corpus.begin, corpus.rest", f"{begin} + {rest}", expected, remedy)
        self._length = length
        pieces = self._lm.tokenizer.convert_ids_to_tokens(list(range(self._lm.vocab_size)))
        self._pieces: list[str] = [piece or "" for piece in pieces]  # a vocabulary may have more rows than tokens
        self._special = set(self._lm.tokenizer.all_special_ids)
        told = json.dumps([self._lm.fingerprint(), self._pieces, length, float(temperature), BLOCK, STORIES])
        self._folder, self._key = Path(cache), hashlib.sha256(told.encode()).hexdigest()[:16]
        self._kept: dict[Split, list[Passage]] = {}

    def split(self, name: Split) -> Sequence[Passage]:
        """Return all passages of one split; sampled at the first call ever, read from the cache afterwards.

        Raises:
            UserError: a damaged file in the cache, or settings under which hardly any story can be used.
        """
        if name not in self._kept:
            kept: list[Passage] = []
            for number, stories in enumerate(self._blocks(name)):
                found = [self._passage(f"{name}/{number}/{i}", ids) for i, ids in enumerate(stories)]
                kept += [p for p in found if p is not None]
                if len(kept) >= self._sizes[name]:
                    break
                if len(kept) < (number + 1) * BLOCK // 20:
                    raise UserError(
                        "corpus",
                        f"{len(kept)} of {(number + 1) * BLOCK} stories are long enough and read back unchanged",
                        "one in twenty at least",
                        "set corpus.begin=32, corpus.rest=12 and corpus.temperature=1.0",
                    )
            self._kept[name] = kept[: self._sizes[name]]
        return self._kept[name]

    def _blocks(self, name: Split) -> Iterator[list[list[int]]]:
        number = 0
        while True:
            path = self._folder / f"{self._key}-seed{self._seed}-{name}-{number:04d}.json"
            if not path.is_file():
                make_folder(
                    self._folder, f"corpus.cache={self._folder}", "set paths.cache=data_cache, or another folder"
                )
                write_text(path, json.dumps(sealed_json({STORIES: self._sample(name, number)})))
            yield _read(path, self._length)
            number += 1

    @torch.no_grad()
    def _sample(self, name: Split, number: int) -> list[list[int]]:
        """Sample one block: ids behind BOS, `length` each, whatever they are."""
        seed = hashlib.sha256(f"{self._seed}/{name}/{number}".encode()).digest()[:7]
        generator = torch.Generator().manual_seed(int.from_bytes(seed))
        model = self._lm.model
        bos, cache, told = self._lm.style.head[-1], DynamicCache(config=model.config), []
        ids = torch.full((BLOCK, 1), bos)
        for _ in range(self._length):
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1].float()
            ids = torch.multinomial((logits / self._temperature).softmax(-1), 1, generator=generator)
            told.append(ids)
        return torch.cat(told, 1).tolist()

    def _passage(self, name: str, ids: Sequence[int]) -> Passage | None:
        """Make a passage; None where the story ends too early or does not read back as the ids that were sampled."""
        cut = self._border(ids, self._begin)
        end = self._border(ids, cut + self._rest)
        if cut < 2 or end < cut + 2 or not self._special.isdisjoint(ids[:end]):
            return None
        text, rest = (str(self._lm.tokenizer.decode(list(part))) for part in (ids[:cut], ids[cut:end]))
        if self._lm.style.encode(text) != tuple(ids[:cut]) or self._lm.style.encode(rest) != tuple(ids[cut:end]):
            return None
        return Passage(name, text, (Question(f"{name}/rest", "", (rest,), "continuation"),), name, None)

    def _border(self, ids: Sequence[int], at: int) -> int:
        """Return the last place up to `at` before which a word ends; 0 where there is none."""
        return next((i for i in range(at, 0, -1) if self._pieces[ids[i]].startswith(BORDER)), 0)


def _read(path: Path, length: int) -> list[list[int]]:
    expected, remedy = f"{BLOCK} stories of {length} ids", f"rm {quoted(path)}, and they are sampled again"
    stories = read_json(path, expected, remedy).get(STORIES)
    if not isinstance(stories, list) or [len(s) for s in stories] != [length] * BLOCK:
        raise UserError(str(path), "other stories", expected, remedy)
    return stories
