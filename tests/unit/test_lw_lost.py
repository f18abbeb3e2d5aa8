"""The study of planted losses: planted facts against ordinary ones of the same text, and what a wire cannot tell."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks.errors import UserError
from latentwire import catalogue, lost, lost_rows, lost_trained
from latentwire.data.base import Passage, Question


def asked(corpus: str, kinds: tuple[str, ...], passages: int = 4) -> lost.Asked:
    """Passages with a question of every kind, and one with the last kind alone."""
    found = [
        Passage(f"p{i}", "A text.", tuple(Question(f"{i}/{k}", "Who?", ("Ann",), k) for k in kinds), f"p{i}", None)
        for i in range(passages)
    ]
    alone = Passage("alone", "A text.", (Question("alone", "Who?", ("Ann",), kinds[-1]),), "alone", None)
    return lost.Asked.of(corpus, [*found, alone])


def scores(of: lost.Asked, special: float, ordinary: float) -> dict[int, list[float]]:
    return {seed: [special if planted else ordinary for planted in of.planted] for seed in (0, 1)}


def test_planted_facts_stand_against_ordinary_ones_of_the_same_text() -> None:
    of = asked("lost_boundary", ("boundary", "inside", "inside"))
    low = scores(of, 0.25, 1.0)
    low[0][-1] = low[1][-1] = 0.0  # of a text without a planted fact: it does not count
    a, b, d = lost.split(low, of)
    assert (a.estimate, b.estimate, d.estimate, d.high) == (0.25, 1.0, -0.75, -0.75)


def test_the_later_half_of_a_list_is_what_was_planted() -> None:
    told = lost.planted("lost_along", ["item 01", "item 02", "item 03", "item 04"])
    assert [told(f"item 0{n}") for n in (1, 2, 3, 4)] == [False, False, True, True]


def test_every_corpus_plants_something_in_texts_as_long_as_the_wires_were_trained_on() -> None:
    for corpus, own in lost.corpora(6).items():
        of = lost.Asked.of(corpus, [own.split("test")[i] for i in range(6)])
        assert any(of.planted)
        assert not all(of.planted)
        assert len(of.planted) == sum(len(p.questions) for p in of.passages)
        assert max(len(p.text.split()) for p in of.passages) <= 60


def test_the_reader_answers_all_of_it_from_the_text() -> None:
    of = {c: lost.Asked.of(c, [own.split("test")[i] for i in range(2)]) for c, own in lost.corpora(2).items()}
    assert min(sum(f) / len(f) for f in lost.of_text(of).values()) > 0.8


def test_the_verdict_says_who_loses_and_leaves_open_who_does_not_read() -> None:
    of = {"lost_surprise": asked("lost_surprise", ("surprise", "predictable"))}
    found = {
        name: {"lost_surprise": scores(of["lost_surprise"], *values)}
        for name, values in {"bad": (0.0, 1.0), "good": (1.0, 1.0), "dead": (0.0, 0.02)}.items()
    }
    told = lost.verdict(found, of)
    assert "lost by `bad` (−100.0 [−100.0, −100.0])" in told
    assert "not told apart from them with `good` (0.0 [0.0, 0.0])" in told
    assert "undecided for `dead`" in told
    text = {"lost_surprise": [1.0] * len(of["lost_surprise"].planted)}
    page = lost.page(found, text, dict.fromkeys(found, 0.9), of, ["token deep_prefix 4x"])
    assert "| bad | 0.0 [0.0, 0.0] | 100.0 [100.0, 100.0] | −100.0 [−100.0, −100.0] | 90.0 | 2 |" in page
    assert "**Not finished in the catalogue**: token deep_prefix 4x." in page


def test_without_a_finished_wire_the_catalogue_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="study catalogue"):
        lost.wires(tmp_path)
    assert catalogue.RATIOS[0] == 4


def test_wires_that_were_trained_on_a_corpus_are_judged_on_it_alone() -> None:
    kinds = {"lost_boundary": ("boundary", "inside"), "lost_surprise": ("surprise", "predictable")}
    kinds |= {"lost_along": ("item 01", "item 02")}
    of = {corpus: asked(corpus, own) for corpus, own in kinds.items()}
    found = {"lost_boundary": scores(of["lost_boundary"], 0.5, 1.0), "lost_surprise": scores(of["lost_surprise"], 1, 1)}
    text = {corpus: [1.0] * len(own.planted) for corpus, own in of.items()}
    page = lost_trained.page(found, text, of, 2)
    assert "*lost_boundary* (a value starts a chunk): lost (−50.0 [−50.0, −50.0] points)." in page
    assert "*lost_surprise* (a fact breaks the pattern): not told apart (0.0 [0.0, 0.0] points)." in page
    assert "**Not finished**: lost_along." in page
    assert "2 of 3 seeds, not decided" in lost_trained.verdict(found, of, 3)
    assert set(lost_rows.SIZES) == set(lost_trained.corpora(1)) == set(lost.AGAINST)


def test_another_reader_and_a_run_that_was_done_anew_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    model = SimpleNamespace(fingerprint=lambda: "one")
    result = tmp_path / "run" / "result.json"
    result.parent.mkdir()
    result.write_text("{}")

    def answers(name: str, of: dict[str, lost.Asked]) -> dict[str, list[float]]:
        made.append(name)
        return {corpus: [1.0] * len(own.planted) for corpus, own in of.items()}

    run: Any = SimpleNamespace(seed=0, hash="0" * 12, path=result.parent)
    monkeypatch.setattr(lost, "wires", lambda folder: {"a wire": [run]})
    monkeypatch.setattr(lost, "methods_of", lambda run: {"wire": {"f1": 1.0}})
    monkeypatch.setattr(lost, "of_text", lambda of: answers("text", of))
    monkeypatch.setattr(lost, "of_run", lambda path, of: answers("run", of))
    monkeypatch.setattr(lost, "reader", lambda name: model)
    words = ["--passages", "2", "--runs", str(tmp_path / "cells"), "--out", str(tmp_path / "page.md")]
    for _ in range(2):
        assert lost.main(words) == 0
    assert made == ["text", "run"]
    model.fingerprint = lambda: "another"
    result.write_text('{"done": "anew"}')
    assert lost.main(words) == 0
    assert made == ["text", "run", "text", "run"]
