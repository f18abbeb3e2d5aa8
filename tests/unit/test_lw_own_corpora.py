"""A user's own texts and questions as corpora: what is sent and asked, how documents are dealt, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from callbacks.errors import UserError
from latentwire.data import JsonLines, QuestionAnswering, TextFolder
from latentwire.data.base import Passage, Split
from latentwire.examples import is_continuation

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def words(n: int, name: str = "w") -> str:
    return " ".join(f"{name}{i}" for i in range(n))


def folder(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def many(root: Path, n: int = 10, length: int = 40) -> Path:
    return folder(root, {f"{i}.txt": words(length, f"d{i}x") for i in range(n)})


def lines(path: Path, entries: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(e) for e in entries) + "\n", encoding="utf-8")
    return path


def everything(corpus: Any) -> dict[Split, list[Passage]]:
    return {split: list(corpus.split(split)) for split in SPLITS}


def qa(context: str, answers: list[str], **more: Any) -> dict[str, Any]:
    return {"context": context, "questions": [{"question": "Where does Ann live?", "answers": answers}], **more}


def cities(n: int = 10) -> list[dict[str, Any]]:
    return [qa(f"Ann number {i} lives in the Rome of {i}.", ["Rome"]) for i in range(n)]


def refused(corpus: Any) -> UserError:
    with pytest.raises(UserError) as error:
        corpus.split("train")
    assert len(str(error.value).splitlines()) <= 6
    return error.value


# -- texts ------------------------------------------------------------------------------------------------------------


def test_a_document_is_read_piece_by_piece_as_it_stands(tmp_path: Path) -> None:
    text = "One  two\nthree four, five six seven eight.\n\nNine ten eleven twelve"
    root = folder(tmp_path, {f"{i}.txt": f"{text} {i} {words(30)}" for i in range(3)})
    corpus = TextFolder(str(root), begin=10, rest=8)
    for split in SPLITS:
        first, second = corpus.split(split)
        assert first.text == "One  two\nthree four, five six seven eight.\n\nNine ten"
        (question,) = first.questions
        assert is_continuation(question)
        assert question.answers[0].startswith("eleven twelve ")
        assert (
            f"{first.text} {question.answers[0]} {second.text}".split()
            == f"{text} {first.id[-7]} {words(30)}".split()[:28]
        )
        assert first.group == second.group != first.id
    assert "21 words at the ends of documents left out" in corpus.told()


def test_the_last_piece_is_shorter_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        {
            "a.txt": words(47, "a"),
            "b/c.txt": words(33, "c"),
            "d.txt": words(16, "d"),
            "e.txt": "too short",
            "f.txt": words(16, "d"),
        },
    )
    corpus = TextFolder(str(root), begin=16, rest=8)
    found = [p for passages in everything(corpus).values() for p in passages]
    sizes = sorted((len(p.text.split()), len(p.questions[0].answers[0].split())) for p in found)
    assert sizes == [(8, 8), (15, 8), (16, 8), (16, 8)]
    told = corpus.told()
    assert "1 document(s) of less than 16 words left out" in told
    assert "9 words at the ends of documents left out" in told
    assert "1 document(s) that are there twice read once" in told
    chinese = folder(tmp_path / "zh", {f"{i}.txt": f"{i}" + "你好世界" * 6 for i in range(3)})
    assert "set corpus.begin=16" in refused(TextFolder(str(chinese), begin=16, rest=8)).remedy
    (passage,) = TextFolder(str(chinese), begin=16, rest=8, unit="characters").split("train")
    assert (len(passage.text), len(passage.questions[0].answers[0])) == (16, 8)


def test_splits_share_no_document_and_depend_on_content_and_seed_alone(tmp_path: Path) -> None:
    corpus = TextFolder(str(many(tmp_path / "a", 20)), begin=16, rest=8)
    texts = {split: {p.text for p in passages} for split, passages in everything(corpus).items()}
    assert {split: len(corpus._splits[split][0]) for split in SPLITS} == {"train": 16, "val": 2, "test": 2}
    assert len(set.union(*texts.values())) == sum(map(len, texts.values()))
    renamed = folder(tmp_path / "b", {f"n{i}.txt": (tmp_path / f"a/{19 - i}.txt").read_text() for i in range(20)})
    again = everything(TextFolder(str(renamed), begin=16, rest=8))
    assert {split: {p.text for p in passages} for split, passages in again.items()} == texts
    other = everything(TextFolder(str(renamed), begin=16, rest=8, seed=1))
    assert {p.text for p in other["test"]} != texts["test"]
    assert len(everything(TextFolder(str(many(tmp_path / "c", 3)), begin=16, rest=8))["train"]) == 2


def test_given_splits_are_kept_apart(tmp_path: Path) -> None:
    many(tmp_path / "train", 6)
    folder(tmp_path / "test", {"t.txt": words(40, "t")})
    corpus = TextFolder(str(tmp_path / "train"), test_path=str(tmp_path / "test"), begin=16, rest=8)
    assert {p.text.split()[0] for p in corpus.split("test")} == {"t0", "t24"}
    assert {split: len(corpus._splits[split][0]) for split in SPLITS} == {"train": 5, "val": 1, "test": 1}
    arguments = {"path": str(tmp_path / "train"), "val_path": None, "test_path": str(tmp_path / "test")}
    assert TextFolder.inert_keys(arguments) == {"test_share": "test_path gives the split"}
    files = TextFolder.input_files(arguments)
    assert [p.name for p in files["path"]] == [f"{i}.txt" for i in range(6)]  # type: ignore[union-attr]
    folder(tmp_path / "test", {"u.txt": words(40, "d3x")})
    error = refused(corpus := TextFolder(**arguments))  # type: ignore[arg-type]
    assert (error.where, error.found) == (
        str(tmp_path / "test" / "u.txt"),
        f"the same document as {tmp_path / 'train' / '3.txt'}, which is in train",
    )
    assert corpus.test_path is not None


def test_lines_of_json_are_documents(tmp_path: Path) -> None:
    path = lines(tmp_path / "f.jsonl", [{"body": words(30, f"l{i}x"), "n": i} for i in range(5)])
    corpus = JsonLines(str(path), key="body", begin=16, rest=8)
    assert sum(map(len, everything(corpus).values())) == 5
    error = refused(JsonLines(str(path)))
    assert (error.where, error.found, error.remedy) == (f"{path}, line 1", "no key 'text'", "set corpus.key=body")
    path.write_text('{"text": "a"}\n\n{"text": 3}\n', encoding="utf-8")
    assert refused(JsonLines(str(path))).where == f"{path}, line 3"
    path.write_text('{"text": "a"}\n{"text": \n', encoding="utf-8")
    assert "no JSON" in refused(JsonLines(str(path))).found
    path.write_text('["a"]\n', encoding="utf-8")
    assert "a JSON list" in refused(JsonLines(str(path))).found


def test_folders_without_texts_are_refused(tmp_path: Path) -> None:
    assert refused(TextFolder(str(tmp_path / "x"))).found == "no such folder"
    assert refused(TextFolder(str(tmp_path))).found == "no .txt file in it"
    many(tmp_path, 2)
    error = refused(TextFolder(str(tmp_path)))
    assert error.found == "2 different document(s)"
    assert "corpus.val_path and corpus.test_path" in error.remedy
    (tmp_path / "0.txt").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused(TextFolder(str(tmp_path))).found
    assert "corpus=jsonl" in refused(TextFolder(str(tmp_path / "1.txt"))).remedy
    with pytest.raises(UserError, match="shares of sum below 1"):
        TextFolder(str(tmp_path), val_share=0.5, test_share=0.5)


# -- questions --------------------------------------------------------------------------------------------------------


def test_questions_without_offsets(tmp_path: Path) -> None:
    entries = cities()
    entries[3] |= {"id": "three"}
    entries[3]["questions"].append({"question": "Who?", "answers": "ann"})
    corpus = QuestionAnswering(str(lines(tmp_path / "f.jsonl", entries)))
    (passage,) = [p for passages in everything(corpus).values() for p in passages if p.id == "three"]
    assert [(q.text, q.answers, q.kind) for q in passage.questions] == [
        ("Where does Ann live?", ("Rome",), "where"),
        ("Who?", ("ann",), "who"),
    ]
    assert [q.id for q in passage.questions] == ["three/0", "three/1"]
    assert {s: len(p) for s, p in everything(corpus).items()} == {"train": 8, "val": 1, "test": 1}
    assert corpus.told() == (
        "; ".join(f"{s} {n} passage(s) of {n} document(s)" for s, n in (("train", 8), ("val", 1), ("test", 1)))
    )


def test_of_several_answers_one_that_is_in_the_context_is_trained_on(tmp_path: Path) -> None:
    entries = cities()
    entries[0]["questions"][0]["answers"] = ["the Eternal City", "the rome!", "Roma"]
    entries[1]["questions"][0]["answers"] = ["Rome", "Romana"]
    corpus = QuestionAnswering(str(lines(tmp_path / "f.jsonl", entries)))
    found = {p.text: p.questions[0] for passages in everything(corpus).values() for p in passages}
    assert found[entries[0]["context"]].answers == ("the rome!", "the Eternal City", "Roma")
    assert found[entries[1]["context"]].answers == ("Rome", "Romana")
    assert "2 of 10 question(s) have answers that are not in the context; 1 are trained on another" in corpus.told()


def test_questions_without_any_answer_in_the_context_are_refused_dropped_or_kept(tmp_path: Path) -> None:
    entries = cities()
    entries[2]["questions"] = [{"question": "Is it warm?", "answers": ["yes"]}]
    path = str(lines(tmp_path / "f.jsonl", entries))
    error = refused(QuestionAnswering(path))
    assert error.where == f"{path}, line 3, question 'Is it warm?'"
    assert "['yes'] is in the context (1 of 10 questions)" in error.found
    assert "corpus.absent=drop" in error.remedy
    dropped, kept = (QuestionAnswering(path, absent=a) for a in ("drop", "keep"))  # type: ignore[arg-type]
    assert [sum(map(len, everything(c).values())) for c in (dropped, kept)] == [9, 10]
    assert (
        "1 of 10 question(s) have no answer in the context: left out; 1 context(s) without a question" in dropped.told()
    )
    assert "1 of 10 question(s) have no answer in the context: kept" in kept.told()


def test_lines_of_one_document_and_of_one_context_are_in_one_split(tmp_path: Path) -> None:
    entries = [qa(f"Ann {i} lives in Rome.", ["Rome"], document=f"book {i % 5}") for i in range(20)]
    entries.append(qa("Ann 0 lives in Rome.", ["Rome"], document="book 0"))
    corpus = QuestionAnswering(str(lines(tmp_path / "f.jsonl", entries)), val_share=0.2, test_share=0.2)
    books = {s: {int(p.text.split()[1]) % 5 for p in ps} for s, ps in everything(corpus).items()}
    assert sorted(b for found in books.values() for b in found) == [0, 1, 2, 3, 4]
    assert len({p.group for p in corpus.split("train")}) == 3
    entries[-1]["document"] = "book 1"
    error = refused(QuestionAnswering(str(lines(tmp_path / "g.jsonl", entries))))
    assert error.where.endswith("g.jsonl, line 21")
    assert "the same `document`" in error.remedy


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"questions": []}, "context None"),
        ({"context": " ", "questions": []}, "context ' '"),
        ({"context": "c"}, "no key 'questions'"),
        ({"context": "c", "questions": [{"question": " ", "answers": ["c"]}]}, "question ' '"),
        ({"context": "c", "questions": [{"question": "q", "answers": []}]}, "answers []"),
        ({"context": "c", "questions": [{"question": "q", "answers": [""]}]}, "answers ['']"),
        ({"context": "c", "questions": ["q"]}, "'q'"),
        ({"context": "c", "questions": [], "document": 3}, "document 3"),
    ],
)
def test_a_line_of_another_layout_is_refused_with_its_place(tmp_path: Path, entry: dict[str, Any], found: str) -> None:
    path = lines(tmp_path / "f.jsonl", [*cities(), entry])
    error = refused(QuestionAnswering(str(path)))
    assert error.where.startswith(f"{path}, line 11")
    assert error.found == found


def test_ids_are_unique(tmp_path: Path) -> None:
    entries = [{**e, "id": "same"} for e in cities()]
    assert "id same, already in" in refused(QuestionAnswering(str(lines(tmp_path / "f.jsonl", entries)))).found
    asked = [{"question": "Who?", "answers": ["Ann"], "id": "q"}] * 2
    entries = [*cities(), {"context": "Ann.", "questions": asked}]
    assert "question id q, already in" in refused(QuestionAnswering(str(lines(tmp_path / "f.jsonl", entries)))).found
