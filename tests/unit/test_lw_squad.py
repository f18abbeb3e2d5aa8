"""SQuAD v1.1: the loader reads the official layout, the scorer gives the official figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from callbacks.errors import UserError
from latentwire.data.squad import Squad, read
from latentwire.data.squad_metrics import best, exact_match, f1, normalize

DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "squad"
DEV = "dev-v1.1.rebuilt.json"


def official() -> Path:
    if not (DATA / DEV).is_file():
        pytest.skip(f"no {DEV} in {DATA} (SUITE_DATA)")
    return DATA / DEV


def article(title: str, ids: list[str]) -> dict[str, Any]:
    qas = [
        {"id": i, "question": "In which city does Ann live?", "answers": [{"text": "Rome", "answer_start": 13}]}
        for i in ids
    ]
    return {"title": title, "paragraphs": [{"context": "Ann lives in Rome.", "qas": qas}]}


def write(path: Path, articles: list[Any]) -> Path:
    path.write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    return path


# -- scorer -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "em", "overlap"),
    [("bert_ensemble", 86.20624, 92.19558), ("match_lstm_ensemble", 67.63482, 76.75556)],
)
def test_published_predictions_get_their_published_scores(name: str, em: float, overlap: float) -> None:
    questions = [q for ps in read(official()).values() for p in ps for q in p.questions]
    predictions = json.loads((DATA / "predictions" / f"{name}.json").read_text(encoding="utf-8"))
    assert len(questions) == len(predictions) == 10570
    for score, published in ((exact_match, em), (f1, overlap)):
        found = [best(score, predictions[q.id], q.answers) for q in questions]
        assert round(100 * sum(found) / len(found), 5) == published


def test_the_normalisation_is_the_official_one() -> None:
    assert normalize("The  Eiffel-Tower, a\ttower!") == "eiffeltower tower"
    assert normalize("An apple; the Theatre") == "apple theatre"
    assert normalize("“Rome”") == "“rome”", "only ASCII punctuation is dropped"
    assert normalize("a.") == "", "punctuation goes before articles"


def test_scores_take_the_best_reference_and_count_words_as_bags() -> None:
    assert best(exact_match, "the Rome", ["Paris", "Rome."]) == 1.0
    assert f1("red red ball", "red ball ball") == pytest.approx(2 / 3)
    assert best(f1, "October", ["October 1973", "1973"]) == pytest.approx(2 / 3)
    assert f1("", "Rome") == f1("Paris", "Rome") == 0.0
    assert (f1("the", "a"), exact_match("the", "a")) == (0.0, 1.0), "as in the official script"


# -- loader -----------------------------------------------------------------------------------------------------------
def test_the_dev_file_has_its_documented_size() -> None:
    articles = read(official())
    passages = [p for ps in articles.values() for p in ps]
    questions = [q for p in passages for q in p.questions]
    assert (len(articles), len(passages), len(questions)) == (48, 2067, 10570)
    assert sum(len(q.answers) for q in questions) == 34726
    assert len({p.id for p in passages}) == 2067
    assert all(a in p.text for p in passages for q in p.questions for a in q.answers)
    kinds = {q.kind for q in questions}
    assert {"what", "who", "when", "other"} < kinds <= {*"what who when where which how why other".split()}


def test_splits_of_one_file_share_no_article_and_lose_none() -> None:
    corpus = Squad(str(official().parent), dev=DEV, train=None)
    titles = {n: {p.id.rsplit("/", 1)[0] for p in corpus.split(n)} for n in ("train", "val", "test")}
    assert {n: len(t) for n, t in titles.items()} == {"train": 38, "val": 5, "test": 5}
    assert len(set.union(*titles.values())) == 48
    again = Squad(str(DATA), dev=DEV, train=None)
    assert [p.id for p in again.split("val")] == [p.id for p in corpus.split("val")]
    other = Squad(str(DATA), dev=DEV, train=None, seed=1)
    assert [p.id for p in other.split("val")] != [p.id for p in corpus.split("val")]


def test_with_both_files_the_test_split_is_the_dev_file(tmp_path: Path) -> None:
    write(tmp_path / "train-v1.1.json", [article(f"t{i}", [f"t{i}"]) for i in range(10)])
    write(tmp_path / "dev-v1.1.json", [article("d", ["d1", "d2"])])
    corpus = Squad(str(tmp_path))
    assert [q.id for p in corpus.split("test") for q in p.questions] == ["d1", "d2"]
    assert (len(corpus.split("train")), len(corpus.split("val"))) == (9, 1)
    passage = corpus.split("test")[0]
    assert (passage.id, passage.group, passage.bits) == ("d/0", "d/0", None)
    assert passage.questions[0].kind == "which"
    write(tmp_path / "dev-v1.1.json", [article("t3", ["d1"])])
    with pytest.raises(UserError, match="articles are in both"):
        Squad(str(tmp_path)).split("test")


def test_damaged_files_say_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Squad(str(tmp_path)).split("train")
    path = tmp_path / "x.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="no JSON"):
        read(path)
    with pytest.raises(UserError, match="KeyError: 'qas'"):
        read(write(path, [{"title": "t", "paragraphs": [{"context": "c"}]}]))
    with pytest.raises(UserError, match="question a twice"):
        read(write(path, [article("t", ["a"]), article("u", ["a"])]))
    moved = article("t", ["a"])
    moved["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 12
    with pytest.raises(UserError, match="question a"):
        read(write(path, [moved]))
    unanswerable = article("t", ["a"])
    unanswerable["paragraphs"][0]["qas"][0]["answers"] = []
    with pytest.raises(UserError, match=r"v2\.0"):
        read(write(path, [unanswerable]))
