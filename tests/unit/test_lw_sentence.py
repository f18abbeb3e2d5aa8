"""encoder=st_query: a frozen sentence encoder is read as it stands, stored nowhere, and not taken for another one."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from lw_parts import D_Z, SHARED, TEXTS
from lw_runs import config, fit
from lw_toys import BOS, EOS, save_sentence_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedTokenizerFast

from callbacks.errors import UserError
from latentwire.answer import answer
from latentwire.encoders.pooling import ChunkMean, ChunkQueries
from latentwire.encoders.slots import LatentLayout
from latentwire.encoders.st_query import STQueryEncoder
from latentwire.ends import Reader, Writer
from latentwire.export import export
from latentwire.lm.sentence import EXTRA, SentenceModel
from latentwire.restore import load
from suite.runs.identity import config_hash, run_dir

MINILM = SentenceModel.files(EXTRA, "source")  # the extra `sentence`, where it is installed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_sentence_model(tmp_path_factory.mktemp("sentence")))


def encoder_on(folder: Path, slices: tuple[str, ...] = ("shared",), **settings: object) -> STQueryEncoder:
    torch.manual_seed(0)
    given: dict[str, object] = dict(pooling=partial(ChunkQueries, heads=2), width=16, heads=2, max_tokens=100)
    encoder = STQueryEncoder(D_Z, slices, source=str(folder), **{**given, **settings})  # type: ignore[arg-type]
    encoder.fit(TEXTS, SHARED)
    return encoder.eval()


# -- what the model reads ---------------------------------------------------------------------------------------------
def test_states_are_those_of_every_text_alone_between_its_special_tokens(folder: Path) -> None:
    sentence = SentenceModel.load(str(folder))
    ids = sentence.all_ids(TEXTS)
    width = max(map(len, ids))
    padded = torch.tensor([[*row, *[9] * (width - len(row))] for row in ids])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in ids])
    found = sentence.states(padded, mask, [0, 2])
    plain = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    for i, row in enumerate(ids):
        with torch.no_grad():
            alone = plain(input_ids=torch.tensor([[BOS, *row, EOS]]), output_hidden_states=True).hidden_states
        for layer, state in zip((0, 2), found, strict=True):
            torch.testing.assert_close(state[i, : len(row)], alone[layer][0, 1:-1], rtol=1e-4, atol=1e-5)
        assert not found[:, i, len(row) :].any()


def word_pieces(folder: Path) -> Path:
    """The model of `folder` with a tokenizer of BERT's kind: small letters, [UNK], and truncation in its file."""
    path = folder.with_name("pieces")
    shutil.copytree(folder, path)
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *(f"{b}{c}" for c in "abcdefghijklmnopqrstuvwxyz." for b in ("", "##")),
    ]
    backend = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.enable_truncation(8)
    names = dict(unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(path)
    return path


def test_what_no_token_holds_is_lost_and_what_the_tokenizer_folds_is_not(folder: Path) -> None:
    sentence = SentenceModel.load(str(word_pieces(folder)))
    assert len(sentence.ids("abcdefghij")) == 10, "nothing is cut by what tokenizer.json says"
    assert sentence.lost("Élan Ab. cd") == ()
    assert sentence.lost("Ab ♞♞ cd 漢字 e\u0301.") == ("♞♞", "漢字")
    assert len(sentence.ids("[SEP]")) > 1, "a special token that is spelt out is text"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_tokens": 255}, "254 tokens"),
        ({"pooling": ChunkMean}, "pooling@encoder.pooling=chunk_queries"),
        ({"layers": [0, 3]}, "numbers from 0 to 2"),
    ],
)
def test_what_the_model_cannot_do_is_refused(folder: Path, settings: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        encoder_on(folder, **settings)


@pytest.mark.parametrize(
    ("source", "told"), [("package:no_such_package", "package:all_minilm_l6_v2"), ("nowhere/at/all", "config.json")]
)
def test_a_source_that_is_not_there(source: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        SentenceModel.load(source)


def test_weights_that_are_not_there_are_not_drawn_at_random(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "half")
    file = tmp_path / "half" / "model.safetensors"
    tensors = load_file(file)
    gone = next(name for name in tensors if name.endswith("layer.1.output.dense.weight"))
    save_file({k: v for k, v in tensors.items() if k != gone}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"layer\.1\.output\.dense\.weight"):
        SentenceModel.load(str(tmp_path / "half"))


# -- gates ------------------------------------------------------------------------------------------------------------
def test_gates_start_at_one_and_each_scales_its_own_slot(folder: Path) -> None:
    encoder = encoder_on(folder, ("shared", "a"))
    layout = LatentLayout(3, {"a": 2})
    seen: list[torch.Tensor] = []
    encoder.gate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    z = encoder.encode(TEXTS, layout)
    assert torch.equal(z, seen[0])
    with torch.no_grad():
        encoder.gate.logits[0, 1], encoder.gate.logits[1, 0] = -100.0, 1.0
    ratio = encoder.encode(TEXTS, layout) / z
    expected = torch.tensor([1.0, 0.0, 1.0, 2 / (1 + torch.e**-1), 1.0])
    torch.testing.assert_close(ratio, expected[None, :, None].expand_as(ratio), rtol=1e-4, atol=1e-6)


def test_more_slots_than_queries_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"encoder\.pooling\.max_slots=65"):
        encoder_on(folder).encode(TEXTS, LatentLayout(65))


# -- identity ---------------------------------------------------------------------------------------------------------
def test_a_state_is_loaded_onto_the_model_that_it_was_trained_on(folder: Path, tmp_path: Path) -> None:
    encoder = encoder_on(folder)
    state = encoder.state_dict()
    elsewhere = shutil.copytree(folder, tmp_path / "moved")
    encoder_on(elsewhere).load_state_dict(state)
    with pytest.raises(UserError, match="weights with the fingerprint"):
        encoder_on(Path(save_sentence_model(tmp_path, seed=1))).load_state_dict(state)
    told = json.loads((elsewhere / "tokenizer.json").read_text(encoding="utf-8"))
    ids = told["model"]["vocab"]
    ids["W"], ids["h"] = ids["h"], ids["W"]
    (elsewhere / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer with the fingerprint"):
        encoder_on(elsewhere).load_state_dict(state)


def test_a_run_exports_a_writer_that_finds_its_model_anywhere(folder: Path, tmp_path: Path) -> None:
    here = shutil.copytree(folder, tmp_path / "here")
    cfg = config(tmp_path, "encoder=st_query", f"encoder.source={here}", "trainer.max_epochs=1")
    before = config_hash(cfg)
    fit(cfg)
    ended = load(run_dir(cfg))
    checkpoint = torch.load(run_dir(cfg) / "checkpoints" / "best.ckpt", weights_only=True)
    names = {name for name in checkpoint["state_dict"] if name.startswith("wire.encoder.")}
    assert not any("sentence" in name for name in names)
    expected = ended.writer().encode(["Anna lives in Rome."])
    export(ended, tmp_path / "ends")
    asked = ["Where does Anna live?"]
    said = Reader.load(tmp_path / "ends" / "readers" / "tiny_llama").answer(expected[0], asked)
    assert said == answer(ended, expected[0], "tiny_llama", asked)
    here.rename(tmp_path / "there")
    with pytest.raises(UserError, match="add --lm source=FOLDER"):
        Writer.load(tmp_path / "ends" / "writer")
    with pytest.raises(UserError, match=r"--lm dtype(.|\n)*source"):
        Writer.load(tmp_path / "ends" / "writer", {"dtype": "float16"})
    with pytest.raises(UserError, match="add --lm source=FOLDER"):
        Writer.load(tmp_path / "ends" / "writer", {"source": save_sentence_model(tmp_path, seed=1)})
    moved = Writer.load(tmp_path / "ends" / "writer", {"source": str(tmp_path / "there")})
    assert moved.encode(["Anna lives in Rome."]) == expected
    shutil.copytree(save_sentence_model(tmp_path, seed=1), here)
    assert config_hash(cfg) != before, "other weights in the same folder are another run"


# -- the extra --------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.skipif(not MINILM, reason="needs the extra `sentence`")
def test_a_wire_stands_on_the_real_minilm(tmp_path: Path) -> None:
    sentence = SentenceModel.load(EXTRA)
    assert (sentence.n_layers, sentence.width, sentence.max_tokens) == (6, 384, 510)
    assert len(sentence.ids("word " * 300)) == 300, "its tokenizer.json would cut at 128"
    given = sentence.tokenizer(
        ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."],
        padding=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        states = sentence.model(**given).last_hidden_state
    kept = given["attention_mask"][..., None]
    e = torch.nn.functional.normalize((states * kept).sum(1) / kept.sum(1), dim=1)
    # the quickstart of Sentence Transformers prints these
    published = torch.tensor([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])
    torch.testing.assert_close(e @ e.T, published, rtol=0, atol=1e-4)

    cfg = config(tmp_path, "encoder=st_query", "trainer.max_epochs=1")
    fit(cfg)
    ended = load(run_dir(cfg))
    export(ended, tmp_path / "ends")
    writer = tmp_path / "ends" / "writer"
    assert Writer.load(writer).encode(["Anna lives in Rome."]) == ended.writer().encode(["Anna lives in Rome."])
    assert sum(p.stat().st_size for p in writer.iterdir()) < 200_000, "90 MB of frozen weights are not in it"
