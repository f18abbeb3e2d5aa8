"""Messages between processes: one writes, another answers with another model; nothing but an intact one is read."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lw_runs import config, fit, lm_node, run_of, save_lm
from omegaconf import open_dict

from callbacks.errors import UserError
from latentwire.answer import answer
from latentwire.answer import main as answer_main
from latentwire.data.base import Passage
from latentwire.encode import encode_text
from latentwire.encode import main as encode_main
from latentwire.restore import Loaded, load
from latentwire.run import train
from latentwire.scoring.evaluator import Evaluator
from suite.runs.identity import run_dir
from suite.runs.job import seed_everything

ROOT = Path(__file__).parents[2]
EVALUATED = 3  # passages, see lw_runs.SMALL
WIRE = ["codec=int8", "codec.group=8", "trainer.max_epochs=1"]
VARIANTS: dict[str, list[str]] = {
    "text": [],
    "whole_prompt": ["wire.track=whole_prompt", "codec=fp16", "baseline=[text,whole_prompt_budget]",
                     "acceptance.evaluation.above_the_fair_budget.minus=methods.whole_prompt_budget.f1_high",
                     "+adaptation.tiny_qwen2={_target_:latentwire.lm.LoRA}"],
    "bytes_into_private_slots": ["encoder=byte", "encoder.heads=2", "injector=soft_prefix", "wire.slots=4",
                                 "wire.private={tiny_llama:1,tiny_qwen2:2}"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("messages")


@pytest.fixture(scope="module")
def run_of_variant(folder: Path) -> Callable[[str], Path]:
    """Directory of a run with two readers, trained and evaluated by the program; its encoder stands on tiny_llama."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            line = [o for o in WIRE if name != "whole_prompt" or not o.startswith("codec")]
            cfg = config(folder, *line, *VARIANTS[name], lms=("llama", "qwen2"))
            seed_everything(int(cfg.seed))
            train(cfg, run_of(cfg))
            made[name] = run_dir(cfg)
        return made[name]

    return run


@pytest.fixture(scope="module")
def sender(run_of_variant: Callable[[str], Path]) -> Path:
    return run_of_variant("text")


@pytest.fixture(scope="module")
def message(sender: Path) -> bytes:
    """Of the first evaluated passage, written before any later model was thought of."""
    loaded = load(sender)
    return encode_text(loaded, passages(loaded)[0].text)


def passages(loaded: Loaded) -> list[Passage]:
    split = loaded.inputs.corpus.split("test")
    return [split[i] for i in range(EVALUATED)]


def evaluated(run: Path, model: str) -> dict[tuple[str, str], str]:
    """(passage, question) -> what the run's own evaluation got for it."""
    (path,) = run.glob("evaluations/*/predictions.jsonl")
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    mine = [r for r in rows if r["method"] == "wire" and r["model"] == model]
    return {(r["passage"], r["question"]): r["prediction"] for r in mine}


