"""A code of tokens for studies: what is sent, what is trained, what is kept; cells are computed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.errors import UserError
from latentwire import annealing, pca_adapter
from latentwire.cells import cell, ends, tuned
from latentwire.data.biographies import Biographies
from latentwire.lm.frozen import FrozenLM
from latentwire.pocket import load
from latentwire.token_code import Lesson, Texts, TokenCode, learn, measured
from latentwire.train.curriculum import Constant

SHORT = Lesson(Constant(1.0), Constant(0.0), metric="cosine", steps=40, contexts=2, validations=2)


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return load("pocket_llama")


@pytest.fixture(scope="module")
def data(lm: FrozenLM) -> Texts:
    return Texts.of(lm, Biographies(people=1, facts_per_person=2, train=400, test=200), 2, 3)


def test_all_numbers_of_an_embedding_read_as_the_text(lm: FrozenLM, data: Texts) -> None:
    found = measured(lm, data.test, TokenCode(lm, lm.d_model, data.train).linear)
    assert found["f1"] == [1.0] * len(data.test)
    assert found["cosine"] == pytest.approx(1, abs=1e-3)
    assert found["nearest"] == 1.0


def test_the_adapter_alone_learns_and_reconstruction_brings_it_closer(lm: FrozenLM, data: Texts) -> None:
    torch.manual_seed(0)
    code, before = TokenCode(lm, 8, data.train), lm.fingerprint()
    components, start = code.encoder.components.clone(), measured(lm, data.test, code.eval().read)
    told = learn(lm, code, data, SHORT, 0)
    torch.testing.assert_close(code.encoder.components, components)
    lm.verify(before)
    assert told["questions"] == 0
    assert told["share"] == 0.0
    assert measured(lm, data.test, code.read)["cosine"] > start["cosine"] + 0.01


def test_what_is_kept_is_the_best_validation(lm: FrozenLM, data: Texts) -> None:
    """With a rate that throws everything away the untrained adapter is kept."""
    torch.manual_seed(0)
    code = TokenCode(lm, 16, data.train).eval()
    start = code.read(data.val[:1]).detach()
    told = learn(lm, code, data, replace(SHORT, lr=10.0), 0)
    assert told["val"]["step"] == 0
    torch.testing.assert_close(code.read(data.val[:1]), start)


def test_answers_count_their_questions_and_their_share(lm: FrozenLM, data: Texts) -> None:
    torch.manual_seed(0)
    lesson = replace(SHORT, answers=Constant(1.0), metric="f1", steps=4, validations=1, questions=2)
    told = learn(lm, TokenCode(lm, 8, data.train), data, lesson, 0)
    assert told["questions"] == 4 * 2 * 2
    assert 0.5 < told["share"] < 1


def test_answers_weigh_as_their_way_says() -> None:
    at = {way: [annealing.schedule(way, 0.4, 8).weight(t, {}) for t in range(8)] for way in annealing.WAYS}
    assert at["constant"] == [0.4] * 8
    assert at["linear"] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4])
    assert at["warm start"] == [0.0, 0.0, *[0.4] * 6]
    assert len(annealing.WEIGHTS) == 8


def test_a_cell_is_computed_once_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"f1": [1.0, 0.5]}

    assert cell(tmp_path, {"d": 8}, make) == cell(tmp_path, {"d": 8}, make) == {"f1": [1.0, 0.5]}
    cell(tmp_path, {"d": 16}, make)
    assert len(made) == 2
    path = min(tmp_path.iterdir())
    path.write_text(path.read_text().replace("0.5", "0.6"))
    told = [{"d": 8}, {"d": 16}]
    with pytest.raises(UserError, match="computed again"):
        [cell(tmp_path, t, make) for t in told]


def outcome(right: float, val: float, cosine: float = 0.9) -> dict[str, Any]:
    told = {"val": {"step": 12.0 * (val > 0.2), "f1": val, "nll": 1.0}, "share": 0.5, "questions": 12}
    return {"f1": [right] * 4, "nll": [0.5] * 4, "cosine": cosine, "nearest": 0.8, "learned": told, "lr": 0.001}


def test_a_way_is_judged_at_the_weight_that_validation_chose() -> None:
    """Test prefers another weight, which must not count; the paired difference follows the chosen ones."""
    rows = {("constant", 1.0): (0.2, 0.9), ("constant", 3.0): (0.8, 0.1)}
    rows |= {("linear", 1.0): (0.6, 0.2), ("linear", 3.0): (0.5, 0.3)}
    rows |= {("warm start", 1.0): (0.2, 0.2), ("warm start", 3.0): (0.1, 0.1)}
    rows |= {("reconstruction alone", 0.0): (0.0, 0.0), ("answers alone", 1.0): (0.1, 0.0)}
    found = {key: {s: outcome(*v) for s in (0, 1)} for key, v in rows.items()}
    groups = ["a", "a", "b", "b"]
    assert annealing.chosen(found, "constant") == ("constant", 1.0)
    told = annealing.verdict(found, groups, [0.001, 0.003])
    assert "Annealing helps (linear)." in told
    assert "The linear, best at w = 3, helps: +30.0 [+30.0, +30.0] points." in told
    assert "warm start, best at w = 1, is not told apart" in told
    assert "**Provisional**: the best weight of constant, linear, warm start is the last of the grid" in told
    assert "a better one may lie beyond; so is the learning rate of constant, linear, warm start; in 4" in told
    assert "learning rate" not in annealing.doubts(found, [0.0003, 0.001, 0.003])
    assert "in 4 of 6 rows validation prefers the start to all that was learned" in told
    page = annealing.page({"tiny": (found, groups)}, 2, 60, 12, [0.001])
    assert "| **3** | **linear** | **50.0 [50.0, 50.0]** | **−30.0 [−30.0, −30.0]** |" in page


def test_a_high_cosine_with_few_answers_is_named() -> None:
    def rows(rebuilt: float, answered: float, cosine: float) -> dict[str, Any]:
        names = (pca_adapter.PLAIN, pca_adapter.REBUILT, pca_adapter.ANSWERED)
        return {n: {0: outcome(v, 0.5, cosine)} for n, v in zip(names, (0.0, rebuilt, answered), strict=True)}

    found, groups = {4: rows(0.3, 0.1, 0.7), 8: rows(0.2, 0.6, 0.9), 16: rows(0.9, 0.9, 0.95)}, ["a", "a", "b", "b"]
    told = pca_adapter.verdict(found, groups)
    assert "less than half of the answers at d = 8 (cosine 0.90, F1 20.0 %)." in told
    assert "is ahead at d = 8 (+40.0 [+40.0, +40.0]); is behind at d = 4 (−20.0" in told
    assert "is not told apart at d = 16 (0.0 [0.0, 0.0])" in told
    assert "| 8 | adapter on answers | 0.900 | 80.0 |" in pca_adapter.page(
        {"tiny": (found, groups)}, 128, 2, 120, [0.001]
    )


@pytest.mark.parametrize("main", [annealing.main, pca_adapter.main])
def test_a_study_of_one_passage_or_no_step_is_refused(main: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--passages", "1"]) == UserError.EXIT_CODE
    assert main(["--steps", "0"]) == UserError.EXIT_CODE
    assert main(["--rates", "0"]) == UserError.EXIT_CODE
    told = capsys.readouterr().err
    assert "add --steps 24" in told
    assert "add --rates" in told


@pytest.mark.parametrize(
    ("main", "words", "option"),
    [
        (annealing.main, ["--weights", "0.1", "0"], "--weights"),
        (annealing.main, ["--weights", "-1"], "--weights"),
        (annealing.main, ["--weights", "nan"], "--weights"),
        (annealing.main, ["--numbers", "0"], "--numbers"),
        (annealing.main, ["--numbers", "9999"], "--numbers"),
        (pca_adapter.main, ["--dimensions", "4", "9999"], "--dimensions"),
        (pca_adapter.main, ["--rates", "nan"], "--rates"),
        (pca_adapter.main, ["--rates", "1e30"], "--rates"),
    ],
)
def test_numbers_that_make_no_row_are_refused_by_their_option(
    main: Any, words: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == UserError.EXIT_CODE
    told = capsys.readouterr().err
    assert f"{option}\n  found: " in told
    assert f"add {option} " in told


def test_validation_of_the_first_seed_chooses_a_rows_rate() -> None:
    """The other seeds are run at that rate alone, and what they would have preferred does not count."""
    ran: list[tuple[float, int]] = []

    def run(rate: float, seed: int) -> dict[str, Any]:
        ran.append((rate, seed))
        return {"val": rate if seed == 0 and rate < 1 else -rate, "of": (rate, seed)}

    found = tuned([0.1, 0.3, 1.0], [0, 1], run, lambda c: (c["val"],))
    assert ran == [(0.1, 0), (0.3, 0), (1.0, 0), (0.3, 1)]
    assert [c["of"] for c in found.values()] == [(0.3, 0), (0.3, 1)]
    assert {c["lr"] for c in found.values()} == {0.3}
    assert ends({"inside": found}, [0.1, 0.3, 1.0]) == ends({"the only one": found}, [0.3]) == []
    assert "beyond: last." in ends({"last": found, "untrained": {0: {}}}, [0.1, 0.3])[0]
