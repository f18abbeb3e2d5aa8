"""Texts coded by the reader itself, and rows matched in bytes: lossless, within the wire's bytes, the longest such."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import pytest
import torch
from lw_parts import lessons
from lw_toys import FAMILIES, Family, tiny_lm
from test_lw_evaluator import NEW, PASSAGES, FirstTokens, M

from callbacks.errors import UserError
from latentwire.baselines.coded import IdByteBudget, LMByteBudget, LMCodedText, ZstdByteBudget, ZstdText, coded_bytes
from latentwire.baselines.text import Text
from latentwire.baselines.text_codes import FRAME, TextCoder, ZstdCoder
from latentwire.baselines.training import TrainingBudget
from latentwire.data.base import Passage
from latentwire.data.squad import Squad
from latentwire.examples import context_ids
from latentwire.lm.frozen import FrozenLM
from latentwire.pocket import load
from latentwire.scoring.evaluator import Evaluator

DATA = Path(os.environ.get("SUITE_DATA", Path(__file__).parents[3] / "shared" / "data"))
NEVER_SEEN = (
    'Zürich\'s ½ Σ ⚡ is, well, "not" in any vocabulary!',
    "Once upon a time there was a little girl called Lily.",
    "x" * 30,
    "",
)
ASKED = [p.questions[0] for p in PASSAGES]


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return tiny_lm()


def many(n: int) -> list[Passage]:
    words = "Ann Bob Eve lives in Rome Oslo Bern has a cat and big dog near the old town".split()
    draw = random.Random(0)
    return [
        Passage(f"t{i}", " ".join(draw.choices(words, k=24)) + ".", PASSAGES[0].questions, f"g{i}", None)
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def budget() -> TrainingBudget:
    return lessons(many(300), 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_no_corpus_had_come_back_exactly(family: Family) -> None:
    coder = TextCoder(tiny_lm(family))
    draw = random.Random(1)
    noise = [draw.randrange(coder.lm.vocab_size) for _ in range(30)]
    for ids in (*(coder.lm.style.encode(t) for t in NEVER_SEEN), tuple(noise), (coder.lm.vocab_size - 1,) * 3):
        message = coder.pack(ids)
        assert tuple(coder.unpack(message)) == ids
        bits = coder.bits(ids)
        assert len(message) - FRAME <= math.ceil((sum(bits) + 2) / 8)
        assert sum(bits) == pytest.approx(_surprise(coder.lm, ids) / math.log(2), rel=1e-3, abs=1e-3)


def _surprise(lm: FrozenLM, ids: tuple[int, ...]) -> float:
    if not ids:
        return 0.0
    logits = lm.model(input_ids=torch.tensor([[*lm.style.head, *ids]])).logits[0, len(lm.style.head) - 1 : -1]
    return -float(logits.double().log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pocket_llama", "pocket_qwen"])
def test_a_pocket_model_codes_sentences_of_squad_and_its_own_corpus(name: str) -> None:
    coder = TextCoder(load(name))
    texts = list(NEVER_SEEN[:3])
    if (DATA / "squad" / "dev-v1.1.json").is_file():
        test = Squad(str(DATA / "squad"), "dev-v1.1.json", "train-v1.1.json", 0.1).split("test")
        texts += [test[i].text.split(". ")[0] for i in range(0, 200, 50)]
    for text in texts:
        ids = coder.lm.style.encode(text)[:200]
        assert tuple(coder.unpack(coder.pack(ids))) == ids


def test_a_damaged_text_or_another_model_is_an_error(lm) -> None:
    coder = TextCoder(lm)
    message = coder.pack(lm.style.encode("Ann has a cat."))
    for at in range(len(message)):
        with pytest.raises(UserError, match="coded"):
            coder.unpack(message[:at] + bytes([message[at] ^ 9]) + message[at + 1 :])
    with pytest.raises(UserError, match="another model"):
        TextCoder(tiny_lm("qwen2")).unpack(message)
    with pytest.raises(UserError, match="positions"):
        coder.encode([5] * 300)


def test_zstd_with_a_dictionary_is_lossless_and_shorter_than_without() -> None:
    train = [p.text for p in many(300)]
    coder = ZstdCoder(train, 4096)
    for text in (*NEVER_SEEN, *[p.text for p in many(320)[300:]]):
        assert coder.decode(coder.encode(text)) == text
    assert len(coder.encode(train[7])) < len(train[7]) / 2
    with pytest.raises(UserError, match="hundreds of texts"):
        ZstdCoder(train[:1])


@pytest.mark.parametrize("baseline", [IdByteBudget(), LMByteBudget(), ZstdByteBudget(texts=300)])
def test_a_byte_budget_is_the_longest_beginning_that_fits(lm, budget, baseline) -> None:
    baseline.fit(lm, budget, M)
    with pytest.raises(UserError, match="no wire beside it"):
        baseline.prefix(lm, PASSAGES, ASKED, M)
    lengths = []
    for room in (0, 9, 24, 10_000):
        baseline.allow(lm, M, FRAME + room)
        prefix = baseline.prefix(lm, PASSAGES, ASKED, M)
        for p, q, ids in zip(PASSAGES, ASKED, prefix.text_ids, strict=True):
            whole = context_ids(lm, p, q)
            sent = baseline.sent(lm, ids)
            assert sent.frame == FRAME
            if ids:  # zstd writes a byte or two for nothing at all
                assert sent.payload <= room
            if baseline.name == "zstd_byte_budget":
                assert whole[: max(0, len(ids) - 1)] == ids[:-1]  # then a line end
            else:
                assert whole[: len(ids)] == ids
                longer = whole[: len(ids) + 1]
                size = baseline.sent(lm, longer).payload
                assert longer == ids or size > room
        lengths.append(sum(map(len, prefix.text_ids)))
    assert lengths[0] <= lengths[1] <= lengths[2] < lengths[3]
    assert lengths[3] == sum(len(context_ids(lm, p, q)) for p, q in zip(PASSAGES, ASKED, strict=True))


def test_lossless_rows_are_the_text_in_other_bytes(lm, budget) -> None:
    lms = {"tiny": lm}
    rows = {
        "text": Text(),
        "text_lm_coded": LMCodedText(),
        "text_zstd": ZstdText(300),
        "lm_byte_budget": LMByteBudget(),
    }
    found = Evaluator(lms, PASSAGES, rows, NEW, budget=budget, n_boot=20).run({"wire": FirstTokens(lms)})
    m = found.methods
    for name in ("text_lm_coded", "text_zstd"):
        assert {k: m[name][k] for k in ("f1", "em", "nll", "positions")} == {
            k: m["text"][k] for k in ("f1", "em", "nll", "positions")
        }
        assert m[name]["bytes"] == pytest.approx(m[name]["payload"] + FRAME)
    sizes = [coded_bytes(lm, context_ids(lm, p, q)) for p in PASSAGES for q in p.questions]
    assert m["text_lm_coded"]["payload"] == pytest.approx(sum(sizes) / len(sizes))
    assert m["lm_byte_budget"]["bytes"] <= m["wire"]["bytes"] == 33
    assert m["text"]["positions"] == pytest.approx(found.sizes["tiny"]["tokens"])
    assert m["wire"]["positions"] == M


def test_a_model_whose_logits_are_not_repeatable_is_found_out(lm, monkeypatch) -> None:
    coded = LMCodedText(verify=1)
    ids = context_ids(lm, PASSAGES[0], ASKED[0])
    monkeypatch.setattr(TextCoder, "decode", lambda *_: [1, 2])
    with pytest.raises(RuntimeError, match="not repeatable"):
        coded.sent(lm, ids)
