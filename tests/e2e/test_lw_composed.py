"""Messages that are cut, split and read together, and the capacity curve of one wire, through its commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lw_runs import config
from rich.console import Console

from callbacks.errors import UserError
from latentwire import evaluate
from latentwire import run as program
from latentwire.answer import answer
from latentwire.answer import main as answer_main
from latentwire.codec.message import pack, slots_of, unpack
from latentwire.data.base import Passage, Question
from latentwire.encode import main as encode_main
from latentwire.encoders.slots import LatentLayout
from latentwire.ends import Reader, Writer
from latentwire.export import export
from latentwire.lm.prompts import render
from latentwire.report.capacity import _points
from latentwire.report.stored import evaluations
from latentwire.restore import Loaded, load
from latentwire.scoring.beforehand import refuse
from latentwire.together import Several, measure, pairs_of
from suite.report import group_runs, read_runs, single_report, terminal
from suite.report.summary import summary
from suite.runs.job import execute

NESTED = [
    "+wire.nested={_target_:latentwire.train.NestedBudgets,budgets:[1,2]}",
    "codec=int8",
    "codec.group=8",
    "trainer.max_epochs=1",
    "loader.steps_per_epoch=2",
    "baseline=[text,token_budget]",
    "evaluation.passages=2",
]
TEXTS = ["Anna lives in Rome. Anna works as a baker.", "Bert lives in Oslo."]
QUESTIONS = ["Where does Anna live?", "What is the work of Bert?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("composed")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A wire trained with nested budgets, M = 3, evaluated at 3 and 1 by the program."""
    cfg = config(folder, *NESTED, "+evaluation.slots=[3,1]")
    outcome = execute(cfg, "latentwire", program.train, program.earlier, again=program.again)
    assert (outcome.status, outcome.error) == ("finished", "")
    return outcome.dir


@pytest.fixture(scope="module")
def loaded(run: Path) -> Loaded:
    return load(run)


@pytest.fixture(scope="module")
def messages(loaded: Loaded) -> list[bytes]:
    return loaded.writer().encode(TEXTS, batch=1)


def refused(code: int, capsys: pytest.CaptureFixture[str], *told: str) -> None:
    """Exit code 2 and four lines on stderr that say all of `told`; nothing on stdout."""
    seen = capsys.readouterr()
    assert (code, seen.out) == (UserError.EXIT_CODE, "")
    error = "\n".join(seen.err.splitlines()[-4:])
    for word in ("\n  found:", "expected:", "remedy:", *told):
        assert word in error, f"{word!r} not in:\n{error}"


# -- read together ----------------------------------------------------------------------------------------------------
def test_messages_are_read_as_the_injector_reads_their_latents_in_order(loaded: Loaded, messages: list[bytes]) -> None:
    """Literally: latents of one message behind those of the other, keys at consecutive positions, then the question."""
    reader, (lm, injector) = (
        loaded.reader("tiny_llama"),
        (loaded.inputs.lms["tiny_llama"], loaded.wire.injectors["tiny_llama"]),
    )
    z = [unpack(m, loaded.wire.codec, loaded.identity) for m in messages]
    for order in ([0, 1], [1, 0], [1, 1, 0]):
        prefix = injector(torch.cat([z[i] for i in order])[None])
        assert prefix.latents == 3 * len(order)
        for layer, (keys, _) in enumerate(prefix.kv or ()):
            for place, i in enumerate(order):  # each message where its latents stand, and not where they stood alone
                raw = injector.raw(z[i][None])[layer, 0]
                scale = (injector.gain / injector.rms)[layer, 0] * injector.std[layer, 0][:, None]
                own = injector.mean[layer, 0][:, None] + scale * raw
                stands = len(lm.style.head) + 3 * place + torch.arange(3)
                expected = injector.placement.place(own, stands, layer)
                torch.testing.assert_close(keys[:, :, 3 * place : 3 * place + 3], expected)
        asked = [render(lm.style, None, q).question for q in QUESTIONS]
        made = lm.generate_scored(prefix.select([0, 0]), asked, reader.max_new_tokens)
        found = reader.answer([messages[i] for i in order], QUESTIONS)
        assert [a.tokens for a in found] == made.tokens
        assert [a.logprobs for a in found] == made.logprobs


