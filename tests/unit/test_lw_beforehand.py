"""What an evaluation needs is asked before the training, which may take a day, and not after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lw_runs import config, run_of

from callbacks.errors import UserError
from latentwire.lm import Decoding
from latentwire.run import judge, train

WHOLE = ["wire.track=whole_prompt", "baseline=[text,whole_prompt_budget]",
         "acceptance.evaluation.above_the_fair_budget.minus=methods.whole_prompt_budget.f1_high"]  # fmt: skip
LORA = "+adaptation.tiny_llama={_target_:latentwire.lm.LoRA,rank:2}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("beforehand")


class Trained(Exception):
    """Says that a run got as far as its training."""


@pytest.fixture(autouse=True)
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: Any, **__: Any) -> None:
        raise Trained

    monkeypatch.setattr(L.Trainer, "fit", fit)


@pytest.mark.parametrize(
    ("line", "place", "remedy"),
    [
        (["wire.track=whole_prompt"], "baselines.token_budget", "baseline=[text,no_context,whole_prompt_budget]"),
        (["wire.track=whole_prompt"], "above_the_fair_budget.minus", "minus=methods.whole_prompt_budget.f1_high"),
        (["baseline=[text,whole_prompt_budget]"], "baselines.whole_prompt_budget", "baseline=[text,token_budget]"),
        (["baseline=[text,token_budget,gist]", LORA], "baselines.gist", "~baselines.gist"),
        (["baseline=[text]"], "acceptance.evaluation.above_the_fair_budget.minus", "add token_budget"),
        (["+acceptance.latnets={}"], "acceptance.latnets", "add ~acceptance.latnets"),
    ],
)  # fmt: skip
def test_a_tree_whose_evaluation_cannot_be_done_is_refused_before_any_job(
    folder: Path, line: list[str], place: str, remedy: str
) -> None:
    cfg = config(folder, *line)
    for asked in (judge, lambda c: train(c, run_of(c))):
        with pytest.raises(UserError) as told:
            asked(cfg)
        assert place in str(told.value)
        assert remedy in str(told.value)


@pytest.mark.parametrize(
    ("line", "place", "remedy"),
    [
        (["corpus.test=5", "evaluation.passages=6"], "6 passages of the test split, which has 5",
         "set evaluation.passages=5"),
        (["corpus.val=5", "evaluation.split=val", "evaluation.passages=6"], "6 passages of the val split",
         "set evaluation.passages=5"),
        (["evaluation.max_new_tokens=500"], "test split on tiny_llama", "set evaluation.max_new_tokens="),
        (["loader.eval_max_new_tokens=500"], "val split on tiny_llama", "set loader.eval_max_new_tokens="),
        (["wire.slots=500"], "tokens of latents, question and answer", "reader with more positions"),
    ],
)  # fmt: skip
def test_data_and_models_that_an_evaluation_would_fail_on_are_refused_before_the_training(
    folder: Path, line: list[str], place: str, remedy: str
) -> None:
    cfg = config(folder, "wire.measured_texts=2", *line)
    with pytest.raises(UserError) as told:
        train(cfg, run_of(cfg))
    assert place in str(told.value)
    assert remedy in str(told.value)


def test_a_text_of_the_evaluation_that_the_encoder_does_not_take_is_found_before(folder: Path) -> None:
    """The longest test text, with the longest question of another one where both are one message."""
    from latentwire.build import build_inputs
    from latentwire.examples import whole_prompt_text

    cfg = config(folder, *WHOLE, "evaluation.passages=6")
    inputs = build_inputs(cfg)
    style, test = inputs.lms["tiny_llama"].style, inputs.corpus.split("test")
    asked = [p for i in range(6) for p in [test[i]]]
    longest = max(len(style.encode(whole_prompt_text(p, q))) for p in asked for q in p.questions)
    short = config(folder, *WHOLE, "evaluation.passages=6", f"encoder.max_tokens={longest - 1}")
    with pytest.raises(UserError, match="text to encode"):
        train(short, run_of(short))


@pytest.mark.parametrize("line", [[], WHOLE, [LORA], ["evaluation.split=val"],
                                  ["acceptance.evaluation.above_the_fair_budget.minus=methods.token_budget:frozen.f1",
                                   LORA]])  # fmt: skip
def test_what_can_be_done_is_trained(folder: Path, line: list[str]) -> None:
    cfg = config(folder, *line)
    judge(cfg)
    with pytest.raises(Trained):
        train(cfg, run_of(cfg))


def test_rows_of_several_readers_may_be_named(folder: Path) -> None:
    named = "acceptance.evaluation.above_the_fair_budget.metric=methods.wire/tiny_qwen2.f1_low"
    judge(config(folder, named, lms=("llama", "qwen2")))
    with pytest.raises(UserError, match="no such row"):
        judge(config(folder, named))


def test_a_rule_on_a_row_without_its_number_is_told_how_to_name_one(folder: Path) -> None:
    rule = "acceptance.evaluation.above_the_fair_budget"
    with pytest.raises(UserError) as told:
        judge(config(folder, f"{rule}.metric=methods.wire"))
    assert told.value.remedy == f"write {rule}.metric=methods.wire.f1, or add ~{rule}"


def test_what_decodes_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(UserError) as told:
        judge(config(folder, "+evaluation.decode={_target_:latentwire.lm.Decoding,min_new_tokens:4}"))
    assert told.value.where == "evaluation.decode.min_new_tokens"
    assert told.value.remedy == "set evaluation.decode.min_new_tokens=3"


@pytest.mark.parametrize("injector", ["latent_adapters", "combined"])
def test_a_gain_on_latents_without_a_column_is_refused_before_the_training(folder: Path, injector: str) -> None:
    gain = "+evaluation.decode={_target_:latentwire.lm.Decoding,gain:[2.0]}"
    with pytest.raises(UserError) as told:
        judge(config(folder, f"injector={injector}", "injector.heads=2", gain))
    assert (told.value.where, told.value.remedy) == ("evaluation.decode.gain", "leave out evaluation.decode.gain")
    judge(config(folder, gain))


def test_what_a_draw_depends_on_acts_on_nothing_where_none_is_made() -> None:
    keys = {"first_top_k": 4, "seed": 1}
    assert set(Decoding.inert_keys(keys)) == set(keys)
    assert not Decoding.inert_keys({**keys, "first_temperature": 0.5})
    assert not Decoding.inert_keys({"min_new_tokens": 1, "seed": 0})


@pytest.mark.parametrize(
    ("line", "place", "remedy"),
    [
        (["encoder.heads=3"], "3 heads for width 16", "set encoder.heads=2"),
        (["encoder.width=15"], "4 heads for width 15", "set encoder.width=16"),
        (["pooling@encoder.pooling=chunk_queries", "encoder.pooling.heads=5"], "encoder.pooling.heads",
         "set encoder.pooling.heads=4"),
        (["adapter=refiner", "adapter.heads=3"], "adapter.heads", "set adapter.heads=2"),
        (["injector=latent_adapters", "injector.heads=3"], "injector.heads", "set injector.heads=1"),
        (["injector=latent_adapters", "injector.layers=[3]"], "injector.layers", "set injector.layers=null"),
        (["injector=sized_prefix", "injector.heads=3"], "injector.heads", "set injector.heads=2"),
        (["injector=combined", "injector.layers=[3]"], "injector.layers", "set injector.layers=null"),
        (["injector=combined", "injector.heads=2", "injector@injector.prefix=sized_prefix", "injector.prefix.heads=3"],
         "injector.prefix.heads", "set injector.prefix.heads=2"),
        (["injector=sized_prefix", "injector.heads=2", "curriculum=nested", "wire.nested.budgets=[2]"],
         "injector=sized_prefix", "add ~wire.nested"),
        (["adapter=affine"], "the width that latents are mapped to, 16", "set adapter=linear"),
        (["adapter=affine", "injector=soft_prefix"], "the width that latents are mapped to, 32", "set adapter=linear"),
        (["encoder.layers=[0,99]"], "encoder.layers", "set encoder.layers=null"),
        (["encoder.max_tokens=100000"], "positions of tiny_llama", "set encoder.max_tokens="),
        (["encoder=pca", "encoder.chunk=1", "wire.d_z=40"], "d_z at most chunk * 32 = 32", "set encoder.chunk=2"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused_before_a_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: list[str], place: str, remedy: str
) -> None:
    cfg = config(folder, *line)

    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("latentwire.lm.loading.load", loaded)
    with pytest.raises(UserError) as told:
        judge(cfg)
    assert place in str(told.value)
    assert remedy in str(told.value)
