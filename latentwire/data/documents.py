# No `from __future__ import annotations` here: subclasses in other modules inherit these fields, and their generated
# constructors must carry the types themselves, not names that would be looked up in the subclass's module.
"""What corpora of a user's own files share: documents, dealt to the splits so that none is in two."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from callbacks.errors import UserError
from callbacks.files.given import read_given
from callbacks.ranges import OpenShare, Seed
from latentwire.data.base import Passage, Split, ranked

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Document:
    """One document of a corpus.

    Attributes:
        where: its file, and its line where it has one.
        key: the SHA-256 of what the splits go by: the same key is the same document.
        passages: what is made of it.
    """

    where: str
    key: str
    passages: list[Passage]


def key_of(text: str) -> str:
    """Return the SHA-256 of a text, white space around it left out."""
    return hashlib.sha256(text.strip().encode()).hexdigest()


@dataclass
class OwnCorpus:
    """Reads documents and deals them to the splits; a subclass reads files and makes passages (`read`).

    A document's place depends on the seed and its content alone, not on its name. One that makes no passage is dealt to
    no split. The constructor reads no file.

    Args:
        path: the documents to train on, and to deal to val and test where these have no path of their own.
        val_path: the documents of the validation split; null: a share of `path`.
        test_path: the documents of the test split; null: a share of `path`.
        val_share: the share of the documents in val.
        test_share: the share of the documents in test.
        seed: the seed of the deal.

    Raises:
        UserError: shares that leave nothing to train on.
    """

    path: str
    val_path: str | None = None
    test_path: str | None = None
    val_share: OpenShare = 0.1
    test_share: OpenShare = 0.1
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.val_share + self.test_share >= 1:
            found = f"{self.val_share:g} and {self.test_share:g}"
            remedy = "set corpus.val_share=0.1 corpus.test_share=0.1"
            raise UserError("corpus.val_share, corpus.test_share", found, "shares of sum below 1", remedy)

    #: What to do where no document makes a passage.
    remedy: ClassVar[str] = "add documents"

    # -- what a subclass does ---------------------------------------------------------------------------------------

    def read(self, path: Path, key: str, prefix: str) -> list[Document]:
        """Return the documents of a file or folder.

        Args:
            path: the file or folder.
            key: the key that names it, for errors.
            prefix: what the names of passages begin with; "" for `corpus.path`.

        Raises:
            UserError: nothing there, or something that cannot be read.
        """
        raise NotImplementedError

    @classmethod
    def files(cls, path: Path) -> Path | Sequence[Path]:
        """Return what of a path is read."""
        return path

    def remarks(self) -> list[str]:
        """Return what else is to be said once all splits are read: what was left out, counted."""
        return []

    # -- what a run reads (see `suite.runs.reads`) ------------------------------------------------------------------

    @classmethod
    def input_files(cls, arguments: Mapping[str, Any]) -> dict[str, Path | Sequence[Path]]:
        """Return the files of every path that is given."""
        named = {key: arguments.get(key) for key in ("path", "val_path", "test_path")}
        return {key: cls.files(Path(str(p)).expanduser()) for key, p in named.items() if p is not None}

    @classmethod
    def inert_keys(cls, arguments: Mapping[str, Any]) -> dict[str, str]:
        """Return the shares of splits that have a path of their own."""
        given = [split for split in ("val", "test") if arguments.get(f"{split}_path") is not None]
        found = {f"{split}_share": f"{split}_path gives the split" for split in given}
        return {**found, "seed": "no split is dealt"} if len(given) == 2 else found

    # -- the Corpus interface ---------------------------------------------------------------------------------------

    def split(self, name: Split) -> Sequence[Passage]:
        """Return the passages of a split; all files are read at the first call.

        Raises:
            UserError: files that cannot be read, a document in two given splits, or too few of them.
        """
        return self._splits[name][1]

    def told(self) -> str:
        """Return in words what the splits hold, and what was left out."""
        sizes = [f"{split} {len(p)} passage(s) of {len(d)} document(s)" for split, (d, p) in self._splits.items()]
        return "; ".join([*sizes, *self.remarks()])

    @cached_property
    def _splits(self) -> dict[Split, tuple[list[Document], list[Passage]]]:
        named: dict[Split, str | None] = {"train": self.path, "val": self.val_path, "test": self.test_path}
        given: dict[Split, list[Document]] = {}
        for split, path in named.items():
            if path is not None:
                key = "corpus.path" if split == "train" else f"corpus.{split}_path"
                read = self.read(Path(path).expanduser(), key, "" if split == "train" else f"{split}/")
                given[split] = [d for d in read if d.passages]
                if not given[split]:
                    more = "".join(f"; {remark}" for remark in self.remarks())
                    found = f"{len(read)} document(s), none of which makes a passage{more}"
                    raise UserError(f"{key}={path}", found, "at least one passage", self.remedy)
        owner: dict[str, tuple[Split, Document]] = {}
        for split, documents in given.items():
            for document in documents:
                other, known = owner.setdefault(document.key, (split, document))
                if other != split:
                    found = f"the same document as {known.where}, which is in {other}"
                    remedy = f"take it out of {split} or of {other}"
                    raise UserError(document.where, found, "every document in one split", remedy)
        _refuse_twice([d for documents in given.values() for d in documents])
        splits: dict[Split, list[Document]] = {**given, **self._deal(given)}
        return {split: (splits[split], [p for d in splits[split] for p in d.passages]) for split in SPLITS}

    def _deal(self, given: Mapping[Split, Sequence[Document]]) -> dict[Split, list[Document]]:
        """Return the documents of `path` by split; val and test get their share where they have none."""
        pool = given["train"]
        shares: dict[Split, float] = {"val": self.val_share, "test": self.test_share}
        lacking: list[Split] = [split for split in shares if split not in given]
        order = ranked({d.key for d in pool}, self.seed)
        if len(order) <= len(lacking):
            found = f"{len(order)} different document(s)"
            expected = f"{len(lacking) + 1} or more, as none is in two of the splits train, {', '.join(lacking)}"
            keys = " and ".join(f"corpus.{split}_path" for split in lacking) or "corpus.path"
            raise UserError("corpus.path", found, expected, f"add documents, or set {keys}")
        home: dict[str, Split] = {}
        start = 0
        for i, split in enumerate(lacking):
            most = len(order) - start - (len(lacking) - i)  # one is left for every part behind
            size = min(max(1, round(shares[split] * len(order))), most)
            home |= dict.fromkeys(order[start : start + size], split)
            start += size
        parts: tuple[Split, ...] = ("train", *lacking)
        return {split: [d for d in pool if home.get(d.key, "train") == split] for split in parts}


def _refuse_twice(documents: Sequence[Document]) -> None:
    """Refuse names of passages and questions that are not unique."""
    seen: dict[tuple[str, str], str] = {}
    for document in documents:
        for passage in document.passages:
            for kind, name in (("id", passage.id), *(("question id", q.id) for q in passage.questions)):
                if (kind, name) in seen:
                    found, remedy = f"{kind} {name}, already in {seen[kind, name]}", "rename one, or leave all ids out"
                    raise UserError(document.where, found, "unique ids", remedy)
                seen[kind, name] = document.where


def read_text(path: Path, key: str, expected: str) -> str:
    """Return the text of a file of the corpus.

    Raises:
        UserError: a file that is absent or no UTF-8 text.
    """
    return read_given(path, f"{key}={path}", expected, f"set {key} to {expected}")
