"""What keeps a step cheap changes no number, and the bench measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lw_toys import tiny_lm

from callbacks.errors import UserError
from latentwire import step_costs as bench
from latentwire.data.base import Passage, Question
from latentwire.lm.layout import Prefix
from latentwire.lm.prompts import render, render_all
from latentwire.train.batches import Renderer


def test_gradients_of_a_prefix_that_several_rows_read_are_added_up() -> None:
    torch.manual_seed(0)
    keys, values = (torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    rows = [2, 0, 0, 2, 2]
    weight = torch.randn(5, 2, 4, 5, dtype=torch.float64)
    picked = Prefix(kv=[(keys, values)]).select(rows).kv
    assert picked is not None
    (picked[0][0] * weight + picked[0][1] * weight.square()).sum().backward()
    for given, w in ((keys, weight), (values, weight.square())):
        literal = torch.zeros_like(given)
        for i, row in enumerate(rows):
            literal[row] += w[i]
        torch.testing.assert_close(given.grad, literal)
    assert torch.equal(picked[0][0], keys[rows])


def test_prompts_rendered_together_are_those_rendered_apart() -> None:
    style = tiny_lm(chat=True).style
    asked = [("Ada lives in Oslo.", "Where?", "Oslo"), (None, "Where?", "Oslo"), (None, " Who? ", None)]
    assert render_all(style, asked) == [render(style, *one) for one in asked]
    assert render_all(style, []) == []
    texts = ["Zoë <eos>", "", "Zoë <eos>"]
    assert style.encode_all(texts) == [style.encode(text) for text in texts]


def test_a_forgotten_question_is_rendered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentwire.train.batches.REMEMBERED", 1)
    renderer = Renderer(tiny_lm())
    questions = [Question(str(i), f"Where is {i}?", ("Oslo",), "city") for i in range(4)]
    passage = Passage("p", "Ada lives in Oslo.", tuple(questions), "p", 1.0)
    first = renderer.ask([(passage, q) for q in questions])
    assert [p.ids for p in renderer.ask([(passage, q) for q in reversed(questions)])] == [p.ids for p in first[::-1]]
    assert first == [render(renderer.style, None, q.text, "Oslo") for q in questions]


def test_the_bench_measures_step_and_passes_in_turns(tmp_path: Path) -> None:
    small = ["corpus=biographies_small", "loader.batch_size=2", "loader.questions=2", "wire.measured_texts=4"]
    turns = bench.measure([*small, "injector=soft_prefix"], 3, tmp_path)
    assert {what: len(times) for what, times in turns.wall.items()} == {
        bench.STEP: 3 + bench.WARM_UP,
        bench.ENCODER: 4 + bench.WARM_UP,
        bench.READER: 4 + bench.WARM_UP,
        bench.WIRE: 4 + bench.WARM_UP,
    }
    assert turns.ms(bench.STEP)[0] > turns.ms(bench.READER)[0] > 0
    assert turns.ratio()[0] > turns.ratio([bench.TRAINED])[0]


def test_the_bench_says_what_it_cannot_measure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="encoder=lm_hidden"):
        bench.measure(["encoder=token", "corpus=biographies_small", "wire.measured_texts=4"], 1, tmp_path)
