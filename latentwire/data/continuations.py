# No `from __future__ import annotations` here: see `latentwire.data.documents`.
"""A user's own texts: beginnings to send, and how they go on."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from callbacks.errors import UserError, no_folder
from callbacks.files.given import HALVES, is_text, parse_given
from callbacks.ranges import NOT_EMPTY, Bounds
from latentwire.data.base import Passage, Question
from latentwire.data.documents import Document, OwnCorpus, key_of, read_text

LEAST = 8  # words of a text that is sent
Words = Annotated[int, Bounds(f"a whole number from {LEAST} to 100000 words", ge=LEAST, le=100_000)]
Unit = Literal["words", "characters"]
_PIECES: dict[Unit, re.Pattern[str]] = {"words": re.compile(r"\S+"), "characters": re.compile(r"\S")}


@dataclass
class Continuations(OwnCorpus):
    """Cuts documents into passages, each with its continuation as the only question (see `is_continuation`).

    A document is read in pieces of `begin` and `rest` words, one behind the other: the former are sent, the latter
    scored. White space and line breaks stay as they are. Its end makes a shorter passage where there are at least
    8 words to send and `rest` to score; what is left out is counted and told. A document that is there twice in a split
    is read once.

    Args:
        begin: the number of words that are sent.
        rest: the number of words that are scored.
        unit: what is counted, words between white space, or characters, for scripts that set none between words.

    The other arguments are those of `OwnCorpus`.
    """

    remedy: ClassVar[str] = "set corpus.begin=16 corpus.rest=8, or add longer documents"

    begin: Words = 64
    rest: Words = 24
    unit: Unit = "words"
    left: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def documents(self, texts: Iterable[tuple[str, str, str]]) -> list[Document]:
        """Return texts as documents, each given with its place, for errors, and its name; the same text once."""
        found: dict[str, Document] = {}
        for where, name, text in texts:
            key = key_of(text)
            if key in found:
                self.left["again"] += 1
                continue
            found[key] = Document(where, key, self._cut(text, name))
            self.left["short"] += not found[key].passages
        return list(found.values())

    def _cut(self, text: str, name: str) -> list[Passage]:
        pieces = [(m.start(), m.end()) for m in _PIECES[self.unit].finditer(text)]
        found: list[Passage] = []
        for start in range(0, len(pieces), self.begin + self.rest):
            window = pieces[start : start + self.begin + self.rest]
            sent = len(window) - self.rest
            if sent < LEAST:
                self.left["words"] += len(window) if start else 0
                break
            beginning = text[window[0][0] : window[sent - 1][1]]
            rest = text[window[sent][0] : window[-1][1]]
            passage = f"{name}/{len(found)}"
            found.append(
                Passage(passage, beginning, (Question(f"{passage}/rest", "", (rest,), "continuation"),), name, None)
            )
        return found

    def remarks(self) -> list[str]:
        told = []
        if short := self.left["short"]:
            told.append(f"{short} document(s) of less than {self.rest + LEAST} {self.unit} left out")
        if words := self.left["words"]:
            told.append(f"{words} {self.unit} at the ends of documents left out")
        if again := self.left["again"]:
            told.append(f"{again} document(s) that are there twice read once")
        return told


@dataclass
class TextFolder(Continuations):
    """Reads a folder of text files (`.txt`, UTF-8, in subfolders as well); each file is a document.

    The arguments are those of `Continuations` and `OwnCorpus`.
    """

    @classmethod
    def files(cls, path: Path) -> Sequence[Path]:
        return sorted(p for p in path.rglob("*.txt") if p.is_file())

    def read(self, path: Path, key: str, prefix: str) -> list[Document]:
        expected = "a folder of .txt files"
        if not path.is_dir():
            remedy = f"set {key} to {expected}; one text a line of a file: corpus=jsonl"
            raise UserError(f"{key}={path}", no_folder(path), expected, remedy)
        files = self.files(path)
        if not files:
            raise UserError(f"{key}={path}", "no .txt file in it", expected, "name the text files *.txt")
        return self.documents((str(f), f"{prefix}{f.relative_to(path)}", read_text(f, key, expected)) for f in files)


@dataclass
class JsonLines(Continuations):
    """Reads a file of JSON objects, one a line, each with a text; each line is a document.

    Args:
        key: the key of the text.

    The other arguments are those of `Continuations` and `OwnCorpus`.
    """

    key: Annotated[str, NOT_EMPTY] = "text"

    def read(self, path: Path, key: str, prefix: str) -> list[Document]:
        texts = []
        for where, entry in json_lines(path, key, f'a file of lines {{"{self.key}": "…"}}'):
            text = entry.get(self.key)
            if isinstance(text, str) and not is_text(text):
                raise UserError(where, "half a character (a lone surrogate)", "Unicode text", HALVES)
            if not isinstance(text, str):
                strings = [k for k, v in entry.items() if isinstance(v, str)]
                found = f"{type(text).__name__} under {self.key!r}" if self.key in entry else f"no key {self.key!r}"
                remedy = f"set corpus.key={strings[0]}" if strings else f'write {{"{self.key}": "the text"}}'
                raise UserError(where, found, f"a text under {self.key!r}", remedy)
            texts.append((where, f"{prefix}{where.rpartition(', ')[2]}", text))
        return self.documents(texts)


def json_lines(path: Path, key: str, expected: str) -> list[tuple[str, dict[str, object]]]:
    """Return the objects of a file of JSON lines, each with file and line; blank lines are passed over.

    Args:
        path: the file.
        key: the key that names it, for errors.
        expected: what it should be, for errors.

    Raises:
        UserError: a file that is absent or empty, or a line that is no JSON object.
    """
    found = []
    for number, line in enumerate(read_text(path, key, expected).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        entry = parse_given(line, where, expected, "write one JSON object a line; line breaks in a text are \\n")
        if not isinstance(entry, dict):
            raise UserError(where, f"a JSON {type(entry).__name__}", expected, "write one JSON object a line")
        found.append((where, entry))
    if not found:
        raise UserError(str(path), "an empty file", expected, "write one JSON object a line")
    return found
