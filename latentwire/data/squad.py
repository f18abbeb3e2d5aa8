"""SQuAD v1.1 from the official JSON files (Rajpurkar et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from callbacks.errors import UserError
from callbacks.files.given import is_text, parse_given, read_given
from callbacks.ranges import Bounds, Seed
from latentwire.data.base import Passage, Question, Split, question_kind, ranked

SOURCE = "https://rajpurkar.github.io/SQuAD-explorer/"
AGAIN = f"fetch the file again from {SOURCE}"

ShareBelowHalf = Annotated[float, Bounds("a share above 0 and below 0.5", gt=0, lt=0.5)]


class Squad:
    """Reads the paragraphs of SQuAD v1.1; no article is in two splits.

    With `train`, the test split is the dev file, as everybody reports it, and `val_share` of the train file's articles
    are the val split. Without, the dev file alone is dealt out by article: `val_share` to val, as many to test, the
    rest to train (for development only; the figures compare with nobody's).

    `Passage.group` is the paragraph (the unit of the bootstrap), `Question.kind` the first question word in the
    question.

    Args:
        root: folder of the files.
        dev: name of the dev file.
        train: name of the train file; None: there is none.
        val_share: share of the articles in val.
        seed: seed of the deal; the rank of an article depends on it and its title only.
    """

    def __init__(
        self,
        root: str,
        dev: str = "dev-v1.1.json",
        train: str | None = "train-v1.1.json",
        val_share: ShareBelowHalf = 0.1,
        seed: Seed = 0,
    ):
        self._root, self._dev, self._train, self._share, self._seed = Path(root), dev, train, val_share, seed
        self._splits: dict[Split, list[Passage]] | None = None

    @staticmethod
    def input_files(arguments: Mapping[str, Any]) -> dict[str, Path]:
        """Return the files that are read (see `suite.runs.reads`)."""
        names = [arguments[key] for key in ("dev", "train") if arguments[key] is not None]
        return {f"root/{name}": Path(arguments["root"]) / name for name in names}

    def split(self, name: Split) -> Sequence[Passage]:
        """Return all passages of one split, in file order; both files are read at the first call.

        Raises:
            UserError: a file is missing, is no SQuAD v1.1, or contradicts itself.
        """
        if self._splits is None:
            self._splits = self._deal()
        return self._splits[name]

    def _deal(self) -> dict[Split, list[Passage]]:
        dev = read(self._root / self._dev)
        pool = dev if self._train is None else read(self._root / self._train)
        order = ranked(pool, self._seed)
        size = max(1, round(self._share * len(order)))
        held: dict[Split, set[str]] = {"val": set(order[:size]), "test": set()}
        if self._train is None:
            held["test"] = set(order[size : 2 * size])
        held["train"] = set(order) - held["val"] - held["test"]
        splits: dict[Split, list[Passage]] = {
            name: [p for title, passages in pool.items() if title in titles for p in passages]
            for name, titles in held.items()
        }
        if self._train is not None:
            if both := set(pool) & set(dev):
                raise UserError(
                    f"{self._train} and {self._dev}",
                    f"{len(both)} articles are in both, e.g. {min(both)}",
                    "files without common articles",
                    f"fetch both files of v1.1 again from {SOURCE}",
                )
            splits["test"] = [p for passages in dev.values() for p in passages]
        for name, passages in splits.items():
            if not passages:
                expected = "at least 3 articles"
                raise UserError("corpus", f"no article left for {name}", expected, "set corpus.dev=dev-v1.1.json")
        return splits


def read(path: Path) -> dict[str, list[Passage]]:
    """Read passages by article title, in file order.

    Raises:
        UserError: the file is missing, is no SQuAD v1.1, repeats a question id, or an answer is not where it says.
    """
    expected = "a JSON file of SQuAD v1.1"
    remedy = f"fetch it from {SOURCE} and set corpus.root to its folder"
    told = parse_given(read_given(path, str(path), expected, remedy), str(path), expected, AGAIN)
    try:
        return _parse(told["data"], path)
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(
            str(path),
            f"{type(error).__name__}: {error}",
            "the layout of SQuAD v1.1: data, paragraphs, context, qas, id, question, answers, text, answer_start",
            AGAIN,
        ) from error


def _parse(articles: list[dict[str, Any]], path: Path) -> dict[str, list[Passage]]:
    seen: set[str] = set()
    found: dict[str, list[Passage]] = {}
    for article in articles:
        passages = found.setdefault(_text(article, "title", str(path)), [])
        for paragraph in article["paragraphs"]:
            _text(paragraph, "context", f"{path}: {article['title']}")
            name = f"{article['title']}/{len(passages)}"
            questions = tuple(_question(q, paragraph["context"], path) for q in paragraph["qas"])
            if repeated := [q.id for q in questions if q.id in seen]:
                raise UserError(str(path), f"question {repeated[0]} twice", "unique ids", AGAIN)
            seen.update(q.id for q in questions)
            passages.append(Passage(name, paragraph["context"], questions, name, None))
    return found


def _question(entry: dict[str, Any], context: str, path: Path) -> Question:
    where = f"{path}: question {_text(entry, 'id', str(path))}"
    asked = _text(entry, "question", where, empty=True)  # whoever asks nothing still has an answer to be scored
    if not entry["answers"]:
        raise UserError(
            where, "no answers", "one or more", f"fetch v1.1 from {SOURCE}: only v2.0 has unanswerable questions"
        )
    for answer in entry["answers"]:
        start = answer["answer_start"]
        _text(answer, "text", where)
        if not isinstance(start, int) or start < 0:
            raise UserError(where, f"answer_start {start!r}", "a whole number from 0", AGAIN)
        if context[start : start + len(answer["text"])] != answer["text"]:
            raise UserError(where, f"{answer['text']!r} is not at {start}", "the answer's text there", AGAIN)
    answers = tuple(a["text"] for a in entry["answers"])
    return Question(entry["id"], asked, answers, question_kind(asked))


def _text(entry: dict[str, Any], key: str, where: str, empty: bool = False) -> str:
    """Return a text of an entry; refuse what is no text, half characters, and an empty one unless it may be `empty`."""
    text = entry[key]
    if not is_text(text) or not (text.strip() or empty):
        raise UserError(where, f"{key} {text!r}"[:80], "a Unicode text" + " that is not empty" * (not empty), AGAIN)
    return text
