"""Tables, lists, archives of arrays and idx files: read as they say, or refused."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import any_json, damaged, fuzz
from hypothesis import strategies as st

from asgml.data.array_files import array_files
from asgml.data.ave import Ave
from asgml.data.cremad import CremaD
from asgml.data.csv_table import CsvTable
from asgml.data.features import Features
from asgml.data.idx import read_idx
from asgml.data.kinetics_sounds import KineticsSounds
from asgml.data.spec import SPLITS, Source
from asgml.data.validate import validate
from latentwire.data.continuations import JsonLines
from latentwire.data.qa import QuestionAnswering
from latentwire.data.squad import read

WORDS = [
    "",
    "1",
    "-3",
    "0.5",
    "nan",
    "1e400",
    "1e20",
    "a b",
    "x/y",
    "0.npy",
    "gone.npy",
    "é\u2028",
    "a\x0bb",
    "train",
    "test",
]
CELLS = st.sampled_from([*WORDS, "\0", '"', "\ud800".encode("utf-8", "replace").decode(), "=" * 200_000, ".", "/"])
NAMES = st.sampled_from(["label", "split", "group", "id", "a", "a_0", "a_1", "b", "", "a/b", "fusion"])


def checked(source: Source) -> None:
    """Read a data set as a run does, and look at it as an encoder would."""
    spec, tables = source.spec(), source.tables()
    validate(spec, tables)
    for split in SPLITS:
        table = tables[split]
        for m, transform in table.transforms.items():
            rows = np.flatnonzero(table.present[m])
            seen = transform(np.asarray(table.x[m][rows]), np.zeros(len(rows), np.uint64), False)
            assert seen.isfinite().all(), f"{m} is not finite"


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    names = draw(st.lists(NAMES, min_size=1, max_size=5))
    width = st.just(len(names)) if draw(st.booleans()) else st.integers(0, 6)
    rows = draw(st.lists(width.flatmap(lambda n: st.lists(CELLS, min_size=n, max_size=n)), min_size=0, max_size=12))
    labels = ["label", *(["p", "q"] * 6)][: len(rows) + 1]
    usual = draw(st.booleans())  # a column of labels, so that the rest of the file is reached
    lines = [([label] if usual else []) + cells for label, cells in zip(labels, [names, *rows])]
    delimiter, end = draw(st.sampled_from(",;\t")), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return end.join(delimiter.join(line) for line in lines).encode(
        draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    )


def usual_table() -> bytes:
    lines = [f"{i % 5}.5,{i}.npy,text {i},{'ab'[i % 2]},{'g' + str(i % 4)}" for i in range(12)]
    return "\n".join(["n,v,t,label,group", *lines]).encode()


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    for i in range(12):
        np.save(tmp_path / f"{i}.npy", np.arange(3.0) + i)

    def act(data: bytes) -> None:
        path.write_bytes(data)
        checked(CsvTable(str(path), corrupt="missing", max_tokens=8))

    fuzz("tables", 60, tables() | damaged(usual_table()), act)


LISTS: list[tuple[type[Any], tuple[str, ...], str]] = [
    (CremaD, ("train.csv", "test.csv"), "\n".join(f"10{i:02d}_IEO_NEU_XX,NEU" for i in range(9))),
    (Ave, ("trainSet.txt", "valSet.txt", "testSet.txt"), "\n".join(f"Bark&v{i}&good&{i}&{i + 1}" for i in range(9))),
    (KineticsSounds, ("my_train.txt", "my_test.txt"), "\n".join(f"{i:011d}_000001,10,{i}" for i in range(9))),
]


@pytest.mark.parametrize(("kind", "names", "usual"), LISTS, ids=["cremad", "ave", "kinetics_sounds"])
def test_lists(kind: type[Any], names: tuple[str, ...], usual: str, tmp_path: Path) -> None:
    for number, name in enumerate(names[1:]):  # other clips than those of the first list
        (tmp_path / name).write_text(usual.replace("10", f"2{number}").replace("0000000", f"000000{number + 1}"))
    fields = st.sampled_from(
        ["", "NEU", "Bark", "1001_a", "v", "good", "3", "-1", "inf", "nan", "1e999", "x" * 99_999, "\0"]
    )
    lines = st.lists(st.lists(fields, max_size=6), max_size=6)
    made = st.tuples(lines, st.sampled_from(",&")).map(lambda t: "\n".join(t[1].join(line) for line in t[0]).encode())

    def act(data: bytes) -> None:
        (tmp_path / names[0]).write_bytes(data)
        for clips in kind(path=str(tmp_path)).clips().values():
            for clip in clips:
                assert 0 <= clip.start < (np.inf if clip.end is None else clip.end) < 1e12 or clip.end is None

    fuzz("lists", 40, made | damaged(usual.encode()), act)


# -- arrays -----------------------------------------------------------------------------------------------------------


def archive(**arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


DTYPES = st.sampled_from(["f8", "f4", "f2", "i8", "i4", "u1", "?", "U3", "c8", "S2", "M8[s]", "g"])
HEADERS = st.one_of(
    st.sampled_from(["{}", "(" * 300, "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"]),
    st.tuples(st.sampled_from(["<f8", "|O", "<V9", "x", ">i2"]), st.lists(st.integers(-3, 2**70), max_size=4)).map(
        lambda t: repr({"descr": t[0], "fortran_order": False, "shape": tuple(t[1])})
    ),
)


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    n = 12
    arrays: dict[str, np.ndarray] = {}
    for name in draw(
        st.lists(st.sampled_from(["x_a", "x_b", "y", "split", "group", "present_a", "length_a", "mask_a"]))
    ):
        shape = (draw(st.sampled_from([n, n, n, 0, 1])), *draw(st.lists(st.integers(0, 4), max_size=4)))
        with np.errstate(all="ignore"):
            arrays[name] = (np.arange(np.prod(shape)) * draw(st.sampled_from([1, 0.5, -1, 1e30]))).reshape(shape)
            arrays[name] = arrays[name].astype(draw(DTYPES))
    if draw(st.booleans()):
        arrays |= {"x_a": np.arange(n * 2.0).reshape(n, 2), "y": np.arange(n) % 2}
    return archive(**arrays)


def test_archives(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    x = np.random.default_rng(0).standard_normal((12, 3))
    good = archive(x_a=x, y=np.arange(12) % 2, group=np.array(list("aabbccddeeff")))

    def act(given: tuple[bool, bytes]) -> None:
        path.write_bytes(given[1])
        source = Features(str(path))
        checked(source)
        if given[0]:
            for table in source.tables().values():
                np.testing.assert_array_equal(table.x["a"], x[table.row].astype(np.float32), "damage was read")

    fuzz("archives", 80, st.tuples(st.just(True), damaged(good)) | st.tuples(st.just(False), archives()), act)


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.arange(12.0).reshape(4, 3))
    good = (tmp_path / "good.npy").read_bytes()

    def crafted(header: str) -> bytes:
        padded = header.encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + bytes(24)

    def act(data: bytes) -> None:
        (tmp_path / "x.npy").write_bytes(data)
        files = [tmp_path / "good.npy", tmp_path / "good.npy", tmp_path / "x.npy"]
        found = array_files(files)
        assert found is not None
        assert np.prod(found.shape) < 1e6
        assert np.isfinite(found.decode(files[2])).all()

    fuzz("arrays", 80, HEADERS.map(crafted) | damaged(good), act)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(suffix: str, tmp_path: Path) -> None:
    plain = b"\0\0\x08\x03" + struct.pack(">III", 5, 4, 4) + bytes(range(80))
    good = gzip.compress(plain, mtime=0) if suffix else plain

    def act(data: bytes) -> None:
        (tmp_path / f"x{suffix}").write_bytes(data)
        found = read_idx(tmp_path, "x")
        assert not suffix or found.tobytes() == plain[16:], "a damaged file was read"

    fuzz("idx", 40, damaged(good) | st.binary(max_size=40), act)


# -- texts ------------------------------------------------------------------------------------------------------------

NESTED = st.integers(1, 10**5).map(lambda n: "[" * n)


@st.composite
def squads(draw: st.DrawFn) -> str:
    def some(value: object) -> object:
        return draw(any_json()) if draw(st.integers(0, 9)) == 0 else value

    answer = some({"text": some("Rome"), "answer_start": some(13)})
    question = some({"id": some("1"), "question": some("Where?"), "answers": some([answer])})
    paragraph = some({"context": some("Ann lives in Rome."), "qas": some([question])})
    return json.dumps(some({"data": some([some({"title": some("t"), "paragraphs": some([paragraph])})])}))


def test_squad(tmp_path: Path) -> None:
    good = '{"data": [{"title": "t", "paragraphs": [{"context": "Ann lives in Rome.", "qas": [{"id": "1", "question": '
    good += '"Where?", "answers": [{"text": "Rome", "answer_start": 13}]}]}]}]}'

    def act(data: bytes) -> None:
        (tmp_path / "s.json").write_bytes(data)
        for passage in (p for passages in read(tmp_path / "s.json").values() for p in passages):
            assert passage.text.encode()
            assert all(a and a in passage.text for q in passage.questions for a in q.answers)

    fuzz("squad", 40, (squads() | NESTED).map(str.encode) | damaged(good.encode()), act)


@st.composite
def lines(draw: st.DrawFn) -> str:
    def some(value: object) -> object:
        return draw(any_json()) if draw(st.integers(0, 7)) == 0 else value

    asked = some([some({"question": some("a?"), "answers": some(some(["b"]))})])
    return json.dumps(some({"context": some("a b c"), "text": some("w " * 60), "questions": asked}))


@pytest.mark.parametrize("corpus", [JsonLines, QuestionAnswering])
def test_lines(corpus: type[Any], tmp_path: Path) -> None:
    good = json.dumps({"context": "d e", "text": "v " * 60, "questions": [{"question": "e?", "answers": "e"}]})

    def act(data: bytes) -> None:
        (tmp_path / "c.jsonl").write_bytes(data)
        source = corpus(path=str(tmp_path / "c.jsonl"))
        for split in SPLITS:
            for passage in source.split(split):
                assert passage.text.encode()
                assert all(a.strip() for q in passage.questions for a in q.answers)

    made = st.lists(lines() | NESTED | st.just(good), max_size=5).map(lambda chosen: "\n".join(chosen).encode())
    fuzz("lines", 30, made | damaged("\n".join([good, good.replace("d", "f"), good.replace("d", "g")]).encode()), act)
