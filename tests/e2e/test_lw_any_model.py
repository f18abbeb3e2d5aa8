"""One override reads any model of transformers: two steps trained and evaluated through the program itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lw_runs import SMALL
from lw_toys import byte_tokenizer

from callbacks.errors import UserError
from latentwire.lm import zoo
from latentwire.lm.frozen import FrozenLM
from latentwire.run import Tree, dead, earlier, task
from suite.runs.launch import launch

CLOCK = (
    "{{ bos_token }}<|user|>Today is {{ strftime_now('%d %B %Y') }}. "
    "{% if enable_thinking is defined and not enable_thinking %}No thoughts. {% endif %}"
    "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
QUICK = [
    *(o for o in SMALL if not o.startswith(("injector.", "loader.steps", "trainer.max"))),
    "loader.steps_per_epoch=2",
    "trainer.max_epochs=1",
    "lr_schedule.warmup_steps=0",
    "baseline=[text,no_context]",
    "~acceptance",
    "+acceptance={}",
]


def saved(folder: Path, name: str, bos: bool = True, template: str | None = None, **sizes: Any) -> Path:
    """A tiny random model of the zoo with a tokenizer, as `save_pretrained` writes them."""
    (species,) = (s for s in zoo.SPECIES if s.name == name)
    tokenizer = byte_tokenizer(adds_bos=bos)
    if not bos:
        tokenizer.bos_token = None
    tokenizer.chat_template = template
    positions = "n_positions" if "n_positions" in species.sizes else "max_position_embeddings"
    path = folder / name.replace(" ", "_").replace(",", "")
    zoo.build(species, **{"vocab_size": len(tokenizer), positions: 512, **sizes}).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def run(folder: Path, *more: str) -> dict[str, Any]:
    argv = [*QUICK, f"paths.runs={folder}/runs", f"paths.cache={folder}/cache", *more]
    launch("latentwire", task, dead, schema=Tree, earlier=earlier, argv=argv)
    (result,) = (folder / "runs").glob("*/*/result.json")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def test_a_chat_model_with_a_clock_and_arguments_of_its_template(tmp_path: Path) -> None:
    source = saved(tmp_path, "Qwen3", template=CLOCK)
    given = ["readers=hf", f"hf.source={source}", "hf.template={enable_thinking: false}", "hf.date=2023-02-01"]
    found = run(tmp_path, *given, "injector=deep_prefix", "hf.attn=eager")
    assert found["status"] == "finished"
    assert {"wire", "text", "no_context"} <= set(found["methods"])


def test_a_model_without_bos_that_has_no_rotary_positions_beside_a_pocket_one(tmp_path: Path) -> None:
    source = saved(tmp_path, "GPT-2", bos=False)
    given = ["readers=[hf,pocket_qwen]", f"hf.source={source}", "injector=soft_prefix", "hf.dtype=bfloat16"]
    found = run(tmp_path, *given, "encoder=token", "encoder.refiner_layers=1")
    assert {"wire/hf", "wire/pocket_qwen"} <= set(found["methods"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["readers=hf"], "hf.source=VALUE"),
        (["readers=hf", "hf.source={chat}", "hf.template={enable_thinkin: false}"], "does not mention"),
    ],
)
def test_what_is_wrong_with_a_reader_fits_on_a_screen(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = saved(tmp_path, "Qwen3", template=CLOCK)
    with pytest.raises(SystemExit) as end:
        run(tmp_path, *(g.replace("{chat}", str(chat)) for g in given))
    shown = capsys.readouterr().err
    assert end.value.code == 2
    assert said in shown
    assert len(shown.splitlines()) <= 24
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "lms.hf.source nowhere"),
        ({"attn": "fast"}, r"eager \| sdpa \| flash_attention_2"),
        ({"dtype": "int7"}, r"float32 \| bfloat16 \| float16"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named_by_its_key(given: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        FrozenLM.load("nowhere/at/all", name="hf", **given)  # type: ignore[arg-type]