def test_one_message_is_read_as_before_and_their_order_matters(loaded: Loaded, messages: list[bytes]) -> None:
    alone = answer(loaded, messages[0], "tiny_llama", QUESTIONS)
    assert answer(loaded, messages[:1], "tiny_llama", QUESTIONS) == alone
    both, turned = (answer(loaded, m, "tiny_llama", QUESTIONS) for m in (messages, messages[::-1]))
    assert both != alone
    assert both != turned


def test_messages_of_other_wires_and_too_many_are_refused_by_name(
    run: Path, loaded: Loaded, messages: list[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = pack(unpack(messages[1], loaded.wire.codec, loaded.identity), loaded.wire.codec, bytes(32))
    a, b = tmp_path / "a.wire", tmp_path / "b.wire"
    a.write_bytes(messages[0])
    b.write_bytes(stranger)
    capsys.readouterr()
    whole = replace(loaded.reader("tiny_llama"), whole_prompt=True)
    with pytest.raises(UserError, match=r"a, b\n(.|\n)*each of them holds a question of its own"):
        whole.answer(messages, where=["a", "b"])
    with pytest.raises(UserError, match="messages that hold their question"):
        replace(loaded.writer(), whole_prompt=True).segments(TEXTS[0])
    line = ["--run", str(run), "--question", "Who?"]
    refused(answer_main([str(a), str(b), *line]), capsys, "b.wire", "fingerprint")
    refused(answer_main([str(a)] * 90 + line), capsys, "270 latents", "256 positions of tiny_llama", "fewer messages")
    refused(answer_main(["-", str(a), "-", *line]), capsys, "stdin several times")
    b.write_bytes(messages[1][:-1])
    refused(answer_main([str(a), str(b), *line]), capsys, "b.wire")
    b.write_bytes(messages[1])
    assert answer_main([str(a), str(b), *line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == answer(load(run), messages, "tiny_llama", ["Who?"])[0].tokens


# -- a long text ------------------------------------------------------------------------------------------------------
def test_a_long_text_goes_into_several_messages_and_none_of_it_is_lost(
    run: Path, loaded: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentences = [f"Person {n} lives in town number {n}." for n in range(11)]
    text, out = tmp_path / "long.txt", tmp_path / "long.wire"
    text.write_text("\n\n".join(" ".join(sentences[i : i + 4]) for i in (0, 4, 8)), encoding="utf-8")
    line = [str(run), "--text", str(text), "-o", str(out)]
    capsys.readouterr()
    refused(encode_main(line), capsys, "tokens", "at most 240")
    assert not out.exists()
    assert encode_main([*line, "--split", "sentences", "--segment-tokens", "40"]) == 0
    places = sorted(tmp_path.glob("long-*.wire"))
    assert [p.name for p in places[:2]] == ["long-01.wire", "long-02.wire"]
    assert [p.read_bytes() for p in places] == loaded.writer().encode(sentences)
    capsys.readouterr()
    assert answer_main([*map(str, places), "--run", str(run), "--question", "Who?"]) == 0
    capsys.readouterr()
    refused(encode_main([*line, "--split", "sentences", "--segment-tokens", "20"]), capsys, "one of its sentences",
            "--split words")  # fmt: skip
    refused(encode_main([*line, "--split", "words", "--segment-tokens", "241"]), capsys, "1 to 240")
    refused(encode_main([*line[:3], "--split", "words"]), capsys, "add -o message.wire")
    refused(encode_main([*line, "--segment-tokens", "20"]), capsys, "add --split sentences")


# -- cut --------------------------------------------------------------------------------------------------------------
def test_a_message_is_cut_to_any_prefix_and_stays_whole_in_itself(
    loaded: Loaded, messages: list[bytes], tmp_path: Path
) -> None:
    export(loaded, tmp_path / "ends")
    writer, reader = (
        Writer.load(tmp_path / "ends" / "writer"),
        Reader.load(tmp_path / "ends" / "readers" / "tiny_llama"),
    )
    z = unpack(messages[0], loaded.wire.codec, loaded.identity)
    for slots in (1, 2, 3):
        short = writer.encode(TEXTS[:1], slots=slots)[0]
        assert short == writer.cut(messages[0], slots) == reader.cut(messages[0], slots)
        assert (slots_of(short), len(short)) == (slots, len(messages[0]) - (3 - slots) * (8 + 2))
        assert torch.equal(unpack(short, loaded.wire.codec, loaded.identity), z[:slots])
        prefix = loaded.wire.injectors["tiny_llama"](z[None, :slots])
        lm = loaded.inputs.lms["tiny_llama"]
        expected = lm.generate_scored(prefix, [render(lm.style, None, "Who?").question], reader.max_new_tokens)
        assert reader.answer(short, ["Who?"])[0].tokens == expected.tokens[0]
        for place in range(len(short)):
            damaged = short[:place] + bytes([short[place] ^ 1]) + short[place + 1 :]
            with pytest.raises(UserError):
                reader.answer(damaged, ["Who?"])
    assert reader.cut(reader.cut(messages[0], 2), 1) == reader.cut(messages[0], 1)
    with pytest.raises(UserError, match="1 to 2, as many as it has"):
        reader.cut(reader.cut(messages[0], 2), 3)
    mixed = [reader.cut(messages[0], 1), messages[1]]
    assert reader.latents(mixed, ["a", "b"]).shape[1] == 4


def test_a_wire_of_whole_messages_neither_cuts_nor_reads_a_part(loaded: Loaded, messages: list[bytes]) -> None:
    writer, reader = (replace(end, layout=LatentLayout(3)) for end in (loaded.writer(), loaded.reader("tiny_llama")))
    short = loaded.writer().cut(messages[0], 2)
    told = r"2 slots(.|\n)*not trained to be read in part(.|\n)*curriculum=nested wire.nested.budgets=\[2\]"
    with pytest.raises(UserError, match=r"short\.wire(.|\n)*" + told):
        reader.answer([messages[1], short], QUESTIONS, ["a.wire", "short.wire"])
    for act in (
        lambda: writer.encode(TEXTS, slots=2),
        lambda: writer.cut(messages[0], 2),
        lambda: reader.cut(short, 2),
    ):
        with pytest.raises(UserError, match=r"--slots(.|\n)*" + told):
            act()


def test_two_messages_are_scored_as_a_reader_answers_them(run: Path, loaded: Loaded) -> None:
    texts = [f"{name} lives in {place}." for name, place in (("Anna", "Rome"), ("Bert", "Oslo"), ("Anna", "Bern"))]
    asked = [
        Question(f"q{n}", f"Where does {t.split()[0]} live?", (t.split()[-1][:-1],), "c") for n, t in enumerate(texts)
    ]
    passages = [Passage(f"p{n}", t, (q,), f"g{n}", None) for n, (t, q) in enumerate(zip(texts, asked, strict=True))]
    (pair,) = pairs_of([passages[i] for i in (0, 2, 1)], 9)
    assert [p.id for p in pair] == ["p0", "p1"], "the two texts about Anna stay apart"
    found = measure(loaded, [pair])["methods"]
    assert {k: found[k]["positions"] for k in ("apart", "two messages", "one message")} == {
        "apart": 3, "two messages": 6, "one message": 3,
    }  # fmt: skip
    assert found["two messages: token_budget"]["positions"] == 6
    assert found["two messages"]["bytes"] == 2 * found["one message"]["bytes"]
    reader, writer = loaded.reader("tiny_llama"), loaded.writer()
    values = loaded.wire.encode([p.text for p in pair])
    prefix = Several(loaded.wire, {"both": [p.text for p in pair]}).prefix(values.flatten(0, 1)[None], "tiny_llama")
    expected = reader.injector(reader.latents(writer.encode([p.text for p in pair]), ["a", "b"]))
    for mine, theirs in zip(prefix.kv or (), expected.kv or (), strict=True):
        torch.testing.assert_close(mine, theirs)


# -- the curve --------------------------------------------------------------------------------------------------------
def test_one_wire_is_scored_at_every_prefix_beside_its_budget(run: Path, loaded: Loaded) -> None:
    result = json.loads((run / "result.json").read_text())
    m = result["methods"]
    assert result["M"] == 3
    assert set(m) == {"text", *(f"{row}{k}" for k in ("", "@1") for row in ("wire", "token_budget")),
                      *(f"wire{k}:{c}" for k in ("", "@1") for c in ("shuffled", "mean", "random"))}  # fmt: skip
    for k, at in ((3, ""), (1, "@1")):
        for row in (f"wire{at}", f"token_budget{at}"):
            assert (m[row]["M"], m[row]["positions"]) == (k, k)
        assert m[f"wire{at}"]["bytes"] == 13 + k * (8 + 2)
    assert (m["wire@1"]["prefix_of"], m["token_budget@1"]["prefix_of"]) == ("wire", "token_budget")
    against = {t["against"] for t in result["tests"] if t["wire"] == "wire@1"}
    assert against == {"text", "wire", "token_budget@1", "wire@1:shuffled", "wire@1:mean", "wire@1:random"}
    assert {t["against"] for t in result["tests"] if t["wire"] == "wire"} == {k for k in m if "@" not in k} - {"wire"}

    passages = loaded.inputs.corpus.split("test")[:2]
    (path,) = run.glob("evaluations/*/predictions.jsonl")
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    told = {(r["method"], r["question"]): r["prediction"] for r in rows}
    writer, reader = loaded.writer(), loaded.reader("tiny_llama")
    for p in passages:
        for slots, name in ((3, "wire"), (1, "wire@1")):
            found = reader.answer(writer.encode([p.text], slots=slots)[0], [q.text for q in p.questions])
            assert [a.answer for a in found] == [told[name, q.id] for q in p.questions]


def test_a_finished_run_is_scored_at_other_prefixes_and_refuses_what_it_cannot(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [str(run), "~acceptance.evaluation", "baseline=[text]"]
    assert evaluate.main([*line, "evaluation.slots=[2]"]) == 0
    assert any("wire@2" in e["methods"] for e in evaluations(run))
    capsys.readouterr()
    refused(evaluate.main([*line, "evaluation.slots=[4]"]), capsys, "evaluation.slots", "1 to 3")
    with pytest.raises(UserError, match=r"evaluation\.slots(.|\n)*curriculum=nested"):
        refuse(config(folder, "+evaluation.slots=[2]"))


def test_the_report_draws_the_curve_of_one_run(run: Path) -> None:
    page = single_report(run).read_text()
    (frames,) = group_runs(read_runs([run.parent.parent]))
    curve = [p for p in _points(frames) if p["kind"] == "wire"]
    assert len({p["name"] for p in curve}) == 1
    assert sorted(p["positions"] for p in curve) == [1, 3]
    ratios = {p["positions"]: p["ratio"] for p in curve}
    assert ratios[1] == pytest.approx(3 * ratios[3])
    budget = [p for p in _points(frames) if p["name"] == "token_budget"]
    assert sorted(p["positions"] for p in budget) == [1, 3]
    assert "wire@1" in page
    console = Console(width=300)
    with console.capture() as captured:
        console.print(terminal(summary(frames), 300))
    assert "token_budget@1" in captured.get()