def python(arguments: Sequence[str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", *arguments], input=stdin, capture_output=True, cwd=ROOT, check=False)


# -- what is read -----------------------------------------------------------------------------------------------------
def test_one_process_writes_and_another_answers_with_another_model(
    sender: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    passage = passages(load(sender))[1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((passage.text + "\n").encode()), encoding="utf-8"))
    capfdbinary.readouterr()
    assert encode_main([str(sender), "--text", "-"]) == 0
    written, said = capfdbinary.readouterr()
    assert len(written) == load(sender).wire.message_bytes(), "the message and nothing else"
    told = said.decode().splitlines()[-1]
    assert told.startswith(f"{len(written)} bytes, M = 3; the text: {len(passage.text.encode())} as UTF-8")

    asked = [arg for q in passage.questions for arg in ("--question", q.text)]
    line = ["latentwire.answer", "-", "--run", str(sender), "--model", "tiny_qwen2", "--json", *asked]
    read = python(line, written)
    assert read.returncode == 0, read.stderr.decode()
    found = [json.loads(row) for row in read.stdout.decode().splitlines()]
    expected = evaluated(sender, "tiny_qwen2")
    assert [r["question"] for r in found] == [q.text for q in passage.questions]
    assert [r["answer"] for r in found] == [expected[passage.id, q.id] for q in passage.questions]
    for r in found:
        assert len(r["logprobs"]) == len(r["tokens"]) + r["stopped"]
        assert max(r["logprobs"]) < 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_answers_are_those_of_the_evaluation(
    run_of_variant: Callable[[str], Path], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of_variant(variant)
    writer, reader = load(run), load(run)

    def unread(*_: Any) -> None:
        raise AssertionError("the reader ran the encoder")

    monkeypatch.setattr(reader.wire.encoder, "forward", unread)
    for model in reader.wire.models:
        found: dict[tuple[str, str], str] = {}
        for p in passages(writer):
            ids = [(p.id, q.id) for q in p.questions]
            if writer.wire.whole_prompt:
                sent = [encode_text(writer, p.text, q.text) for q in p.questions]
                answers = [a for m in sent for a in answer(reader, m, model)]
            else:
                answers = answer(reader, encode_text(writer, p.text), model, [q.text for q in p.questions])
            found |= {i: a.answer for i, a in zip(ids, answers, strict=True)}
        assert found == evaluated(run, model)
        assert len(set(found.values())) > 1, "if all answers were the same, this would show nothing"


def test_a_question_is_answered_alike_alone_and_among_others_and_another_message_otherwise(
    sender: Path, message: bytes
) -> None:
    loaded = load(sender)
    questions = ["Who?", "What is the city of Anna, and how long has she lived there?", "Who?"]
    together = answer(loaded, message, "tiny_qwen2", questions)
    assert together[0].tokens == together[2].tokens
    other = encode_text(loaded, passages(loaded)[1].text)
    for q, found in zip(questions, together, strict=True):
        (alone,) = answer(loaded, message, "tiny_qwen2", [q])
        assert alone.tokens == found.tokens
        assert alone.logprobs == pytest.approx(found.logprobs, abs=1e-4)
        (otherwise,) = answer(loaded, other, "tiny_qwen2", [q])
        assert otherwise.logprobs != pytest.approx(found.logprobs, abs=1e-4)


def test_a_model_that_came_later_reads_an_old_message(folder: Path, sender: Path, message: bytes) -> None:
    cfg = config(folder, *WIRE, f"wire.from_run={sender}", "wire.slots=null", "seed=8")
    with open_dict(cfg):
        cfg.encoder_lm = cfg.lms.tiny_llama
        cfg.lms = {"late": lm_node(save_lm(folder, "qwen2", seed=7))}
    fit(cfg)
    later = load(run_dir(cfg))
    passage = passages(later)[0]
    found = answer(later, message, "late", [q.text for q in passage.questions])
    evaluator = Evaluator(later.inputs.lms, passages(later), {}, int(cfg.evaluation.max_new_tokens), n_boot=10)
    rows = [r for r in evaluator.run({"wire": later.wire}).rows if r["method"] == "wire"]
    assert [a.answer for a in found] == [r["prediction"] for r in rows if r["passage"] == passage.id]
    assert encode_text(later, passage.text) == message, "its own messages are the same"
    with pytest.raises(UserError, match=r"tiny_llama \| tiny_qwen2"):
        answer(load(sender), message, "late", ["Who?"])


# -- what is refused --------------------------------------------------------------------------------------------------
def refused(code: int, capsys: pytest.CaptureFixture[str], *told: str) -> None:
    """Exit code 2 and four lines on stderr that say all of `told`; nothing on stdout."""
    seen = capsys.readouterr()
    assert (code, seen.out) == (UserError.EXIT_CODE, "")
    error = "\n".join(seen.err.splitlines()[-4:])
    assert "\n  found:" in error, seen.err
    assert "Traceback" not in seen.err
    for word in ("expected:", "remedy:", *told):
        assert word in error, f"{word!r} not in:\n{error}"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda m: b"", "latentwire.encode"),
        (lambda m: b"Ann lives in Rome.", "latentwire.encode"),
        (lambda m: m[:7], "7 bytes"),
        (lambda m: m[:-1], "42 bytes, 3 slots"),
        (lambda m: m + b"\n", "44 bytes, 3 slots"),
        (lambda m: m[:20] + bytes([m[20] ^ 1]) + m[21:], "damaged"),
    ],
    ids=["empty", "text", "header only", "truncated", "too long", "one bit"],
)
def test_what_is_no_intact_message(
    damage: Callable[[bytes], bytes],
    told: str,
    sender: Path,
    message: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "m.wire"
    path.write_bytes(damage(message))
    line = [str(path), "--run", str(sender), "--model", "tiny_qwen2", "--question", "Who?"]
    refused(answer_main(line), capsys, "m.wire", told)


def test_what_a_reader_is_told(
    run_of_variant: Callable[[str], Path],
    sender: Path,
    message: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "m.wire"
    path.write_bytes(message)
    run, model, who = ["--run", str(sender)], ["--model", "tiny_llama"], ["--question", "Who?"]
    other = ["--run", str(run_of_variant("whole_prompt"))]
    capsys.readouterr()  # what training has printed
    refused(answer_main([str(tmp_path / "nowhere.wire"), *run]), capsys, "nowhere.wire")
    for line, told in (
        ([*run, "--model", "gpt", *who], ("model gpt", "tiny_llama | tiny_qwen2")),
        ([*run, *who], ("--model", "tiny_llama | tiny_qwen2")),
        ([*run, *model], ("question", "--question")),
        ([*run, *model, *who, "--question", " "], ("question", "empty")),
        ([*run, *model, "--question", "Who " * 60], ("of question", "at most 250 tokens")),
        ([*other, *model], ("m.wire", "fingerprint")),
        (["--run", str(tmp_path), *model, *who], ("best.ckpt", "not there")),
        ([*run, "--which", "last", *model, *who], ()),  # the same weights after one epoch
    ):
        code = answer_main([str(path), *line])
        if told:
            refused(code, capsys, *told)
        else:
            assert code == 0
            assert len(capsys.readouterr().out.splitlines()) == 1
    path.write_bytes(encode_text(load(run_of_variant("whole_prompt")), "Ann lives in Rome.", "Where?"))
    refused(answer_main([str(path), *other, *model, *who]), capsys, "Who?", "holds its question")
    assert answer_main([str(path), *other, *model]) == 0


def test_what_a_writer_is_told(
    run_of_variant: Callable[[str], Path], sender: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "text.txt", tmp_path / "m.wire"
    whole = run_of_variant("whole_prompt")
    capsys.readouterr()  # what training has printed
    for content, run, more, told in (
        (b"x" * 241, sender, [], ("241 tokens", "at most 240")),
        (b"\n", sender, [], ("text to encode", "at least one token")),
        (b"caf\xe9", sender, [], ("text.txt", "byte 3", "UTF-8")),
        (b"Ann.", sender, ["--question", "Who?"], ("Who?", "latentwire.answer")),
        (b"Ann.", whole, [], ("question", "--question")),
        (b"Ann.", sender, ["-o", str(tmp_path / "no" / "m.wire")], ("m.wire", "can be written")),
        (b"Ann.", sender, ["--text", str(tmp_path / "no.txt")], ("no.txt", "readable")),
        (b"Ann.", tmp_path, [], ("best.ckpt", "not there")),
        (b"Ann.", sender, ["--text", ""], ("the name of a file", "give the path")),
        (b"Ann.", sender, ["-o", ""], ("the name of a file", "give -o message.wire")),
        (b"Ann.", sender, ["-o", str(tmp_path), "--split", "words"], ("a folder", f"{tmp_path}/message.wire")),
        (b"Ann.", sender, ["-o", f"{tmp_path}/no/", "--split", "words"], ("a folder", "/no/message.wire")),
        (b"Ann.", sender, ["-o", ".", "--split", "words"], ("a folder", "give -o message.wire")),
    ):
        path.write_bytes(content)
        refused(encode_main([str(run), "--text", str(path), "-o", str(out), *more]), capsys, *told)
        assert not out.exists()
    assert encode_main([str(sender), "--text", str(path), "-o", str(out)]) == 0
    assert out.read_bytes() == encode_text(load(sender), "Ann.")


def test_a_text_is_not_cut_either_where_training_cuts_and_counts(sender: Path) -> None:
    loaded = load(sender)
    loaded.wire.encoder.overflow = "count"
    encode_text(loaded, "x" * 240)
    with pytest.raises(UserError, match="241 tokens, 1 too many"):
        encode_text(loaded, "x" * 241)
