"""Nothing is cut in silence, and a question is never cut (specification B2.1).

The encoder's input was cut to the first 512 bytes, context first, so that the question never reached it; the token
budget cut the question, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lw_toys import byte_tokenizer, tiny_model

from callbacks.errors import UserError
from latentwire.baselines.budget import LegacyTruncation, TokenBudget, WholePromptBudget
from latentwire.data.base import Passage, Question
from latentwire.encoders.base import Encoder, build_encoder
from latentwire.encoders.byte import ByteEncoder
from latentwire.encoders.lm_lora import LMLoRAEncoder
from latentwire.encoders.pooling import ChunkMean
from latentwire.encoders.slots import LatentLayout
from latentwire.encoders.token import TokenEncoder
from latentwire.examples import prompt_of, whole_prompt_text
from latentwire.lm.frozen import FrozenLM

SMALL: dict[str, Any] = {"pooling": ChunkMean, "width": 8, "refiner_layers": 1, "heads": 2}
ENCODERS: dict[str, Callable[..., Encoder]] = {
    "byte": partial(ByteEncoder, layers=1, **SMALL),
    "token": partial(TokenEncoder, layers=1, **SMALL),
    "lm_hidden": partial(LMLoRAEncoder, rank=0, **SMALL),
}
LAYOUT = LatentLayout(3)
LONG = "Ann lives in Rome. " * 30  # 570 bytes
ASKED = [Question(text, text, ("Rome",), "city") for text in ("Where does Ann live?", "Who is Ann??????")]
PASSAGE = Passage("p", LONG, tuple(ASKED), "p", None)


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return FrozenLM(tiny_model("llama", positions=1024), byte_tokenizer(), "long")


def make(name: str, lm: FrozenLM, **settings: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = build_encoder(partial(ENCODERS[name], **settings), lm, 4, ["shared"]).eval()
    if isinstance(encoder, LMLoRAEncoder):
        encoder.fit(["Ann lives in Rome.", "Bob bakes bread."], LAYOUT)
    return encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_a_question_behind_512_bytes_of_context_reaches_the_encoder(name: str, lm: FrozenLM) -> None:
    texts = [whole_prompt_text(PASSAGE, q) for q in ASKED]
    assert texts[0][:512] == texts[1][:512]
    with torch.no_grad():
        a, b = make(name, lm, max_tokens=700).encode(texts, LAYOUT)
        cut = make(name, lm, max_tokens=512, overflow="count").encode(texts, LAYOUT)
    assert float((a - b).abs().max()) > 1e-4
    torch.testing.assert_close(cut[0], cut[1], msg="the old mistake: two questions, one message")


@pytest.mark.parametrize("name", ENCODERS)
def test_what_does_not_fit_is_refused_or_counted_to_the_token(name: str, lm: FrozenLM) -> None:
    texts = ["Ann.", whole_prompt_text(PASSAGE, ASKED[0])]
    with pytest.raises(UserError, match=rf"{len(texts[1])} tokens.*\n.*at most 512"):
        make(name, lm, max_tokens=512).encode(texts, LAYOUT)
    counting = make(name, lm, max_tokens=512, overflow="count")
    assert counting.tokenize(texts).cut == (0, len(texts[1]) - 512)
    assert (counting.cut_texts, counting.cut_tokens) == (1, len(texts[1]) - 512)


def test_every_configured_encoder_refuses_by_default() -> None:
    folder = Path(__file__).parents[2] / "conf" / "latentwire" / "encoder"
    found = {p.stem: yaml.safe_load(p.read_text(encoding="utf-8")) for p in folder.glob("*.yaml")}
    settings = {name: node["overflow"] for name, node in found.items() if "_target_" in node}
    assert set(settings.values()) == {"refuse"}
    assert {"byte", "token", "lm_lora", "pca"} <= set(settings)


@pytest.mark.parametrize("m", [1, 5, 40, 1000])
def test_the_budget_takes_its_tokens_from_the_context_alone(m: int, lm: FrozenLM) -> None:
    for question in ASKED:
        p = prompt_of(lm, PASSAGE, question)
        for baseline, context in ((TokenBudget(), m), (WholePromptBudget(), max(0, m - len(p.question) + len(p.cue)))):
            prefix = baseline.prefix(lm, [PASSAGE], [question], m)
            assert prefix.text_ids is not None
            read = (*prefix.text_ids[0], *baseline.follows(p))
            assert read == p.context[:context] + p.question
            assert baseline.fair
    assert not LegacyTruncation.fair, "the old budget stays in the table as what it was"
