"""Pocket models: two tokenizers, packed training rows, and committed weights that can read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lw_toys import byte_tokenizer

from callbacks.errors import UserError
from latentwire.data.biographies import WORLD, Biographies
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import plain, render
from latentwire.pocket import architecture as pocket
from latentwire.pocket import drill
from latentwire.pocket.packing import pack
from latentwire.pocket.tokenizers import build_tokenizer
from latentwire.pocket.training import Pocket, Recipe, Trainer, Vocabulary, lines
from latentwire.pretrain import main
from suite.config.compose import compose
from suite.config.instantiate import build_node

POCKETS = ("pocket_llama", "pocket_qwen")
KINDS = {"word_piece": 512, "byte_bpe": 1100}
FRESH = 20_26  # no seed that anything was trained or chosen with


@pytest.fixture(scope="module", params=POCKETS)
def lm(request: pytest.FixtureRequest) -> FrozenLM:
    return pocket.load(request.param)


def read(lm: FrozenLM, people: int, contexts: int, with_context: bool = True) -> float:
    """Exact match of the real generate path on fresh test contexts, all questions asked."""
    hits = []
    for passage in drill.passages_of(people, 4, "test", contexts, FRESH):
        prompts = [render(lm.style, passage.text if with_context else None, q.text) for q in passage.questions]
        said = lm.generate(
            Prefix(None, None, [p.context for p in prompts] if with_context else None),
            [p.question for p in prompts],
            max_new_tokens=6,
        )
        hits += [lm.style.decode(ids) == q.answers[0] for ids, q in zip(said, passage.questions, strict=True)]
    return sum(hits) / len(hits)


# -- tokenizers -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_gives_texts_back_and_is_learned_the_same_way_twice(kind) -> None:
    tokenizer = build_tokenizer(kind, KINDS[kind], lines())
    assert tokenizer.get_vocab() == build_tokenizer(kind, KINDS[kind], lines()).get_vocab()
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    for passage in Biographies(4, 6).split("test")[:20]:
        for text in (passage.text, *(q.text for q in passage.questions), *(q.answers[0] for q in passage.questions)):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
        first, rest = passage.text.split(". ", 1)
        pieces = [tokenizer(part)["input_ids"] for part in (first + ".", rest)]
        assert tokenizer(passage.text)["input_ids"] == [*pieces[0], *pieces[1]]


def test_bytes_are_never_unknown() -> None:
    tokenizer = build_tokenizer("byte_bpe", 1100, lines())
    assert tokenizer.decode(tokenizer("Übel, 東京\n\tZoë?")["input_ids"]) == "Übel, 東京\n\tZoë?"


def test_a_vocabulary_that_cannot_hold_the_characters_is_refused() -> None:
    for kind in KINDS:
        with pytest.raises(UserError, match="vocab_size"):
            build_tokenizer(kind, 100, lines())


# -- packed rows ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_packed_question_has_the_logits_of_its_own_prompt(family) -> None:
    tokenizer = byte_tokenizer()
    model = pocket.build(pocket.Architecture(family, 16, 2, 4, 2, 16, 512), tokenizer, 0).eval()
    style = plain(tokenizer, 512)
    rows = [
        [render(style, context, q, a) for q, a in (("who?", "Al"), ("where, do you think?", "Rome"), ("x", "y"))]
        for context in ("a cat", "the longer context of the two")
    ]
    batch = pack(rows, 0)
    with torch.no_grad():
        logits, target, _ = drill.answer_logits(model, batch)
        alone, wanted = [], []
        for prompt in (p for row in rows for p in row):
            out = model(torch.tensor([prompt.ids])).logits[0]
            alone.append(out[-len(prompt.answer) - 1 : -1])
            wanted += prompt.answer
    assert target.tolist() == wanted
    assert torch.allclose(logits, torch.cat(alone), atol=1e-5)
    assert batch.context.sum().item() == sum(len(row[0].context) for row in rows)
    right = torch.nn.functional.one_hot(target, logits.shape[1]).float()
    right[1] = right[1].roll(1)  # one token of the first answer is wrong
    assert drill.exact(right, target, batch).tolist() == [False, True, True, True, True, True]


def test_repetition_can_only_be_learned_from_the_second_telling() -> None:
    batch = drill.repeated([7, 8, 9], 1, 4, 3, 6, seed=5)
    half = (batch.shape[1] - 1) // 2
    assert 3 <= half <= 6
    assert batch[:, 0].tolist() == [1] * 4
    assert torch.equal(batch[:, 1 : half + 1], batch[:, half + 1 :])
    assert set(batch[:, 1:].flatten().tolist()) <= {7, 8, 9}


@pytest.mark.parametrize(("family", "kv_heads"), [("llama", 4), ("qwen2", 2)])
def test_first_layer_heads_start_by_looking_back_one_to_four_tokens(family, kv_heads: int) -> None:
    tokenizer = build_tokenizer("word_piece", 512, lines())
    architecture = pocket.Architecture(family, 128, 2, 4, kv_heads, 64, 512)
    model = pocket.build(architecture, tokenizer, 0)
    model.set_attn_implementation("eager")
    ids = torch.randint(10, 400, (4, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        looked = model(ids, output_attentions=True).attentions[0][:, :, 10:].argmax(-1)
    back = torch.arange(10, 60) - looked
    assert [int(back[:, h].flatten().mode().values) for h in range(4)] == [1, 2, 3, 4]


# -- the committed models ---------------------------------------------------------------------------------------------
def test_pocket_models_read_three_biographies_and_know_nothing_else(lm: FrozenLM) -> None:
    assert read(lm, 3, 25) >= 0.95
    assert read(lm, 3, 12, with_context=False) <= 0.10  # a guess of the right kind: 0.031


def test_packed_counting_equals_generation(lm: FrozenLM) -> None:
    questions = drill.Questions(lm.style, lm.tokenizer.pad_token_id)
    held = drill.passages_of(4, 4, "test", 6, FRESH)
    assert drill.exact_match(lm.model, questions, held) == pytest.approx(read(lm, 4, 6))


def test_contexts_are_worth_compressing(lm: FrozenLM) -> None:
    shortest = [min(len(lm.style.encode(t.format(person="Anna", value="x"))) for t in r.told) for r in WORLD.relations]
    assert 12 * min(shortest) >= 96
    assert min(len(lm.style.encode(p.text)) for p in Biographies().split("test")[:50]) >= 96


def test_the_two_models_share_neither_family_nor_vocabulary() -> None:
    first, second = (pocket.load(name) for name in POCKETS)
    assert first.model.config.model_type != second.model.config.model_type
    text = Biographies().split("test")[0].text
    assert first.style.encode(text) != second.style.encode(text)
    vocabularies = [{p for p in lm.tokenizer.get_vocab() if len(p) > 1} for lm in (first, second)]
    assert len(vocabularies[0] & vocabularies[1]) < 0.1 * min(map(len, vocabularies))  # "<pad>", "an", "in"


@pytest.mark.parametrize("name", POCKETS)
def test_a_pocket_model_is_small_and_says_how_it_was_made(name: str) -> None:
    folder = pocket.ROOT / name
    assert (folder / "model.safetensors").stat().st_size < 3 * 2**20
    card = (folder / pocket.CARD).read_text()
    assert f"python -m latentwire.pretrain lm={name}" in card
    tokens = compose("latentwire/pretrain", [f"lm={name}"]).pocket.tokenizer
    again = build_tokenizer(tokens.kind, tokens.vocab_size, lines())
    stored = pocket.load(name).tokenizer
    assert again.get_vocab() == stored.get_vocab()
    for special in ("pad_token_id", "bos_token_id", "eos_token_id"):
        assert getattr(again, special) == getattr(stored, special)
    for text in ("Question: Where does Anna live?\n", "Answer:", " Oslo", Biographies().passage("test", 0).text):
        assert again(text)["input_ids"] == stored(text)["input_ids"]  # AutoTokenizer has its own idea of qwen2


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_changed_file_is_refused_by_name(tmp_path: Path, file: str) -> None:
    shutil.copytree(pocket.ROOT / "pocket_llama", tmp_path / "pocket_llama")
    pocket.load("pocket_llama", root=str(tmp_path))
    path = tmp_path / "pocket_llama" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        pocket.load("pocket_llama", root=str(tmp_path))
    assert error.value.where == str(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        pocket.load("pocket_llama", root=str(tmp_path))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="pocket_llama"):
        pocket.load("pocket_lama")


# -- training ---------------------------------------------------------------------------------------------------------
TINY = Pocket(
    pocket.Architecture("llama", 16, 1, 2, 2, 16, 512),
    Vocabulary("word_piece", 512),
    Recipe(
        repeat_steps=3, repeat_until=2.0, repeat_rows=4, repeat_lengths=(3, 5), repeat_lr=1e-3,
        stages=[[(1, 2)], [(2, 2), (1, 2)]], until=[0.0, 2.0], steps=4, cooldown=2, rows=2, questions=2,
        lr=1e-3, weight_decay=0.01, beta2=0.98, clip=1.0, ramp=2, context_weight=0.1,
    ),
    eval_contexts=1,
)  # fmt: skip


@pytest.mark.parametrize("cut", [2, 3, 5, 8])
def test_an_interrupted_training_ends_in_the_same_weights(tmp_path: Path, cut: int) -> None:
    whole = Trainer(TINY, 0, tmp_path / "whole")
    whole.train()
    Trainer(TINY, 0, tmp_path / "cut").train(stop_after=cut)
    rest = Trainer(TINY, 0, tmp_path / "cut")
    rest.restore()
    assert rest.state.total == cut
    rest.train()
    assert rest.state.total == whole.state.total == 9
    for (name, a), b in zip(whole.model.state_dict().items(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    Trainer(TINY, 0, tmp_path).train(stop_after=1)
    with pytest.raises(UserError, match="resume=never"):
        Trainer(replace(TINY, recipe=replace(TINY.recipe, lr=2e-3)), 0, tmp_path).restore()


def test_the_command_trains_seals_and_says_what_came_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [
        "lm=pocket_qwen",
        f"paths.runs={tmp_path}",
        "pocket.recipe.repeat_steps=1",
        "pocket.recipe.steps=1",
        "pocket.recipe.cooldown=1",
        "pocket.recipe.rows=2",
        "pocket.eval_contexts=1",
        "pocket.architecture.width=32",
    ]
    assert main(overrides) == 0
    assert "EM with the context" in capsys.readouterr().out
    made = pocket.load("model", root=str(tmp_path / "pretrain" / "pocket_qwen"))
    assert (made.d_model, made.kv_shape) == (32, (4, 8))
    assert main([*overrides, "pocket.architecture.heads=3"]) == UserError.EXIT_CODE
    assert main(["lm=pocket_lama"]) == UserError.EXIT_CODE
    assert "pocket_llama" in capsys.readouterr().err


@pytest.mark.slow
def test_a_smaller_model_learns_to_read_from_scratch(tmp_path: Path) -> None:
    """Width 64, one and two persons: about two minutes of one core (measured: 1.00, 0.985; three persons 0.92)."""
    cfg = compose(
        "latentwire/pretrain",
        [
            "lm=pocket_llama",
            "pocket.architecture.width=64",
            "pocket.architecture.inner=128",
            "pocket.recipe.stages=[[[1,4]],[[2,4]]]",
            "pocket.recipe.until=[0.9,0.95]",
            "pocket.recipe.steps=1500",
            "pocket.recipe.cooldown=100",
            "pocket.recipe.lr=0.002",
        ],
    )
    trainer = Trainer(build_node(cfg.pocket), 1, tmp_path)
    trainer.train()
    for people, least in ((1, 0.95), (2, 0.9)):
        held = drill.passages_of(people, 4, "test", 40, FRESH)
        assert drill.exact_match(trainer.model, trainer.questions, held) >= least
        assert drill.exact_match(trainer.model, trainer.questions, held, with_context=False) <= 0.15
