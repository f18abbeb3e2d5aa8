# No `from __future__ import annotations` here: see `latentwire.data.documents`.
"""A user's own contexts with questions and answers, without the places of the answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from callbacks.errors import UserError
from callbacks.files.given import is_text
from latentwire.data.base import Passage, Question, question_kind
from latentwire.data.continuations import json_lines
from latentwire.data.documents import Document, OwnCorpus, key_of
from latentwire.data.squad_metrics import normalize, within

LAYOUT = '{"context": "…", "questions": [{"question": "…", "answers": ["…"]}]}'


@dataclass
class QuestionAnswering(OwnCorpus):
    """Reads JSON lines `{"context": …, "questions": [{"question": …, "answers": […]}]}`.

    `answers` are the accepted ones, a list or a single text. Also taken are `id` (of a line and of a question; unique)
    and `document` of a line, what it is a part of: lines of one document, and of one context, are never in two splits.
    The bootstrap draws documents.

    Whether an answer is in its context is asked as SQuAD's scorer compares: without case, punctuation and articles. Of
    several, one that is there is trained on; questions with answers that are not are counted and told. So are questions
    none of whose answers is there, which cannot be read off the text: see `absent`.

    Args:
        absent: questions none of whose answers is in the context: `refuse` them, `drop` them, or `keep` them (yes and
            no, say).

    The other arguments are those of `OwnCorpus`.
    """

    absent: Literal["refuse", "drop", "keep"] = "refuse"
    count: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def read(self, path: Path, key: str, prefix: str) -> list[Document]:
        documents, nowhere = [], list[tuple[str, Question]]()
        for where, entry in json_lines(path, key, f"a file of lines {LAYOUT}"):
            context = entry.get("context")
            if not is_text(context) or not context.strip():
                raise _wrong(where, f"context {context!r}"[:80])
            document = entry.get("document")
            if document is not None and not is_text(document):
                raise _wrong(where, f"document {document!r}")
            questions, without = self._questions(where, entry, context)
            nowhere += [(where, question) for question in without]
            name = prefix + str(entry.get("id") or where.rpartition(", ")[2])
            named = [replace(q, id=q.id or f"{name}/{i}") for i, q in enumerate(questions)]
            key = key_of(context if document is None else document)
            self.count["empty"] += not named
            passages = [Passage(name, context, tuple(named), key[:16], None)] if named else []
            documents.append(Document(where, key, passages))
        if nowhere and self.absent == "refuse":
            where, question = nowhere[0]
            total = sum(len(p.questions) for d in documents for p in d.passages)
            raise UserError(
                f"{where}, question {question.text!r}",
                f"none of its answers {list(question.answers)} is in the context ({len(nowhere)} of {total} questions)",
                "one of them in the context, but for case, punctuation and articles",
                "set corpus.absent=drop to leave such questions out, or corpus.absent=keep to ask them all the same",
            )
        _refuse_mixed(documents)
        return documents

    def _questions(self, where: str, entry: dict[str, object], context: str) -> tuple[list[Question], list[Question]]:
        """Return the questions of a line, and those of them none of whose answers is in the context."""
        listed = entry.get("questions")
        if not isinstance(listed, list):
            raise _wrong(where, "no key 'questions'" if listed is None else f"questions {listed!r}"[:80])
        text = normalize(context)
        questions, without = [], []
        for number, one in enumerate(listed, start=1):
            place = f"{where}, question {number}"
            if not isinstance(one, dict):
                raise _wrong(place, repr(one)[:80])
            asked, answers = one.get("question"), one.get("answers")
            answers = [answers] if isinstance(answers, str) else answers
            if not is_text(asked) or not asked.strip():
                raise _wrong(place, f"question {asked!r}"[:80])
            if not isinstance(answers, list) or not answers or not all(is_text(a) and a.strip() for a in answers):
                raise _wrong(place, f"answers {answers!r}"[:80])
            there = [within(a, text) for a in answers]
            ordered = sorted(range(len(answers)), key=lambda i: not there[i])
            name = str(one.get("id") or "")
            question = Question(name, asked, tuple(answers[i] for i in ordered), question_kind(asked))
            self.count["questions"] += 1
            if not any(there):
                self.count["nowhere"] += 1
                without.append(question)
                if self.absent == "drop":
                    continue
            elif not all(there):
                self.count["partly"] += 1
                self.count["moved"] += not there[0]
            questions.append(question)
        return questions, without

    def remarks(self) -> list[str]:
        total, told = self.count["questions"], []
        if partly := self.count["partly"]:
            moved = f"; {self.count['moved']} are trained on another than their first" if self.count["moved"] else ""
            told.append(f"{partly} of {total} question(s) have answers that are not in the context{moved}")
        if nowhere := self.count["nowhere"]:
            done = "kept" if self.absent == "keep" else "left out"
            told.append(f"{nowhere} of {total} question(s) have no answer in the context: {done}")
        if empty := self.count["empty"]:
            told.append(f"{empty} context(s) without a question left out")
        return told


def _wrong(where: str, found: str) -> UserError:
    return UserError(where, found, LAYOUT, "write this line so; no text in it may be empty")


def _refuse_mixed(documents: Sequence[Document]) -> None:
    """Refuse a context that is a part of two documents: its splits would not be apart."""
    home: dict[str, Document] = {}
    for document in documents:
        known = next((home.setdefault(key_of(p.text), document) for p in document.passages), document)
        if known.key != document.key:
            found, expected = f"the context of {known.where}, in another document", "a context in one document"
            raise UserError(document.where, found, expected, "give both lines the same `document`, or delete one")
