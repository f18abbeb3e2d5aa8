"""Bundles: each end of a wire works from its own folder and its own model alone, and only as it was written."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lw_runs import config, fit, run_of
from omegaconf import DictConfig

from callbacks.errors import UserError
from latentwire import bundle
from latentwire.answer import answer
from latentwire.answer import main as answer_main
from latentwire.encode import encode_text
from latentwire.encode import main as encode_main
from latentwire.ends import Reader, Writer
from latentwire.export import export
from latentwire.export import main as export_main
from latentwire.restore import Loaded, load
from suite.runs.identity import run_dir

ROOT = Path(__file__).parents[2]
TEXT = "Anna lives in Rome. Anna works as a baker."
QUESTIONS = ["Where does Anna live?", "What is the work of Anna?"]
LORA = "+adaptation.tiny_qwen2={_target_:latentwire.lm.LoRA}"
VARIANTS: dict[str, list[str]] = {
    "int8": ["codec=int8", "codec.group=8", LORA],
    "rvq_into_private_slots": ["codec=rvq", "codec.size=4", "encoder=byte", "encoder.heads=2", "injector=soft_prefix",
                               "wire.slots=4", "wire.private={tiny_qwen2:2,tiny_llama:1}"],  # in no order of names
    "fsq_of_tokens": ["codec=fsq", "encoder=token", "wire.track=whole_prompt"],
}  # fmt: skip


def trained(folder: Path, *more: str) -> Path:
    """Directory of a run of one epoch with two readers; its encoder stands on tiny_llama, if on any."""
    cfg: DictConfig = config(folder, "trainer.max_epochs=1", *more, lms=("llama", "qwen2"))
    run_of(cfg)
    fit(cfg)
    return run_dir(cfg)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return trained(folder, *VARIANTS["int8"])


@pytest.fixture(scope="module")
def other(folder: Path) -> Path:
    """Directory of a run with the same parts and another seed."""
    return trained(folder, *VARIANTS["int8"], "seed=9")


@pytest.fixture(scope="module")
def loaded(run: Path) -> Loaded:
    return load(run)


@pytest.fixture(scope="module")
def exported(folder: Path, loaded: Loaded) -> Path:
    export(loaded, folder / "exported")
    return folder / "exported"


@pytest.fixture(scope="module")
def message(loaded: Loaded) -> bytes:
    return encode_text(loaded, TEXT)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bundles_write_the_run_s_messages_and_give_its_answers(
    folder: Path, run: Path, variant: str, tmp_path: Path
) -> None:
    ended = load(run if variant == "int8" else trained(folder, *VARIANTS[variant]))
    export(ended, tmp_path / "ends")
    asked = [QUESTIONS[0]] if ended.wire.whole_prompt else None
    sent = Writer.load(tmp_path / "ends" / "writer").encode([TEXT], asked)[0]
    assert sent == encode_text(ended, TEXT, asked[0] if asked else None)
    if ended.wire.encoder.lm is None:
        with pytest.raises(UserError, match="stands on no language model"):
            Writer.load(tmp_path / "ends" / "writer", {"device": "cpu"})
    for model in ended.wire.models:
        questions = [] if ended.wire.whole_prompt else QUESTIONS
        reader = Reader.load(tmp_path / "ends" / "readers" / model)
        assert reader.answer(sent, questions) == answer(ended, sent, model, questions)


def test_a_reader_needs_its_bundle_its_weights_and_nothing_else(
    folder: Path, exported: Path, loaded: Loaded, message: bytes, tmp_path: Path
) -> None:
    expected = answer(loaded, message, "tiny_qwen2", QUESTIONS)
    shutil.copytree(exported / "readers" / "tiny_qwen2", tmp_path / "bundle")
    shutil.copytree(folder / "qwen2_0", tmp_path / "weights")
    (tmp_path / "m.wire").write_bytes(message)
    away = folder.rename(folder.with_name("away"))  # the run, the sender's weights, every other bundle
    code = (
        "import sys; from latentwire.answer import main; code = main()\n"
        "known = [m for m in sys.modules if m.split('.')[0] == 'lightning' or m == 'latentwire.data.biographies']\n"
        "sys.exit(code or ', '.join(known[:3]) or 0)"
    )
    line = ["m.wire", "--bundle", "bundle", "--lm", "source=weights", "--json"]
    asked = [arg for q in QUESTIONS for arg in ("--question", q)]
    try:
        read = subprocess.run(
            [sys.executable, "-c", code, *line, *asked], capture_output=True, text=True, cwd=tmp_path, check=False,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    finally:
        away.rename(folder)
    assert read.returncode == 0, read.stderr
    found: list[dict[str, Any]] = [json.loads(row) for row in read.stdout.splitlines()]
    assert [(a.question, a.answer, a.tokens) for a in expected] == [
        (r["question"], r["answer"], r["tokens"]) for r in found
    ]
    for a, r in zip(expected, found, strict=True):
        assert r["logprobs"] == pytest.approx(a.logprobs, abs=1e-5)


def test_loading_measures_nothing(run: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmeasured(*_: Any, **__: Any) -> None:
        raise AssertionError("something was calibrated")

    monkeypatch.setattr("latentwire.wire.LatentWire.calibrate", unmeasured)
    monkeypatch.setattr("latentwire.injectors.deep_prefix.measure_kv", unmeasured)
    monkeypatch.setattr("latentwire.encoders.lm_lora.LMLoRAEncoder.fit", unmeasured)
    load(run)
    monkeypatch.setattr("latentwire.codec.message.fingerprint", unmeasured)
    Writer.load(exported / "writer").encode([TEXT, TEXT])


def test_texts_and_their_messages_in_one_batch(exported: Path) -> None:
    writer = Writer.load(exported / "writer")
    texts = [TEXT, "Bert lives in Oslo.", "Carl."]
    assert [len(m) for m in writer.encode(texts)] == [writer.message_bytes] * 3
    assert writer.encode(texts, batch=1) == [writer.encode([t])[0] for t in texts]


# -- what is refused --------------------------------------------------------------------------------------------------
def refused(code: int, capsys: pytest.CaptureFixture[str], *told: str) -> None:
    """Exit code 2 and four lines on stderr that say all of `told`; nothing on stdout."""
    seen = capsys.readouterr()
    assert (code, seen.out) == (UserError.EXIT_CODE, "")
    error = "\n".join(seen.err.splitlines()[-4:])
    for word in ("\n  found:", "expected:", "remedy:", *told):
        assert word in error, f"{word!r} not in:\n{error}"


def reads(place: Path, message: bytes, *more: str) -> int:
    path = place.parent / "m.wire"
    path.write_bytes(message)
    return answer_main([str(path), "--bundle", str(place), "--question", "Who?", *more])


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported / "readers" / "tiny_qwen2", tmp_path / "bundle"))


@pytest.mark.parametrize("name", ["reader.json", "reader.safetensors"])
def test_no_flipped_bit_passes(name: str, copied: Path) -> None:
    intact = (copied / name).read_bytes()
    bundle.read(copied, "reader")
    last = len(intact) - 1
    places = [0, 1, last, *range(7, last, max(1, last // 97))]
    for number, place in enumerate(places):
        damaged = bytearray(intact)
        damaged[place] ^= 1 << number % 8
        (copied / name).write_bytes(damaged)
        with pytest.raises(UserError) as told:
            bundle.read(copied, "reader")
        assert name in told.value.where


def test_what_a_reader_of_bundles_is_told(
    folder: Path, exported: Path, copied: Path, other: Path, message: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()  # what training has printed
    assert reads(exported, message, "--model", "tiny_qwen2") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    refused(reads(exported, message), capsys, "tiny_llama | tiny_qwen2")
    refused(reads(exported, message, "--model", "gpt"), capsys, "tiny_llama | tiny_qwen2")
    refused(reads(copied, message, "--model", "tiny_llama"), capsys, "a bundle of tiny_qwen2")
    refused(reads(copied, message, "--which", "last"), capsys, "--which")
    refused(reads(exported / "writer", message), capsys, "reader.json", "latentwire.export")
    refused(reads(copied, message, "--lm", "sauce=x"), capsys, "sauce", "source")
    refused(reads(copied, message, "--lm", f"source={folder / 'nowhere'}"), capsys, "nowhere", "--lm source=")
    refused(reads(copied, message, "--lm", f"source={folder / 'llama_0'}"), capsys, "weights", "reader.json")
    refused(reads(copied, message, "--lm", "device=banana"), capsys, "banana", "leave out --lm device=banana")
    refused(reads(copied, message, "--lm", "source=3"), capsys, "3 (int)", "--lm source=")
    refused(reads(copied, message, "--lm", "_target_=os.system"), capsys, "--lm _target_", "source")
    refused(reads(copied, message, "--lm", "source=[1,2"), capsys, """add --lm 'source="[1,2"'""")
    refused(reads(copied, message, "--lm", "source=${oc.env:NOPE}"), capsys, "NOPE", "--lm")
    refused(reads(copied, message, "--lm", 'source="[1,2"'), capsys, "source [1,2")
    refused(reads(copied, b"LW" + message[2:-1] + b"\0"), capsys, "m.wire", "damaged")

    stranger = load(other)
    refused(reads(copied, encode_text(stranger, TEXT)), capsys, "m.wire", "fingerprint")
    export(stranger, copied.parent / "other", ["tiny_qwen2"])
    theirs = copied.parent / "other" / "readers" / "tiny_qwen2"
    refused(reads(theirs, message), capsys, "m.wire", "fingerprint")
    shutil.copy(theirs / "reader.safetensors", copied)
    refused(reads(copied, message), capsys, "reader.safetensors", "of another bundle")
    (copied / "reader.safetensors").unlink()
    refused(reads(copied, message), capsys, "reader.safetensors", "No such file")


def test_another_tokenizer_on_the_same_weights(folder: Path, copied: Path) -> None:
    weights = Path(shutil.copytree(folder / "qwen2_0", copied.parent / "weights"))
    path = weights / "tokenizer.json"
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    pieces = vocabulary["model"]["vocab"]
    pieces["a"], pieces["b"] = pieces["b"], pieces["a"]
    path.write_text(json.dumps(vocabulary), encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer of") as told:
        Reader.load(copied, {"source": str(weights)})
    assert "--lm source=" in told.value.remedy


def test_code_that_nobody_trusts(copied: Path) -> None:
    found = bundle.read(copied, "reader")
    for target in ("os.system", "latentwire.run.Path", "latentwire.lm.FrozenLM.load.__func__"):
        bundle.write(copied, "reader", found.settings | {"codec": {"_target_": target}}, found.tensors)
        with pytest.raises(UserError, match="_target_"):
            Reader.load(copied)
    bundle.write(copied, "reader", found.settings | {"codec": {"_target_": "mine.Codec"}}, found.tensors)
    bundle.read(copied, "reader", trusted=["mine"])


def test_remedies_are_those_of_whoever_encodes(exported: Path, folder: Path) -> None:
    writer = Writer.load(exported / "writer")
    most = writer.encoder.max_tokens
    with pytest.raises(UserError, match=f"{most + 2} tokens, 2 too many") as told:
        writer.encode(["a", "x" * (most + 2)])
    assert "overflow" not in told.value.remedy
    with pytest.raises(UserError, match="at least one token") as told:
        writer.encode(["a", ""])
    assert "corpus" not in told.value.remedy
    with pytest.raises(UserError, match="dtype") as told:
        Writer.load(exported / "writer", {"dtype": "float8"})
    assert told.value.remedy == "leave out --lm dtype=float8"
    with pytest.raises(UserError, match="weights of") as told:
        Writer.load(exported / "writer", {"dtype": "bfloat16"})
    assert "leave out --lm dtype" in told.value.remedy


def test_where_a_bundle_goes(run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(export_main([str(run), "-o", str(exported)]), capsys, "empty")
    refused(export_main([str(run), "-o", str(tmp_path / "x"), "--reader", "gpt"]), capsys, "give --reader tiny_llama")
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").touch()
    refused(export_main([str(run), "-o", str(tmp_path / "file" / "x")]), capsys, "Not a directory", "give -o")


def test_an_export_that_a_full_disk_ends_can_be_given_again(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(bundle, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            export(loaded, tmp_path / "x")
    assert len(export(loaded, tmp_path / "x")) == 3


def test_another_run_s_checkpoint_in_a_run(run: Path, other: Path, tmp_path: Path) -> None:
    mixed = tmp_path / run.name
    shutil.copytree(run, mixed)
    shutil.copy(other / "checkpoints" / "best.ckpt", mixed / "checkpoints")
    with pytest.raises(UserError, match=f"a checkpoint of run {other.name}"):
        load(mixed)
    shutil.copy(run / "checkpoints" / "best.ckpt", mixed / "checkpoints")
    (mixed / "result.json").write_text(json.dumps({"hash": run.name, "identity": "00" * 32}), encoding="utf-8")
    with pytest.raises(UserError, match="identity"):
        load(mixed)


def test_text_that_the_tokenizer_cannot_represent(
    exported: Path, loaded: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentwire import pocket

    style = pocket.load("pocket_llama").style
    assert style.lost('I do not  know\n"why", 3.14 ##a <unk> [a]') == ()
    assert style.lost("Anna lives in Zürich.") == ("Zürich",)
    assert style.lost("x" * 3000) == ("x" * 3000,)
    assert style.lost("Good 😀 day") == ("😀",)
    assert pocket.load("pocket_qwen").style.lost("Zürich 😀" + "x" * 3000) == ()

    monkeypatch.setattr("latentwire.lm.prompts.Style.lost", lambda _, text: ("Zürich",) if "Zürich" in text else ())
    path, out = tmp_path / "text.txt", tmp_path / "m.wire"
    path.write_text("Zürich is a city.", encoding="utf-8")
    line = [str(exported / "writer"), "--text", str(path), "-o", str(out)]
    refused(encode_main(line), capsys, "'Zürich'", "6 of 17 characters are lost", "--lossy")
    assert not out.exists()
    assert encode_main([*line, "--lossy"]) == 0
    assert "'Zürich': 6 of 17 characters are lost" in capsys.readouterr().err
    reader = Reader.load(exported / "readers" / "tiny_qwen2")
    with pytest.raises(UserError, match="--question"):
        reader.answer(out.read_bytes(), ["Where is Zürich?"])
    assert len(reader.answer(out.read_bytes(), ["Where is Zürich?"], lossy=True)) == 1
    with pytest.raises(UserError, match="--question") as nothing:
        reader.answer(out.read_bytes(), [" Zürich"], lossy=True)
    assert nothing.value.remedy == "spell it otherwise"
